"""How a call ended that was sent, and what seals its answer for who asks again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from agentgate.core.call import Call
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Outcome
from agentgate.core.events.calls import KeptAnswer

UNKNOWN_EFFECT: Final = "upstream effect unknown"


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


def is_withdrawn(call: Call) -> bool:
    """Whether its caller has taken it back: nobody waits for its answer."""
    return call.peer is not None and call.peer.withdrawn


def why_cancelled(call: Call) -> ReasonCode:
    return ReasonCode.CALLER_WITHDREW if is_withdrawn(call) else ReasonCode.SHUTTING_DOWN


def go_on(task: asyncio.Task[object]) -> None:
    """Take back what cancelled a task that still has an answer to give."""
    while task.cancelling():
        task.uncancel()


def unsent(call: Call, error: BaseException) -> Ending:
    """Of an allowed call that `error` kept from being sent."""
    if isinstance(error, asyncio.CancelledError):
        return Ending(Outcome.NOT_SENT, why_cancelled(call), "Cut before it was sent")
    return Ending(Outcome.NOT_SENT, ReasonCode.KILL_STATE_UNKNOWN, "Kill switch state unknown")


def lost(labels: tuple[str, ...] = ()) -> Ending:
    """Of a sent call whose outcome is not on record: nobody is told of one."""
    text = f"The outcome could not be recorded; {UNKNOWN_EFFECT}"
    return Ending(Outcome.UNKNOWN, ReasonCode.OUTCOME_UNRECORDED, text, labels=labels)


Keep = Callable[[Ending], KeptAnswer]
"""Seals the answer of a call for who asks for it again."""
