"""Who an access token stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

from agentgate.core.call import Principal
from agentgate.core.errors import ReasonCode


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that is genuine, in time, and for us. Never holds the token itself."""

    principal: Principal
    """With the token's `scopes`, and its `session` where the issuer has bound it to one."""
    expires_s: float
    """Unix seconds."""


@dataclass(frozen=True, slots=True)
class NotVerified:
    """Why a token is not taken."""

    reason: Literal[ReasonCode.INVALID_TOKEN, ReasonCode.INSUFFICIENT_SCOPE, ReasonCode.IDENTITY_UNAVAILABLE]
    detail: str
    """A fixed sentence in ASCII, without quotes and backslashes: it goes into a header. The token has no say in it."""


class TokenVerifier(Protocol):
    """Says of bytes that somebody presents as an access token whom they stand for.

    It fails closed: whatever is malformed, unknown, or cannot be checked now is `NotVerified`.
    """

    async def start(self) -> None:
        """Begin to get ready. Waits for nobody and never raises: what is missing is fetched when it is needed."""
        ...

    async def verify(self, token: str) -> VerifiedToken | NotVerified:
        """Never raises. A token that was verified before costs a look-up, and no wait."""
        ...

    async def aclose(self) -> None: ...
