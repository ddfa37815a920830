"""Answers that are kept, sealed, for who asks again: under an idempotency key, or for a call that nobody waits for.

Who was first is decided by the log: an ALLOW spends its key in the transaction that appends it. What is kept here only
says what became of that one call; nothing here ever lets a second one run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from agentgate.core.call import Call, Principal, TraceId
from agentgate.core.decision import Decision, Receipt, refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Outcome, Record, rfc3339
from agentgate.core.events.calls import KeptAnswer, answered, answers_closed
from agentgate.core.strict_json import canonical, reread
from agentgate.pipeline.calls.ending import UNKNOWN_EFFECT, Ending, Keep
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock
from agentgate.ports.keys import Sealer
from agentgate.ports.log import LogReader
from agentgate.ports.notices import Meter

_DROP_EVERY: Final = 100
"""Answers are dropped when they are at most by this part of their time too old: an event for each would be many. As
often it is counted what all members keep."""
_DROP_AT_ONCE: Final = 5_000
"""In one event: as long as these are deleted, nobody appends."""

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a call was answered. `row` is what the log has of it."""

    row: Row
    reason: ReasonCode
    error: str | None
    outcome: Outcome
    result_json: bytes | None = None
    fault_json: bytes | None = None
    edited: Mapping[str, Any] | None = None
    """The approval that carried it, where an approver had edited it, as the gate knows it."""

    @property
    def trace_id(self) -> TraceId:
        return TraceId(self.row["trace_id"])


class AnswerBook:
    """Keeps answers, finds them again, and forgets them when their time is over."""

    def __init__(
        self,
        reader: LogReader,
        recorder: Recorder,
        sealer: Sealer,
        clock: Clock,
        meter: Meter,
        *,
        keep_s: float,
        max_bytes: int,
        max_bytes_per_caller: int,
    ) -> None:
        """`max_bytes`: what a result may have to be kept; of a larger one only that there was one.
        `max_bytes_per_caller`: what all that are kept of one principal may have, sealed; the same of any more."""
        self._reader = reader
        self._recorder = recorder
        self._sealer = sealer
        self._clock = clock
        self._meter = meter
        self._keep = timedelta(seconds=keep_s)
        self._every_s = keep_s / _DROP_EVERY
        self._max_bytes = max_bytes
        self._max_held = max_bytes_per_caller
        self._held: Counter[tuple[str, str]] = Counter()
        """Bytes by tenant and principal: what the log had when they were counted, and what this member kept since."""
        self._since: Counter[tuple[str, str]] = Counter()
        """What it keeps while they are being counted."""
        self._count_again_s: float | None = None
        self._look_again_s: float | None = None
        """In boot time, as the other: a clock that once leapt ahead must not keep anybody from looking for years."""
        self._due: str | None = None
        """What was kept then or before is being dropped."""

    # --- keeping ---

    def keeper(self, call: Call, edited: Mapping[str, Any] | None = None) -> Keep | None:
        """What seals the answer of `call`, as its caller sent it; None where nobody will ask for it again. `edited` is
        the approval that carried it, where an approver had edited it."""
        key = call.answer_key
        if key is None:
            return None
        digest = call.edited_from or call.digest

        def keep(ending: Ending) -> KeptAnswer:
            result, fault = ending.result_json or b"", ending.fault_json or b""
            if len(result) + len(fault) > self._max_bytes:
                return self._not_kept(key, digest)
            head = {"reason": ending.reason.value, "error": ending.error, "outcome": ending.outcome.value}
            # canonical JSON has no line break of its own
            plain = b"\n".join((canonical({**head, "edited": edited}), result, fault))
            sealed = self._sealer.seal(plain, _about(key))
            if not self._takes(call.caller, len(sealed)):
                return self._not_kept(key, digest)
            return KeptAnswer(key, digest, sealed)

        return keep

    def _takes(self, caller: Principal, size: int) -> bool:
        """Whether `size` bytes more of the caller's are kept; they count at once."""
        who = str(caller.tenant), caller.id
        if self._held[who] + size > self._max_held:
            return False
        self._held[who] += size
        self._since[who] += size
        return True

    def _not_kept(self, key: str, digest: str) -> KeptAnswer:
        """Only that there was an answer: the key stays used."""
        self._meter.count("idempotency", "not_kept")
        return KeptAnswer(key, digest, None)

    async def recount(self) -> None:
        """Count anew what the log keeps of each caller, if it is time: other members keep answers too, and drop them.

        Raises:
            LogUnavailable
        """
        now_s = self._clock.boot_s()
        if self._count_again_s is not None and now_s < self._count_again_s:
            return
        self._since.clear()
        held = Counter(await self._reader.answers_held())
        self._held = held + self._since  # what was kept meanwhile may be in both: it is rather too much
        self._count_again_s = now_s + self._every_s

    # --- finding ---

    async def known(self, call: Call) -> Kept | Decision | None:
        """The answer that was given under the idempotency key of `call`, or why there is none for it; None for a key
        that nobody has used.

        Raises:
            LogUnavailable
        """
        key = call.idempotency_sha256
        if key is None:
            return None
        spent = await self._reader.projection("spent", kind="idempotency", key=key)
        if not spent:
            return None
        found = await self.find(key=key)
        if found is None:
            return await self._unanswered(call, spent[0]["idx"])
        row = found.row if isinstance(found, Kept) else found
        if row["digest"] != (call.edited_from or call.digest):
            return self._mismatch()
        return found if isinstance(found, Kept) else self._forgotten(_ran(row))

    async def find(self, **match: str) -> Kept | Row | None:
        """A kept answer by what its row says; the row alone where it cannot be read any more. Raises LogUnavailable."""
        rows = await self._reader.projection("answers", **match)
        if not rows:
            return None
        row = rows[0]
        if row["reason_code"] == ReasonCode.OUTCOME_UNRECORDED:
            return _closed(row)  # by another one than who ran it: nobody knows an answer
        plain = self._sealer.unseal(row["sealed"], _about(row["key"])) if row["sealed"] is not None else None
        return row if plain is None else _opened(row, plain)

    async def _unanswered(self, call: Call, index: int) -> Decision:
        """The key is used, and there is no answer: the call is still running, or its answer was dropped."""
        intent = await self._reader.record(index)
        if intent is None or _sent(intent) != (call.edited_from or call.digest):
            return self._mismatch()
        if self.is_forgotten(intent):
            return self._forgotten("The call was run under this idempotency key")
        self._meter.count("idempotency", "in_progress")
        text = "A call with this idempotency key is still running"
        return refusal(ReasonCode.IDEMPOTENCY_IN_PROGRESS, text, "idempotency")

    def is_forgotten(self, intent: Record) -> bool:
        """Whether a decision that has no answer is so old that the answer must have been dropped."""
        return datetime.fromisoformat(intent.fields["at"]) + self._keep < self._clock.now()

    def _mismatch(self) -> Decision:
        self._meter.count("idempotency", "mismatched")
        text = "This idempotency key was used for another call"
        return refusal(ReasonCode.IDEMPOTENCY_MISMATCH, text, "idempotency")

    def _forgotten(self, what: str) -> Decision:
        self._meter.count("idempotency", "forgotten")
        return refusal(ReasonCode.IDEMPOTENCY_FORGOTTEN, f"{what}; its answer is not kept", "idempotency")

    async def handed_out(self, caller: Principal, call: Call, kept: Kept) -> Receipt:
        """Record that `caller` gets it, before it does. Raises LogUnavailable."""
        receipt = await self._recorder.note(lambda origin: answered(origin, caller, kept.row, call.door))
        self._meter.count("idempotency", "replayed")
        return receipt

    # --- forgetting ---

    async def forget(self) -> int | None:
        """Drop some of the answers whose time is over; up to which index. Called again until none is left, it drops all
        whose time was over at the first call. The keys stay used.

        Raises:
            LogUnavailable
        """
        now_s = self._clock.boot_s()
        if self._look_again_s is not None and now_s < self._look_again_s:
            return None
        due = self._due or rfc3339(self._clock.now() - self._keep)
        through = await self._reader.answers_until(due, _DROP_AT_ONCE)
        if through is None:
            self._due, self._look_again_s = None, now_s + self._every_s
            self._count_again_s = None  # some callers may have room again
            return None
        self._due = due
        await self._recorder.note(lambda origin: answers_closed(origin, through))
        return through


def _about(key: str) -> bytes:
    return b"answer " + key.encode()


def _opened(row: Row, plain: bytes) -> Kept:
    head, result, fault = plain.split(b"\n")
    value = reread(head)
    return Kept(
        row,
        ReasonCode(value["reason"]),
        value["error"],
        Outcome(value["outcome"]),
        result or None,
        fault or None,
        value["edited"],
    )


def _sent(intent: Record) -> str | None:
    """The digest of the call as its caller sent it, edited or not."""
    digest: str | None = intent.fields.get("edited_from_sha256", intent.fields.get("call_sha256"))
    return digest


def _closed(row: Row) -> Kept:
    outcome = Outcome(row["outcome"])
    if outcome is Outcome.NOT_SENT:
        text = "The call was not sent: its record was in doubt"
    else:
        text = f"The gateway's process ended before it could record how the call ended; {UNKNOWN_EFFECT}"
    return Kept(row, ReasonCode.OUTCOME_UNRECORDED, text, outcome)


def _ran(row: Row) -> str:
    return f"The call was run under this idempotency key (trace {row['trace_id']}, outcome {row['outcome']})"
