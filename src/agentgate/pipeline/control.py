"""Acts of people: kill, release, reload, export. Each is an event with its actor, before it has an effect.

The kill protocol is DESIGN §4: append, apply, cut, wait for acknowledgements, append the receipt. The log
is the authority; a fast path that does not answer delays nothing but display.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from agentgate.core.call import Principal, TenantId, TraceId
from agentgate.core.containment import (
    ALL_TENANTS,
    MAX_REASON_CHARS,
    Acknowledgement,
    Kill,
    KillId,
    Scope,
    unheard,
)
from agentgate.core.decision import Receipt
from agentgate.core.errors import KillStateUnknown, LogUnavailable, ReasonCode
from agentgate.core.event import Kind, Outcome, acked, drained, killed, make, released
from agentgate.core.redact import redact_text
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.replica import Cutting, Replica
from agentgate.ports import Admission, Clock, Entropy, LogReader, Meter, Notifier, Spend

REMEMBERED_DRAINS = 10_000

_Retry = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Order:
    """A wish to stop something, as a door understood it."""

    scope: Scope
    target: str
    reason: str = ""
    kill_id: KillId | None = None
    expires_in_s: float | None = None
    tenant: str | None = None
    """Of a session or an agent: the tenant it is in, where that is not the actor's own."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why an order was not carried out."""

    reason: ReasonCode
    detail: str


@dataclass(slots=True)
class Drain:
    """How far a kill has come. `acks` is what each member said, `members` who was there at its position."""

    kill: Kill
    receipt: Receipt
    members: tuple[str, ...]
    acks: dict[str, Acknowledgement] = field(default_factory=dict)
    running: tuple[TraceId, ...] = ()
    receipt_event: str | None = None

    @property
    def unheard(self) -> list[str]:
        heard = {member: ack.position for member, ack in self.acks.items()}
        return unheard(self.members, heard, self.receipt.kill_position)

    @property
    def is_drained(self) -> bool:
        return not self.unheard


class Containment:
    """Kill, release, and the bookkeeping of both, for one member."""

    def __init__(
        self,
        *,
        replica: Replica,
        recorder: Recorder,
        reader: LogReader,
        admission: Admission,
        clock: Clock,
        entropy: Entropy,
        meter: Meter,
        notifier: Notifier,
        drain_timeout_s: float = 2.0,
    ) -> None:
        self._replica = replica
        self._recorder = recorder
        self._reader = reader
        self._admission = admission
        self._clock = clock
        self._entropy = entropy
        self._meter = meter
        self._notifier = notifier
        self._drain_timeout_s = drain_timeout_s
        self._drains: dict[KillId, Drain] = {}
        self._draining: set[asyncio.Task[None]] = set()

    # --- kill ---

    async def kill(self, actor: Principal, order: Order) -> Drain | Refused:
        """Stop what `order` names. Returns when drained, or after the drain timeout with the rest going on.

        Raises:
            LogUnavailable: the kill is not in force for later calls; what runs here was cut all the same.
        """
        kill = self._kill_of(actor, order)
        if isinstance(kill, Refused):
            return kill
        started_ns = self._clock.ticks_ns()
        origin = self._recorder.origin()
        kill = replace(kill, since=origin.at)  # the time that the log keeps, so that it is the same after a restart
        event = killed(origin, kill, auth=actor.auth_method)
        try:
            receipt = await self._recorder.write(event, (Spend("kill", kill.id),))
        except LogUnavailable:
            self._replica.cut_all(kill)
            raise
        if not isinstance(receipt, Receipt):
            return await self._repeated(kill)
        self._meter.count("kills", kill.scope.value)
        told = {"level": kill.scope.value, "target": kill.target, "reason": kill.reason, "kill_id": kill.id}
        self._notifier.notify("kill_switch.activated", told)
        kill = replace(kill, position=receipt.kill_position)
        drain = self._remember(Drain(kill, receipt, receipt.members or (self._recorder.member,)))
        return await self._carry_out(drain, started_ns)

    async def _carry_out(self, drain: Drain, started_ns: int) -> Drain:
        """Cut here, tell the fast path, and wait as long as an operator may be kept waiting."""
        kill = drain.kill
        if self._replica.is_next(kill.position):
            cutting = self._replica.apply(self._replica.with_kill(kill))
            drain.running = tuple(flight.call.trace_id for flight in cutting.flights)
            await self._apply_fast()
        else:
            cutting = self._replica.cut_all(kill)
            drain.running = tuple(flight.call.trace_id for flight in cutting.flights)
            await self._catch_up(kill.position)
        await self._wait(drain, cutting, started_ns)
        self._still_running(drain)
        return drain

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
            id=order.kill_id or KillId(f"kill-{self._entropy.token(10).hex()}"),
            scope=order.scope,
            tenant=tenant,
            target="" if order.scope is Scope.GLOBAL else order.target,
            reason=redact_text(order.reason)[:MAX_REASON_CHARS],
            actor=actor.id,
            since=now,
            expires_at=expires_at,
        )

    async def _repeated(self, kill: Kill) -> Drain | Refused:
        """The same id again: the same kill if it says the same and is in force, else a conflict."""
        started_ns = self._clock.ticks_ns()
        active = self._replica.state.active.get(kill.id)
        if active is None:  # released, or in the log by an append that only seemed to fail
            await self._catch_up(self._replica.position)
            active = self._replica.state.active.get(kill.id)
        if active is None:
            return Refused(ReasonCode.CONFLICT, "a kill of this id was released; choose another id")
        if not active.same_order(kill):
            return Refused(ReasonCode.CONFLICT, "a kill of this id says something else")
        known = self._drains.get(kill.id)
        if known is not None:
            return known
        drain = Drain(active, Receipt("", -1, active.position), (self._recorder.member,))
        return await self._carry_out(self._remember(drain), started_ns)

    async def _catch_up(self, position: int) -> None:
        """Read the log until `position` is applied: a step may be missing here, and none may be jumped over.

        Raises:
            LogUnavailable
        """
        try:
            await self._replica.catch_up()
            if self._replica.position < position:  # it had joined a read that began before our append
                await self._replica.catch_up()
        except KillStateUnknown:
            self._meter.count("kill_state_unknown")

    async def _apply_fast(self) -> None:
        """Tell the fast path; if it does not listen, the record is the fence and repair comes later."""
        try:
            await self._admission.apply(self._replica.state)
        except KillStateUnknown:
            self._meter.count("kill_state_unknown")
            self._replica.repair_soon()

    async def _wait(self, drain: Drain, cutting: Cutting, started_ns: int) -> None:
        task = asyncio.create_task(self._drain(drain, cutting, started_ns))
        self._draining.add(task)
        task.add_done_callback(self._draining.discard)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(task), self._drain_timeout_s)

    async def _drain(self, drain: Drain, cutting: Cutting, started_ns: int) -> None:
        """Acknowledge for this member once its covered calls have left, then write the kill's receipt."""
        await self._replica.left(cutting)
        drain.running = ()
        ack = self._acknowledgement(drain.receipt.kill_position, cutting, started_ns)
        await self._until_written(self._ack_once(drain, ack))
        if drain.is_drained:
            await self._until_written(self._close_once(drain))

    async def _until_written(self, write: _Retry) -> None:
        """A drained member whose log does not answer keeps trying: the kill stays undrained until it is said."""
        while True:
            try:
                await write()
            except LogUnavailable:
                await asyncio.sleep(0.2)  # the log's own back-off decides when it answers again
            else:
                return

    def _ack_once(self, drain: Drain, ack: Acknowledgement) -> _Retry:
        async def write() -> None:
            await self._recorder.note(lambda origin: acked(origin, ack))
            drain.acks[ack.member] = ack

        return write

    def _close_once(self, drain: Drain) -> _Retry:
        async def write() -> None:
            receipt = await self._recorder.note(
                lambda origin: drained(
                    origin,
                    drain.kill,
                    position=drain.receipt.kill_position,
                    members=list(drain.members),
                    complete=drain.is_drained,
                )
            )
            drain.receipt_event = receipt.event_id

        return write

    def _acknowledgement(self, position: int, cutting: Cutting, started_ns: int) -> Acknowledgement:
        endings = [flight.ending for flight in cutting.flights]
        return Acknowledgement(
            member=self._recorder.member,
            position=position,
            cancelled=sum(ending in (Outcome.CANCELLED, "") for ending in endings),
            finished=sum(ending in (Outcome.OK, Outcome.ERROR, Outcome.NOT_SENT) for ending in endings),
            unknown=endings.count(Outcome.UNKNOWN),
            took_ms=(self._clock.ticks_ns() - started_ns) / 1e6,
        )

    def _still_running(self, drain: Drain) -> None:
        drain.running = tuple(trace for trace in drain.running if self._replica.is_in_flight(trace))

    def _remember(self, drain: Drain) -> Drain:
        self._drains[drain.kill.id] = drain
        while len(self._drains) > REMEMBERED_DRAINS:
            self._drains.pop(next(iter(self._drains)))
        return drain

    # --- what is in force ---

    def in_force(self, viewer: Principal) -> list[Kill]:
        """Kills that the viewer may know of: those of its tenant and those of everybody."""
        kills: Iterable[Kill] = self._replica.state.active.values()
        return sorted((k for k in kills if not k.tenant or viewer.sees(k.tenant)), key=lambda k: k.position)

    def progress(self, viewer: Principal, kill_id: str) -> tuple[Kill, Drain | None] | None:
        """A kill in force or remembered, and how far it has come."""
        drain = self._drains.get(KillId(kill_id))
        kill = self._replica.state.active.get(KillId(kill_id)) or (drain.kill if drain else None)
        if kill is None or (kill.tenant and not viewer.sees(kill.tenant)):
            return None
        if drain is not None:
            self._still_running(drain)
        return kill, drain

    def is_active(self, kill_id: str) -> bool:
        return KillId(kill_id) in self._replica.state.active

    def kills_tool(self, caller: Principal, tool: str, server: str) -> bool:
        """Whether a caller's calls to `tool` are dead whatever its session."""
        dead = self._replica.state.flags()
        flags = (
            Scope.GLOBAL.value,
            f"tenant/{caller.tenant}",
            f"agent/{caller.tenant}/{caller.name}",
            f"tool/{tool}",
            f"server/{server}",
        )
        return any(flag in dead for flag in flags)

    # --- release ---

    async def release(self, actor: Principal, kill_id: str, *, force: bool = False) -> Kill | Refused:
        """End a kill. What it cut stays cut (K6). Raises LogUnavailable."""
        kill = self._replica.state.active.get(KillId(kill_id))
        if kill is None or (kill.tenant and not actor.sees(kill.tenant)):
            return Refused(ReasonCode.NOT_FOUND, "no such kill is in force")
        if kill.scope in ALL_TENANTS and not actor.tenants_all:
            return Refused(ReasonCode.FORBIDDEN, f"releasing a kill by {kill.scope} needs an admin of all tenants")
        drain = self._drains.get(kill.id)
        if drain is not None and not drain.is_drained and not force:
            return Refused(ReasonCode.CONFLICT, "the kill has not drained yet; release it with force")
        await self._release(kill, actor.id, actor.auth_method, "release", forced=force)
        return kill

    async def release_global(self, actor: Principal, *, force: bool = False) -> list[Kill] | Refused:
        """v0.2's resume: release every kill of everything."""
        done: list[Kill] = []
        for kill in [k for k in self._replica.state.active.values() if k.scope is Scope.GLOBAL]:
            outcome = await self.release(actor, kill.id, force=force)
            if isinstance(outcome, Refused) and outcome.reason is not ReasonCode.NOT_FOUND:
                return outcome
            if isinstance(outcome, Kill):
                done.append(outcome)
        return done

    async def release_expired(self) -> int:
        """End kills whose time is over; an undrained kill does not expire. Raises LogUnavailable."""
        now = self._clock.now()
        over = [k for k in self._replica.state.active.values() if k.expires_at is not None and k.expires_at <= now]
        for kill in over:
            drain = self._drains.get(kill.id)
            if drain is None or drain.is_drained:
                await self._release(kill, "", "", "expiry", forced=False)
        return len(over)

    async def _release(self, kill: Kill, actor: str, auth: str, why: str, *, forced: bool) -> None:
        event = released(self._recorder.origin(), kill, actor=actor, auth=auth, why=why, forced=forced)
        receipt = await self._recorder.write(event, (Spend("release", kill.id),))
        if isinstance(receipt, Receipt) and self._replica.is_next(receipt.kill_position):
            self._replica.apply(self._replica.without_kill(kill.id, receipt.kill_position))
            await self._apply_fast()
        else:  # steps are missing here, or an earlier attempt is in the log although it seemed to fail
            await self._catch_up(receipt.kill_position if isinstance(receipt, Receipt) else self._replica.position)


class Books:
    """Notes of control acts that have no protocol: exports, policy changes, members."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def exported(self, actor: Principal, tenant: TenantId, session: str, form: str) -> None:
        """Who took evidence of what. Raises LogUnavailable: no export without a record."""
        await self._recorder.note(
            lambda origin: make(
                origin, Kind.EXPORTED, {"format": form, "of_session": session}, tenant=tenant, principal=actor.id
            )
        )

    async def policy(self, actor: str, revision: str, what: str) -> None:
        """That `revision` is enforced from now on. Raises LogUnavailable."""
        fields = {"policy_revision": revision, "what": what}
        await self._recorder.note(lambda origin: make(origin, Kind.POLICY, fields, principal=actor))
