"""Where secrets come from, one kind each."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from agentgate.core.call import Call
from agentgate.ports.upstreams import Credential


class CredentialRefused(Exception):
    """There is no such credential now. The text says why, for the operator's log: never with anything secret in it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What is wanted, and for whom. No kind asks its source for more than that."""

    alias: str
    scope: str | None = None
    """`allowed_scope` of the decision."""
    ttl_s: int | None = None
    """`credential_ttl` of the decision, less what has passed of it."""
    call: Call | None = None
    """None: for the gateway itself, to begin a session with a tool server."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A credential with what its kind knows of it."""

    credential: Credential
    expires_in_s: float = float("inf")
    revocation: str | None = field(default=None, repr=False)
    """What the kind needs to take it back: a lease's id, or the token. None: it cannot be taken back."""


class Serves(StrEnum):
    """Which calls one credential is good for; of one scope and lifetime always."""

    ALL = "all"
    """It is the same for everybody and costs next to nothing to read: so it is read for each call, and not kept."""
    TENANT = "tenant"
    SESSION = "session"
    """It bears the session's name."""
    TOKEN = "token"  # noqa: S105 - a word, no secret
    """It was got for the token that the caller came with."""


class Issuer(Protocol):
    """Gives out the credential of one alias."""

    serves: Serves

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        """A credential for what is asked. `before` is one for the same, about to expire, that may be prolonged: the
        answer then has its `revocation`. Whoever asks sets the deadline; cancelling leaves nothing open.

        Raises:
            CredentialRefused, OSError, ValueError
        """
        ...

    async def revoke(self, issued: Issued) -> None:
        """Take back what has a `revocation`. What is over already counts as taken back.

        Raises:
            CredentialRefused, OSError, ValueError: it could not be taken back now.
        """
        ...

    async def aclose(self) -> None: ...
