"""The envelope door."""

from __future__ import annotations

from tests.contracts.door import AGENT, DoorContract, Told
from tests.faults.conftest import Gate, victim

__all__ = ["victim"]


class TestEnvelopeDoor(DoorContract):
    def call(self, gateway: Gate, tool: str, session: str, number: str) -> Told:
        envelope = {
            "agent_id": AGENT,
            "agent_version": "1.2.0",
            "request_id": f"{session}/{tool}/{number}",
            "tool": tool,
            "arguments": {"n": number},
            "session_id": session,
        }
        answer = gateway.agent().post("/api/tools/call", json=envelope)
        assert answer.status_code == 200, answer.text
        said = answer.json()
        return Told(
            success=said["success"],
            was_killed=said["reason_code"] == "killed",
            says_effect_is_unknown="effect unknown" in (said.get("error") or ""),
            trace_id=said["audit_id"],
        )
