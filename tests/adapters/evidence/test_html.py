"""The HTML of a pack, read back by parsers that are not ours."""

from __future__ import annotations

import base64
import hashlib
import re
import xml.etree.ElementTree as ET
from functools import cache
from itertools import pairwise

import pytest
from markupsafe import escape

from agentgate.adapters.evidence._html_pictures import path_of
from agentgate.adapters.evidence._parts.listing import MAX_CALLS
from agentgate.adapters.evidence._parts.marks import Mark
from agentgate.adapters.evidence._parts.words import inner
from agentgate.adapters.evidence._view import view
from agentgate.adapters.evidence.html import CONTENT_SECURITY_POLICY, HEADERS, HtmlPack
from tests.browser import Elements
from tests.contracts.pack_writer import PackWriterContract
from tests.evidence_samples import SAMPLES, sample

every_sample = pytest.mark.parametrize("name", SAMPLES)


class TestHtmlPack(PackWriterContract):
    writer = HtmlPack()

    def text_of(self, written: bytes) -> str:
        return "".join(Elements(written.decode()).text)


@cache
def page(name: str) -> str:
    return HtmlPack().write(sample(name)).decode()


@cache
def elements(name: str) -> Elements:
    return Elements(page(name))


def text(name: str) -> str:
    return " ".join("".join(elements(name).text).split())


# --- it needs nothing and does nothing --------------------------------------------------------------------


@every_sample
def test_page_has_no_script_and_refers_to_itself_alone(name: str) -> None:
    allowed = {"html", "head", "meta", "title", "style", "body", "a", "header", "p", "h1", "h2", "h3", "dl", "dt", "dd"}
    allowed |= {
        "div",
        "strong",
        "nav",
        "ol",
        "ul",
        "li",
        "span",
        "main",
        "section",
        "svg",
        "desc",
        "line",
        "text",
        "rect",
    }
    allowed |= {
        "path",
        "table",
        "caption",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "article",
        "bdi",
        "code",
        "pre",
        "footer",
    }
    allowed |= {"br"}
    for tag, attributes in elements(name).found:
        assert tag in allowed, tag
        assert not {"style", "src"} & attributes.keys()
        assert not any(attribute.startswith("on") for attribute in attributes)
        assert (attributes.get("href") or "#").startswith("#")


@every_sample
def test_style_is_the_one_that_the_policy_names(name: str) -> None:
    styles = re.findall(r"<style>(.*?)</style>", page(name), re.DOTALL)
    assert len(styles) == 1
    digest = base64.b64encode(hashlib.sha256(styles[0].encode()).digest()).decode()
    metas = {a.get("http-equiv"): a["content"] for a in elements(name).named("meta") if "http-equiv" in a}
    assert metas == {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    assert CONTENT_SECURITY_POLICY.split("; ")[:2] == ["default-src 'none'", f"style-src 'sha256-{digest}'"]
    assert "url(" not in styles[0]
    assert "@import" not in styles[0]


def test_policy_stands_before_anything_that_it_could_forbid() -> None:
    assert page("rich").index("Content-Security-Policy") < page("rich").index("<style>")
    assert {"name": "referrer", "content": "no-referrer"} in elements("rich").named("meta")


def test_headers_of_a_route_allow_no_more_than_the_page() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert policy.startswith(CONTENT_SECURITY_POLICY)
    assert {"frame-ancestors 'none'", "sandbox"} <= set(policy.split("; "))


# --- it can be read ---------------------------------------------------------------------------------------


@every_sample
def test_page_is_well_formed_and_every_link_leads_somewhere(name: str) -> None:
    """Read as XML, which forgives nothing: what is opened is closed, in its place."""
    xml = re.sub(r"<!DOCTYPE[^>]*>", "", page(name))
    xml = re.sub(r"<(meta)([^>]*)>", r"<\1\2/>", xml).replace("<br>", "<br/>")
    root = ET.fromstring(xml)  # noqa: S314 - our own page, made a line before
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in elements(name).found:
        if "href" in attributes:
            assert (attributes["href"] or "")[1:] in ids
        for label in (attributes.get("aria-labelledby") or "").split():
            assert label in ids


@every_sample
def test_tables_and_pictures_speak_to_those_who_do_not_see_them(name: str) -> None:
    found = elements(name).found
    assert ("html", {"lang": "en"}) in found
    assert all(attributes.get("scope") in ("row", "col") for tag, attributes in found if tag == "th")
    for attributes in elements(name).named("svg"):
        assert attributes.get("aria-hidden") == "true" or {"role", "aria-labelledby"} <= attributes.keys()
    levels = [int(tag[1]) for tag, _ in found if re.fullmatch("h[1-3]", tag)]
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))


@every_sample
def test_first_page_names_the_pack(name: str) -> None:
    assert hashlib.sha256(sample(name).raw).hexdigest() in text(name)


def test_unsigned_pack_says_so_in_large_type_and_claims_nothing() -> None:
    assert "This pack is not signed." in text("unsigned")
    assert "seal none" in page("unsigned")
    assert "seal none" not in page("hmac_only")
    assert "Proven Nothing." in text("unsigned")


def test_table_of_many_calls_ends_where_it_says() -> None:
    rows = [a for a in elements("large").named("tr") if (a.get("id") or "").startswith("call-")]
    assert len(rows) == MAX_CALLS
    assert "The first 2,000 of 10,000 calls are shown; the other 8,000 are in the JSON only" in text("large")
    assert f"call-{MAX_CALLS + 1}" not in page("large")


@every_sample
def test_every_call_can_be_looked_up(name: str) -> None:
    for number, entry in enumerate(sample(name).body["timeline"][:MAX_CALLS], 1):
        row = page(name).partition(f'<tr id="call-{number}">')[2].partition("</tr>")[0]
        assert entry["trace_id"] in row
        assert f"{entry['index']:,}" in row


def test_text_of_strangers_stands_there_with_its_hidden_letters_written_out() -> None:
    """A27: what would turn text round, hide in it or move a cursor."""
    for name in ("nasty", "nasty_names"):
        assert not re.search(
            "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ufe00-\ufe0f]", page(name)
        )
        assert "admin[U+202E]txt.exe[U+2066] hidden[U+2069]" in text(name)


# --- signs ------------------------------------------------------------------------------------------------


def test_page_says_as_of_when_a_kill_was_not_released_and_a_question_not_answered() -> None:
    as_of = view(sample("until")).title.as_of
    assert f"<dt>Released</dt><dd>not yet {as_of}</dd>" in page("until")
    assert f"nobody yet {as_of}<" in page("until")
    assert "when this pack was made" not in page("until")


def test_what_is_quoted_does_not_end_its_quotation() -> None:
    quotations = re.findall("“<bdi>(.*?)</bdi>”", page("nasty"))
    assert any("a drill’; it drained." in said for said in quotations)
    assert not [said for said in quotations if "“" in said or "”" in said]


def test_what_was_said_of_a_call_is_quoted() -> None:
    """It stands where the gateway's own words for the code do, when nothing was said."""
    shown = re.findall('<td class="why">(.*?)<span class="more">', page("nasty"), re.DOTALL)
    said = [row.error or row.said for row in view(sample("nasty")).calls.rows]
    assert all(said)
    assert shown == [f"“<bdi>{escape(inner(one))}</bdi>”" for one in said]


def test_signs_can_be_told_apart_without_their_colour() -> None:
    outlines = {mark.shape: path_of(mark.shape, 6, 6, 4) for mark in Mark}
    assert len(set(outlines.values())) == len(outlines) >= 7
    assert len({mark.label for mark in Mark}) == len({mark.letter for mark in Mark}) == len(Mark)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(scheme: str) -> None:
    """WCAG 2.2 AA: 4.5:1 for text, 3:1 for what pictures are made of."""
    style = re.findall(r"<style>(.*?)</style>", page("rich"), re.DOTALL)[0]
    blocks = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    light, dark = (dict(re.findall(r"--([a-z_-]+): (#[0-9a-f]{6})", block)) for block in blocks[:2])
    colours = light if scheme == "light" else {**light, **dark}
    assert light.keys() == dark.keys()
    for name in ("ink", "soft", "link", "alarm"):
        assert _contrast(colours[name], colours["paper"]) >= 4.5, name
    for text_colour, sheet in (
        ("alarm", "alarm-sheet"),
        ("good", "good-sheet"),
        ("warn", "warn-sheet"),
        ("ink", "sheet"),
    ):
        assert _contrast(colours[text_colour], colours[sheet]) >= 4.5, text_colour
    for mark in Mark:
        assert _contrast(colours[mark.name.lower()], colours["paper"]) >= 3, mark


def _contrast(one: str, other: str) -> float:
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@every_sample
def test_timeline_draws_every_call_once(name: str) -> None:
    timeline = view(sample(name)).timeline
    drawn = [a for a in elements(name).named("path") if "aria-hidden" not in a]
    if timeline is None:
        assert 'class="timeline"' not in page(name)
        return
    picture = page(name).partition('<svg class="timeline"')[2].partition("</svg>")[0]
    assert picture.count("<path") == len(timeline.bins) <= len(drawn)
    for x in re.findall(r'd="M(-?[\d.]+)', picture):
        assert 0 <= float(x) <= 1100
