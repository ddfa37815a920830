"""The REST door."""

from __future__ import annotations

from tests.contracts.door import DoorContract, Told
from tests.faults.conftest import Gate, victim

__all__ = ["victim"]


class TestRestDoor(DoorContract):
    def call(self, gateway: Gate, tool: str, session: str, number: str) -> Told:
        said = gateway.say(tool, session, n=number)
        assert said.status == 200
        return Told(
            success=bool(said.body["success"]),
            was_killed=said.reason == "killed",
            says_effect_is_unknown="effect unknown" in (said.body["error"] or ""),
            trace_id=said.body["trace_id"],
        )
