"""Who may come in: keys, and the issuers whose tokens are taken."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from agentgate.core.call import AgentId, KnownKey, Principal, PrincipalKind, Role, TenantId, is_id
from agentgate.settings.part import Part


class Key(Part):
    id: str
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    agent: str | None = None
    person: str | None = None
    roles: tuple[Role, ...] = (Role.AGENT,)
    tenant: str = "default"
    all_tenants: bool = False
    expires: datetime | None = None

    @field_validator("agent", "person", "tenant")
    @classmethod
    def _grammar(cls, value: str | None) -> str | None:
        if value is not None and not is_id(value):
            raise ValueError("must start with a letter or digit and hold only letters, digits and ._:@-")
        return value

    def model_post_init(self, _context: Any) -> None:
        if (self.agent is None) == (self.person is None):
            raise ValueError("a key carries either `agent:` or `person:`")
        if self.expires is not None and self.expires.tzinfo is None:
            raise ValueError("`expires` needs a time zone, such as a final Z")

    def known(self) -> KnownKey:
        """The key as the doors know it."""
        kind = PrincipalKind.AGENT if self.agent is not None else PrincipalKind.PERSON
        principal = Principal(
            kind,
            AgentId(self.agent or self.person or ""),
            TenantId(self.tenant),
            frozenset(self.roles),
            "api_key",
            self.id,
            self.all_tenants,
        )
        return KnownKey(self.sha256, principal, self.expires)


class OAuth(Part):
    """Whose access tokens are taken; identity.py checks what belongs together."""

    issuer: str
    audience: tuple[str, ...] = ()
    """Empty: `server.base_url` with `/mcp`."""
    jwks_url: str | None = None
    jwks_file: Path | None = None
    algorithms: tuple[str, ...] = ("RS256", "PS256", "ES256", "EdDSA")
    required_scopes: tuple[str, ...] = ()
    agent_claim: str | None = None
    """None: `azp`, `client_id`, `sub`, whichever is there first."""
    tenant_claim: str | None = None
    session_claim: str = "agentgate_session"
    leeway_s: float = Field(default=10.0, ge=0, le=30)

    @field_validator("audience", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class Auth(Part):
    keys: tuple[Key, ...] = ()
    admin_key: str | None = None
    oauth: OAuth | None = None
