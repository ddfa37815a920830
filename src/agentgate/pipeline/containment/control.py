"""Acts of people: kill and release. Each is an event with its actor, before it has an effect.

The kill protocol is DESIGN §4: append, apply, wake, wait for acknowledgements, append the receipt. The log
is the authority; a fast path that does not answer delays nothing but display.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from datetime import timedelta

from agentgate.core.call import Principal, PrincipalKind
from agentgate.core.containment import (
    ALL_TENANTS,
    MAX_REASON_CHARS,
    Kill,
    KillChange,
    KillChanges,
    KillId,
    Scope,
    may_release,
)
from agentgate.core.decision import Receipt
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode, Refused
from agentgate.core.events.kills import killed, release_asked, released
from agentgate.pipeline.containment.drains import Drain, Drains
from agentgate.pipeline.containment.orders import Order, ReleasePending
from agentgate.pipeline.containment.replica import Replica
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.containment import Admission, InFlight
from agentgate.ports.log import LogReader
from agentgate.ports.notices import Meter


@dataclass(frozen=True, slots=True)
class Rules:
    """How kills and releases are to be carried out, as configured."""

    drain_timeout_s: float = 2.0
    release_quorum: int = 1
    """How many different persons must ask for a release."""


class Containment:
    """Kill and release, whichever member they reach."""

    def __init__(
        self,
        *,
        replica: Replica,
        recorder: Recorder,
        drains: Drains,
        reader: LogReader,
        admission: Admission,
        clock: Clock,
        entropy: Entropy,
        meter: Meter,
        rules: Rules,
    ) -> None:
        self._replica = replica
        self._recorder = recorder
        self._drains = drains
        self._reader = reader
        self._admission = admission
        self._clock = clock
        self._entropy = entropy
        self._meter = meter
        self._rules = rules

    # --- kill ---

    async def kill(self, actor: Principal, order: Order) -> Drain | Refused:
        """Stop what `order` names. Returns when drained, or after the drain timeout with the rest going on.

        Raises:
            LogUnavailable: the kill is not in force for later calls; what runs here was cut all the same.
        """
        kill = self._kill_of(actor, order)
        if isinstance(kill, Refused):
            return kill
        origin = self._recorder.origin()
        kill = replace(kill, since=origin.at)  # the time that the log keeps, so that it is the same after a restart
        event = killed(origin, kill, auth=actor.auth_method)
        try:
            receipt = await self._recorder.write(event)
        except LogUnavailable:
            self._replica.cut_all(kill)
            raise
        if not isinstance(receipt, Receipt):
            return await self._repeated(kill)
        self._meter.count("kills", kill.scope.value)
        kill = replace(kill, position=receipt.kill_position)
        await self._take(KillChange(kill), kill.position)
        members = receipt.members or (self._recorder.member,)
        return await self._drains.follow(kill, members, self._rules.drain_timeout_s)

    async def _take(self, change: KillChange, position: int) -> None:
        """Apply what was appended at `position`: cut here, tell the fast path, which wakes the others.

        A step may be missing here, and none may be jumped over: then the log is read. What cannot be done now is done
        by the heartbeat; the record is the fence meanwhile.
        """
        try:
            if self._replica.is_next(position):
                await self._replica.take(KillChanges(position - 1, position, (change,)))
            else:
                await self._replica.reach(position)
        except KillStateUnknown:
            self._meter.count("kill_state_unknown")
            self._replica.repair_soon()
        except LogUnavailable:  # it is in the log, but cannot be read back: cut what it covers without its position
            if change.released_at is None:
                self._replica.cut_all(change.kill)

    def _kill_of(self, actor: Principal, order: Order) -> Kill | Refused:
        if order.scope in ALL_TENANTS and not actor.tenants_all:
            return Refused(ReasonCode.FORBIDDEN, f"a kill by {order.scope} needs an operator of all tenants")
        of_tenant = order.target if order.scope is Scope.TENANT else order.tenant
        if of_tenant is not None and not actor.sees(of_tenant):
            return Refused(ReasonCode.FORBIDDEN, "that is another tenant")
        now = self._clock.now()
        expires_at = now + timedelta(seconds=order.expires_in_s) if order.expires_in_s is not None else None
        match order.scope:
            case Scope.SESSION | Scope.AGENT:
                tenant: str = order.tenant or actor.tenant
            case Scope.TENANT:
                tenant = order.target
            case _:
                tenant = ""
        return Kill(
            id=KillId(actor.own_id(order.kill_id) if order.kill_id else f"kill-{self._entropy.token(10).hex()}"),
            scope=order.scope,
            tenant=tenant,
            target="" if order.scope is Scope.GLOBAL else order.target,
            reason=self._recorder.reason(order.reason, MAX_REASON_CHARS),
            actor=actor.id,
            since=now,
            expires_at=expires_at,
        )

    async def _repeated(self, kill: Kill) -> Drain | Refused:
        """The same id again: the same kill if it says the same and is in force, else a conflict."""
        known = await self._drains.of(kill.id)
        if known is None or known.released_at is not None:
            return Refused(ReasonCode.CONFLICT, "a kill of this id was released; choose another id")
        if not known.kill.same_order(kill):
            return Refused(ReasonCode.CONFLICT, "a kill of this id says something else")
        if known.is_drained:
            return known
        with contextlib.suppress(KillStateUnknown):  # its first append may have seemed to fail: apply it here now
            await self._replica.catch_up()
        return await self._drains.follow(known.kill, known.members, self._rules.drain_timeout_s)

    # --- what is in force ---

    def in_force(self, viewer: Principal) -> list[Kill]:
        """Kills that the viewer may know of: those of its tenant and those of everybody."""
        kills = (_told(viewer, k) for k in self._replica.state.active.values() if not k.tenant or viewer.sees(k.tenant))
        return sorted(kills, key=lambda k: k.position)

    async def undrained(self) -> frozenset[str]:
        """The ids of kills in force that have not drained. Raises LogUnavailable."""
        return await self._drains.undrained()

    async def progress(self, viewer: Principal, kill_id: str) -> Drain | None:
        """A kill in force or released, and how far it has come; by its id, or as its tenant's people gave it. Raises
        LogUnavailable."""
        drain = await self._known(viewer, kill_id)
        if drain is None or _is_told_whole(viewer, drain.kill):
            return drain
        return replace(drain, kill=_told(viewer, drain.kill), running=(), tells_calls=False)

    async def _known(self, viewer: Principal, kill_id: str) -> Drain | None:
        found: Drain | None = None
        for name in dict.fromkeys((kill_id, viewer.own_id(kill_id))):  # as it stands first: nobody hides another's kill
            drain = await self._drains.of(name)
            if drain is None or (drain.kill.tenant and not viewer.sees(drain.kill.tenant)):
                continue
            if drain.released_at is None:
                return drain
            found = found or drain
        return found

    async def in_flight(self, viewer: Principal) -> list[InFlight]:
        """Calls of all members between admission and their end, the oldest first. Raises KillStateUnknown."""
        found = [flight for flight in await self._admission.in_flight() if viewer.sees(flight.tenant)]
        return sorted(found, key=lambda flight: flight.since)

    def kills_tool(self, caller: Principal, tool: str, server: str) -> bool:
        """Whether a caller's calls to `tool` are dead whatever its session."""
        dead = self._replica.state.on
        flags = (
            Scope.GLOBAL.value,
            f"tenant/{caller.tenant}",
            f"agent/{caller.tenant}/{caller.name}",
            f"tool/{tool}",
            f"server/{server}",
        )
        return any(flag in dead for flag in flags)

    # --- release ---

    async def release(self, actor: Principal, kill_id: str, *, force: bool = False) -> Kill | ReleasePending | Refused:
        """End a kill. What it cut stays cut (K6). Raises LogUnavailable."""
        drain = await self._known(actor, kill_id)
        if drain is None or (drain.released_at is not None and drain.kill.id not in self._replica.state.active):
            return Refused(ReasonCode.NOT_FOUND, "no such kill is in force")
        kill = drain.kill
        if kill.scope in ALL_TENANTS and not actor.tenants_all:
            return Refused(ReasonCode.FORBIDDEN, f"releasing a kill by {kill.scope} needs an admin of all tenants")
        if drain.released_at is not None:  # elsewhere, or although it seemed to fail: it takes effect here now
            with contextlib.suppress(KillStateUnknown):
                await self._replica.catch_up()
            return kill
        if drain.progress.drained:
            await self._drains.close(drain)  # nobody may have come to it yet, and a released kill gets no receipt
        elif not force:
            return Refused(ReasonCode.CONFLICT, "the kill has not drained yet; release it with force")
        asked_by: tuple[str, ...] = ()
        if self._rules.release_quorum > 1:
            if actor.kind is not PrincipalKind.PERSON:
                return Refused(ReasonCode.FORBIDDEN, "a release needs several persons, and an agent's key is none")
            asked_by = await self._ask(actor, kill)
            if not may_release(asked_by, self._rules.release_quorum):
                return ReleasePending(kill, asked_by, self._rules.release_quorum)
        await self._release(kill, actor.id, actor.auth_method, "release", forced=force, asked_by=asked_by)
        return kill

    async def _ask(self, actor: Principal, kill: Kill) -> tuple[str, ...]:
        """Note that one more person wants this kill released; who wants it by now. Raises LogUnavailable."""
        event = release_asked(self._recorder.origin(), kill, actor=actor.id, auth=actor.auth_method)
        await self._recorder.write(event)  # asking twice is once
        return tuple(row["person"] for row in await self._reader.projection("release_asks", kill_id=kill.id))

    async def release_global(self, actor: Principal, *, force: bool = False) -> list[Kill] | ReleasePending | Refused:
        """v0.2's resume: release every kill of everything. Raises LogUnavailable."""
        done: list[Kill] = []
        pending: ReleasePending | None = None
        for kill in [k for k in self._replica.state.active.values() if k.scope is Scope.GLOBAL]:
            outcome = await self.release(actor, kill.id, force=force)
            if isinstance(outcome, Refused) and outcome.reason is not ReasonCode.NOT_FOUND:
                return outcome
            if isinstance(outcome, ReleasePending):
                pending = outcome
            elif isinstance(outcome, Kill):
                done.append(outcome)
        return done if pending is None else pending

    async def release_expired(self) -> int:
        """End kills whose time is over; an undrained kill does not expire. How many. Raises LogUnavailable."""
        now = self._clock.now()
        over = [k for k in self._replica.state.active.values() if k.expires_at is not None and k.expires_at <= now]
        waiting = await self.undrained() if over else frozenset()  # any number may wait for one that is dead
        ended = 0
        for kill in (kill for kill in over if kill.id not in waiting):
            drain = await self._drains.of(kill.id)
            if drain is not None and drain.is_drained and drain.released_at is None:
                await self._release(kill, "", "", "expiry")
                ended += 1
        return ended

    async def _release(
        self, kill: Kill, actor: str, auth: str, why: str, *, forced: bool = False, asked_by: tuple[str, ...] = ()
    ) -> None:
        event = released(
            self._recorder.origin(), kill, actor=actor, auth=auth, why=why, forced=forced, asked_by=asked_by
        )
        receipt = await self._recorder.write(event)
        if isinstance(receipt, Receipt):
            await self._take(KillChange(kill, receipt.kill_position), receipt.kill_position)
        else:  # another member was first, or an earlier attempt is in the log although it seemed to fail
            with contextlib.suppress(KillStateUnknown):
                await self._replica.catch_up()


def _is_told_whole(viewer: Principal, kill: Kill) -> bool:
    """Why somebody of all tenants stopped a tool or everything, and what that cut, may be another tenant's affair."""
    return bool(kill.tenant) or viewer.tenants_all


def _told(viewer: Principal, kill: Kill) -> Kill:
    return kill if _is_told_whole(viewer, kill) else replace(kill, reason="", actor="")
