"""The tables of calls: who made them, why they were refused, which may have had an effect, and each of them."""

from __future__ import annotations

from collections.abc import Sequence

from agentgate.adapters.evidence._parts.calls import Actor, Anomaly, Call, Refusal, Write
from agentgate.adapters.evidence._parts.listing import Listing
from agentgate.adapters.evidence._parts.marks import Mark
from agentgate.adapters.evidence._parts.words import count, listed, quoted
from agentgate.adapters.evidence._pdf.pictures import ALARM, legend, sign_of
from agentgate.adapters.evidence._pdf.sheet import Sheet, Style
from agentgate.adapters.evidence._pdf.table import Cell, Column, Row, nothing, rest, table, table_of
from agentgate.adapters.evidence._view import View


class _Clock:
    """Times as a table shows them: without the day where a pack is of one, which the header then says."""

    def __init__(self, view: View) -> None:
        start, end = view.title.start[:10], view.title.end[:10]
        self.day = start if start == end else ""
        self.width = 48.0 if self.day else 50.0

    def title(self, name: str) -> str:
        return f"{name} (UTC) {self.day}".rstrip()

    def short(self, at: str) -> str:
        return at.removeprefix(self.day).lstrip() if self.day else at


def actors(sheet: Sheet, view: View) -> None:
    fine, clock = sheet.fine, _Clock(view)
    columns = (
        Column("AGENT", 100, fine),
        Column("TOOL", 110, fine),
        Column("CALLS", 30, fine, right=True),
        Column("HOW THEY ENDED", 0, fine),
        Column(clock.title("FIRST"), clock.width, fine),
        Column(clock.title("LAST"), clock.width, fine),
    )

    def cells(row: Actor) -> Row:
        ends = ", ".join(f"{n:,} {mark.label.lower()}" for mark, n in row.marks)
        return row.agent, row.tool, f"{row.total:,}", ends, clock.short(row.first), clock.short(row.last)

    table_of(sheet, view.actors, columns, cells, "No agent made a call.", "row")


def refusals(sheet: Sheet, view: View) -> None:
    _reasons(sheet, view, view.refusals)
    if view.refused_before:
        more = count(view.refused_before, "more call was", "more calls were")
        sheet.paragraph(
            f"{more} turned away because the same caller had been refused too often within a second. They are counted, "
            "not listed."
        )
    if view.failures.rows:
        sheet.heading("Allowed, but without a plain success", "failures", 1)
        _reasons(sheet, view, view.failures)


def _reasons(sheet: Sheet, view: View, found: Listing[Refusal]) -> None:
    fine, clock = sheet.fine, _Clock(view)
    columns = (
        Column("WHAT", 62, fine),
        Column("WHY", 0, fine),
        Column("CALLS", 28, fine, right=True),
        Column("WHO AND WHAT", 104, fine),
        Column(clock.title("FIRST, LAST"), clock.width, fine),
        Column("CALL NO.", 46, fine),
    )

    def cells(row: Refusal) -> Row:
        return (
            Cell(row.mark.label, sign=sign_of(row.mark)),
            _joined(row.plain.removesuffix("."), quoted(row.said), *_rule(row)),
            f"{row.total:,}",
            f"{listed(row.agents)} calling {listed(row.tools)}",
            clock.short(row.first) + ("" if row.last == row.first else f" {clock.short(row.last)}"),
            _numbers(row.calls, row.total),
        )

    table_of(sheet, found, columns, cells, "No call was refused.", "reason")


def _rule(of: Call | Refusal) -> Sequence[str]:
    """A refusal by the gateway itself has the code for its rule."""
    return (f"rule {of.rule}", of.code) if of.rule != of.code else (of.code,)


def _numbers(numbers: Sequence[int], total: int) -> Cell:
    """`1, 4, 9 …`, which leads to the first of them."""
    more = " …" if total > len(numbers) else ""
    key = f"call-{numbers[0]}" if numbers else None
    return Cell(", ".join(map(str, numbers)) + more, key=key)


def writes(sheet: Sheet, view: View) -> None:
    fine, clock = sheet.fine, _Clock(view)
    columns = (
        Column("CALL", 26, fine, right=True),
        Column(clock.title("TIME"), clock.width, fine),
        Column("TOOL", 116, fine),
        Column("HOW IT ENDED", 0, fine),
        Column("APPROVED BY", 110, fine),
    )

    def cells(row: Write) -> Row:
        number = Cell(str(row.call), key=f"call-{row.call}") if row.call is not None else "–"
        ended = Cell(row.ended, sign=sign_of(Mark.RAN) if row.is_certain else ("ring", ALARM))
        return number, clock.short(row.at), row.tool, ended, row.approved_by or "–"

    table_of(sheet, view.writes, columns, cells, "No call that writes went out.", "write")


def unknown(sheet: Sheet, view: View) -> None:
    fine, clock = sheet.fine, _Clock(view)
    columns = (
        Column("CALL", 26, fine, right=True),
        Column(clock.title("TIME"), clock.width, fine),
        Column("TOOL", 116, fine),
        Column("HOW IT ENDED", 84, fine),
        Column("WHY", 0, fine),
    )

    def cells(row: Call) -> Row:
        number, ended = Cell(str(row.number), key=f"call-{row.number}"), Cell(row.mark.label, sign=sign_of(row.mark))
        return number, clock.short(row.at), row.tool, ended, row.plain

    table_of(sheet, view.unknown, columns, cells, "Of every call that went out it is known how it ended.", "call")


def anomalies(sheet: Sheet, view: View) -> None:
    columns = (
        Column("PATTERN", 120, Style(sheet.faces.bold, 7.4, 9.8)),
        Column("WHAT WAS SEEN", 0, sheet.fine),
        Column("CALL NO.", 130, sheet.fine),
    )

    def cells(row: Anomaly) -> Row:
        return Cell(row.kind, sign=("triangle", ALARM)), row.description, _numbers(row.calls, row.total)

    table_of(sheet, view.anomalies, columns, cells, "None of the patterns that are looked for was found.", "pattern")


def calls(sheet: Sheet, view: View) -> None:
    rows = view.calls.rows
    if not rows:
        nothing(sheet, "No call is in this pack.")
        return
    legend(sheet, {c.mark for c in rows}, signs=True)
    agents = {(c.agent, c.session) for c in rows}
    who = "" if len(agents) > 1 else f"All of them are calls of {rows[0].agent} in session {rows[0].session}. "
    sheet.paragraph(f"{who}LOG is the index of the decision in the log.", sheet.small)
    fine, clock = sheet.fine, _Clock(view)
    columns = [
        Column("NO.", 24, fine, right=True),
        Column(clock.title("TIME"), clock.width, fine),
        Column("AGENT, SESSION" if view.has_many_sessions else "AGENT", 92, fine),
        Column("TOOL", 94, fine),
        Column("END", 86, fine),
        Column("WHY", 0, fine),
        Column("LOG", 26, fine, right=True),
    ]
    if who:
        del columns[2]
    linked = frozenset(link.key for page in sheet.pages for link in page.links)
    table(sheet, columns, (_call(c, linked, clock, view, with_agent=not who) for c in rows), pad=2.4)
    rest(sheet, view.calls, "call")


def _call(call: Call, linked: frozenset[str], clock: _Clock, view: View, *, with_agent: bool) -> Row:
    key = f"call-{call.number}"
    cells: list[str | Cell] = [
        Cell(str(call.number), anchor=key) if key in linked else str(call.number),
        clock.short(call.at),
        f"{call.agent}, {call.session}" if view.has_many_sessions else call.agent,
        f"{call.tool} (writes)" if call.is_write else call.tool,
        Cell(call.mark.label, sign=sign_of(call.mark)),
        _why(call),
        str(call.index),
    ]
    if not with_agent:
        del cells[2]
    return cells


def _why(call: Call) -> str:
    """What was said of it, and by which rule."""
    return _joined(
        quoted(call.said) or call.plain.removesuffix("."),
        f"error: {quoted(call.error)}" if call.error else "",
        f"approved by {call.approved_by}" if call.approved_by else "",
        *_rule(call),
    )


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)
