"""Sending a granted call, cutting it, and recording what came of it.

From here two things are certain whatever happens: the call ends with its deadline or its kill, and an
outcome is recorded, or is kept until it can be, and is `unknown` at worst.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from agentgate.core import strict_json
from agentgate.core.call import Call, Clean
from agentgate.core.decision import Grant, Receipt
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Event, Outcome
from agentgate.core.events.calls import KeptAnswer, finished
from agentgate.core.redaction.redactor import FAILED
from agentgate.core.redaction.scrub import scrub
from agentgate.pipeline.asking import Questions
from agentgate.pipeline.flights import Flight
from agentgate.pipeline.record import Recorder
from agentgate.ports.ambient import Clock
from agentgate.ports.notices import Meter
from agentgate.ports.upstreams import Credential, CredentialSource, Delivered, Undelivered, Upstream

UNKNOWN_EFFECT = "upstream effect unknown"
_UNHEARD: Final = frozenset({ReasonCode.UPSTREAM_TIMEOUT, ReasonCode.UPSTREAM_UNAVAILABLE})
"""Failures in which the upstream said nothing of what it did with the call."""


class Ending(NamedTuple):
    """How a sent call ended, as the caller may know it."""

    outcome: Outcome
    reason: ReasonCode
    error: str | None = None
    result_json: bytes | None = None
    fault_json: bytes | None = None
    """The upstream's own error object, scrubbed, for a door whose protocol passes it on."""
    labels: tuple[str, ...] = ()
    """What kinds of data the session has touched by this call, as its record says."""
    recorded_at: int | None = None
    """The index of its record in the log; None where it could not be written yet."""


Keep = Callable[[Ending], KeptAnswer]
"""Seals the answer of a call for who asks for it again."""


@dataclass(frozen=True, slots=True)
class Route:
    """An upstream, and the alias of the credential it wants."""

    upstream: Upstream
    credential: str | None = None
    source: CredentialSource | None = None


class Runner:
    """Steps 6 and 7 of a call."""

    def __init__(
        self, routes: Mapping[str, Route], recorder: Recorder, clock: Clock, meter: Meter, questions: Questions
    ) -> None:
        self._routes = routes
        self._questions = questions
        self._recorder = recorder
        self._clock = clock
        self._meter = meter
        self._unrecorded: list[Event] = []
        """Outcomes that the log would not take; written as soon as it does."""

    async def run(self, granted: Grant, flight: Flight, latency_us: dict[str, int]) -> Ending:
        """Send, and record the outcome before anybody hears of it.

        Raises:
            asyncio.CancelledError: the process is ending; the outcome is recorded all the same.
        """
        call = granted.call
        route = self._routes[call.server]
        credential: Credential | None = None
        if route.credential is not None and route.source is not None:
            try:
                credential = await self._credential(route.source, route.credential, granted, flight)
            except asyncio.CancelledError:
                flight.ending = Outcome.NOT_SENT
                ending = Ending(Outcome.NOT_SENT, _why_cancelled(call), "Cut before it was sent")
                await self.not_sent(flight, call, ending, alias=route.credential)
                raise
            if credential is None:
                return await self._without_credential(call, route.credential, flight)
        clean = self._cleaner(granted, credential)
        if call.peer is not None:
            call.peer.guard(call.tool_name, clean)
        before = self._clock.ticks_ns()
        try:
            sent = await self._send(route, granted, flight, credential)
        except asyncio.CancelledError:
            flight.ending = Outcome.CANCELLED
            ending = Ending(Outcome.CANCELLED, _why_cancelled(call), f"Cut while running; {UNKNOWN_EFFECT}")
            await self._record(self._cancelled(call, ending, None, latency_us, answer=_kept(flight, ending)))
            raise
        took_ns = self._clock.ticks_ns() - before
        latency_us["upstream"] = took_ns // 1000
        self._meter.step("upstream", took_ns / 1e9)
        return await self._end(granted, flight, credential, sent, clean, latency_us)

    async def _credential(
        self, source: CredentialSource, alias: str, granted: Grant, flight: Flight
    ) -> Credential | None:
        """None when it cannot be had; a kill ends the wait for it."""
        if flight.is_cut():
            return None
        decision = granted.decision
        flight.is_out = True
        try:
            return await source.credential(
                alias, scope=decision.allowed_scope, ttl_s=decision.credential_ttl_s, call=granted.call
            )
        except asyncio.CancelledError:
            if not flight.was_ended():
                raise
            return None
        finally:
            flight.come_back()

    async def _without_credential(self, call: Call, alias: str, flight: Flight) -> Ending:
        if flight.is_cut():
            killed = flight.kill is not None
            reason = ReasonCode.KILLED if killed else ReasonCode.KILL_STATE_UNKNOWN
            text = "Cut by a kill switch before it was sent" if killed else "Kill switch state unknown"
        else:
            reason = ReasonCode.CREDENTIAL_UNAVAILABLE
            text = f"Credential broker unavailable: no secret for {alias}"
        flight.ending = Outcome.NOT_SENT
        ending = Ending(Outcome.NOT_SENT, reason, text)
        await self.not_sent(flight, call, ending, alias=alias)
        return ending

    def _cleaner(self, granted: Grant, credential: Credential | None) -> Clean:
        """Of the credential always; of secrets and personal data where a decision wants that."""
        secrets = credential.secrets if credential is not None else ()
        redacts = any(item["type"] == "redact_result" for item in granted.decision.obligations)

        def clean(raw: bytes) -> bytes:
            raw = scrub(raw, secrets)
            if redacts and raw is not FAILED:
                raw = self._recorder.redactor.json(raw)
            if raw is FAILED:
                self._meter.count("redaction_failed")
                raise ValueError("what the upstream said could not be redacted")
            return raw

        return clean

    async def _send(
        self, route: Route, granted: Grant, flight: Flight, credential: Credential | None
    ) -> Delivered | Undelivered | None:
        """The upstream's answer; None when it was cut."""
        if flight.is_cut():
            return None
        tool = granted.call.tool
        deadline = asyncio.get_running_loop().call_later(tool.timeout_s if tool is not None else 0, flight.expire)
        flight.is_out = True
        try:
            return await route.upstream.send(granted, credential)
        except asyncio.CancelledError:
            if not flight.was_ended():
                raise
            return None if flight.is_cut() else Undelivered(ReasonCode.UPSTREAM_TIMEOUT, "no answer in time")
        finally:
            deadline.cancel()
            flight.come_back()

    async def _end(
        self,
        granted: Grant,
        flight: Flight,
        credential: Credential | None,
        sent: Delivered | Undelivered | None,
        clean: Clean,
        latency_us: dict[str, int],
    ) -> Ending:
        call = granted.call
        alias = credential.alias if credential is not None else None
        if sent is None or flight.is_cut():
            # an answer that raced with its kill is not released either: K1 says that nothing runs on
            return await self._cut(call, flight, alias, latency_us)
        if isinstance(sent, Delivered):
            sent = _strict(sent)
        if isinstance(sent, Undelivered):
            return await self._failed(call, flight, sent, clean, alias, latency_us)
        said = strict_json.canonical(sent.value)
        try:
            result = clean(said)
        except ValueError:
            withheld = Undelivered(ReasonCode.REDACTION_FAILED, "the answer could not be redacted", status=sent.status)
            return await self._failed(call, flight, withheld, clean, alias, latency_us)
        flight.ending = Outcome.OK
        labels = self._questions.labels(call, said)
        ending = Ending(Outcome.OK, ReasonCode.OK, None, result, labels=labels)
        event = finished(
            self._recorder.origin(),
            call,
            Outcome.OK,
            ReasonCode.OK,
            result=result,
            labels=labels,
            upstream_status=sent.status,
            credential=alias,
            latency_us=latency_us,
            answer=_kept(flight, ending),
        )
        return await self._recorded(event, ending)

    async def _cut(self, call: Call, flight: Flight, alias: str | None, latency_us: Mapping[str, int]) -> Ending:
        kill = flight.kill
        reason = ReasonCode.KILLED if kill is not None else ReasonCode.KILL_STATE_UNKNOWN
        text = "Cut by a kill switch while running" if kill is not None else "Cut: kill switches could not be heard"
        flight.ending = Outcome.CANCELLED
        ending = Ending(Outcome.CANCELLED, reason, f"{text}; {UNKNOWN_EFFECT}")
        kill_id = kill.id if kill is not None else None
        event = self._cancelled(call, ending, kill_id, latency_us, alias, answer=_kept(flight, ending))
        return await self._recorded(event, ending)

    async def _failed(
        self,
        call: Call,
        flight: Flight,
        sent: Undelivered,
        clean: Clean,
        alias: str | None,
        latency_us: Mapping[str, int],
    ) -> Ending:
        if not sent.reached:
            outcome = Outcome.NOT_SENT
        else:
            outcome = Outcome.UNKNOWN if sent.reason in _UNHEARD else Outcome.ERROR
        text = _cleaned(clean, sent.detail.encode(errors="replace").decode()) or "its words could not be redacted"
        flight.ending = outcome
        suffix = f"; {UNKNOWN_EFFECT}" if outcome is Outcome.UNKNOWN else ""
        words = f"Tool execution failed: {text}{suffix}"
        labels = self._questions.labels(call, _said(sent)) if sent.reached else ()
        ending = Ending(outcome, sent.reason, words, fault_json=_fault(sent.fault, clean), labels=labels)
        event = finished(
            self._recorder.origin(),
            call,
            outcome,
            sent.reason,
            error=self._recorder.redactor.text(text),
            labels=labels,
            upstream_status=sent.status,
            credential=alias,
            latency_us=latency_us,
            answer=_kept(flight, ending),
        )
        return await self._recorded(event, ending)

    def _cancelled(
        self,
        call: Call,
        ending: Ending,
        kill_id: str | None,
        latency_us: Mapping[str, int],
        alias: str | None = None,
        *,
        answer: KeptAnswer | None,
    ) -> Event:
        return finished(
            self._recorder.origin(),
            call,
            ending.outcome,
            ending.reason,
            error=UNKNOWN_EFFECT,
            kill_id=kill_id,
            credential=alias,
            latency_us=latency_us,
            answer=answer,
        )

    async def not_sent(
        self,
        flight: Flight,
        call: Call,
        ending: Ending,
        *,
        alias: str | None = None,
    ) -> None:
        """Record that an allowed call never left."""
        event = finished(
            self._recorder.origin(),
            call,
            Outcome.NOT_SENT,
            ending.reason,
            kill_id=flight.kill.id if flight.kill is not None else None,
            credential=alias,
            answer=_kept(flight, ending),
        )
        await self._record(event)

    # --- step 7: no answer before its outcome is durable ---

    async def _recorded(self, event: Event, ending: Ending) -> Ending:
        index = await self._record(event)
        if index is not None:
            return ending._replace(recorded_at=index)
        text = f"The outcome could not be recorded; {UNKNOWN_EFFECT}"
        return Ending(Outcome.UNKNOWN, ReasonCode.OUTCOME_UNRECORDED, text)

    async def _record(self, event: Event) -> int | None:
        """Its index; None: the log would not take it now."""
        try:
            receipt = await self._recorder.write(event)
        except LogUnavailable:
            self._meter.count("log_unavailable")
            self._unrecorded.append(event)
            return None
        return receipt.index if isinstance(receipt, Receipt) else 0  # another has closed the call: that is recorded too

    async def write_unrecorded(self) -> int:
        """Try again to write what the log would not take; how many are still waiting."""
        for event in tuple(self._unrecorded):  # one that is not taken must not keep the others back
            try:
                await self._recorder.write(event)
            except LogUnavailable:
                continue
            self._unrecorded.remove(event)
        return len(self._unrecorded)


def _why_cancelled(call: Call) -> ReasonCode:
    withdrawn = call.peer is not None and call.peer.withdrawn
    return ReasonCode.CALLER_WITHDREW if withdrawn else ReasonCode.SHUTTING_DOWN


def _kept(flight: Flight, ending: Ending) -> KeptAnswer | None:
    return flight.keep(ending) if flight.keep is not None else None


def _strict(sent: Delivered) -> Delivered | Undelivered:
    """An answer that has a canonical form; what has none cannot be recorded or released."""
    try:
        strict_json.check(sent.value)
    except strict_json.NotStrictJson as error:
        return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the answer is not strict JSON: {error}", status=sent.status)
    return sent


def _said(sent: Undelivered) -> bytes:
    """All that an upstream has said in failing, as JSON; where it has no such form, something that cannot be read."""
    try:
        words = {"detail": sent.detail.encode(errors="replace").decode(), "fault": sent.fault}
        strict_json.check(words)
        return strict_json.canonical(words)
    except ValueError:
        return b""


def _cleaned(clean: Clean, text: str) -> str | None:
    try:
        cleaned: str = strict_json.parse(clean(strict_json.canonical({"text": text})))["text"]
    except ValueError:
        return None
    return cleaned


def _fault(fault: Mapping[str, Any] | None, clean: Clean) -> bytes | None:
    """An upstream's error object as it may be passed on; None where it has no canonical form."""
    if fault is None:
        return None
    try:
        strict_json.check(fault)
        return clean(strict_json.canonical(fault))
    except ValueError:
        return None
