"""Keys that sign and seal."""

from __future__ import annotations

from typing import Protocol


class Signer(Protocol):
    """Signs evidence or checkpoints with one key."""

    algorithm: str
    key_id: str

    def sign(self, message: bytes) -> bytes: ...


class EnvelopeSigner(Signer, Protocol):
    """Signs envelopes, which anybody verifies with the public key."""

    spki: bytes
    """The public key as SubjectPublicKeyInfo in DER."""


class Sealer(Protocol):
    """Keeps what only the gateway may read again (AEAD), such as the arguments of a pending approval."""

    @property
    def digest_key(self) -> bytes:
        """What the digests of calls, arguments and results in the log are taken under; the same for all who can
        unseal."""
        ...

    def seal(self, plain: bytes, about: bytes) -> bytes: ...

    def unseal(self, sealed: bytes, about: bytes) -> bytes | None:
        """None when the key, the text or what it is about is another."""
        ...
