"""HTTP message signatures (RFC 9421) with a digest of the content (RFC 9530).

`http-message-signatures` makes the signature base, checks the signature and the digest; what a signature must say to
count is `core/signature.py`'s. One signature for each request, and no component with a parameter: whatever has two
readings is refused before a key is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import http_sf
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from http_message_signatures import ContentDigest, HTTPMessageSignaturesException, HTTPMessageVerifier, algorithms

from agentgate.core.errors import ReasonCode
from agentgate.core.signature import NotSigned, SignatureKey, misses, objection
from agentgate.ports.ambient import Clock
from agentgate.ports.identity import SignedRequest

_ALGORITHMS: Final = {"ed25519": algorithms.ED25519, "hmac-sha256": algorithms.HMAC_SHA256}
_LONGEST: Final = {"signature-input": 4096, "signature": 1024, "content-digest": 512}
"""Of the fields that are parsed, in characters."""


class Rfc9421Verifier:
    """Implements `SignatureVerifier` with Ed25519 and HMAC-SHA-256."""

    def __init__(self, clock: Clock, window_s: float) -> None:
        """`window_s`: how far `created` may be from now, on either side."""
        self._clock = clock
        self._window_s = window_s

    def signer(self, request: SignedRequest, key_of: Callable[[str], SignatureKey | None]) -> str | NotSigned:
        try:
            components, parameters = _read(request.fields)
        except ValueError as error:
            return NotSigned(ReasonCode.SIGNATURE_INVALID, str(error))
        lacks = _second_spelling(request.url) or misses(components, has_query="?" in request.url)
        if lacks is not None:
            return NotSigned(ReasonCode.SIGNATURE_INVALID, lacks)
        key_id = parameters.get("keyid")
        if not isinstance(key_id, str):
            return NotSigned(ReasonCode.SIGNATURE_INVALID, "`keyid` is needed")
        key = key_of(key_id)
        if key is None:
            return NotSigned(ReasonCode.SIGNATURE_INVALID, "its key is not known")
        objected = objection(parameters, key, self._clock.now().timestamp(), self._window_s)
        if objected is not None:
            return objected
        try:
            verify(request, key)
        except HTTPMessageSignaturesException:
            return NotSigned(ReasonCode.SIGNATURE_INVALID, "it is not this request's, or not of this key")
        digest = ", ".join(value.strip() for name, value in request.fields if name.lower() == "content-digest")
        try:
            ContentDigest.verify(digest, request.body)
        except HTTPMessageSignaturesException:
            return NotSigned(ReasonCode.SIGNATURE_INVALID, "Content-Digest is not that of the body (sha-256, sha-512)")
        return key_id


def _read(fields: Sequence[tuple[str, str]]) -> tuple[list[str], Mapping[str, Any]]:
    """The components that the one signature covers, and its parameters. Raises ValueError, with a sentence."""
    given = {name: [value for field, value in fields if field.lower() == name] for name in _LONGEST}
    if any(len(values) != 1 for values in given.values()):
        raise ValueError("Signature-Input, Signature and Content-Digest are needed, once each")
    if any(len(values[0]) > _LONGEST[name] for name, values in given.items()):
        raise ValueError("its fields are too long")
    inputs, signatures = _dictionary(given["signature-input"][0]), _dictionary(given["signature"][0])
    if len(inputs) != 1 or inputs.keys() != signatures.keys():
        raise ValueError("a request has one signature, and Signature and Signature-Input one label for it")
    (members, parameters), (signature, more) = *inputs.values(), *signatures.values()
    if not isinstance(members, list) or not isinstance(signature, bytes) or more:
        raise ValueError("Signature-Input is a list of components, Signature a byte sequence")
    if any(not isinstance(name, str) or name != name.lower() for name, _ in members):
        raise ValueError("components are texts in small letters")
    if any(of_component for _, of_component in members):
        raise ValueError("parameters of components (sf, key, bs, req, tr, name) are not supported")
    names = [name for name, _ in members]
    if len(set(names)) < len(names):
        raise ValueError("it covers a component twice")
    return names, parameters


def _second_spelling(url: str) -> str | None:
    """Why an address is no other's: the library leaves a user's name out of what is signed."""
    return "its address names a user" if "@" in url.partition("://")[2].partition("/")[0] else None


def _dictionary(value: str) -> dict[str, Any]:
    def refuse(_key: str, _where: str) -> None:
        raise ValueError("a label, or a parameter, is there twice")

    try:
        found = http_sf.parse(value.encode("ascii"), tltype="dictionary", on_duplicate_key=refuse)
    except (http_sf.StructuredFieldError, UnicodeEncodeError):
        raise ValueError("Signature-Input or Signature is no structured field (RFC 8941)") from None
    return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class _Message:
    """A request as the library reads it."""

    method: str
    url: str
    headers: _Headers


@dataclass(frozen=True, slots=True)
class _Headers:
    lines: Sequence[tuple[str, str]]

    def items(self) -> Sequence[tuple[str, str]]:
        return self.lines


@dataclass(frozen=True, slots=True)
class _OneKey:
    key: bytes | Ed25519PublicKey

    def resolve_public_key(self, _key_id: str) -> bytes | Ed25519PublicKey:
        return self.key


class _Verifier(HTTPMessageVerifier):
    """Leaves times to us: it knows no other clock than the machine's."""

    def validate_created_and_expires(self, sig_input: Any, max_age: Any = None) -> None:
        """Done before, by `objection`."""


def verify(request: SignedRequest, key: SignatureKey) -> None:
    """That the one signature of `request` is of `key`, over what it says it covers, whatever that is and whenever it
    was made.

    Raises:
        HTTPMessageSignaturesException: it is not.
    """
    material = key.material if key.algorithm == "hmac-sha256" else Ed25519PublicKey.from_public_bytes(key.material)
    verifier = _Verifier(signature_algorithm=_ALGORITHMS[key.algorithm], key_resolver=_OneKey(material))  # type: ignore[arg-type]
    verifier.verify(_Message(request.method, request.url, _Headers(request.fields)), max_age=None)
