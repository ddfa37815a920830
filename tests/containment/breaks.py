"""Faults put into a replica on purpose, each of them one that the checker must find. Only ever used in tests.

A break is a function that patches the product in the process that it is called in, before anything is started in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agentgate.core.call import Call
from agentgate.core.containment import KillChanges, KillState
from agentgate.core.decision import Behind, Decision, Grant, Receipt
from agentgate.core.members import Presence, Progress
from agentgate.pipeline.calls import gate
from agentgate.pipeline.containment import drains
from agentgate.pipeline.containment.acknowledge import Acknowledger
from agentgate.pipeline.containment.flights import Cutting
from agentgate.pipeline.containment.replica import Replica

_EVERY_POSITION = 2**62


def acknowledge_early() -> None:
    """Acknowledge when cancellation was asked for, not when it has finished."""
    owe = Acknowledger.owe

    async def left(self: Replica, position: int) -> None:
        pass

    def owe_nothing(self: Acknowledger, cutting: Cutting) -> None:
        cutting.left.set()
        owe(self, cutting)

    _patch(Replica, left=left)
    _patch(Acknowledger, owe=owe_nothing)


def grant_without_position() -> None:
    """Send although the receipt tells of kills that this replica has not read."""
    compare = gate.grant

    def grant(call: Call, decision: Decision, receipt: Receipt, *, applied_position: int) -> Grant | Behind:
        return compare(call, decision, receipt, applied_position=_EVERY_POSITION)

    _patch(gate, grant=grant)


def release_clears_the_scope() -> None:
    """A release ends every kill on its scope."""
    advanced = KillState.advanced

    def advanced_too_far(self: KillState, changes: KillChanges) -> KillState:
        state = advanced(self, changes)
        freed = {change.kill.flag for change in changes.kills if change.released_at is not None}
        return KillState(state.position, {id: kill for id, kill in state.active.items() if kill.flag not in freed})

    _patch(KillState, advanced=advanced_too_far)


def drain_without_the_silent() -> None:
    """Whoever has not acknowledged by now is not waited for."""

    def progress(
        members: Iterable[str], presence: Mapping[str, Presence], acknowledged: Mapping[str, int], position: int
    ) -> Progress:
        return Progress((), (), ())

    _patch(drains, progress=progress)


def _patch(target: Any, **replacements: Any) -> None:
    for name, replacement in replacements.items():
        assert hasattr(target, name), f"there is no {name} to break in {target}"
        setattr(target, name, replacement)


BREAKS: dict[str, Callable[[], None]] = {
    found.__name__: found
    for found in (acknowledge_early, grant_without_position, release_clears_the_scope, drain_without_the_silent)
}
