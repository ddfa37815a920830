"""The integrity pages: what is proven, by what and to whom, what is not, and how to check it."""

from __future__ import annotations

from collections.abc import Sequence

from agentgate.adapters.evidence._parts.claims import Checkpoint, Integrity, Leaf
from agentgate.adapters.evidence._parts.marks import Mark
from agentgate.adapters.evidence._parts.words import count
from agentgate.adapters.evidence._pdf.paint import ATTACHED
from agentgate.adapters.evidence._pdf.pictures import ALARM, sign_of
from agentgate.adapters.evidence._pdf.sheet import BOTTOM, INK, LEFT, MEASURE, SOFT, TINT, Sheet, Style
from agentgate.adapters.evidence._pdf.table import Cell, Column, Row, pairs, table, table_of
from agentgate.adapters.evidence._view import View


def proof(sheet: Sheet, view: View) -> None:
    integrity = view.integrity
    ink = INK if integrity.is_signed else ALARM
    sheet.paragraph(integrity.headline, Style(sheet.faces.bold, 12.5, 17, ink), after=4)
    sheet.paragraph(integrity.explanation)
    _protections(sheet, integrity)
    _claims(sheet, integrity)
    _attachment(sheet, integrity)
    if integrity.checkpoint is not None:
        _checkpoint(sheet, integrity.checkpoint)
    sheet.heading("How to check it", "steps", 1)
    for number, step in enumerate(integrity.steps, 1):
        sheet.need(46)
        sheet.put(LEFT, sheet.y + 9.2, f"{number}.", Style(sheet.faces.bold, 9.2, 13.2))
        sheet.paragraph(step.what, x=LEFT + 16, after=2)
        _verbatim(sheet, step.command.splitlines())


def _protections(sheet: Sheet, integrity: Integrity) -> None:
    sheet.heading("Signatures", "signatures", 1)
    columns = (
        Column("KIND", 120, Style(sheet.faces.bold, 7.4, 9.8)),
        Column("THERE", 32, sheet.fine),
        Column("KEY", 110, sheet.code),
        Column("WHAT IT IS WORTH", 0, sheet.fine),
    )
    there, missing = Cell("yes", sign=sign_of(Mark.RAN)), Cell("no", sign=("cross", SOFT))
    rows = [(s.name, there if s.is_there else missing, s.key_id or "–", s.text) for s in integrity.signatures]
    table(sheet, columns, rows)


def _claims(sheet: Sheet, integrity: Integrity) -> None:
    sheet.heading("Proven", "proven", 1)
    if integrity.proves:
        fine = sheet.fine
        columns = (
            Column("CLAIM", 220, Style(sheet.faces.bold, 7.6, 10.2)),
            Column("BY", 130, fine),
            Column("IT CONVINCES", 0, fine),
        )
        table(sheet, columns, [(c.claim, c.by, c.convinces) for c in integrity.proves])
    else:
        sheet.paragraph("Nothing.", Style(sheet.faces.bold, 9.2, 13.2, ALARM))
    sheet.heading("Not proven", "not-proven", 1)
    for limit in integrity.limits:
        sheet.need(sheet.body.leading)
        sheet.sign("bar", LEFT + 4, sheet.y + 6.4, SOFT, 2.4)
        sheet.paragraph(limit, x=LEFT + 13, after=3)
    sheet.space(4)


def _attachment(sheet: Sheet, integrity: Integrity) -> None:
    sheet.heading("The pack itself", "attachment", 1, keep=210)
    sheet.paragraph(
        f"These pages are a view. What is signed is attached to this file as {ATTACHED}, byte for byte: reader "
        f"programs list it under attachments, and the commands below write it out and hash it. Letters that the fonts "
        f"here do not have, or that would change the order of others, are written out in these pages, such as "
        f"[U+202E]; {ATTACHED} has them as they came."
    )
    _verbatim(sheet, ["pdfdetach -saveall pack.pdf", f"sha256sum {ATTACHED}"])
    rows: list[tuple[str, str | Cell]] = [(f"SHA-256 of {ATTACHED}", Cell(integrity.pack_id, sheet.code))]
    if integrity.hmac:
        rows.append(("HMAC-SHA256", Cell(integrity.hmac, sheet.code)))
    if integrity.signed_at:
        rows.append(("Signed at (UTC)", integrity.signed_at))
    rows += [
        ("Events", f"{integrity.event_count:,}"),
        ("SHA-256 over all leaf hashes", Cell(integrity.events_hash, sheet.code)),
    ]
    pairs(sheet, rows)


def _checkpoint(sheet: Sheet, checkpoint: Checkpoint) -> None:
    sheet.heading("The log's checkpoint", "checkpoint", 1)
    pairs(
        sheet,
        [
            ("Log", checkpoint.origin),
            ("Size", count(checkpoint.size, "event")),
            ("Root (base64)", Cell(checkpoint.root, sheet.code)),
        ],
    )
    _verbatim(sheet, checkpoint.note)


def _verbatim(sheet: Sheet, lines: Sequence[str]) -> None:
    """Lines to copy, in a box; they run over to the next page where they must."""
    style = sheet.code
    shown = [part for line in lines for part in style.face.wrap(style.face.settable(line), style.size, MEASURE - 18)]
    while shown:
        sheet.need(style.leading * 2 + 10)
        fit = max(int((BOTTOM - sheet.y - 10) / style.leading), 1)
        now, shown = shown[:fit], shown[fit:]
        sheet.box(LEFT, sheet.y, MEASURE, len(now) * style.leading + 9, TINT)
        for number, line in enumerate(now):
            sheet.put(LEFT + 9, sheet.y + 12 + number * style.leading, line, style)
        sheet.y += len(now) * style.leading + 14


def leaves(sheet: Sheet, view: View) -> None:
    """Every event's place in the log and its leaf hash."""
    columns = (
        Column("NO.", 28, sheet.fine, right=True),
        Column("LOG", 36, sheet.fine, right=True),
        Column("EVENT", 132, sheet.code),
        Column("LEAF HASH (SHA-256, RFC 6962)", 0, sheet.code),
    )

    def cells(row: Leaf) -> Row:
        return str(row.number), str(row.index), row.event_id, row.leaf_hash

    table_of(sheet, view.integrity.leaves, columns, cells, "No event is in this pack.", "event", pad=1.4)
