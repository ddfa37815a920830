"""Access tokens that are signed JWTs (RFC 9068), checked with the issuer's published keys.

The signature is PyJWT's business; what the token says is checked here: PyJWT takes the time from a clock of its own,
the last of two equal names, and `"exp": "9"` for a number.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import jwt
from jwt.api_jws import PyJWS
from jwt.utils import base64url_decode

from agentgate.adapters.tokens._issuer import IssuerKeys
from agentgate.adapters.tokens._jwks import ALGORITHMS, MAX_KID_CHARS, KeySet, PublicKey
from agentgate.adapters.tokens._whom import Nobody, Whom
from agentgate.core.errors import ReasonCode
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.ports.ambient import Clock
from agentgate.ports.identity import NotVerified, VerifiedToken

MAX_TOKEN_CHARS: Final = 8192
MAX_REMEMBERED: Final = 10_000
MAX_SCOPES: Final = 256
MAX_LEEWAY_S: Final = 30.0
_COMPACT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SCOPE: Final = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]{1,256}")
"""RFC 6749 §3.3."""
_TYPES: Final = frozenset({"at+jwt", "application/at+jwt", "jwt"})
_END_OF_TIME: Final = 253_402_300_799
"""The year 9999: a time beyond it is not meant as one."""


NO_JWT: Final = NotVerified(ReasonCode.INVALID_TOKEN, "The access token is not a signed JWT")


def is_compact(token: str) -> bool:
    """Whether it has the form of a signed JWT, and no more than its size."""
    return len(token) <= MAX_TOKEN_CHARS and _COMPACT.fullmatch(token) is not None


class _Refused(Exception):
    def __init__(
        self,
        detail: str,
        reason: Literal[ReasonCode.INVALID_TOKEN, ReasonCode.INSUFFICIENT_SCOPE] = ReasonCode.INVALID_TOKEN,
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Rules:
    """Which tokens of an issuer are taken, and whom they stand for."""

    issuer: str
    audiences: frozenset[str]
    algorithms: frozenset[str]
    required_scopes: frozenset[str] = frozenset()
    whom: Whom = field(default_factory=Whom)
    leeway_s: float = 10.0

    def __post_init__(self) -> None:
        """Raises ValueError."""
        if not self.algorithms or not self.algorithms <= ALGORITHMS:
            raise ValueError(f"algorithms must be some of {', '.join(sorted(ALGORITHMS))}")
        if not self.audiences or not all(self.audiences):
            raise ValueError("audience is empty")
        if not 0 <= self.leeway_s <= MAX_LEEWAY_S:
            raise ValueError(f"leeway_s must be 0 to {MAX_LEEWAY_S:g}")
        if not all(_SCOPE.fullmatch(scope) for scope in self.required_scopes):
            raise ValueError("required_scopes has a scope that is none (RFC 6749 §3.3)")


class Memory:
    """What was found out about tokens, by their SHA-256, under one set of keys: other keys, and all is forgotten."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: KeySet | None = None
        self._verified: OrderedDict[bytes, VerifiedToken] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verified)

    def recall(self, digest: bytes, keys: KeySet) -> VerifiedToken | None:
        known = self._verified.get(digest) if keys is self._keys else None
        if known is not None:
            self._verified.move_to_end(digest)
        return known

    def keep(self, digest: bytes, keys: KeySet, verified: VerifiedToken) -> None:
        """Remember it, and forget the one that was asked for least recently if there are too many."""
        if keys is not self._keys:
            self._keys = keys
            self._verified.clear()
        self._verified[digest] = verified
        if len(self._verified) > self._most:
            self._verified.popitem(last=False)


class JwtVerifier:
    """Tokens of one issuer. Verified ones are remembered until they expire or the issuer's keys change."""

    def __init__(self, rules: Rules, keys: IssuerKeys, clock: Clock) -> None:
        self._rules = rules
        self._keys = keys
        self._clock = clock
        self._jws = PyJWS(algorithms=sorted(rules.algorithms))
        self._memory = Memory(MAX_REMEMBERED)

    async def start(self) -> None:
        self._keys.begin()

    async def verify(self, token: str) -> VerifiedToken | NotVerified:
        """See `ports.TokenVerifier`."""
        if len(token) > MAX_TOKEN_CHARS:
            return NO_JWT
        return await self.verify_digested(token, hashlib.sha256(token.encode()).digest())

    async def verify_digested(self, token: str, digest: bytes) -> VerifiedToken | NotVerified:
        """`verify`, for who has the token's SHA-256 already and has seen that it is no longer than a token may be."""
        try:
            keys = self._keys.fresh()
            if keys is not None and (known := self._memory.recall(digest, keys)) is not None:
                self._require_unexpired(known.expires_s)
                return known
            if not is_compact(token):
                return NO_JWT
            keys = await self._keys.current()
            if keys is None:
                text = "The access token cannot be checked: the keys of its issuer cannot be read"
                return NotVerified(ReasonCode.IDENTITY_UNAVAILABLE, text)
            known = self._memory.recall(digest, keys)
            if known is None:
                return await self._verify(token, digest, keys)
            self._require_unexpired(known.expires_s)
            return known
        except _Refused as refused:
            return NotVerified(refused.reason, refused.detail)

    async def _verify(self, token: str, digest: bytes, keys: KeySet) -> VerifiedToken:
        kid, algorithm = self._read_header(token)
        key = keys.find(kid, algorithm)
        if key is None:
            newer = await self._keys.newer()
            key = newer.find(kid, algorithm) if newer is not None else None
            if newer is None or key is None:
                raise _Refused("The access token is signed with a key that its issuer does not publish")
            keys = newer
        verified = self._read_claims(self._signed(token, key, algorithm))
        self._memory.keep(digest, keys, verified)
        return verified

    def _read_header(self, token: str) -> tuple[str | None, str]:
        """The key's name and the algorithm. Wherever else the header may point to is not looked at."""
        try:
            header = _object(base64url_decode(token.partition(".")[0]))
        except ValueError:
            raise _Refused("The access token is not in base64url") from None
        algorithm, typ, kid = header.get("alg"), header.get("typ"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._rules.algorithms:
            raise _Refused("The access token is signed with an algorithm that is not allowed here")
        if "typ" in header and not (isinstance(typ, str) and typ.lower() in _TYPES):
            raise _Refused("The token is not of the type of an access token")
        if "crit" in header or "b64" in header:
            raise _Refused("The access token has a critical extension that is not known here")
        if "kid" in header and not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID_CHARS):
            raise _Refused("The access token does not name its key as it should")
        return kid, algorithm

    def _signed(self, token: str, key: PublicKey, algorithm: str) -> Mapping[str, Any]:
        """The claims, of which the signature holds."""
        try:
            payload: bytes = self._jws.decode_complete(token, key, algorithms=[algorithm])["payload"]
        except (jwt.PyJWTError, ValueError):
            raise _Refused("The signature of the access token does not hold") from None
        return _object(payload)

    def _read_claims(self, claims: Mapping[str, Any]) -> VerifiedToken:
        rules = self._rules
        if claims.get("iss") != rules.issuer:
            raise _Refused("The access token is of another issuer")
        self._require_audience(claims.get("aud"))
        expires_s = _time(claims, "exp")
        if expires_s is None:
            raise _Refused("The access token never expires")
        self._require_unexpired(expires_s)
        for name in ("nbf", "iat"):
            since = _time(claims, name)
            if since is not None and since > self._now() + rules.leeway_s:
                raise _Refused("The access token is not valid yet")
        scopes = _scopes(claims)
        if not rules.required_scopes <= scopes:
            raise _Refused("The access token has not every scope that is needed here", ReasonCode.INSUFFICIENT_SCOPE)
        try:
            return VerifiedToken(replace(rules.whom.principal(claims, scopes), key_id=rules.issuer), expires_s)
        except Nobody as why:
            raise _Refused(f"The access token {why}") from None

    def _require_audience(self, audience: object) -> None:
        named = audience if isinstance(audience, list) else [audience]
        if not all(isinstance(one, str) for one in named) or self._rules.audiences.isdisjoint(named):
            raise _Refused("The access token is not for this gateway")

    def _require_unexpired(self, expires_s: float) -> None:
        if self._now() >= expires_s + self._rules.leeway_s:
            raise _Refused("The access token has expired")

    def _now(self) -> float:
        return self._clock.now().timestamp()

    async def aclose(self) -> None:
        await self._keys.aclose()


def _object(raw: bytes) -> Mapping[str, Any]:
    try:
        found = parse(raw)
    except NotStrictJson:
        found = None
    if not isinstance(found, dict):
        raise _Refused("A part of the access token is not a JSON object that every reader would understand alike")
    return found


def _time(claims: Mapping[str, Any], name: str) -> float | None:
    """Unix seconds; None where the claim is not there."""
    if name not in claims:
        return None
    value = claims[name]
    if type(value) not in (int, float) or not 0 <= value <= _END_OF_TIME:
        raise _Refused("A time in the access token is none")
    return float(value)


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """`scope` (RFC 9068) or, where that is missing, `scp` as some issuers have it: words, or a list of them."""
    value = claims.get("scope", claims.get("scp", ""))
    named = value.split(" ") if isinstance(value, str) else value
    if not isinstance(named, list) or len(named) > MAX_SCOPES:
        raise _Refused("The scopes of the access token are none")
    if not all(isinstance(one, str) and (not one or _SCOPE.fullmatch(one)) for one in named):
        raise _Refused("The scopes of the access token are none")
    return frozenset(one for one in named if one)
