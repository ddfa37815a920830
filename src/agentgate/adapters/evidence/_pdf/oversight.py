"""The tables of what people did: kills, approvals, and what became of the records themselves."""

from __future__ import annotations

from collections.abc import Iterable

from agentgate.adapters.evidence._parts.approvals import Approval
from agentgate.adapters.evidence._parts.kills import Kill
from agentgate.adapters.evidence._parts.words import count, listed, quoted
from agentgate.adapters.evidence._pdf.pictures import ALARM
from agentgate.adapters.evidence._pdf.sheet import LONGEST_TITLE, Sheet
from agentgate.adapters.evidence._pdf.table import Cell, Column, Row, nothing, pairs, rest, table_of
from agentgate.adapters.evidence._view import View


def kills(sheet: Sheet, view: View) -> None:
    if not view.kills.rows:
        nothing(sheet, "No kill covered these calls.")
        return
    for kill in view.kills.rows:
        sheet.heading(f"{kill.label}: {kill.target}", f"kill-{kill.label}", 1, keep=90)
        pairs(sheet, _kill_rows(sheet, kill, view.title.as_of), label=100)
    rest(sheet, view.kills, "kill")


def _kill_rows(sheet: Sheet, kill: Kill, as_of: str) -> Iterable[tuple[str, str | Cell]]:
    if len(kill.target) > LONGEST_TITLE / 4:  # the heading may have cut it
        yield "Of", kill.target
    yield "Ordered", f"{kill.at} by {kill.ordered_by or 'the gateway'}"
    yield "Reason", quoted(kill.reason) or "none given"
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
        yield "Released", f"not yet {as_of}{ends}"
    yield "Kill", Cell(kill.kill_id, sheet.code)


def approvals(sheet: Sheet, view: View) -> None:
    fine = sheet.fine
    columns = (
        Column("TOOL", 92, fine),
        Column("ASKED (UTC)", 108, fine),
        Column("ANSWER (UTC)", 0, fine),
        Column("CALLS", 66, fine),
        Column("APPROVAL", 64, sheet.code),
    )
    table_of(sheet, view.approvals, columns, _approval, "No person was asked.", "approval")


def _approval(row: Approval) -> Row:
    asked = _sentences(row.asked_at, f"by {row.asked_by}" if row.asked_by else "")
    said = _sentences(row.standing, row.decided_at, f"by {row.decided_by}" if row.decided_by else "")
    answer = "; ".join((said, *row.notes))
    numbers = [*row.asking_calls, *([row.carried_call] if row.carried_call is not None else [])]
    text = ", ".join(map(str, row.asking_calls)) or "–"
    if row.carried_call is not None:
        text += f"; let {row.carried_call} through"
    key = f"call-{numbers[-1]}" if numbers else None
    return row.tool or "–", asked or "–", answer, Cell(text, key=key), row.approval_id


def notes(sheet: Sheet, view: View) -> None:
    columns = (Column("TIME (UTC)", 96, sheet.fine), Column("WHAT", 0, sheet.fine), Column("BY", 120, sheet.fine))
    empty = "Nothing of this pack was exported before, pruned or held."
    table_of(sheet, view.notes, columns, lambda row: (row.at, row.what, row.by), empty, "entry", "entries")


def _sentences(*parts: str) -> str:
    return " ".join(part for part in parts if part)
