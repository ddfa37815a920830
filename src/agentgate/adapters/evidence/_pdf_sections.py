"""The sections of the PDF in their order: each takes its part of the view and sets it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from agentgate.adapters.evidence import _pdf_pictures as pictures
from agentgate.adapters.evidence._model import Call, Listing, Mark, View
from agentgate.adapters.evidence._pdf_pictures import ALARM, sign_of
from agentgate.adapters.evidence._pdf_proof import leaves, proof
from agentgate.adapters.evidence._pdf_sheet import (
    INK,
    LEFT,
    LINK,
    LONGEST_TITLE,
    MEASURE,
    RIGHT,
    SOFT,
    Cell,
    Column,
    Page,
    Sheet,
    Style,
)
from agentgate.adapters.evidence._words import count, listed

if TYPE_CHECKING:
    from agentgate.adapters.evidence._model import Actor, Anomaly, Approval, Kill, Refusal, Write

T = TypeVar("T")


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


# --- first page -------------------------------------------------------------------------------------------


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
    pictures.figures(sheet, view.figures)
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
    sheet.pairs(rows)


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
    for line in head:
        sheet.put(LEFT + 12, y, line, strong)
        y += strong.leading
    for line in body:
        sheet.put(LEFT + 12, y, line, plain)
        y += plain.leading
    link, text = plain._replace(colour=LINK), "What exactly is proven"
    sheet.link(LEFT + 12, y, sheet.put(LEFT + 12, y, text, link), link, "integrity", text)
    sheet.y += height + 12


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


# --- pictures ---------------------------------------------------------------------------------------------


def _timeline(sheet: Sheet, view: View) -> None:
    if view.timeline is None:
        _nothing(sheet, "No call is in this pack.")
        return
    pictures.timeline(sheet, view.timeline)


def _charts(sheet: Sheet, view: View) -> None:
    marks = {mark for chart in view.charts for bar in chart.bars for mark, _ in bar.parts}
    if not marks:
        _nothing(sheet, "No call is in this pack.")
        return
    pictures.legend(sheet, marks, areas=True)
    for chart in view.charts:
        sheet.heading(chart.title, f"chart-{chart.name}", 1, keep=16.5 * len(chart.bars))
        pictures.chart(sheet, chart)


# --- tables -----------------------------------------------------------------------------------------------


def _nothing(sheet: Sheet, text: str) -> None:
    sheet.paragraph(text, sheet.body._replace(colour=SOFT))


def _rest(sheet: Sheet, listing: Listing[Any], one: str, many: str | None = None) -> None:
    """What is not shown is counted."""
    if listing.hidden:
        more = count(listing.hidden, f"more {one}", f"more {many or one + 's'}")
        sheet.paragraph(f"{more}: in pack.json only.", sheet.small)


def _list(
    sheet: Sheet,
    listing: Listing[T],
    columns: Sequence[Column],
    cells: Callable[[T], Sequence[str | Cell]],
    nothing: str,
    one: str,
    many: str | None = None,
) -> None:
    """A table with a row of `cells` for each, or the sentence that there is `nothing`."""
    if not listing.rows:
        _nothing(sheet, nothing)
        return
    sheet.table(columns, map(cells, listing.rows))
    _rest(sheet, listing, one, many)


def _numbers(numbers: Sequence[int], total: int) -> Cell:
    """`1, 4, 9 …`, which leads to the first of them."""
    more = " …" if total > len(numbers) else ""
    key = f"call-{numbers[0]}" if numbers else None
    return Cell(", ".join(map(str, numbers)) + more, key=key)


class Clock:
    """Times as a table shows them: without the day where a pack is of one, which the header then says."""

    def __init__(self, view: View) -> None:
        start, end = view.title.start[:10], view.title.end[:10]
        self.day = start if start == end else ""
        self.width = 48.0 if self.day else 50.0

    def title(self, name: str) -> str:
        return f"{name} (UTC) {self.day}".rstrip()

    def short(self, at: str) -> str:
        return at.removeprefix(self.day).lstrip() if self.day else at


def _actors(sheet: Sheet, view: View) -> None:
    fine, clock = sheet.fine, Clock(view)
    columns = (
        Column("AGENT", 100, fine),
        Column("TOOL", 110, fine),
        Column("CALLS", 30, fine, right=True),
        Column("HOW THEY ENDED", 0, fine),
        Column(clock.title("FIRST"), clock.width, fine),
        Column(clock.title("LAST"), clock.width, fine),
    )

    def cells(row: Actor) -> Sequence[str | Cell]:
        ends = ", ".join(f"{n:,} {mark.label.lower()}" for mark, n in row.marks)
        return row.agent, row.tool, f"{row.total:,}", ends, clock.short(row.first), clock.short(row.last)

    _list(sheet, view.actors, columns, cells, "No agent made a call.", "row")


def _refusals(sheet: Sheet, view: View) -> None:
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


def _reasons(sheet: Sheet, view: View, listing: Listing[Refusal]) -> None:
    fine, clock = sheet.fine, Clock(view)
    columns = (
        Column("WHAT", 62, fine),
        Column("WHY", 0, fine),
        Column("CALLS", 28, fine, right=True),
        Column("WHO AND WHAT", 104, fine),
        Column(clock.title("FIRST, LAST"), clock.width, fine),
        Column("CALL NO.", 46, fine),
    )

    def cells(row: Refusal) -> Sequence[str | Cell]:
        return (
            Cell(row.mark.label, sign=sign_of(row.mark)),
            _joined(row.plain.removesuffix("."), _quoted(row.said), *_rule(row.rule, row.code)),
            f"{row.total:,}",
            f"{listed(row.agents)} calling {listed(row.tools)}",
            clock.short(row.first) + ("" if row.last == row.first else f" {clock.short(row.last)}"),
            _numbers(row.calls, row.total),
        )

    _list(sheet, listing, columns, cells, "No call was refused.", "reason")


def _joined(*parts: str) -> str:
    return " · ".join(part for part in parts if part)


def _rule(rule: str, code: str) -> Sequence[str]:
    """A refusal by the gateway itself has the code for its rule."""
    return (f"rule {rule}", code) if rule != code else (code,)


def _quoted(text: str) -> str:
    return f"“{text}”" if text else ""


def _sentences(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _kills(sheet: Sheet, view: View) -> None:
    if not view.kills.rows:
        _nothing(sheet, "No kill covered these calls.")
        return
    for kill in view.kills.rows:
        sheet.heading(f"{kill.label}: {kill.target}", f"kill-{kill.label}", 1, keep=90)
        sheet.pairs(_kill_rows(sheet, kill), label=100)
    _rest(sheet, view.kills, "kill")


def _kill_rows(sheet: Sheet, kill: Kill) -> Iterable[tuple[str, str | Cell]]:
    if len(kill.target) > LONGEST_TITLE / 4:  # the heading may have cut it
        yield "Of", kill.target
    yield "Ordered", f"{kill.at} by {kill.ordered_by or 'the gateway'}"
    yield "Reason", _quoted(kill.reason) or "none given"
    sign = None if kill.is_drained else ("triangle", ALARM)
    yield "Drained", Cell(_sentences(kill.standing, f"({kill.drained_at})" if kill.drained_at else ""), sign=sign)
    if kill.excepted:
        yield "Not heard of", listed(kill.excepted, 12)
    if kill.attested:
        yield "Attested destroyed", listed(kill.attested, 12)
    yield "Stopped", f"{count(kill.cut, 'running call')} cut, {count(kill.refused, 'call')} refused"
    if kill.asks:
        yield "Release asked", "; ".join(kill.asks)
    if kill.released_at:
        yield "Released", f"{kill.released_at} by {kill.released_by}"
    else:
        ends = f"; ends by itself {kill.expires_at}" if kill.expires_at else ""
        yield "Released", f"not when this pack was made{ends}"
    yield "Kill", Cell(kill.kill_id, sheet.code)


def _approvals(sheet: Sheet, view: View) -> None:
    fine = sheet.fine
    columns = (
        Column("TOOL", 92, fine),
        Column("ASKED (UTC)", 108, fine),
        Column("ANSWER (UTC)", 0, fine),
        Column("CALLS", 66, fine),
        Column("APPROVAL", 64, sheet.code),
    )
    _list(sheet, view.approvals, columns, _approval, "No person was asked.", "approval")


def _approval(row: Approval) -> Sequence[str | Cell]:
    asked = _sentences(row.asked_at, f"by {row.asked_by}" if row.asked_by else "")
    said = _sentences(row.standing, row.decided_at, f"by {row.decided_by}" if row.decided_by else "")
    answer = "; ".join((said, *row.notes))
    numbers = [*row.asking_calls, *([row.carried_call] if row.carried_call is not None else [])]
    text = ", ".join(map(str, row.asking_calls)) or "–"
    if row.carried_call is not None:
        text += f"; let {row.carried_call} through"
    key = f"call-{numbers[-1]}" if numbers else None
    return row.tool or "–", asked or "–", answer, Cell(text, key=key), row.approval_id


def _writes(sheet: Sheet, view: View) -> None:
    fine, clock = sheet.fine, Clock(view)
    columns = (
        Column("CALL", 26, fine, right=True),
        Column(clock.title("TIME"), clock.width, fine),
        Column("TOOL", 116, fine),
        Column("HOW IT ENDED", 0, fine),
        Column("APPROVED BY", 110, fine),
    )

    def cells(row: Write) -> Sequence[str | Cell]:
        number = Cell(str(row.call), key=f"call-{row.call}") if row.call is not None else "–"
        ended = Cell(row.ended, sign=sign_of(Mark.RAN) if row.is_certain else ("ring", ALARM))
        return number, clock.short(row.at), row.tool, ended, row.approved_by or "–"

    _list(sheet, view.writes, columns, cells, "No call that writes went out.", "write")


def _unknown(sheet: Sheet, view: View) -> None:
    fine, clock = sheet.fine, Clock(view)
    columns = (
        Column("CALL", 26, fine, right=True),
        Column(clock.title("TIME"), clock.width, fine),
        Column("TOOL", 116, fine),
        Column("HOW IT ENDED", 84, fine),
        Column("WHY", 0, fine),
    )

    def cells(row: Call) -> Sequence[str | Cell]:
        number, ended = Cell(str(row.number), key=f"call-{row.number}"), Cell(row.mark.label, sign=sign_of(row.mark))
        return number, clock.short(row.at), row.tool, ended, row.plain

    _list(sheet, view.unknown, columns, cells, "Of every call that went out it is known how it ended.", "call")


def _anomalies(sheet: Sheet, view: View) -> None:
    columns = (
        Column("PATTERN", 120, Style(sheet.faces.bold, 7.4, 9.8)),
        Column("WHAT WAS SEEN", 0, sheet.fine),
        Column("CALL NO.", 130, sheet.fine),
    )

    def cells(row: Anomaly) -> Sequence[str | Cell]:
        return Cell(row.kind, sign=("triangle", ALARM)), row.description, _numbers(row.calls, row.total)

    nothing = "None of the patterns that are looked for was found."
    _list(sheet, view.anomalies, columns, cells, nothing, "pattern")


def _notes(sheet: Sheet, view: View) -> None:
    columns = (
        Column("TIME (UTC)", 96, sheet.fine),
        Column("WHAT", 0, sheet.fine),
        Column("BY", 120, sheet.fine),
    )
    nothing = "Nothing of this pack was exported before, pruned or held."
    _list(sheet, view.notes, columns, lambda row: (row.at, row.what, row.by), nothing, "entry", "entries")


def _calls(sheet: Sheet, view: View) -> None:
    rows = view.calls.rows
    if not rows:
        _nothing(sheet, "No call is in this pack.")
        return
    pictures.legend(sheet, {c.mark for c in rows}, signs=True)
    agents = {(c.agent, c.session) for c in rows}
    who = "" if len(agents) > 1 else f"All of them are calls of {rows[0].agent} in session {rows[0].session}. "
    sheet.paragraph(f"{who}LOG is the index of the decision in the log.", sheet.small)
    fine, clock = sheet.fine, Clock(view)
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
    sheet.table(columns, (_call(c, linked, clock, view, with_agent=not who) for c in rows), pad=2.4)
    _rest(sheet, view.calls, "call")


def _call(call: Call, linked: frozenset[str], clock: Clock, view: View, *, with_agent: bool) -> Sequence[str | Cell]:
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
        _quoted(call.said) or call.plain.removesuffix("."),
        f"error: {call.error}" if call.error else "",
        f"approved by {call.approved_by}" if call.approved_by else "",
        *_rule(call.rule, call.code),
    )


SECTIONS: Final = (
    Section("Timeline", "timeline", _timeline),
    Section("Charts", "charts", _charts),
    Section("Who did what", "actors", _actors),
    Section("Refused, and why", "refusals", _refusals),
    Section("Kills, and who ordered them", "kills", _kills),
    Section("Approvals, and who gave them", "approvals", _approvals),
    Section("Writes that may stand", "writes", _writes),
    Section("Effects unknown", "unknown", _unknown),
    Section("Anomalies", "anomalies", _anomalies),
    Section("The records themselves", "notes", _notes),
    Section("Integrity: what is proven, and what is not", "integrity", proof),
    Section("Every call", "calls", _calls),
    Section("Every event in the log", "leaves", leaves),
)
"""The long tables are last: what comes before them is read, they are looked up."""
OWN_PAGE: Final = frozenset({"timeline", "integrity", "calls"})
