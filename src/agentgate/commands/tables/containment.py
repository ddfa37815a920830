"""What containment looks like in a terminal: kills, members, calls in flight.

Texts that people chose come from far away: none is taken for markup, and nothing unprintable reaches the terminal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final

from rich.table import Table
from rich.text import Text

from agentgate.commands.answers import Answer
from agentgate.commands.words import ago, counted, duration, milliseconds, named, plain, seconds_since

_SHORT_MEMBER: Final = 8
_MOST_REASON: Final = 160
_PRESENCE_STYLES: Final = {"here": "green", "gone": "red", "attested": "yellow"}


def what_it_stops(kill: Answer) -> str:
    """Scope and target in words."""
    if kill["scope"] == "global":
        return "everything"
    return f"{plain(kill['scope'])} {named(kill.get('tenant', ''), kill['target'])}"


def waited_for(kill: Answer) -> list[str]:
    """Members that may still acknowledge: neither heard, nor given up."""
    left_out = {*kill.get("drained_except", ()), *kill.get("attested", ())}
    return [ack["member"] for ack in kill.get("replicas", ()) if not ack["acked"] and ack["member"] not in left_out]


def is_under_way(kill: Answer) -> bool:
    """Whether there is something to wait for: a kill in force with a replica that may still acknowledge."""
    return not kill["drained"] and kill.get("active", True) and (bool(waited_for(kill)) or not kill.get("receipt"))


def drain_state(kill: Answer) -> Text:
    """How far a kill has come, in a few words."""
    if kill["drained"]:
        attested = kill.get("attested")
        return Text(f"drained, attested {_short(attested)}" if attested else "drained", "green")
    if kill["drained"] is None:
        return Text("in force; the log is silent", "yellow")
    if "replicas" not in kill:
        return Text("draining", "yellow")
    running = kill.get("running", ())
    also = f", {len(running)} running" if running else ""
    if waiting := waited_for(kill):
        replicas = kill["replicas"]
        return Text(f"{len(replicas) - len(waiting)} of {counted(len(replicas), 'replica')}{also}", "yellow")
    if left_out := kill.get("drained_except"):
        return Text(f"all but {_short(left_out)}{also}", "red")
    return Text(f"draining{also}", "yellow")


def _short(members: Sequence[str]) -> str:
    return ", ".join(plain(member)[:_SHORT_MEMBER] for member in members)


def kills_table(kills: Sequence[Answer], now: datetime, *, width: int = 0) -> Table:
    """Kills in force, for people in front of a terminal of `width`; for a file or a pipe (0) one line for each."""
    expiries = not width or any("expires_at" in kill for kill in kills)
    more = (*(("EXPIRES",) if expiries else ()), "BY", *(() if width else ("REASON",)))
    table = _table("ID", "STOPS", "STATE", "SINCE", *more, folds=("ID", "STOPS"))
    for kill in kills:
        stops, reason = Text(what_it_stops(kill)), Text(plain(kill["reason"]), "dim")
        if width and reason:
            reason.truncate(_MOST_REASON, overflow="ellipsis")
            stops.append("\n").append(reason)
        row: list[str | Text] = [plain(kill["id"]), stops, drain_state(kill), ago(seconds_since(kill["since"], now))]
        row += [_expiry(kill, now)] if expiries else []
        _add(table, *row, plain(kill["actor"]), *(() if width else (reason,)))
    return table


def kills_in_brief(kills: Sequence[Answer], now: datetime) -> Table:
    """One line for each, in any width."""
    table = _table("SINCE", "STOPS", "STATE", "ID", "REASON", folds=("STOPS", "ID", "REASON"))
    for kill in kills:
        since = ago(seconds_since(kill["since"], now))
        what, why = _cut(what_it_stops(kill)), _cut(plain(kill["reason"]))
        _add(table, since, what, drain_state(kill), _cut(plain(kill["id"])), why)
    return table


def _expiry(kill: Answer, now: datetime) -> str:
    if "expires_at" not in kill:
        return "–"
    left_s = -seconds_since(kill["expires_at"], now)
    return f"in {duration(left_s)}" if left_s > 0 else "when drained"


def outcome_of(kill: Answer) -> Iterator[Text]:
    """What a kill did, replica by replica."""
    left_out = {
        **dict.fromkeys(kill.get("drained_except", ()), "was declared gone: nobody knows what still runs there"),
        **dict.fromkeys(kill.get("attested", ()), "is gone, as an admin has attested"),
    }
    for ack in kill.get("replicas", ()):
        if ack["acked"]:
            mark, style, said = "✓", "green", f"{_counts(ack)}, in {milliseconds(ack['took_ms'])}"
        elif ack["member"] in left_out:
            mark, style, said = "–", "red", left_out[ack["member"]]
        else:
            mark, style, said = "…", "yellow", "has not answered"
        yield Text("  ").append(mark, style).append(f" {plain(ack['member'])}  {said}")
    for trace_id in kill.get("running", ()):
        yield Text("  ").append("▶", "yellow").append(f" call {plain(trace_id)} has not ended")


def verdict_on(kill: Answer) -> Iterator[Text]:
    """What follows from it."""
    if not kill.get("active", True):
        yield Text("it was released before it had drained", "red")
        return
    if kill["drained"]:
        slowest_ms = max((ack["took_ms"] for ack in kill.get("replicas", ()) if ack["acked"]), default=0.0)
        heard = counted(len(kill.get("replicas", ())), "replica")
        ends = "expires or is released" if "expires_at" in kill else "is released"
        yield Text("drained", "bold green").append(
            f" on {heard} in {milliseconds(slowest_ms)}: nothing of it runs, and nothing will until it {ends}",
            "not bold default",
        )
    elif waiting := waited_for(kill):
        yield Text("in force, not drained", "bold yellow").append(
            f": {counted(len(waiting), 'replica')} did not acknowledge yet. Follow it with: agentgate watch",
            "not bold default",
        )
    elif left_out := kill.get("drained_except"):
        yield Text("in force, drained but for what was declared gone", "bold red").append(
            f". Once its host is destroyed: agentgate members gone {plain(left_out[0])}", "not bold default"
        )
    else:
        yield Text("in force, not drained", "bold yellow")
    yield Text(f"release it with: agentgate release {plain(kill['id'])}", "dim")


def _counts(ack: Answer) -> str:
    counts = [f"{ack[name]} {name}" for name in ("cancelled", "finished", "unknown") if ack[name]]
    return ", ".join(counts) or "nothing of it ran here"


def members_table(members: Sequence[Answer]) -> Table:
    table = _table("MEMBER", "PRESENCE", "LAST HEARD")
    for member in members:
        presence = plain(member["presence"])
        heard = "it answered this" if member["is_me"] else ago(member["silent_s"])
        _add(table, plain(member["member"]), Text(presence, _PRESENCE_STYLES.get(presence, "")), heard)
    return table


def calls_table(calls: Sequence[Answer], now: datetime) -> Table:
    """Calls in flight, the oldest first."""
    table = _table("AGE", "SESSION", "AGENT", "TOOL", "REPLICA", "TRACE", folds=("SESSION", "AGENT", "TRACE"))
    for call in calls:
        _add(
            table,
            duration(seconds_since(call["since"], now)),
            _cut(named(call["tenant"], call["session"])),
            _cut(plain(call["agent"])),
            plain(call["tool"]),
            plain(call["member"])[:_SHORT_MEMBER],
            _cut(plain(call["trace_id"])),
        )
    table.columns[0].justify = "right"
    return table


def _add(table: Table, *cells: str | Text) -> None:
    """A row. A cell that is text would be read as markup."""
    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _cut(text: str) -> Text:
    """A cell that gives way when there is no room, and stays one line."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def _table(*columns: str, folds: Sequence[str] = ()) -> Table:
    """`folds` are the columns that become narrower when there is no room; their cells fold, so that nothing is lost."""
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(_cut(name), no_wrap=name not in folds, overflow="fold")
    return table
