"""Attacks by what stands in a pack, on whoever makes or opens its PDF."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from pypdf import PdfReader

from agentgate.adapters.evidence.pdf import PdfPack
from tests.evidence_samples import hostile, pack_of
from tests.web import Handler, serving


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody has a reason to call, and the paths that it was asked for."""
    hits: list[str] = []

    class Canary(Handler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.say(200)

    with serving(Canary) as url:
        yield url, hits


# What was opened or called while a pack was written. A hook stays for the life of the process; the list says when.
_watching: list[list[str]] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and (event == "open" or event.startswith(("socket.", "subprocess.", "os.exec", "urllib."))):
        _watching[-1].append(f"{event} {arguments[:2]}")


def texts(url: str, secret: Path) -> list[str]:
    """Markup that a careless writer of HTML, SVG or reportlab paragraphs would follow."""
    sources = (f"{url}/x.png", f"file://{secret}", str(secret), "file:///etc/hostname", "/etc/hostname", "data:,x")
    forms = (
        '<img src="%s"/>',
        "<img src=%s>",
        '<a href="%s">here</a>',
        '<link href="%s" rel="stylesheet"/>',
        '<font name="%s">x</font>',
        '<iframe src="%s"></iframe>',
        '<object data="%s"></object>',
        "<style>@import url(%s)</style>",
        '<svg><image href="%s"/></svg>',
        '<!DOCTYPE x [<!ENTITY xxe SYSTEM "%s">]><x>&xxe;</x>',
        '<onDraw name="%s" label="x"/>',
        ") Tj ET /URI (%s) << /S /URI >>",
        "(%s) \\) endstream endobj",
    )
    return [*(form % source for form in forms for source in sources), "&lt;b&gt; &amp; <b>bold</b> <br/> </para>"]


def test_pdf_injection_and_server_side_requests(canary: tuple[str, list[str]], tmp_path: Path) -> None:
    """A48: a pack's texts make the writer open no file and call nobody, and a reader program likewise."""
    url, hits = canary
    secret = tmp_path / "secret.txt"
    secret.write_text("the-contents-of-a-file", encoding="utf-8")
    injected = texts(url, secret)
    pack = pack_of(hostile(injected))
    writer = PdfPack()
    writer.write(pack_of(()))  # fonts are unpacked with the first
    seen: list[str] = []
    sys.addaudithook(_hook)
    _watching.append(seen)
    try:
        written = writer.write(pack)
    finally:
        _watching.pop()
    assert seen == []
    assert hits == []

    reader = PdfReader(BytesIO(written))
    text = re.sub(r"\s", "", " ".join(page.extract_text() for page in reader.pages))
    assert [one for one in injected if re.sub(r"\s", "", one) not in text] == []
    assert "the-contents-of-a-file" not in text
    hostname = Path("/etc/hostname").read_text(encoding="utf-8").strip()
    assert not re.search(rf"\b{re.escape(hostname)}\b", text)
    for page in reader.pages:
        assert "/XObject" not in page["/Resources"]  # type: ignore[operator]
        for note in page.get("/Annots", ()):
            assert "/A" not in note.get_object()
