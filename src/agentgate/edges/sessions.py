"""Sessions that doors give to callers who name none. Their ids are easily guessed, and a session is whose comes first:
so each of them is for its own caller alone, however it is asked for."""

from __future__ import annotations

import hashlib
from typing import Final

from agentgate.core.call import Door, Principal, PrincipalKind, SessionId
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode

_GIVING: Final = (Door.MCP, Door.ENVELOPE)
_GIVEN: Final = tuple(f"{door}-" for door in _GIVING)
_KINDS: Final = tuple(f"{kind}:" for kind in PrincipalKind)
_MOST: Final = 256
"""Characters of an id."""


def given(door: Door, caller: Principal) -> SessionId:
    """The session of a caller who names none, which is no other caller's: an agent's is called by its name, anybody
    else's by the whole id, and so is that of an agent whose name reads like one. None is as long as ids may be, except
    those that end with a digest because they would be longer."""
    is_plain = caller.kind is PrincipalKind.AGENT and not caller.name.startswith(_KINDS)
    whole = f"{door}-{caller.name if is_plain else caller.id}"
    if len(whole) < _MOST:
        return SessionId(whole)
    digest = hashlib.sha256(whole.encode()).hexdigest()
    return SessionId(f"{whole[: _MOST - len(digest) - 1]}-{digest}")


def placed(
    asked: str | None, caller: Principal, door: Door, connection: str | None = None
) -> tuple[SessionId, Decision | None]:
    """The session of a call that is to be in `asked`, and why it is refused. None: in its own, which is that of its
    `connection`, if it came over one, else the caller's at `door`. A refusal stands in its own: whoever was refused
    first in a session would have it."""
    if asked is not None and not asked.startswith(_GIVEN):
        return SessionId(asked), None
    own = given(door, caller) if connection is None else SessionId(f"{door}-{connection}")
    if asked is None or asked in (own, *(given(one, caller) for one in _GIVING)):
        return SessionId(asked or own), None
    text = f"Session {asked} is another caller's: who names none is given one that begins with mcp- or envelope-"
    return own, refusal(ReasonCode.FOREIGN_SESSION, text)
