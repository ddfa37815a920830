"""Sessions that doors give to callers who name none. Their ids are easily guessed, and a session is whose comes first:
so each of them is for its own caller alone, however it is asked for."""

from __future__ import annotations

from typing import Final

from agentgate.core.call import Door, Principal, SessionId
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode

_GIVING: Final = (Door.MCP, Door.ENVELOPE)
_GIVEN: Final = tuple(f"{door}-" for door in _GIVING)


def given(door: Door, name: str) -> SessionId:
    """The session of whom is called so, where it names none."""
    return SessionId(f"{door}-{name}"[:256])


def placed(asked: str, caller: Principal, own: SessionId) -> tuple[SessionId, Decision | None]:
    """The session of a call that is to be in `asked`, and why it is refused. The refusal stands in `own`: whoever was
    refused first in a session would have it."""
    if not asked.startswith(_GIVEN) or asked in (own, *(given(door, caller.name) for door in _GIVING)):
        return SessionId(asked), None
    text = f"Session {asked} is another caller's: who names none is given one that begins with mcp- or envelope-"
    return own, refusal(ReasonCode.FOREIGN_SESSION, text)
