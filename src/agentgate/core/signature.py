"""Signed requests: what a signature is checked with, and what it must say of itself to count.

Pure rules over what a parser has read; `adapters/signatures` reads, and checks the signature itself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from agentgate.core.errors import ReasonCode

Algorithm = Literal["ed25519", "hmac-sha256"]
"""By their names in the IANA registry "HTTP Signature Algorithms"."""

ALWAYS_COVERED: Final = ("@method", "content-digest", "content-type")
PARAMETERS: Final = frozenset({"created", "expires", "keyid", "alg", "nonce", "tag"})
MAX_COVERED: Final = 32
_DERIVED: Final = frozenset({"@method", "@target-uri", "@authority", "@scheme", "@path", "@query", "@request-target"})


_SMALL: Final = frozenset(
    bytes.fromhex(text)
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)
"""Ed25519 public keys of small order, without the bit of their sign: anybody can sign for these. All zeros, as in a
placeholder, is one of them."""


@dataclass(frozen=True, slots=True)
class SignatureKey:
    """What the signatures of one key are checked with. Its kind is the algorithm: a signature cannot choose."""

    algorithm: Algorithm
    material: bytes = field(repr=False)
    """The 32 bytes of an Ed25519 public key, or the shared secret."""


@dataclass(frozen=True, slots=True)
class NotSigned:
    """Why a signature does not count."""

    reason: Literal[ReasonCode.SIGNATURE_INVALID, ReasonCode.SIGNATURE_EXPIRED]
    detail: str
    """A sentence of ours; the request has no say in it."""


def misses(components: Collection[str], *, has_query: bool) -> str | None:
    """What a signature over these components leaves open to whoever passes the request on; None where it is enough.

    Any field of the request may be covered besides.
    """
    if len(components) > MAX_COVERED:
        return f"it covers more than {MAX_COVERED} components"
    strange = [name for name in components if name.startswith("@") and name not in _DERIVED]
    if strange:
        return "it covers a derived component that is not known here"
    missing = [name for name in ALWAYS_COVERED if name not in components]
    if not _covers_target(components, has_query=has_query):
        missing.append("@target-uri (or @authority and @path, and @query where there is one)")
    return f"it does not cover {', '.join(missing)}" if missing else None


def _covers_target(components: Collection[str], *, has_query: bool) -> bool:
    if "@target-uri" in components:
        return True
    return "@authority" in components and "@path" in components and ("@query" in components or not has_query)


def is_anybodys(key: SignatureKey) -> bool:
    """Whether signatures of the key can be made without its private half."""
    return key.algorithm == "ed25519" and key.material[:-1] + bytes([key.material[-1] & 0x7F]) in _SMALL


def objection(parameters: Mapping[str, Any], key: SignatureKey, now_s: float, window_s: float) -> NotSigned | None:
    """Why the parameters of a signature are not taken; None where they are. `now_s` is Unix time."""
    if is_anybodys(key):
        return NotSigned(ReasonCode.SIGNATURE_INVALID, "its key is one that anybody can sign with")
    if not parameters.keys() <= PARAMETERS:
        return NotSigned(ReasonCode.SIGNATURE_INVALID, "it has a parameter that is not known here")
    created, expires = parameters.get("created"), parameters.get("expires")
    if type(created) is not int or ("expires" in parameters and type(expires) is not int):
        return NotSigned(ReasonCode.SIGNATURE_INVALID, "`created` is needed; it and `expires` are whole Unix seconds")
    if any(not isinstance(parameters[name], str) for name in ("nonce", "tag", "alg") if name in parameters):
        return NotSigned(ReasonCode.SIGNATURE_INVALID, "`nonce`, `tag` and `alg` are texts")
    if parameters.get("alg", key.algorithm) != key.algorithm:
        return NotSigned(ReasonCode.SIGNATURE_INVALID, "`alg` is not what this key is for")
    if abs(now_s - created) > window_s:
        when = "too long ago" if created < now_s else "for a later time"
        return NotSigned(ReasonCode.SIGNATURE_EXPIRED, f"it was made {when}: {window_s:g} s are allowed")
    if isinstance(expires, int) and expires <= now_s:
        return NotSigned(ReasonCode.SIGNATURE_EXPIRED, "it has expired")
    return None
