"""The PDF of a pack, read back by a reader that is not ours."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import cache
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pypdf import PdfReader
from pypdf.generic import ArrayObject, Destination, DictionaryObject

from agentgate.adapters.evidence._parts.approvals import Approval
from agentgate.adapters.evidence._pdf import paint as painting
from agentgate.adapters.evidence._pdf.faces import Face, faces
from agentgate.adapters.evidence._pdf.oversight import _approval
from agentgate.adapters.evidence._pdf.paint import paint
from agentgate.adapters.evidence._pdf.sections import SECTIONS, lay_out
from agentgate.adapters.evidence._pdf.sheet import BOTTOM, LEFT, MEASURE, RIGHT, TOP, Sheet
from agentgate.adapters.evidence._pdf.table import Column, table
from agentgate.adapters.evidence._view import view
from agentgate.adapters.evidence.pdf import PdfPack
from agentgate.core.evidence.pack import Pack
from tests.contracts.pack_writer import SMALL, PackWriterContract
from tests.evidence_samples import NASTY_TEXTS, hostile, pack_of, sample

every_sample = pytest.mark.parametrize("name", SMALL)


class TestPdfPack(PackWriterContract):
    writer = PdfPack()

    def text_of(self, written: bytes) -> str:
        return letters(PdfReader(BytesIO(written)))


@cache
def read(name: str) -> PdfReader:
    return PdfReader(BytesIO(PdfPack().write(sample(name))))


def letters(reader: PdfReader) -> str:
    """All text of a file, its lines joined by spaces."""
    return " ".join(" ".join(page.extract_text() for page in reader.pages).split())


@cache
def letters_of(name: str) -> str:
    return letters(read(name))


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


def outline(reader: PdfReader) -> Iterator[Destination]:
    waiting = list(reader.outline)
    while waiting:
        entry = waiting.pop(0)
        if isinstance(entry, list):
            waiting = entry + waiting
        else:
            yield entry


# --- what a reader program offers -------------------------------------------------------------------------


@every_sample
def test_each_section_has_a_bookmark_that_leads_to_its_heading(name: str) -> None:
    reader = read(name)
    marks = {str(mark.title): reader.get_destination_page_number(mark) for mark in outline(reader)}
    for section in SECTIONS:
        number = marks[section.title]
        assert number is not None
        assert section.title in " ".join(reader.pages[number].extract_text().split())


@every_sample
def test_each_page_says_its_number_and_of_how_many_and_of_which_pack(name: str) -> None:
    reader = read(name)
    for number, page in enumerate(reader.pages, 1):
        text = page.extract_text()
        assert f"page {number} of {len(reader.pages)}" in text
        assert hashlib.sha256(sample(name).raw).hexdigest()[:16] in text
    assert reader.page_labels == [str(number) for number in range(1, len(reader.pages) + 1)]


@every_sample
def test_the_attachment_is_the_signed_body_byte_for_byte_and_its_digest_is_printed(name: str) -> None:
    reader, pack = read(name), sample(name)
    assert {key: list(parts) for key, parts in reader.attachments.items()} == {"pack.json": [pack.raw]}
    assert hashlib.sha256(pack.raw).hexdigest() in squeezed(letters(reader))
    (associated,) = reader.root_object["/AF"]
    assert associated.get_object()["/AFRelationship"] == "/Source"


@every_sample
def test_every_font_is_embedded(name: str) -> None:
    fonts = [
        font.get_object()
        for page in read(name).pages
        for font in page["/Resources"]["/Font"].get_object().values()  # type: ignore[index]
    ]
    assert fonts
    for font in fonts:
        assert "/FontFile2" in font["/FontDescriptor"].get_object(), font["/BaseFont"]


def test_the_metadata_name_the_pack_and_no_moment_but_its_own() -> None:
    reader, pack = read("rich"), sample("rich")
    found = reader.metadata
    assert found is not None
    assert found.title == "AgentGate evidence: Session sess-7f3a91"
    assert hashlib.sha256(pack.raw).hexdigest() in str(found.subject)
    assert found.creation_date == found.modification_date
    assert f"{found.creation_date:%Y-%m-%dT%H:%M:%S}" == pack.body["metadata"]["generated_at"][:19]
    assert reader.xmp_metadata is not None
    assert reader.xmp_metadata.dc_title == {"x-default": found.title}
    assert reader.root_object["/Lang"] == "en-GB"


def test_links_stay_in_the_file_and_lead_somewhere() -> None:
    reader = read("rich")
    pages = {page.indirect_reference.idnum for page in reader.pages if page.indirect_reference}
    links = [note.get_object() for page in reader.pages for note in page.get("/Annots", ())]
    assert len(links) > len(SECTIONS)
    for link in links:
        assert link["/Subtype"] == "/Link"
        assert "/A" not in link
        target = link["/Dest"].get_object()
        assert isinstance(target, ArrayObject)
        assert target[0].idnum in pages


@pytest.mark.parametrize("name", ["rich", "nasty", "nasty_names"])
def test_nothing_in_the_file_acts(name: str) -> None:
    """No script, no launch, no address: whatever the pack's texts say."""
    reader = read(name)
    forbidden = {"/JS", "/JavaScript", "/URI", "/Launch", "/OpenAction", "/AA", "/GoToR", "/SubmitForm", "/XFA"}
    found: set[str] = set()
    for number in range(1, len(reader.xref[0]) + 1):
        thing = reader.get_object(number)
        if isinstance(thing, DictionaryObject):
            found |= {str(key) for key in thing} | {str(value) for value in thing.values() if isinstance(value, str)}
    assert len(found) > 50
    assert not found & forbidden


# --- what it says -----------------------------------------------------------------------------------------


def test_a_rich_pack_says_who_did_what() -> None:
    text = squeezed(letters_of("rich"))
    shown = view(sample("rich"))
    wanted = [
        *shown.narrative,
        *(f"{figure.label}{figure.value}" for figure in shown.figures),
        *(call.said for call in shown.calls.rows),
        *(call.tool for call in shown.calls.rows),
        *(f"“{kill.reason}”Drained{kill.standing}" for kill in shown.kills.rows),
        *(kill.ordered_by for kill in shown.kills.rows),
        *(approval.decided_by for approval in shown.approvals.rows),
        *(anomaly.description for anomaly in shown.anomalies.rows),
        *(note.what for note in shown.notes.rows),
        shown.integrity.headline,
        shown.integrity.explanation,
        *(claim.claim + claim.by for claim in shown.integrity.proves),
        *shown.integrity.limits,
        *(leaf.leaf_hash for leaf in shown.integrity.leaves.rows),
    ]
    assert [line for line in wanted if squeezed(line) not in text] == []


def test_a_pack_of_a_time_says_as_of_when_a_kill_was_not_released() -> None:
    text = squeezed(letters_of("until"))
    assert squeezed(f"Released not yet {view(sample('until')).title.as_of}") in text
    assert squeezed("when this pack was made") not in text


def test_an_empty_pack_says_so_in_each_section() -> None:
    text = letters_of("empty")
    for words in (
        "No call is in this pack",
        "No kill covered these calls",
        "No person was asked",
        "No agent made a call",
    ):
        assert words in text


def test_an_unsigned_pack_says_on_its_first_page_that_nothing_is_proven() -> None:
    headline = view(sample("unsigned")).integrity.headline
    assert squeezed(headline) in squeezed(read("unsigned").pages[0].extract_text())


def test_the_header_of_the_calls_stands_on_each_of_their_pages() -> None:
    reader = read("large")
    start, end = (
        reader.get_destination_page_number(mark)
        for mark in outline(reader)
        if mark.title in ("Every call", "Every event in the log")
    )
    assert start is not None
    assert end is not None
    assert end - start > 10
    for page in reader.pages[start:end]:
        assert "TIME (UTC)" in page.extract_text()


def test_rows_that_are_left_out_are_counted_and_links_to_them_left_out() -> None:
    shown = view(sample("large"))
    assert shown.calls.hidden
    assert f"{shown.calls.hidden:,} more calls: in pack.json only." in letters_of("large")


# --- any text ---------------------------------------------------------------------------------------------


def laid_out(pack: Pack) -> Sheet:
    sheet = Sheet(faces())
    lay_out(sheet, view(pack))
    return sheet


def beyond_the_margins(sheet: Sheet) -> list[object]:
    return [
        text
        for page in sheet.pages
        for text in page.texts
        if text.x < LEFT - 0.01
        or text.x + text.style.face.width(text.text, text.style.size) > RIGHT + 0.01
        or not TOP - 0.01 <= text.y <= BOTTOM + 12
    ]


@every_sample
def test_nothing_is_set_beyond_the_margins(name: str) -> None:
    assert beyond_the_margins(laid_out(sample(name))) == []


_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200),
    st.builds(
        lambda part, times: part * times, st.text(" aW-/\u0301\u202e李ש", min_size=1, max_size=4), st.integers(1, 900)
    ),
)


@settings(deadline=None, max_examples=25)
@given(_TEXTS, _TEXTS)
def test_any_text_in_any_field_is_set_within_the_margins_and_can_be_read(one: str, other: str) -> None:
    pack = pack_of(hostile([one], [other]))
    assert beyond_the_margins(laid_out(pack)) == []
    assert PdfReader(BytesIO(PdfPack().write(pack))).attachments["pack.json"] == [pack.raw]


@pytest.mark.parametrize("text", ["x" * 10_000, "many words " * 900, "\u0301" * 3000, "W " * 5000])
def test_a_reason_of_ten_thousand_characters_breaks_no_page(text: str) -> None:
    pack = pack_of(hostile([text]))
    assert beyond_the_margins(laid_out(pack)) == []
    assert len(PdfReader(BytesIO(PdfPack().write(pack))).pages) > len(SECTIONS) / 2


def test_a_row_higher_than_a_page_runs_over_and_loses_nothing() -> None:
    sheet = Sheet(faces())
    words = [f"word-{number}" for number in range(390)]
    table(sheet, (Column("A", 60, sheet.body), Column("B", 60, sheet.body)), [("x", " ".join(words))])
    assert len(sheet.pages) > 2
    set_words = [text.text for page in sheet.pages for text in page.texts]
    assert [word for line in set_words for word in line.split() if word.startswith("word-")] == words
    assert set_words.count("A") == len(sheet.pages)


@pytest.mark.parametrize("face", faces(), ids=lambda face: face.name)
@given(text=st.text(max_size=300), width=st.floats(20, MEASURE))
def test_lines_fit_and_lose_no_letter(face: Face, text: str, width: float) -> None:
    shown = face.settable(text)
    lines = face.wrap(shown, 8.0, width)
    assert "".join("".join(lines).split()) == "".join(shown.split())
    assert all(face.width(line, 8.0) <= width + 0.01 or len(line) == 1 for line in lines)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Łódź Ωμέγα Жуков", "Łódź Ωμέγα Жуков"),
        ("e\u0301", "é"),
        ("名前", "[U+540D][U+524D]"),
        ("שם", "[U+05E9][U+05DD]"),
        ("admin\u202etxt.exe", "admin[U+202E]txt.exe"),
        ("a\nb\x00", "a[U+000A]b[U+0000]"),
        ("🦊", "[U+1F98A]"),
        ("हि", "[U+0939][U+093F]"),
    ],
)
def test_letters_that_cannot_be_shown_as_they_are_are_written_out(text: str, shown: str) -> None:
    assert faces().text.settable(text) == shown


def test_a_name_in_another_script_is_real_text() -> None:
    assert squeezed("имя") in squeezed(letters_of("nasty"))


@pytest.mark.parametrize("text", NASTY_TEXTS)
def test_markup_in_a_reason_is_text(text: str) -> None:
    shown = squeezed(faces().text.settable(text))
    assert shown in squeezed(letters_of("nasty"))


# --- the same bytes ---------------------------------------------------------------------------------------

_DIGEST = """
import hashlib, json, sys
from agentgate.adapters.evidence.pdf import PdfPack
from agentgate.core.evidence.pack import Pack
raw = sys.stdin.buffer.read()
print(hashlib.sha256(PdfPack().write(Pack(json.loads(raw), raw, "ab" * 32))).hexdigest())
"""


def test_another_process_at_another_time_and_place_writes_the_same_bytes() -> None:
    raw = sample("rich").raw
    here = hashlib.sha256(PdfPack().write(Pack(json.loads(raw), raw, "ab" * 32))).hexdigest()
    for seed, zone in (("1", "Asia/Tokyo"), ("2", "America/Lima")):
        elsewhere = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "SOURCE_DATE_EPOCH": seed}
        there = subprocess.run(
            [sys.executable, "-c", _DIGEST], input=raw, env=elsewhere, capture_output=True, check=True
        )
        assert there.stdout.decode().strip() == here


def test_one_pack_at_a_time_is_painted(monkeypatch: pytest.MonkeyPatch) -> None:
    """reportlab's fonts belong to one document at a time: two at once garble each other, if rarely."""
    second_paints = threading.Event()
    second = threading.Thread(target=lambda: PdfPack().write(sample("empty")))
    seen = []

    def watched(*arguments: Any) -> bytes:
        if threading.current_thread() is second:
            second_paints.set()
        else:
            second.start()
            seen.append(second_paints.wait(0.3))  # what must not happen is waited for
        return paint(*arguments)

    monkeypatch.setattr(painting, "paint", watched)
    PdfPack().write(sample("one_call"))
    second.join()
    assert second_paints.is_set()
    assert seen == [False]


def test_what_is_said_of_an_approval_are_sentences_that_do_not_run_into_each_other() -> None:
    row = Approval(
        approval_id="apr-1", tool="pay", asked_by="agent:bot", asked_at="", standing="Approved",
        decided_by="person:ada and person:bob", decided_at="",
        notes=("wanted the yes of 2 persons", "person:ada said yes"),
        asking_calls=(), carried_call=None,
    )  # fmt: skip
    assert _approval(row)[2] == (
        "Approved by person:ada and person:bob; wanted the yes of 2 persons; person:ada said yes"
    )
