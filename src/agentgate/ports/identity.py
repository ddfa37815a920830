"""Who an access token, a client certificate or a signature stands for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from agentgate.core.call import Principal
from agentgate.core.errors import ReasonCode
from agentgate.core.signature import NotSigned, SignatureKey


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A token that is genuine, in time, and for us. Never holds the token itself."""

    principal: Principal
    """With the token's issuer as `key_id`, its `scopes`, and its `session` where the issuer has bound it to one."""
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


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Why a client certificate is not taken."""

    detail: str
    """A fixed sentence in ASCII; the header has no say in it."""
    is_stranger: bool = False
    """Whether it is good, and stands for nobody here: a key beside it may say who calls."""


class CertificateReader(Protocol):
    """Says of a request's headers whose client certificate a proxy has seen. It fails closed."""

    def holder(self, headers: Mapping[bytes, bytes], client_host: str | None) -> Principal | NotTaken | None:
        """None where no proxy tells of a certificate. Never raises, and never waits."""
        ...

    def knows(self, principal: Principal) -> bool:
        """Whether a certificate could make somebody this principal now, with at least its roles."""
        ...


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A request as it came, as far as a signature can be about it."""

    method: str
    url: str
    """Absolute, as its sender knows it; never decoded and written anew."""
    fields: Sequence[tuple[str, str]]
    """Every header line in order, in Latin-1."""
    body: bytes


class SignatureVerifier(Protocol):
    """Says of a signed request whose signature is on it. It fails closed."""

    def signer(self, request: SignedRequest, key_of: Callable[[str], SignatureKey | None]) -> str | NotSigned:
        """The id of the key that has signed the request: its method, address, type and every byte of its body.

        Never raises, and never waits. `key_of` gives the key that counts now.
        """
        ...
