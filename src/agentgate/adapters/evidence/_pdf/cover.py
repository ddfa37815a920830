"""The first page: what the pack is of, what happened in words and numbers, and whether it can be checked."""

from __future__ import annotations

from collections.abc import Sequence

from agentgate.adapters.evidence._parts.words import listed
from agentgate.adapters.evidence._pdf.pictures import ALARM, figures
from agentgate.adapters.evidence._pdf.sheet import INK, LEFT, LINK, MEASURE, RIGHT, SOFT, Sheet, Style
from agentgate.adapters.evidence._pdf.table import Cell, pairs
from agentgate.adapters.evidence._view import View


def cover(sheet: Sheet, view: View) -> None:
    title, faces = view.title, sheet.faces
    sheet.anchor("top", "Evidence pack", 0)
    sheet.put(LEFT, sheet.y + 8, "AGENTGATE EVIDENCE PACK", Style(faces.bold, 7.6, 10, SOFT))
    sheet.space(14)
    head = Style(faces.bold, 22, 27)
    for line in head.face.fold(head.face.settable(title.heading), head.size, MEASURE, 4):
        sheet.put(LEFT, sheet.y + head.size, line, head)
        sheet.y += head.leading
    sheet.space(4)
    sheet.rule(LEFT, sheet.y, RIGHT, INK, 1.2)
    sheet.space(10)
    for sentence in view.narrative:
        sheet.paragraph(sentence, Style(faces.text, 10.2, 14.8), after=4)
    sheet.space(6)
    figures(sheet, view.figures)
    sheet.space(6)
    _standing(sheet, view)
    period = f"{title.start} to {title.end} UTC ({title.span})" if title.span else "no events"
    rows: list[tuple[str, str | Cell]] = [("Tenant", title.tenant), ("Period", period)]
    if title.asked_for:
        rows.append(("Asked for", title.asked_for))
    rows += [
        (_plural("Session", title.sessions), listed(title.sessions, 8) or "none"),
        (_plural("Agent", title.agents), listed(title.agents, 8) or "none"),
        (_plural("Policy", title.policies, "Policies"), ", ".join(title.policies) or "none"),
        ("Made", f"{title.generated_at} UTC by {title.generator}, pack format {title.version}"),
        ("Pack (SHA-256)", Cell(title.pack_id, sheet.code)),
    ]
    pairs(sheet, rows)


def _plural(one: str, items: Sequence[str], many: str | None = None) -> str:
    return one if len(items) == 1 else (many or one + "s")


def _standing(sheet: Sheet, view: View) -> None:
    """Whether the pack can be checked, before anything is read from it."""
    integrity, faces = view.integrity, sheet.faces
    strong = Style(faces.bold, 10.2, 14, INK if integrity.is_signed else ALARM)
    plain = Style(faces.text, 8.4, 11.6)
    room = MEASURE - 24
    head = strong.face.wrap(strong.face.settable(integrity.headline), strong.size, room)
    body = plain.face.wrap(plain.face.settable(integrity.explanation), plain.size, room)
    height = len(head) * strong.leading + (len(body) + 1) * plain.leading + 18
    sheet.need(height + 12)
    sheet.box(LEFT, sheet.y, MEASURE, height, None, strong.colour)
    sheet.box(LEFT, sheet.y, 3.4, height, strong.colour)
    y = sheet.y + 16
    for lines, style in ((head, strong), (body, plain)):
        for line in lines:
            sheet.put(LEFT + 12, y, line, style)
            y += style.leading
    link, text = plain._replace(colour=LINK), "What exactly is proven"
    sheet.link(LEFT + 12, y, sheet.put(LEFT + 12, y, text, link), link, "integrity", text)
    sheet.y += height + 12
