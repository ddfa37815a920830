"""Who is calling: keys, access tokens, roles, and the principal `local` of a machine without any.

Keys are looked up by their SHA-256, so no secret is compared byte by byte and none is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final

from agentgate.core.call import AgentId, KnownKey, Principal, PrincipalKind, Role, TenantId, key_sha256
from agentgate.core.errors import ReasonCode
from agentgate.edges.problem import Problem
from agentgate.edges.resource import ProtectedResource
from agentgate.ports.identity import TokenVerifier, VerifiedToken
from agentgate.ports.notices import Meter

ADMIN: Final = Principal(
    PrincipalKind.PERSON, AgentId("admin"), TenantId("default"), frozenset({Role.ADMIN}), "admin_key", "admin", True
)
LOCAL: Final = Principal(
    PrincipalKind.AGENT, AgentId("local"), TenantId("default"), frozenset({Role.AGENT}), "loopback", None
)
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="agentgate"'}


class Keyring:
    """All keys that are valid now. Replaced as a whole when the configuration or the key file changes."""

    def __init__(self, keys: Iterable[KnownKey], *, admin_key: str, now: Callable[[], datetime]) -> None:
        self._now = now
        self._keys: dict[str, KnownKey] = {}
        self._admin = KnownKey(key_sha256(admin_key), ADMIN)
        self.replace(keys)

    def replace(self, keys: Iterable[KnownKey]) -> None:
        self._keys = {key.sha256: key for key in (*keys, self._admin)}
        others = (key for key in self._keys.values() if key is not self._admin)
        self.has_agent_keys = any(key.principal.has(Role.AGENT) for key in others)

    def principal(self, secret: str) -> Principal | None:
        known = self._keys.get(key_sha256(secret))
        if known is None or (known.expires is not None and self._now() >= known.expires):
            return None
        return known.principal


class AccessTokens:
    """The tokens of an issuer: whom they stand for, or how they are refused."""

    def __init__(self, verifier: TokenVerifier, resource: ProtectedResource, meter: Meter) -> None:
        self.resource = resource
        self.verifier = verifier
        self._meter = meter

    async def principal(self, token: str) -> Principal:
        """Raises Problem: 401, 403 or 503, with the challenge that belongs to it."""
        found = await self.verifier.verify(token)
        if isinstance(found, VerifiedToken):
            return found.principal
        self._meter.count("tokens_refused", found.reason)
        match found.reason:
            case ReasonCode.IDENTITY_UNAVAILABLE:
                # not 401: the token may be good, and a client would throw it away and log in where nobody answers
                raise Problem(503, ReasonCode.IDENTITY_UNAVAILABLE, found.detail, headers={"Retry-After": "10"})
            case ReasonCode.INSUFFICIENT_SCOPE:
                challenge = self.resource.challenge("insufficient_scope", found.detail)
                raise Problem(403, ReasonCode.INSUFFICIENT_SCOPE, found.detail, headers=challenge)
            case ReasonCode.INVALID_TOKEN:
                challenge = self.resource.challenge("invalid_token", found.detail)
                raise Problem(401, ReasonCode.INVALID_TOKEN, found.detail, headers=challenge)


class Callers:
    """Turns a request's credential into a principal, or refuses."""

    def __init__(self, keyring: Keyring, tokens: AccessTokens | None = None) -> None:
        """With `tokens` nobody is `local`: whoever configures an issuer wants to know who calls."""
        self._keyring = keyring
        self._tokens = tokens
        self._challenge = tokens.resource.challenge() if tokens is not None else _CHALLENGE

    async def agent(self, headers: Mapping[bytes, bytes], client_host: str | None) -> Principal:
        """The caller of an agent's door. It waits only for a token that was not seen before.

        Raises:
            Problem: 401 without a valid key or token, 403 for one without the role or scope, 503 for a token that
                cannot be checked now.
        """
        secret = presented(headers)
        if secret is None:
            if self._tokens is not None or self._keyring.has_agent_keys or not _is_loopback(client_host):
                raise Problem(401, ReasonCode.UNAUTHENTICATED, "Missing API key", headers=self._challenge)
            return LOCAL
        principal = self._keyring.principal(secret)
        if principal is None:
            if self._tokens is not None and b"authorization" in headers:
                return await self._tokens.principal(secret)
            raise Problem(401, ReasonCode.INVALID_KEY, "Invalid API key", headers=self._challenge)
        return _with_role(principal, Role.AGENT)

    def person(self, headers: Mapping[bytes, bytes], role: Role) -> Principal:
        """The caller of a control route: always with a key, from loopback too.

        Raises:
            Problem: 401 without a key, 403 for a wrong one (as v0.2) or one without the role.
        """
        secret = presented(headers)
        if secret is None:
            raise Problem(401, ReasonCode.UNAUTHENTICATED, "Missing admin credentials", headers=_CHALLENGE)
        principal = self._keyring.principal(secret)
        if principal is None:
            raise Problem(403, ReasonCode.INVALID_KEY, "Invalid API key")
        return _with_role(principal, role)


def _with_role(principal: Principal, role: Role) -> Principal:
    if not principal.has(role):
        raise Problem(403, ReasonCode.FORBIDDEN, f"Insufficient role: this needs {role}")
    return principal


def presented(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in `X-API-Key` or `Authorization: Bearer`; two different ones are a mistake, or a trick."""
    named = headers.get(b"x-api-key")
    bearer = headers.get(b"authorization")
    if bearer is not None:
        scheme, _, token = bearer.partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token:
            raise Problem(401, ReasonCode.UNAUTHENTICATED, "Authorization must be `Bearer KEY`", headers=_CHALLENGE)
        if named is not None and named != token:
            raise Problem(401, ReasonCode.UNAUTHENTICATED, "Two different keys were sent", headers=_CHALLENGE)
        named = token
    if named is None:
        return None
    try:
        return named.decode()
    except UnicodeDecodeError:
        return named.decode("latin-1")  # no key of ours; it is looked up and not found like any other


def _is_loopback(host: str | None) -> bool:
    """Whether the peer's address is this machine's own. A unix socket has no address and counts as such."""
    return host is None or host in {"", "::1"} or host.startswith(("127.", "::ffff:127."))
