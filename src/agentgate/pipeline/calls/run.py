"""Sending a granted call, cutting it, and recording what came of it.

From here two things are certain whatever happens: the call ends with its deadline or its kill, and an
outcome is recorded, or is kept until it can be, and is `unknown` at worst.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from agentgate.core.call import Call, Clean
from agentgate.core.decision import Grant, Receipt
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.event import Event, Outcome
from agentgate.core.events.calls import finished
from agentgate.pipeline.calls import upstream_words
from agentgate.pipeline.calls.ending import UNKNOWN_EFFECT, Ending, go_on, is_withdrawn, lost, unsent, why_cancelled
from agentgate.pipeline.calls.passage import Passage
from agentgate.pipeline.calls.upstream_words import Cleaner, Failed, Heard
from agentgate.pipeline.containment.flights import Flight
from agentgate.pipeline.policy.asking import Questions
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import LARGE_BYTES, Clock
from agentgate.ports.notices import Meter
from agentgate.ports.upstreams import Credential, CredentialSource, Delivered, Undelivered, Upstream

logger = logging.getLogger("agentgate.upstreams")

_UNHEARD: Final = frozenset({ReasonCode.UPSTREAM_TIMEOUT, ReasonCode.UPSTREAM_UNAVAILABLE})
"""Failures in which the upstream said nothing of what it did with the call."""


@dataclass(frozen=True, slots=True)
class Route:
    """An upstream, and the alias of the credential it wants."""

    upstream: Upstream
    credential: str | None = None
    source: CredentialSource | None = None


@dataclass(slots=True)  # one for each call: frozen takes a microsecond more
class _Errand:
    """A call that was sent, and what is needed once it is back."""

    passage: Passage
    clean: Clean
    alias: str | None
    """Of the credential that it has."""


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

    async def run(self, granted: Grant, passage: Passage) -> Ending:
        """Send, and record the outcome before anybody hears of it. What the call came to is told to its toll, too.

        Raises:
            asyncio.CancelledError: the caller has withdrawn, or the process ended before it was sent; the outcome is
                recorded all the same.
        """
        call, flight = granted.call, passage.flight
        route = self._routes[call.server]
        credential: Credential | None = None
        if route.credential is not None and route.source is not None:
            try:
                credential = await self._credential(route.source, route.credential, granted, flight)
            except asyncio.CancelledError as error:
                flight.ending = Outcome.NOT_SENT
                await self.not_sent(flight, call, unsent(call, error), alias=route.credential)
                raise
            if credential is None:
                return await self._without_credential(call, route.credential, flight)
        alias = credential.alias if credential is not None else None
        errand = _Errand(passage, self._cleaner(granted, credential), alias)
        if call.peer is not None:
            call.peer.guard(errand.clean)
        try:
            try:
                before = self._clock.ticks_ns()
                sent = await self._send(route, granted, flight, credential)
                took_ns = self._clock.ticks_ns() - before
                passage.latency_us["upstream"] = took_ns // 1000
                self._meter.step("upstream", took_ns / 1e9)
                heard = await self._heard(errand, sent)
            except asyncio.CancelledError:
                ending = await self._cut(errand, why_cancelled(call), "Cut while running")
                if is_withdrawn(call):
                    raise
                go_on(flight.task)  # its caller is still there, and must not take it for a call that never ran
                return ending
            return await self._end(errand, heard)
        except Exception:  # whatever an answer leads to, the call was sent: that has an outcome, and no refusal
            logger.exception("an answer could not be dealt with", extra={"trace_id": call.trace_id})
            text = f"Tool execution failed: its answer could not be dealt with; {UNKNOWN_EFFECT}"
            ending = Ending(Outcome.UNKNOWN, ReasonCode.UPSTREAM_UNAVAILABLE, text)
            return await self._recorded(errand, ending, error=UNKNOWN_EFFECT)

    async def _credential(
        self, source: CredentialSource, alias: str, granted: Grant, flight: Flight
    ) -> Credential | None:
        """None when it cannot be had; a kill ends the wait for it."""
        if flight.is_cut():
            return None
        decision = granted.decision
        return await flight.outside(
            source.credential(alias, scope=decision.allowed_scope, ttl_s=decision.credential_ttl_s, call=granted.call)
        )

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
        secrets = credential.secrets if credential is not None else ()
        redacts = any(item["type"] == "redact_result" for item in granted.decision.obligations)
        return Cleaner(secrets, redacts, self._recorder.redactor, self._meter)

    async def _send(
        self, route: Route, granted: Grant, flight: Flight, credential: Credential | None
    ) -> Delivered | Undelivered | None:
        """The upstream's answer; None when it was cut."""
        if flight.is_cut():
            return None
        tool = granted.call.tool
        deadline = asyncio.get_running_loop().call_later(tool.timeout_s if tool is not None else 0, flight.expire)
        try:
            sent = await flight.outside(route.upstream.send(granted, credential))
        except Exception:  # whatever an adapter raises, it may have sent the call: that has an outcome, and no refusal
            logger.exception("the adapter of an upstream failed", extra={"trace_id": granted.call.trace_id})
            return Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "its adapter failed")
        finally:
            deadline.cancel()
        if sent is None and not flight.is_cut():
            return Undelivered(ReasonCode.UPSTREAM_TIMEOUT, "no answer in time")
        return sent

    async def _heard(self, errand: _Errand, sent: Delivered | Undelivered | None) -> Heard | Failed | None:
        """What may be told of an answer, whose reading a kill does not wait for; None when it was cut."""
        flight = errand.passage.flight
        if sent is None or flight.is_cut():
            return None
        read = partial(upstream_words.heard, errand.passage.call, sent, errand.clean, self._questions)
        if upstream_words.size(sent) <= LARGE_BYTES:
            return read()
        return await flight.outside(self._recorder.read(read))

    async def _end(self, errand: _Errand, heard: Heard | Failed | None) -> Ending:
        flight = errand.passage.flight
        # an answer that raced with its kill is not released either: K1 says that nothing runs on
        if flight.kill is not None:
            return await self._cut(errand, ReasonCode.KILLED, "Cut by a kill switch while running")
        if heard is None or flight.is_cut():
            return await self._cut(errand, ReasonCode.KILL_STATE_UNKNOWN, "Cut: kill switches could not be heard")
        if isinstance(heard, Failed):
            return await self._failed(errand, heard)
        ending = Ending(Outcome.OK, ReasonCode.OK, None, heard.result, labels=heard.labels)
        return await self._recorded(errand, ending, status=heard.status)

    async def _cut(self, errand: _Errand, reason: ReasonCode, text: str) -> Ending:
        call = errand.passage.call
        # nobody has looked through what its upstream may have told a peer by then
        labels = self._questions.labels(call, b"{}" if call.peer is None else b"")
        ending = Ending(Outcome.CANCELLED, reason, f"{text}; {UNKNOWN_EFFECT}", labels=labels)
        return await self._recorded(errand, ending, error=UNKNOWN_EFFECT)

    async def _failed(self, errand: _Errand, failed: Failed) -> Ending:
        sent, text, fault, labels = failed
        if not sent.reached:
            outcome = Outcome.NOT_SENT
        else:
            outcome = Outcome.UNKNOWN if sent.reason in _UNHEARD else Outcome.ERROR
        suffix = f"; {UNKNOWN_EFFECT}" if outcome is Outcome.UNKNOWN else ""
        words = f"Tool execution failed: {text}{suffix}"
        ending = Ending(outcome, sent.reason, words, fault_json=fault, labels=labels)
        return await self._recorded(errand, ending, error=self._recorder.redactor.text(text), status=sent.status)

    # --- step 7: no answer before its outcome is durable ---

    async def not_sent(self, flight: Flight, call: Call, ending: Ending, *, alias: str | None = None) -> None:
        """Record that an allowed call never left."""
        await self._record(self._finished(call, flight, ending, alias=alias))

    async def _recorded(self, errand: _Errand, ending: Ending, *, error: str = "", status: int | None = None) -> Ending:
        """The ending, on record; or that nobody knows one, where the log does not take it."""
        passage, ended = errand.passage, lost(ending.labels)
        passage.flight.ending = ending.outcome
        event = self._finished(
            passage.call,
            passage.flight,
            ending,
            error=error,
            status=status,
            alias=errand.alias,
            latency_us=passage.latency_us,
        )
        try:
            if (index := await self._record(event)) is not None:
                ended = ending._replace(recorded_at=index)
        finally:  # also where its caller has withdrawn: what it has touched by then counts
            if passage.toll is not None:
                passage.toll.ended(ended.outcome, ended.recorded_at, len(ended.result_json or b""), ended.labels)
        return ended

    def _finished(
        self,
        call: Call,
        flight: Flight,
        ending: Ending,
        *,
        error: str = "",
        status: int | None = None,
        alias: str | None = None,
        latency_us: Mapping[str, int] | None = None,
    ) -> Event:
        return finished(
            self._recorder.origin(),
            call,
            ending.outcome,
            ending.reason,
            error=error,
            answer=flight.keep(ending) if flight.keep is not None else None,
            result=ending.result_json or b"",
            upstream_status=status,
            credential=alias,
            kill_id=flight.kill.id if flight.kill is not None else None,
            latency_us=latency_us,
            labels=ending.labels,
        )

    async def _record(self, event: Event) -> int | None:
        """Its index; None: the log would not take it now."""
        try:
            receipt = await self._recorder.write(event)
        except LogUnavailable:
            self._meter.count("log_unavailable")
            self._unrecorded.append(event)
            return None
        except asyncio.CancelledError:  # it is appended, if the log does not fail: upkeep looks
            self._recorder.orphaned(event.fields["trace_id"], event)
            raise
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
