"""How far each kill has come, by what the log says: who was there, who acknowledged, who is gone.

Nothing here is kept between two looks, so that any member can answer for any kill, whoever served it and whoever has
crashed since.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agentgate.core.containment import Kill, flags_of, kill_from_row
from agentgate.core.decision import Receipt
from agentgate.core.errors import KillStateUnknown, LogUnavailable
from agentgate.core.events.kills import drained
from agentgate.core.members import Acknowledgement, Presence, Progress, presence, progress
from agentgate.pipeline.containment.acknowledge import Acknowledger
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock
from agentgate.ports.containment import Admission, InFlight
from agentgate.ports.log import LogReader

FIRST_LOOK_S = 0.0015
LONGEST_LOOK_S = 0.05
"""Between two looks at the log while an operator waits."""


@dataclass(frozen=True, slots=True)
class Drain:
    """How far a kill has come. `members` are those of the log at its position; `acks` what each of them said."""

    kill: Kill
    members: tuple[str, ...]
    progress: Progress
    acks: Mapping[str, Acknowledgement] = field(default_factory=dict)
    running: tuple[str, ...] = ()
    """Trace ids of covered calls that have not ended, of every member as far as it can be seen."""
    receipt: str | None = None
    """The id of the event that says how it drained."""
    released_at: int | None = None
    tells_calls: bool = True
    """False for who is not to know how many calls it cut: they were of all tenants."""

    @property
    def is_drained(self) -> bool:
        """K1. Only what is durably said counts."""
        return self.progress.drained and self.receipt is not None


class Drains:
    """Follows kills until everybody has acknowledged, and writes their receipts."""

    def __init__(
        self,
        *,
        reader: LogReader,
        recorder: Recorder,
        replica: Replica,
        acknowledger: Acknowledger,
        admission: Admission,
        clock: Clock,
    ) -> None:
        self._reader = reader
        self._recorder = recorder
        self._replica = replica
        self._acknowledger = acknowledger
        self._admission = admission
        self._clock = clock

    async def of(self, kill_id: str) -> Drain | None:
        """The kill of this id, in force or not, as the log has it now. Raises LogUnavailable."""
        rows = await self._reader.projection("kills", id=kill_id)
        if not rows:
            return None
        drain = await self._from_row(rows[0], await self._reader.projection("members"))
        if drain.progress.drained or drain.released_at is not None:
            return drain
        return replace(drain, running=await self._running(drain.kill))

    async def _from_row(self, row: Mapping[str, Any], everybody: Sequence[Mapping[str, Any]]) -> Drain:
        """Without what still runs. `everybody` has the rows of all members, read after that of the kill."""
        kill = kill_from_row(row)
        there = [m for m in everybody if m["joined_idx"] < row["idx"] and (m["left_idx"] or row["idx"]) >= row["idx"]]
        members = tuple(member["member"] for member in there)
        acks = await self._acks(kill.position, members)
        standing = {member["member"]: presence(member) for member in there}
        state = progress(members, standing, _positions(acks), kill.position)
        # a receipt that excepted somebody is not the last word once everybody is settled
        receipt = row["receipt"] if row["drained"] or not state.drained else None
        return Drain(kill, members, state, acks, receipt=receipt, released_at=row["released_position"])

    async def _acks(self, position: int, members: Sequence[str]) -> dict[str, Acknowledgement]:
        return {ack.member: ack for ack in await self._reader.acknowledged(position) if ack.member in members}

    async def _running(self, kill: Kill) -> tuple[str, ...]:
        """Covered calls here, and elsewhere as far as the display knows."""
        found: list[str] = [*self._replica.running(kill)]
        with contextlib.suppress(KillStateUnknown):
            found += [flight.trace_id for flight in await self._admission.in_flight() if _is_over(kill, flight)]
        return tuple(dict.fromkeys(found))

    async def undrained(self) -> frozenset[str]:
        """The ids of kills in force that have no whole receipt. Raises LogUnavailable."""
        rows = await self._reader.projection("kills", drained=0, released_position=None)
        return frozenset(row["id"] for row in rows)

    async def follow(self, kill: Kill, members: Sequence[str], within_s: float) -> Drain:
        """Wait until `kill` has drained as far as it can, at most `within_s`; then its receipt is durable.

        Never raises: a log that does not answer leaves the kill undrained, and is asked again by `close_open`.
        """
        drain = Drain(kill, tuple(members), progress(members, {}, {}, kill.position))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                drain = await self._followed(drain)
        if drain.receipt is None:
            with contextlib.suppress(LogUnavailable):  # of those who are not waited for, or who came at the last moment
                drain = await self._acknowledged(drain)
            drain = replace(drain, running=await self._running(kill))
        return drain

    async def _followed(self, drain: Drain) -> Drain:
        pause_s = FIRST_LOOK_S
        mine = self._acknowledger.word_on(drain.kill.position)
        while True:
            with contextlib.suppress(LogUnavailable):
                drain = await self._acknowledged(drain)
                if not drain.progress.is_waiting:
                    return await self._receipt(drain)
            if mine is not None and not mine.done():
                await asyncio.wait({mine}, timeout=LONGEST_LOOK_S)
                continue
            await asyncio.sleep(pause_s)
            pause_s = min(1.2 * pause_s, LONGEST_LOOK_S)

    async def _acknowledged(self, drain: Drain) -> Drain:
        """`drain` as it stands now; the log is not asked while only this member is waited for."""
        position, members = drain.kill.position, drain.members
        acks, standing = dict(drain.acks), dict[str, Presence]()
        mine = self._acknowledger.word_on(position)
        if mine is not None and mine.done() and not mine.cancelled():
            acks[mine.result().member] = mine.result()
        if set(members) - acks.keys() - {self._recorder.member}:
            acks |= await self._acks(position, members)
            standing = await self._standing(set(members) - acks.keys())
        return replace(drain, acks=acks, progress=progress(members, standing, _positions(acks), position))

    async def _standing(self, members: set[str]) -> dict[str, Presence]:
        """Of `members` and others. Only a row that says so makes one of them left: there may be none yet where a
        reader is behind. Raises LogUnavailable."""
        rows = await self._reader.projection("members", left_idx=None)
        for member in members - {row["member"] for row in rows}:
            rows += await self._reader.projection("members", member=member)
        return {row["member"]: presence(row) for row in rows}

    async def _receipt(self, drain: Drain) -> Drain:
        """Write the kill's receipt, unless somebody has. Raises LogUnavailable."""
        event = drained(
            self._recorder.origin(),
            drain.kill,
            position=drain.kill.position,
            members=drain.members,
            progress=drain.progress,
        )
        written = await self._recorder.write(event)
        if isinstance(written, Receipt):
            return replace(drain, receipt=written.event_id)
        rows = await self._reader.projection("kills", id=drain.kill.id)
        return replace(drain, receipt=rows[0]["receipt"])

    async def close_open(self) -> int:
        """Write the receipts of kills that have drained since their operator was answered, or whose server has crashed;
        how many. Raises LogUnavailable.

        Any number may wait for one that is dead: who has said nothing since the oldest of them has said nothing of any.
        """
        rows = await self._reader.projection("kills", drained=0, released_position=None)
        if not rows:
            return 0
        everybody = await self._reader.projection("members")
        heard = {ack.member for ack in await self._reader.acknowledged(min(row["position"] for row in rows))}
        silent = [member for member in everybody if member["member"] not in heard]
        waiting_from = _first_joined(silent, Presence.HERE)
        excepted_from = _first_joined(silent, Presence.HERE, Presence.GONE)
        closed = 0
        for row in rows:
            if row["idx"] > (waiting_from if row["receipt"] is None else excepted_from):
                continue
            drain = await self._from_row(row, everybody)
            if not drain.progress.is_waiting and drain.receipt is None:
                await self._receipt(drain)
                closed += 1
        return closed

    async def close(self, drain: Drain) -> None:
        """Write the receipt of a drained kill if it has none. Raises LogUnavailable."""
        if drain.receipt is None:
            await self._receipt(drain)


def _first_joined(members: Iterable[Mapping[str, Any]], *standing: Presence) -> float:
    return min((member["joined_idx"] for member in members if presence(member) in standing), default=math.inf)


def _positions(acks: Mapping[str, Acknowledgement]) -> dict[str, int]:
    return {member: ack.position for member, ack in acks.items()}


def _is_over(kill: Kill, flight: InFlight) -> bool:
    return kill.flag in flags_of(
        tenant=flight.tenant, tool=flight.tool, server=flight.server, agent=flight.agent, session=flight.session
    )
