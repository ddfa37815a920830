"""Members of one log: joining, being heard, being given up, leaving.

Every process is a member under a random name of its own, for as long as it can keep its word. One that was declared
gone ends everything it has and joins anew under another name (DESIGN §4, *Members*).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentgate.core.call import MemberId, Principal
from agentgate.core.decision import Receipt
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Kind, Outcome, make
from agentgate.core.events.calls import closed
from agentgate.core.events.kills import gone
from agentgate.core.members import Hearing, Presence, presence
from agentgate.pipeline.containment.replica import LEASE_S, Replica
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.containment import Admission
from agentgate.ports.log import Log, LogReader

logger = logging.getLogger("agentgate.members")

PRESUMED_GONE_AFTER_S = 60.0
HEARTBEAT_S = 1.0
LEAVE_WITHIN_S = 5.0
QUIET_S = 5.0
"""A member that was not heard for so long does not count as the eldest: the next one does its common work."""


def new_member(entropy: Entropy) -> MemberId:
    """The name of a new incarnation."""
    return MemberId(entropy.token(8).hex())


@dataclass(frozen=True, slots=True)
class Member:
    """One that has not left, as the log and this member's ears have it."""

    id: str
    presence: Presence
    silent_s: float
    is_me: bool


class Membership:
    """This process as a member, and what it hears of the others."""

    def __init__(
        self,
        *,
        log: Log,
        reader: LogReader,
        recorder: Recorder,
        replica: Replica,
        admission: Admission,
        clock: Clock,
        entropy: Entropy,
        presumed_gone_after_s: float = PRESUMED_GONE_AFTER_S,
    ) -> None:
        self._log = log
        self._reader = reader
        self._recorder = recorder
        self._replica = replica
        self._admission = admission
        self._clock = clock
        self._entropy = entropy
        self._presumed_gone_after_s = presumed_gone_after_s
        self._interval_s = HEARTBEAT_S
        self._hearing = Hearing()
        self._ghosts: list[str] = []
        self._here: frozenset[str] = frozenset()
        self._somebody_went = True
        """Whether members may have gone since their open calls were last looked for."""
        self.is_eldest = False
        """Whether this member does what needs to be done by one of them alone, such as closing expired approvals: by
        its clock. Where there may be others it does so only once it has heard who is here."""
        self.on_new_name: Callable[[MemberId], None] = lambda _: None
        """Called with the name of a new incarnation before it joins."""

    # --- joining and leaving ---

    async def join(self, predecessors: Iterable[str] | None) -> int:
        """Join, and apply the kill state. How many calls of dead predecessors were closed.

        `predecessors` are members whose OS lock this process holds now, so that nothing of them runs any more; None
        when the log itself is locked by this process: then they are all that have not left.

        Raises:
            LogUnavailable: there is no start without the log.
        """
        here = await self._reader.projection("members", left_idx=None)
        dead = [row["member"] for row in here if predecessors is None or row["member"] in set(predecessors)]
        count = await self._close_intents_of(None if predecessors is None else dead)
        for member in dead:
            await self._note(Kind.LEFT, member)
        self._ghosts += dead
        self.is_eldest = predecessors is None
        await self._enter()
        return count

    async def _enter(self) -> None:
        """Read before `joined` and after it: what was given in between waits for this member, so it is no first read
        that nobody acknowledges."""
        await self._read()
        await self._note(Kind.JOINED, self._recorder.member)
        await self._read()
        await self._forget_ghosts()

    async def _read(self) -> None:
        try:
            await self._replica.catch_up()
        except KillStateUnknown:
            logger.warning("the kill store does not answer yet; calls are refused until it does")

    async def leave(self, last_words: Callable[[], Awaitable[None]]) -> None:
        """Cut what still runs, have said what else there is to say of it, and say as the last event that nothing runs.
        Best effort: without that event a successor closes this member's calls, or it is presumed gone."""
        self._replica.expel()
        try:
            async with asyncio.timeout(LEAVE_WITHIN_S):
                with contextlib.suppress(TimeoutError):  # a call that does not end keeps nothing else from being said
                    await asyncio.wait_for(self._replica.ended(), LEAVE_WITHIN_S / 2)
                await last_words()
                await self._replica.ended()
                await self._note(Kind.LEFT, self._recorder.member)
        except TimeoutError:
            logger.warning("left without a last event: calls had not ended, or the log did not take their outcomes")
        except LogUnavailable:
            logger.warning("left without a last event: the log cannot be written")

    async def _note(self, kind: Kind, member: str) -> None:
        """Raises LogUnavailable."""
        await self._recorder.note(lambda origin: make(origin, kind, {"of": member}))

    async def _rejoin(self) -> None:
        """Once the calls of a gone incarnation have ended: say so, and be somebody new. Raises LogUnavailable."""
        if not self._replica.has_ended():
            return
        await self._note(Kind.LEFT, self._recorder.member)
        name = new_member(self._entropy)
        self.on_new_name(name)
        self._recorder.become(name)
        await self._enter()
        self._replica.readmit()
        logger.warning("this member had been declared gone; it has joined anew as %s", name)

    # --- the heartbeat ---

    async def look_after(self) -> None:
        """Hear and be heard, once a second, until cancelled. What answers late keeps nothing else waiting: calls go on
        while the fast path says that there is no kill, and kills are heard of through the log while the calls of a
        member that died are closed."""
        works = (self._hear_store, self._hear_kills, self._hear_others)
        running: dict[Callable[[], Coroutine[Any, Any, None]], asyncio.Task[None]] = {}
        async with asyncio.TaskGroup() as tasks:
            while True:  # at once for the first time: what is done by the eldest alone waits for it
                for work in works:
                    if work not in running or running[work].done():
                        running[work] = tasks.create_task(work())
                await asyncio.sleep(self._interval_s)

    async def watch_lease(self) -> None:
        """Cut everything as soon as kills could not be heard for longer than the lease; until cancelled."""
        while True:
            await asyncio.sleep(self._replica.lease.length_s / 12)
            if not self._replica.may_grant():
                self._replica.lapse()

    async def _hear_kills(self) -> None:
        try:
            await self._replica.catch_up()
        except (LogUnavailable, KillStateUnknown) as error:
            logger.warning("kill state could not be put right, the next round tries again: %s", error)

    async def _hear_others(self) -> None:
        try:
            await self._hear_members()
        except LogUnavailable:
            logger.warning("the log does not answer; other members are not heard")
        await self._forget_ghosts()

    async def _hear_store(self) -> None:
        asked_at_s, applied = self._clock.boot_s(), self._replica.position
        position = await self._admission.position()
        self._replica.store_is_at(position)
        if position is None or position < applied:
            logger.warning("the kill store lost kills or does not answer; calls are refused until it has them again")
        elif position <= self._replica.position:  # less, where the log has told of more meanwhile
            self._replica.lease.renew(asked_at_s)
        else:  # there is more to read: hearing of it is not having heard it
            self._replica.woken(position)

    async def _hear_members(self) -> None:
        beats = await self._log.beat(self._recorder.member)
        if not beats:  # a log of one process: there are no others
            return
        self._hearing.hear(beats, self._clock.boot_s())
        rows = await self._reader.projection("members", left_idx=None)
        await self._mind_myself(rows)
        here = [row["member"] for row in rows if presence(row) is Presence.HERE]
        self._ghosts += (went := self._here.difference(here))
        self._somebody_went |= bool(went)
        self._here = frozenset(here)
        audible = [member for member in here if self._hearing.silent_s(member) < QUIET_S]
        self.is_eldest = audible[:1] == [self._recorder.member]
        for member in self._hearing.silent_for(self._presumed_gone_after_s):
            if member in here and member != self._recorder.member:
                await self._give_up(member)

    async def _mind_myself(self, rows: Sequence[dict[str, object]]) -> None:
        if not any(row["member"] == self._recorder.member and presence(row) is Presence.HERE for row in rows):
            self._replica.expel()
        if self._replica.is_expelled:
            await self._rejoin()

    async def _give_up(self, member: str) -> None:
        """Declare a silent member gone, and close its calls. Raises LogUnavailable."""
        if not await self._write_gone(member, "presumed"):
            return  # who was first sees to the rest
        logger.error(
            "member %s was not heard for %.0f s and is presumed gone: kills go on without it and say so. "
            "If its host is destroyed, `agentgate members gone %s` attests that",
            member,
            self._presumed_gone_after_s,
            member,
        )
        await self._close_intents_of([member])

    async def _write_gone(self, member: str, why: str, actor: str = "", auth: str = "") -> bool:
        """False if another member was first. Raises LogUnavailable."""
        event = gone(self._recorder.origin(), member, why=why, actor=actor, auth=auth)
        return isinstance(await self._recorder.write(event), Receipt)

    async def _forget_ghosts(self) -> None:
        """What dead members had in flight leaves the display, as soon as the kill store answers."""
        while self._ghosts:
            try:
                await self._admission.forget(self._ghosts[0])
            except KillStateUnknown:
                return
            self._ghosts.pop(0)

    async def close_left_behind(self) -> None:
        """Outcomes for calls that a member which has left or is gone could not close, nor whoever gave it up: the log
        failed them, or they died in between. Raises LogUnavailable."""
        if not self._somebody_went:
            return
        self._somebody_went = False
        try:
            rows = await self._reader.projection("members")  # first: whoever is not here now records no call any more
            await self._close_intents_of([row["member"] for row in rows if presence(row) is not Presence.HERE])
        except LogUnavailable:
            self._somebody_went = True
            raise

    async def _close_intents_of(self, members: Sequence[str] | None) -> int:
        """Outcomes for the open calls of members that have ended (None: of all). Raises LogUnavailable."""
        if members is not None and not members:
            return 0
        intents = await self._reader.open_intents()
        theirs = [intent for intent in intents if members is None or intent.fields["member"] in members]
        for intent in theirs:
            why = "the process ended before it could record the outcome"
            event = closed(self._recorder.origin(), intent, Outcome.UNKNOWN, why)
            await self._recorder.write(event)  # or another one has
        return len(theirs)

    # --- what operators see and say ---

    async def members(self) -> list[Member]:
        """Those that have not left, the eldest first. Raises LogUnavailable."""
        rows = await self._reader.projection("members", left_idx=None)
        me = self._recorder.member
        return [
            Member(row["member"], presence(row), self._hearing.silent_s(row["member"]), row["member"] == me)
            for row in rows
        ]

    async def attest(self, actor: Principal, member: str) -> Member | Refused:
        """An admin's word that the host of `member` is destroyed: no kill waits for it. Raises LogUnavailable."""
        if not actor.tenants_all:
            return Refused(ReasonCode.FORBIDDEN, "that concerns every tenant: it needs an admin of all tenants")
        found = next((one for one in await self.members() if one.id == member), None)
        if found is None:
            return Refused(ReasonCode.NOT_FOUND, "no such member, or it has left")
        if found.presence is not Presence.ATTESTED and (found.is_me or found.silent_s < LEASE_S):
            text = f"that member was heard within the last {LEASE_S:.0f} s, or nobody has listened here for so long yet"
            return Refused(ReasonCode.CONFLICT, text)
        if await self._write_gone(member, "attested", actor.id, actor.auth_method):
            self._ghosts.append(member)  # it may have been back for a moment since it was given up
            await self._close_intents_of([member])
        return Member(member, Presence.ATTESTED, found.silent_s, is_me=False)
