"""`agentgate watch`: calls in flight, kills and members, live."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentgate.commands.answers import Answer, NotAGateway, Refusal, Unanswered
from agentgate.commands.gateway import ApiKey, Url, the_gateway
from agentgate.commands.remote import Listing, Remote
from agentgate.commands.tables.containment import calls_table, kills_in_brief, members_table
from agentgate.commands.terminal import Config, DataDir, out, say_json, wide
from agentgate.commands.words import duration, plain

cli = typer.Typer()

EVERY_S: Final = 0.5
ANSWER_S: Final = 2.0
"""A gateway that takes longer is shown as one that does not answer."""
MOST_KILLS: Final = 100
"""A screen has no room for more; the newest are shown, and how many there are."""
_SHOWN: Final = {"calls": "oldest", "kills": "newest", "members": "first"}
"""Which of them, where not all fit."""


@cli.command("watch")
def watch(
    as_json: Annotated[bool, typer.Option("--json", help="One snapshot as JSON")] = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Calls in flight, kills and members, live; Ctrl-C ends it. Into a file or a pipe: one snapshot."""
    with the_gateway(url, key, config, data_dir, needs="operator", answer_s=ANSWER_S) as remote:
        board = Board(remote)
        board.look()
        if out.is_terminal and not as_json:
            _live(board, out)
            return
        if not board.is_answered:
            raise Unanswered(board.silence, may_have_arrived=False)
        if as_json:
            say_json(board.as_json())
        else:
            wide().print(board.picture())


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
            heading.append(f"  (the {_SHOWN[part]} {shown})", "dim")
        yield heading
        if shown:
            yield table
        yield Text("")


def _shares(lines: int, wanted: tuple[int, int, int]) -> tuple[int, int, int]:
    """How many rows members, kills and calls get of a screen: a fair share each, and what others leave."""
    members = min(wanted[0], max(2, lines // 4))
    kills = min(wanted[1], max(2, (lines - members) // 2, lines - members - wanted[2]))
    return members, kills, max(2, lines - members - kills)


def _live(board: Board, console: Console) -> None:
    """The picture again and again, until Ctrl-C."""
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
