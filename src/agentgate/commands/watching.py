"""What containment looks like in a terminal: kills, members, calls in flight, and all three live.

Texts that people chose come from far away: none is taken for markup, and nothing unprintable reaches the terminal.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentgate.commands.remote import Answer, Listing, NotAGateway, Refusal, Remote, Unanswered
from agentgate.commands.words import ago, counted, duration, milliseconds, named, plain, seconds_since

EVERY_S: Final = 0.5
ANSWER_S: Final = 2.0
"""A gateway that takes longer is shown as one that does not answer."""
MOST_KILLS: Final = 100
"""A screen has no room for more; the newest are shown, and how many there are."""
SHORT_MEMBER: Final = 8
MOST_REASON: Final = 160
_PRESENCE_STYLES: Final = {"here": "green", "gone": "red", "attested": "yellow"}


# --- kills ----------------------------------------------------------------------------------------------------


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
    return ", ".join(plain(member)[:SHORT_MEMBER] for member in members)


def kills_table(kills: Sequence[Answer], now: datetime, *, width: int = 0) -> Table:
    """Kills in force, for people in front of a terminal of `width`; for a file or a pipe (0) one line for each."""
    expiries = not width or any("expires_at" in kill for kill in kills)
    more = (*(("EXPIRES",) if expiries else ()), "BY", *(() if width else ("REASON",)))
    table = _table("ID", "STOPS", "STATE", "SINCE", *more, folds=("ID", "STOPS"))
    for kill in kills:
        stops, reason = Text(what_it_stops(kill)), Text(plain(kill["reason"]), "dim")
        if width and reason:
            reason.truncate(MOST_REASON, overflow="ellipsis")
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
        line = Text("  ")
        if ack["acked"]:
            line.append("✓", "green").append(f" {plain(ack['member'])}  ")
            yield line.append(f"{_counts(ack)}, in {milliseconds(ack['took_ms'])}")
        elif ack["member"] in left_out:
            line.append("–", "red").append(f" {plain(ack['member'])}  {left_out[ack['member']]}")
            yield line
        else:
            line.append("…", "yellow").append(f" {plain(ack['member'])}  has not answered")
            yield line
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


# --- members and calls ----------------------------------------------------------------------------------------


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
            plain(call["member"])[:SHORT_MEMBER],
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


# --- live -----------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Board:
    """What a gateway says of its calls, kills and members, and since when it says nothing."""

    remote: Remote
    wall: Callable[[], datetime] = lambda: datetime.now(UTC)
    ticks_s: Callable[[], float] = time.monotonic
    calls: list[Answer] = field(default_factory=list)
    kills: Listing = field(default_factory=lambda: Listing([], 0))
    members: list[Answer] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    """For a part that the gateway could not tell: why."""
    silent_since_s: float | None = None
    silence: str = ""
    heard_at: datetime | None = None

    def look(self) -> None:
        """Ask for everything once.

        Raises:
            Refusal: the key may not see this. Any other trouble is part of the picture.
        """
        try:
            self._part("calls", self.remote.calls)
            self._part("kills", lambda: self.remote.kills(MOST_KILLS))
            self._part("members", self.remote.members)
        except (Unanswered, NotAGateway) as silence:
            self.silence = str(silence)
            if self.silent_since_s is None:
                self.silent_since_s = self.ticks_s()
            return
        self.silent_since_s = None
        self.heard_at = self.wall()

    def _part(self, name: str, ask: Callable[[], Any]) -> None:
        try:
            setattr(self, name, ask())
            self.missing.pop(name, None)
        except Refusal as refusal:
            if refusal.status in (401, 403):
                raise
            self.missing[name] = f"{refusal.status} {refusal.reason}: {refusal.detail}"

    @property
    def is_answered(self) -> bool:
        return self.heard_at is not None and self.silent_since_s is None

    def as_json(self) -> dict[str, Any]:
        """One snapshot. A part that could not be had is null, and `missing` says why."""
        return {
            "url": self.remote.url,
            "at": self.wall().isoformat(),
            "calls": None if "calls" in self.missing else self.calls,
            "kills": None if "kills" in self.missing else self.kills.kills,
            "kills_in_all": None if "kills" in self.missing else self.kills.total,
            "members": None if "members" in self.missing else self.members,
            "missing": self.missing,
        }

    # --- the picture ---

    def picture(self, height: int = 10_000) -> RenderableType:
        """Everything, in at most `height` lines where that is possible."""
        now = self.wall()
        rooms = _shares(height - 11, (len(self.members), len(self.kills.kills), len(self.calls)))
        members, kills, calls = self.members[: rooms[0]], self.kills.kills[::-1][: rooms[1]], self.calls[: rooms[2]]
        return Group(
            *self._head(now),
            *self._section("calls", "CALLS IN FLIGHT", len(self.calls), len(calls), calls_table(calls, now)),
            *self._section("kills", "KILLS IN FORCE", self.kills.total, len(kills), kills_in_brief(kills, now)),
            *self._section("members", "MEMBERS", len(self.members), len(members), members_table(members)),
        )

    def _head(self, now: datetime) -> Iterator[Text]:
        """Where and when; below it what is wrong, or nothing."""
        line = Text("agentgate ", "bold", no_wrap=True, overflow="ellipsis").append(plain(self.remote.url), "not bold")
        yield line.append("" if self.heard_at is None else f"  {now.astimezone():%H:%M:%S}", "not bold dim")
        if self.silent_since_s is None:
            yield Text("" if self.heard_at is not None else "asking …", "dim")
            return
        as_of = f" (below: as of {self.heard_at.astimezone():%H:%M:%S})" if self.heard_at is not None else ""
        for_s = duration(self.ticks_s() - self.silent_since_s)
        words = f"DOES NOT ANSWER for {for_s}: {plain(self.silence)}; trying again{as_of}"
        yield Text(words, "bold red", no_wrap=True, overflow="ellipsis")

    def _section(self, part: str, title: str, total: int, shown: int, table: Table) -> Iterator[RenderableType]:
        heading = Text(f"{title} ", "bold cyan")
        if part in self.missing:
            yield heading.append(f" {plain(self.missing[part])}", "red")
            yield Text("")
            return
        heading.append(str(total) if self.heard_at is not None else "?")
        if 0 < shown < total:
            heading.append(
                f"  (the {'oldest' if part == 'calls' else 'first'} {shown})"
                if part != "kills"
                else f"  (the newest {shown})",
                "dim",
            )
        yield heading
        if shown:
            yield table
        yield Text("")


def _shares(lines: int, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many rows members, kills and calls get of a screen: a fair share each, and what others leave."""
    members = min(wanted[0], max(2, lines // 4))
    kills = min(wanted[1], max(2, (lines - members) // 2, lines - members - wanted[2]))
    return members, kills, max(2, lines - members - kills)


def watch(remote: Remote, console: Console) -> None:
    """The live view, until Ctrl-C.

    Raises:
        Refusal: the key may not see this.
    """
    board = Board(remote)
    board.look()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the terminal gets its own screen back
    try:
        with Live(
            get_renderable=lambda: board.picture(console.height), console=console, screen=True, refresh_per_second=4
        ):
            while True:
                time.sleep(EVERY_S)
                board.look()
    except KeyboardInterrupt:
        return
