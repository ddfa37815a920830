"""Who is calling: keys, access tokens, certificates, roles, and the principal `local` of a machine without any.

Keys are looked up by their SHA-256, so no secret is compared byte by byte and none is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Final, NamedTuple

from agentgate.core.call import AgentId, KnownKey, Principal, PrincipalKind, Role, TenantId, key_sha256
from agentgate.core.errors import ReasonCode
from agentgate.edges.problem import Problem
from agentgate.edges.resource import ProtectedResource
from agentgate.ports.identity import CertificateReader, NotTaken, TokenVerifier, VerifiedToken
from agentgate.ports.notices import Meter

ADMIN: Final = Principal(
    PrincipalKind.PERSON, AgentId("admin"), TenantId("default"), frozenset({Role.ADMIN}), "admin_key", "admin", True
)
LOCAL: Final = Principal(
    PrincipalKind.AGENT, AgentId("local"), TenantId("default"), frozenset({Role.AGENT}), "loopback", None
)
KEY_PREFIX: Final = "agk_"
"""Of every key that `agentgate keys` makes; no token starts with it."""
_PROXIES: Final = frozenset(
    {b"forwarded", b"via", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port"}
    | {b"x-forwarded-proto", b"x-forwarded-server"}
)
"""Headers that a request has because it came through a proxy: it is that one's address that is this machine's."""
_CHALLENGE: Final = {"WWW-Authenticate": 'Bearer realm="agentgate"'}


class Keyring:
    """All keys that are known now. Replaced as a whole when the configuration or the key file changes."""

    def __init__(self, keys: Iterable[KnownKey], *, admin_key: str, now: Callable[[], datetime]) -> None:
        self._now = now
        self._keys: dict[str, KnownKey] = {}
        self._signing: dict[str, KnownKey] = {}
        self.has_signing_keys = False
        """Whether there is a key to sign with, or was one: as for `has_agent_keys`."""
        self._admin = KnownKey(key_sha256(admin_key), ADMIN)
        self.has_agent_keys = False
        """Whether there is a key that an agent could come with, or was one while this process ran: nobody becomes
        `local` again because a key was disabled, deleted, or ran out."""
        self.replace(keys)

    def replace(self, keys: Iterable[KnownKey], *, is_whole: bool = True) -> None:
        """`is_whole` says whether these are all: while they are not, nobody can say of a key that it is wrong."""
        kept = tuple(keys)
        self.is_whole = is_whole
        self.has_agent_keys |= not is_whole or any(_can_be_agent(key.principal) for key in kept)
        self._keys = {key.sha256: key for key in (*kept, self._admin) if key.signature is None}
        self._signing = {key.principal.key_id or "": key for key in kept if key.signature is not None}
        self.has_signing_keys |= bool(self._signing)

    def principal(self, secret: str) -> Principal | None:
        known = self._keys.get(key_sha256(secret))
        return known.principal if known is not None and self._is_valid(known) else None

    def signing(self, key_id: str) -> KnownKey | None:
        """The key of that id that signatures are checked with now."""
        known = self._signing.get(key_id)
        return known if known is not None and self._is_valid(known) else None

    def knows(self, principal: Principal) -> bool:
        """Whether some key makes somebody this principal now, with at least its roles. Not where it came with one that
        is disabled: whoever found that key must not go on by another one of its owner's."""
        keys = (*self._keys.values(), *self._signing.values())
        if any(key.disabled and key.principal.key_id == principal.key_id for key in keys):
            return False
        return any(
            (key.principal.id, key.principal.tenant) == (principal.id, principal.tenant)
            and key.principal.roles >= principal.roles
            and self._is_valid(key)
            for key in keys
        )

    def _is_valid(self, key: KnownKey) -> bool:
        return not key.disabled and (key.expires is None or self._now() < key.expires)


def _can_be_agent(principal: Principal) -> bool:
    return principal.kind is PrincipalKind.AGENT or Role.AGENT in principal.roles


class Caller(NamedTuple):
    """Who calls, and the access token if it came with one that is good."""

    principal: Principal
    bearer: str | None = None


class AccessTokens:
    """The tokens of all issuers: whom they stand for, or how they are refused."""

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
    """Turns a request's credentials into a principal, or refuses."""

    def __init__(
        self, keyring: Keyring, tokens: AccessTokens | None = None, certificates: CertificateReader | None = None
    ) -> None:
        """With `tokens` or `certificates` nobody is `local`: whoever configures them wants to know who calls."""
        self._keyring = keyring
        self._tokens = tokens
        self._certificates = certificates
        self._challenge = tokens.resource.challenge() if tokens is not None else _CHALLENGE

    @property
    def takes_local(self) -> bool:
        """Whether a caller of this machine needs nothing."""
        return self._tokens is None and self._certificates is None and not self._keyring.has_agent_keys

    async def agent(self, headers: Mapping[bytes, bytes], client_host: str | None) -> Principal:
        """`caller` without its token."""
        return (await self.caller(headers, client_host)).principal

    async def caller(self, headers: Mapping[bytes, bytes], client_host: str | None) -> Caller:
        """The caller of an agent's door. It waits only for a token that was not seen before.

        Raises:
            Problem: 401 without a valid key, token or certificate, 403 for one without the role or scope, 503 for a
                key or token that cannot be checked now.
        """
        holder = self._holder(headers, client_host)
        secret = presented(headers)
        if secret is None:
            if holder is not None:
                return Caller(_with_role(holder, Role.AGENT))
            if not self.takes_local or not _is_loopback(client_host):
                raise Problem(401, ReasonCode.UNAUTHENTICATED, "Missing API key", headers=self._challenge)
            if not _PROXIES.isdisjoint(headers):
                text = "Missing API key: whoever comes through a proxy may be anywhere"
                raise Problem(401, ReasonCode.UNAUTHENTICATED, text, headers=self._challenge)
            return Caller(LOCAL)
        found = await self._known(secret, headers)
        if found is None:
            raise Problem(401, ReasonCode.INVALID_KEY, "Invalid API key", headers=self._challenge)
        _require_same(found.principal, holder)
        _with_role(found.principal, Role.AGENT)
        return found

    async def agree(self, signer: Principal, headers: Mapping[bytes, bytes], client_host: str | None) -> None:
        """That a key, token or certificate beside a signature is the signer's own.

        Raises:
            Problem: 401, 403 or 503, as `caller`.
        """
        _require_same(signer, self._holder(headers, client_host))
        secret = presented(headers)
        if secret is None:
            return
        found = await self._known(secret, headers)
        if found is None:
            raise Problem(401, ReasonCode.INVALID_KEY, "Invalid API key", headers=self._challenge)
        if (found.principal.id, found.principal.tenant) != (signer.id, signer.tenant):
            raise Problem(403, ReasonCode.FORBIDDEN, "The key or token is not the signer's")

    async def person(self, headers: Mapping[bytes, bytes], client_host: str | None, role: Role) -> Principal:
        """The caller of a control route: always somebody, from loopback too.

        Raises:
            Problem: 401 without a key or for a wrong token, 403 for a wrong key (as v0.2) or for one without the role,
                503 for one that cannot be checked now.
        """
        holder = self._holder(headers, client_host)
        secret = presented(headers)
        if secret is None:
            if holder is None:
                raise Problem(401, ReasonCode.UNAUTHENTICATED, "Missing admin credentials", headers=self._challenge)
            return _with_role(holder, role)
        found = await self._known(secret, headers)
        if found is None:
            raise Problem(403, ReasonCode.INVALID_KEY, "Invalid API key")
        _require_same(found.principal, holder)
        return _with_role(found.principal, role)

    def still_knows(self, principal: Principal) -> bool:
        """Whether whoever called then would be taken now, for what is done in their name later: a key may have been
        disabled meanwhile. Tokens and certificates cannot be called back; an issuer, or an entry of `auth.mtls.map`,
        may be dropped."""
        match principal.auth_method:
            case "api_key" | "admin_key" | "signature":
                return self._keyring.knows(principal)
            case "oauth":  # what was sealed before 0.3.0 kept it names no issuer
                issuers = self._tokens.resource.issuers if self._tokens is not None else None
                return issuers is not None and (principal.key_id is None or principal.key_id in issuers)
            case "mtls":
                return self._certificates is not None and self._certificates.knows(principal)
            case "loopback":
                return self.takes_local
            case _:
                return False

    async def _known(self, secret: str, headers: Mapping[bytes, bytes]) -> Caller | None:
        """Whose key or token it is; None for a wrong key. Raises Problem for a wrong token."""
        principal = self._keyring.principal(secret)
        if principal is not None:
            return Caller(principal)
        may_be_key = not self._keyring.is_whole and secret.startswith(KEY_PREFIX)
        if self._tokens is not None and b"authorization" in headers and not may_be_key:
            return Caller(await self._tokens.principal(secret), secret)
        if not self._keyring.is_whole:
            detail = "The key cannot be checked: the key file cannot be read"
            raise Problem(503, ReasonCode.IDENTITY_UNAVAILABLE, detail, headers={"Retry-After": "10"})
        return None

    def _holder(self, headers: Mapping[bytes, bytes], client_host: str | None) -> Principal | None:
        """Whose certificate a proxy has seen; None where none was told of, or it is a stranger's beside a key."""
        if self._certificates is None:
            return None
        found = self._certificates.holder(headers, client_host)
        if not isinstance(found, NotTaken):
            return found
        if found.is_stranger and (b"x-api-key" in headers or b"authorization" in headers):
            return None
        raise Problem(401, ReasonCode.CERTIFICATE_INVALID, found.detail, headers=self._challenge)


def _require_same(principal: Principal, holder: Principal | None) -> None:
    """A key that comes over somebody else's certificate was taken from its owner."""
    if holder is not None and (holder.id, holder.tenant) != (principal.id, principal.tenant):
        text = "The client certificate is not that of the key or token"
        raise Problem(403, ReasonCode.CERTIFICATE_INVALID, text)


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
