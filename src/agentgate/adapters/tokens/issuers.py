"""Access tokens of several issuers: what a token says of its issuer chooses who checks it, and proves nothing."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from jwt.utils import base64url_decode

from agentgate.adapters.tokens.jwt import MAX_REMEMBERED, MAX_TOKEN_CHARS, NO_JWT, JwtVerifier, is_compact
from agentgate.core.errors import ReasonCode
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.ports.identity import NotVerified, VerifiedToken

_STRANGER: Final = NotVerified(ReasonCode.INVALID_TOKEN, "The access token is of an issuer that is not known here")


class Issuers:
    """A verifier for each issuer."""

    def __init__(self, verifiers: Mapping[str, JwtVerifier]) -> None:
        """`verifiers` by the issuer, to the letter."""
        self._verifiers = dict(verifiers)
        self._whose: OrderedDict[bytes, JwtVerifier] = OrderedDict()
        """Who has verified a token before, so that it is not read again only to find out."""

    async def start(self) -> None:
        for verifier in self._verifiers.values():
            await verifier.start()

    async def verify(self, token: str) -> VerifiedToken | NotVerified:
        """See `ports.TokenVerifier`."""
        if len(token) > MAX_TOKEN_CHARS:
            return NO_JWT
        digest = hashlib.sha256(token.encode()).digest()
        known = self._whose.get(digest)
        if known is not None:
            self._whose.move_to_end(digest)
            return await known.verify_digested(token, digest)
        if not is_compact(token):
            return NO_JWT
        verifier = self._verifiers.get(_issuer(token))
        if verifier is None:
            return _STRANGER
        found = await verifier.verify_digested(token, digest)
        if isinstance(found, VerifiedToken):
            self._whose[digest] = verifier
            if len(self._whose) > MAX_REMEMBERED:
                self._whose.popitem(last=False)
        return found

    async def aclose(self) -> None:
        for verifier in self._verifiers.values():
            await verifier.aclose()


def _issuer(token: str) -> str:
    """What the token says, unverified; empty where it says nothing."""
    try:
        claims = parse(base64url_decode(token.split(".")[1]))
    except (NotStrictJson, ValueError):
        return ""
    found = claims.get("iss") if isinstance(claims, dict) else None
    return found if isinstance(found, str) else ""
