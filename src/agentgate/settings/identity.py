"""Who may come in: keys, the issuers whose tokens are taken, and the proxies that say whose certificate they saw."""

from __future__ import annotations

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from agentgate.core.call import AgentId, KnownKey, Principal, PrincipalKind, Role, TenantId, is_id
from agentgate.settings.part import EnvRef, FileRef, Part

_GRAMMAR = "must start with a letter or digit and hold only letters, digits and ._:@-"


def _checked(value: str) -> str:
    if not is_id(value):
        raise ValueError(_GRAMMAR)
    return value


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Id = Annotated[str, AfterValidator(_checked)]
Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
"""One needs no list."""
Roles = Annotated[tuple[Role, ...], BeforeValidator(_listed)]


class Signature(Part):
    """What an agent's envelopes are signed with; identity.py reads it."""

    ed25519: str | FileRef | None = None
    """The public key: its 32 bytes in base64, or a PEM file."""
    hmac: EnvRef | FileRef | None = None

    def model_post_init(self, _context: Any) -> None:
        if (self.ed25519 is None) == (self.hmac is None):
            raise ValueError("give either `ed25519` or `hmac`")


class Key(Part):
    id: Id
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    signature: Signature | None = None
    """In the place of `sha256`: its holder sends no key, but signs; `id` is the signatures' `keyid`."""
    agent: Id | None = None
    person: Id | None = None
    roles: tuple[Role, ...] = (Role.AGENT,)
    tenant: Id = "default"
    all_tenants: bool = False
    tier: Id | None = None
    created: datetime | None = None
    expires: datetime | None = None
    disabled: bool = False
    replaced_by: str | None = None
    """The id of the key that `agentgate keys rotate` made of it."""

    def model_post_init(self, _context: Any) -> None:
        if (self.agent is None) == (self.person is None):
            raise ValueError("a key carries either `agent:` or `person:`")
        if (self.sha256 is None) == (self.signature is None):
            raise ValueError("a key has either `sha256:` or `signature:`")
        if self.signature is not None and (self.agent is None or self.roles != (Role.AGENT,)):
            raise ValueError("only an agent signs, and with no other role than agent")
        if any(time is not None and time.tzinfo is None for time in (self.created, self.expires)):
            raise ValueError("`created` and `expires` need a time zone, such as a final Z")

    @property
    def whom(self) -> str:
        return f"agent:{self.agent}" if self.agent is not None else f"person:{self.person}"

    def state(self, now: datetime) -> Literal["active", "replaced", "disabled", "expired"]:
        """`replaced` is active until its overlap is over."""
        if self.disabled:
            return "disabled"
        if self.expires is not None and now >= self.expires:
            return "expired"
        return "replaced" if self.replaced_by is not None else "active"

    def known(self) -> KnownKey:
        """The key as the doors know it."""
        kind = PrincipalKind.AGENT if self.agent is not None else PrincipalKind.PERSON
        principal = Principal(
            kind,
            AgentId(self.agent or self.person or ""),
            TenantId(self.tenant),
            frozenset(self.roles),
            "api_key" if self.signature is None else "signature",
            self.id,
            self.all_tenants,
            tier=self.tier or "",
        )
        return KnownKey(self.sha256 or "", principal, self.expires, self.disabled)


Claim = str | tuple[str, ...]
"""A claim by its name, or by the names that lead to it (`[realm_access, roles]`)."""


class Claims(Part):
    """Which claims of a token say what."""

    agent: Claim | None = None
    """None: `azp`, `client_id`, `sub`, whichever is there first."""
    person: Claim | None = None
    """Only in tokens of `people_clients`."""
    roles: Claim | None = None
    tenant: Claim | None = None
    tier: Claim | None = None
    on_behalf_of: Claim | None = None
    """Besides `act` (RFC 8693 §4.1), which needs no setting."""
    session: Claim = "agentgate_session"


class OAuth(Part):
    """Whose access tokens are taken, and whom they stand for; identity.py checks what belongs together."""

    issuer: str
    audience: Names = ()
    """Empty: `server.base_url` with `/mcp`."""
    jwks_url: str | None = None
    jwks_file: Path | None = None
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    required_scopes: tuple[str, ...] = ()
    claims: Claims = Claims()
    people_clients: Names = ()
    """The clients with which people log in: tokens of all others are agents', whoever agreed to them."""
    roles: dict[str, Roles] = Field(default_factory=dict)
    """By the values of `claims.roles`."""
    role_clients: Names = ()
    """The agents whose tokens get mapped roles besides `agent`."""
    all_tenants: Names = ()
    """The values of `claims.roles` whose holders see every tenant."""
    tenant: Id | None = None
    tier: Id | None = None
    prefix: str = ""
    """Before every name that its tokens give."""
    leeway_s: float = Field(default=10.0, ge=0, le=30)


class Certificate(Part):
    """Whom a client certificate stands for: one pattern of its names, and the principal."""

    uri: str | None = None
    dns: str | None = None
    cn: str | None = None
    subject: str | None = None
    agent: str | None = None
    person: str | None = None
    roles: tuple[Role, ...] = (Role.AGENT,)
    tenant: Id = "default"
    tier: Id | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> Certificate:
        if sum(pattern is not None for pattern in (self.uri, self.dns, self.cn, self.subject)) != 1:
            raise ValueError("give one of `uri`, `dns`, `cn` and `subject`")
        if (self.agent is None) == (self.person is None):
            raise ValueError("give either `agent` or `person`")
        name = self.agent or self.person or ""
        if not is_id(name.replace("*", "x", 1)):
            raise ValueError(f"`agent` and `person` {_GRAMMAR}, with at most one *")
        if self.person is not None and "roles" not in self.model_fields_set:
            raise ValueError("a person's certificate needs its `roles`")
        pattern = self.uri or self.dns or self.cn or self.subject or ""
        if "*" in name and (pattern.count("*") != 1 or self.subject is not None):
            raise ValueError("a * in the name stands for what the one * of `uri`, `dns` or `cn` stood for")
        return self


class Mtls(Part):
    """Client certificates that a proxy in front has checked, and tells of in a header."""

    header: Literal["X-Forwarded-Client-Cert", "Client-Cert", "X-SSL-Client-S-DN"]
    proxies: tuple[IPv4Network | IPv6Network, ...] = Field(min_length=1)
    map: Annotated[tuple[Certificate, ...], Field(min_length=1)]

    @field_validator("proxies")
    @classmethod
    def _some(cls, value: tuple[IPv4Network | IPv6Network, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
        if any(network.prefixlen == 0 for network in value):
            raise ValueError("every address would be a trusted proxy, and anybody could be anybody: name theirs alone")
        return value


class Auth(Part):
    keys: tuple[Key, ...] = ()
    admin_key: str | None = None
    oauth: tuple[OAuth, ...] = ()
    mtls: Mtls | None = None
    envelope: Literal["signed", "optional"] | None = None
    """Whether envelopes must be signed. None: where there is a key to sign with."""
    envelope_window_s: float = Field(default=60.0, gt=0, le=600)
    """How far the time of a signature may be from ours, on either side."""

    @field_validator("oauth", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """One issuer needs no list."""
        if value is None:
            return ()
        return (value,) if isinstance(value, dict | OAuth) else value
