"""The sections of the PDF in their order, and the contents that say on which page each begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from agentgate.adapters.evidence._pdf import calls, oversight, pictures
from agentgate.adapters.evidence._pdf.cover import cover
from agentgate.adapters.evidence._pdf.proof import leaves, proof
from agentgate.adapters.evidence._pdf.sheet import LEFT, MEASURE, Page, Sheet, Style
from agentgate.adapters.evidence._pdf.table import nothing
from agentgate.adapters.evidence._view import View


class Section(NamedTuple):
    title: str
    key: str
    lay: Callable[[Sheet, View], None]


def lay_out(sheet: Sheet, view: View) -> None:
    """All pages."""
    cover(sheet, view)
    contents = _room_for_contents(sheet, len(SECTIONS))
    for section in SECTIONS:
        if section.key in OWN_PAGE:
            sheet.turn()
        sheet.heading(section.title, section.key)
        section.lay(sheet, view)
    _contents(sheet, *contents)


def _room_for_contents(sheet: Sheet, entries: int) -> tuple[Page, float]:
    """Where the contents go, once it is known what is on which page."""
    height = 34.0 + 14.5 * ((entries + 1) // 2)
    sheet.need(height)
    place = sheet.page, sheet.y
    sheet.y += height
    return place


def _contents(sheet: Sheet, page: Page, y: float) -> None:
    found = {a.key: number for number, p in enumerate(sheet.pages, 1) for a in p.anchors if a.level == 0}
    here = Sheet(sheet.faces)
    here.pages = [page]
    here.put(LEFT, y + 16, "Contents", Style(sheet.faces.bold, 10.2, 14))
    style = Style(sheet.faces.text, 8.6, 14.5)
    half, down = (len(SECTIONS) + 1) // 2, y + 34
    for number, section in enumerate(SECTIONS):
        x = LEFT + (MEASURE / 2 + 9) * (number // half)
        foot = down + (number % half) * style.leading
        edge = x + MEASURE / 2 - 9
        here.put(x, foot, section.title, style)
        here.put(edge, foot, str(found[section.key]), style, right=True)
        here.rule(x, foot + 4, edge)
        here.link(x, foot, edge - x, style, section.key, section.title)


def _timeline(sheet: Sheet, view: View) -> None:
    if view.timeline is None:
        nothing(sheet, "No call is in this pack.")
        return
    pictures.timeline(sheet, view.timeline)


def _charts(sheet: Sheet, view: View) -> None:
    marks = {mark for chart in view.charts for bar in chart.bars for mark, _ in bar.parts}
    if not marks:
        nothing(sheet, "No call is in this pack.")
        return
    pictures.legend(sheet, marks, areas=True)
    for chart in view.charts:
        sheet.heading(chart.title, f"chart-{chart.name}", 1, keep=16.5 * len(chart.bars))
        pictures.chart(sheet, chart)


SECTIONS: Final = (
    Section("Timeline", "timeline", _timeline),
    Section("Charts", "charts", _charts),
    Section("Who did what", "actors", calls.actors),
    Section("Refused, and why", "refusals", calls.refusals),
    Section("Kills, and who ordered them", "kills", oversight.kills),
    Section("Approvals, and who gave them", "approvals", oversight.approvals),
    Section("Writes that may stand", "writes", calls.writes),
    Section("Effects unknown", "unknown", calls.unknown),
    Section("Anomalies", "anomalies", calls.anomalies),
    Section("The records themselves", "notes", oversight.notes),
    Section("Integrity: what is proven, and what is not", "integrity", proof),
    Section("Every call", "calls", calls.calls),
    Section("Every event in the log", "leaves", leaves),
)
"""The long tables are last: what comes before them is read, they are looked up."""
OWN_PAGE: Final = frozenset({"timeline", "integrity", "calls"})
