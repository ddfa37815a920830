"""A47: text of strangers on the page that an auditor opens. None of it runs, listens, loads or leads anywhere.

The page has two defences, escaping and its Content-Security-Policy, and each is tried without the other.
"""

from __future__ import annotations

import re

import pytest

from agentgate.adapters.evidence.html import CONTENT_SECURITY_POLICY, HtmlPack
from tests.browser import Elements, look_at, needs_browser
from tests.evidence_samples import hostile, pack_of

_GO = "fetch('{origin}/stolen')"

PAYLOADS = (
    # elements that run or load
    "<script>{go}</script>",
    "<ScRiPt>{go}</sCrIpT>",
    "<script src={origin}/stolen></script>",
    "<script\x20type=module>{go}</script>",
    "<script\x0d\x0a>{go}</script>",
    "<script/x>{go}</script/x>",
    "<scr<script>ipt>{go}</scr</script>ipt>",
    "<<script>{go}//<</script>",
    "<img src=x onerror={go}>",
    '<img src=x onerror="{go}">',
    "<img src={origin}/stolen>",
    "<img srcset={origin}/stolen>",
    "<img/src=x/onerror={go}>",
    "<IMG SRC=x ONERROR={go}>",
    "<image src=x onerror={go}>",
    "<svg onload={go}>",
    "<svg/onload={go}>",
    "<svg><script>{go}</script></svg>",
    "<svg><script href={origin}/stolen></script></svg>",
    "<svg><animate onbegin={go} attributeName=x dur=1s>",
    "<svg><set attributeName=onmouseover to={go}>",
    "<svg><use href={origin}/stolen#x></svg>",
    "<svg><image href={origin}/stolen /></svg>",
    "<svg><foreignObject><body onload={go}></foreignObject></svg>",
    "<svg><a xlink:href=javascript:{go}><text>x</text></a></svg>",
    "<math><mtext><table><mglyph><style><!--</style><img src=x onerror={go}>",
    "<math href=javascript:{go}>x</math>",
    "<iframe src=javascript:{go}></iframe>",
    "<iframe srcdoc='<script>{go}</script>'></iframe>",
    "<iframe src={origin}/stolen></iframe>",
    "<frameset onload={go}>",
    "<object data={origin}/stolen></object>",
    "<object data=javascript:{go}></object>",
    "<embed src={origin}/stolen>",
    "<embed src=javascript:{go}>",
    "<applet code=x archive={origin}/stolen></applet>",
    "<video src={origin}/stolen autoplay>",
    "<video><source onerror={go}>",
    "<audio src=x onerror={go}>",
    "<body onload={go}>",
    "<body background={origin}/stolen>",
    "<input autofocus onfocus={go}>",
    "<input type=image src={origin}/stolen>",
    "<select autofocus onfocus={go}>",
    "<textarea autofocus onfocus={go}>",
    "<button autofocus onfocus={go}>",
    "<keygen autofocus onfocus={go}>",
    "<details open ontoggle={go}>",
    "<marquee onstart={go}>",
    "<div style=width:expression({go})>",
    "<div style=background:url({origin}/stolen)>",
    "<p style=animation-name:x onanimationstart={go}>",
    "<link rel=stylesheet href={origin}/stolen>",
    "<link rel=prefetch href={origin}/stolen>",
    "<link rel=icon href={origin}/stolen>",
    "<link rel=import href={origin}/stolen>",
    "<style>@import '{origin}/stolen';</style>",
    "<style>*{background:url({origin}/stolen)}</style>",
    "<style onload={go}></style>",
    "<meta http-equiv=refresh content='0;url={origin}/stolen'>",
    '<meta http-equiv=Content-Security-Policy content="script-src *">',
    "<base href={origin}/stolen/>",
    "<form action={origin}/stolen><input type=submit autofocus></form>",
    "<isindex action=javascript:{go} type=image>",
    "<portal src={origin}/stolen>",
    "<template><script>{go}</script></template>",
    '<noscript><p title="</noscript><img src=x onerror={go}>">',
    "<xss contenteditable autofocus onfocus={go}>",
    "<custom-element onpointerrawupdate={go} tabindex=1>",
    "<a href=javascript:{go}>x</a>",
    "<a href='java\tscript:{go}'>x</a>",
    "<a href=data:text/html,<script>{go}</script>>x</a>",
    "<a ping={origin}/stolen href=#>x</a>",
    # ways out of where the text stands
    '"><script>{go}</script>',
    "'><script>{go}</script>",
    '" onmouseover={go} x="',
    "' onmouseover={go} x='",
    '" autofocus onfocus={go} tabindex=1 "',
    "x onmouseover={go}",
    "`onmouseover={go}",
    "</title><script>{go}</script>",
    "</style><script>{go}</script>",
    "</textarea><script>{go}</script>",
    "</svg><script>{go}</script>",
    "</desc></svg><img src=x onerror={go}>",
    "</code></pre><script>{go}</script>",
    "</td></tr></table><script>{go}</script>",
    "--><script>{go}</script>",
    "]]><script>{go}</script>",
    "<!--<img src='--><img src=x onerror={go}>'>",
    "<![CDATA[<script>{go}</script>]]>",
    "<?xml-stylesheet href='{origin}/stolen'?>",
    "<!DOCTYPE x [<!ENTITY x SYSTEM '{origin}/stolen'>]>&x;",
    # encodings that somebody might undo
    "&lt;script&gt;{go}&lt;/script&gt;",
    "&#60;script&#62;{go}&#60;/script&#62;",
    "&#x3c;img src=x onerror={go}&#x3e;",
    "%3Cscript%3E{go}%3C/script%3E",
    "\\u003cscript\\u003e{go}\\u003c/script\\u003e",
    "\\x3cscript\\x3e{go}\\x3c/script\\x3e",
    "+ADw-script+AD4-{go}+ADw-/script+AD4-",
    "<scr\x00ipt>{go}</scr\x00ipt>",
    "<\u200bscript>{go}</script>",
    "\uff1cscript\uff1e{go}\uff1c/script\uff1e",
    "\u02bc\u02ba\u2039script\u203a{go}",
    "<script>{go}</script\u2028>",
    # what templates would run
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% include '/etc/hostname' %}",
    "{{ self._TemplateReference__context }}",
    "${{{go}}}#{{{go}}}<%= {go} %>",
)


def _texts() -> list[str]:
    return [payload.replace("{go}", _GO) for payload in PAYLOADS]


def _page(texts: list[str]) -> str:
    """Every text in every field that takes one, names that grammar guards at the door included."""
    return HtmlPack().write(pack_of(hostile(texts, texts))).decode()


def _own() -> str:
    """The page of a harmless pack of the same size: what elements and attributes are ours."""
    return _page([f"text {number}" for number in range(len(PAYLOADS))])


ACTIVE = frozenset(
    """
    script iframe frame frameset object embed applet img image video audio source track link base form input button
    select textarea keygen marquee details template noscript math foreignobject animate set use portal xss
    custom-element
    """.split()  # noqa: SIM905 - a list of words reads as one
)
LEADING = (
    "href",
    "src",
    "srcset",
    "data",
    "action",
    "formaction",
    "ping",
    "background",
    "poster",
    "xlink:href",
    "style",
)


def _assert_inert(page: str) -> None:
    elements = Elements(page)
    assert elements.named(*ACTIVE) == []
    for tag, attributes in elements.found:
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in set(LEADING) & attributes.keys():
            value = attributes[name]
            assert (tag, name) == ("a", "href"), (tag, name, value)
            assert re.fullmatch(r"#[a-z0-9-]+", value or ""), value


def test_there_are_a_hundred_of_them() -> None:
    assert len(set(PAYLOADS)) == len(PAYLOADS) >= 100


def test_no_text_becomes_an_element_or_an_attribute() -> None:
    """A47, by a parser: the page has the very elements that it has with harmless texts, in the same order."""
    page = _page(_texts())
    _assert_inert(page)
    shape = [(tag, sorted(attributes)) for tag, attributes in Elements(page).found]
    harmless = [(tag, sorted(attributes)) for tag, attributes in Elements(_own()).found]
    assert shape == harmless


def test_every_text_is_there_to_be_read() -> None:
    """Refused by showing it, not by leaving it out."""
    read = " ".join("".join(Elements(_page(_texts())).text).split())
    for text in ("<script>fetch('{origin}/stolen')</script>", "{% include '/etc/hostname' %}", "&lt;script&gt;fetch"):
        assert text in read


@pytest.fixture(scope="module")
def page() -> bytes:
    return _page(_texts()).encode()


def _without_policy(page: bytes) -> bytes:
    stripped = re.sub(rb'<meta http-equiv="Content-Security-Policy"[^>]*>', b"", page, count=1)
    assert stripped != page
    return stripped


@needs_browser
@pytest.mark.parametrize("with_policy", [True, False], ids=["as it is", "without its policy"])
def test_browser_runs_and_fetches_nothing(page: bytes, with_policy: bool) -> None:
    """A47, in a real browser: as the page is, and with escaping as the only defence."""
    shown = page if with_policy else _without_policy(page)
    look = look_at({"/pack.html": shown}, at="/pack.html")
    assert set(look.asked_for) <= {"/pack.html", "/favicon.ico"}  # a browser asks for an icon of its own accord
    assert "/pack.html" in look.asked_for
    _assert_inert(look.dom)
    assert len(Elements(look.dom).named("tr")) == len(Elements(shown.decode()).named("tr"))


@needs_browser
def test_policy_holds_where_escaping_would_fail(page: bytes) -> None:
    """The other defence alone: scripts, handlers, styles and pictures that got into the page do nothing."""
    got_in = (
        b"<script>fetch('{origin}/stolen')</script><img src='{origin}/stolen' onerror=\"fetch('{origin}/stolen')\">"
        b"<link rel=stylesheet href='{origin}/stolen'><style>body{background:url({origin}/stolen)}</style>"
        b"<iframe src='{origin}/stolen'></iframe><object data='{origin}/stolen'></object>"
        b"<svg onload=\"fetch('{origin}/stolen')\"></svg><div style='background:url({origin}/stolen)'>x</div>"
    )
    broken = page.replace(b"</main>", got_in + b"</main>")
    look = look_at({"/pack.html": broken}, at="/pack.html")
    assert "/pack.html" in look.asked_for
    assert "/stolen" not in look.asked_for
    look = look_at({"/pack.html": _without_policy(broken)}, at="/pack.html")
    assert "/stolen" in look.asked_for  # so the test would see it


@needs_browser
def test_browser_takes_the_style_that_the_policy_names() -> None:
    """A wrong hash would leave the page bare, and only a browser would tell."""
    probe = HtmlPack().write(pack_of(hostile(["x"])))
    assert CONTENT_SECURITY_POLICY.encode() in probe.replace(b"&#39;", b"'")
    assert look_at({"/pack.html": probe}, at="/pack.html").console == ()
    altered = probe.replace(b":root {", b":root  {", 1)
    complaints = look_at({"/pack.html": altered}, at="/pack.html").console
    assert any("Content Security Policy" in line for line in complaints)
