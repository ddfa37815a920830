"""Sending a granted call, cutting it, and recording what came of it.

From here two things are certain whatever happens: the call ends with its deadline or its kill, and an
outcome is recorded, or is kept until it can be, and is `unknown` at worst.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from agentgate.core import strict_json
from agentgate.core.call import Call, Clean
from agentgate.core.decision import Grant
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Event, Outcome, finished
from agentgate.core.redaction.redactor import FAILED
from agentgate.core.redaction.scrub import scrub
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.replica import Flight
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


@dataclass(frozen=True, slots=True)
class Route:
    """An upstream, and the alias of the credential it wants."""

    upstream: Upstream
    credential: str | None = None
    source: CredentialSource | None = None


class Runner:
    """Steps 6 and 7 of a call."""

    def __init__(self, routes: Mapping[str, Route], recorder: Recorder, clock: Clock, meter: Meter) -> None:
        self._routes = routes
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
            credential = await route.source.credential(
                route.credential, scope=granted.decision.allowed_scope, ttl_s=granted.decision.credential_ttl_s
            )
            if credential is None:
                await self.not_sent(call, ReasonCode.CREDENTIAL_UNAVAILABLE)
                text = f"Credential broker unavailable: no secret for {route.credential}"
                return Ending(Outcome.NOT_SENT, ReasonCode.CREDENTIAL_UNAVAILABLE, text)
        clean = self._cleaner(granted, credential)
        if call.peer is not None:
            call.peer.guard(call.tool_name, clean)
        before = self._clock.ticks_ns()
        try:
            sent = await self._send(route, granted, flight, credential)
        except asyncio.CancelledError:
            flight.ending = Outcome.CANCELLED
            withdrawn = call.peer is not None and call.peer.withdrawn
            reason = ReasonCode.CALLER_WITHDREW if withdrawn else ReasonCode.SHUTTING_DOWN
            await self._record(self._cancelled(call, reason, None, latency_us))
            raise
        took_ns = self._clock.ticks_ns() - before
        latency_us["upstream"] = took_ns // 1000
        self._meter.step("upstream", took_ns / 1e9)
        return await self._end(granted, flight, credential, sent, clean, latency_us)

    def _cleaner(self, granted: Grant, credential: Credential | None) -> Clean:
        """Of the credential always; of secrets and personal data where a decision wants that."""
        secrets = (credential.secret,) if credential is not None else ()
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
        try:
            result = clean(strict_json.canonical(sent.value))
        except ValueError:
            withheld = Undelivered(ReasonCode.REDACTION_FAILED, "the answer could not be redacted", status=sent.status)
            return await self._failed(call, flight, withheld, clean, alias, latency_us)
        flight.ending = Outcome.OK
        event = finished(
            self._recorder.origin(),
            call,
            Outcome.OK,
            ReasonCode.OK,
            result=result,
            upstream_status=sent.status,
            credential=alias,
            latency_us=latency_us,
        )
        return await self._recorded(event, Ending(Outcome.OK, ReasonCode.OK, None, result))

    async def _cut(self, call: Call, flight: Flight, alias: str | None, latency_us: Mapping[str, int]) -> Ending:
        kill = flight.kill
        reason = ReasonCode.KILLED if kill is not None else ReasonCode.KILL_STATE_UNKNOWN
        text = "Cut by a kill switch while running" if kill is not None else "Cut: kill switches could not be heard"
        flight.ending = Outcome.CANCELLED
        event = self._cancelled(call, reason, kill.id if kill is not None else None, latency_us, alias)
        return await self._recorded(event, Ending(Outcome.CANCELLED, reason, f"{text}; {UNKNOWN_EFFECT}"))

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
        event = finished(
            self._recorder.origin(),
            call,
            outcome,
            sent.reason,
            error=self._recorder.redactor.text(text),
            upstream_status=sent.status,
            credential=alias,
            latency_us=latency_us,
        )
        suffix = f"; {UNKNOWN_EFFECT}" if outcome is Outcome.UNKNOWN else ""
        ending = Ending(
            outcome, sent.reason, f"Tool execution failed: {text}{suffix}", fault_json=_fault(sent.fault, clean)
        )
        return await self._recorded(event, ending)

    def _cancelled(
        self,
        call: Call,
        reason: ReasonCode,
        kill_id: str | None,
        latency_us: Mapping[str, int],
        alias: str | None = None,
    ) -> Event:
        return finished(
            self._recorder.origin(),
            call,
            Outcome.CANCELLED,
            reason,
            error=UNKNOWN_EFFECT,
            kill_id=kill_id,
            credential=alias,
            latency_us=latency_us,
        )

    async def not_sent(self, call: Call, reason: ReasonCode, kill_id: str | None = None) -> None:
        """Record that an allowed call never left."""
        await self._record(finished(self._recorder.origin(), call, Outcome.NOT_SENT, reason, kill_id=kill_id))

    # --- step 7: no answer before its outcome is durable ---

    async def _recorded(self, event: Event, ending: Ending) -> Ending:
        if await self._record(event):
            return ending
        text = f"The outcome could not be recorded; {UNKNOWN_EFFECT}"
        return Ending(Outcome.UNKNOWN, ReasonCode.OUTCOME_UNRECORDED, text)

    async def _record(self, event: Event) -> bool:
        try:
            await self._recorder.write(event)
        except LogUnavailable:
            self._meter.count("log_unavailable")
            self._unrecorded.append(event)
            return False
        return True

    async def write_unrecorded(self) -> int:
        """Try again to write what the log would not take; how many are still waiting."""
        for event in tuple(self._unrecorded):  # one that is not taken must not keep the others back
            try:
                await self._recorder.write(event)
            except LogUnavailable:
                continue
            self._unrecorded.remove(event)
        return len(self._unrecorded)


def _strict(sent: Delivered) -> Delivered | Undelivered:
    """An answer that has a canonical form; what has none cannot be recorded or released."""
    try:
        strict_json.check(sent.value)
    except strict_json.NotStrictJson as error:
        return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the answer is not strict JSON: {error}", status=sent.status)
    return sent


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
