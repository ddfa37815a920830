"""The gateway as an OAuth 2.1 resource server: what it says of itself, and how it asks for a token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PATH = "/.well-known/oauth-protected-resource"


@dataclass(frozen=True, slots=True)
class ProtectedResource:
    """What a client must know to get a token that is good here. All of it is configured; no request has a say."""

    resource: str
    """The identifier that tokens are issued for (RFC 8707), such as `https://gate.example.org/mcp`."""
    issuers: tuple[str, ...]
    scopes: tuple[str, ...]
    metadata_url: str

    def document(self) -> dict[str, Any]:
        """RFC 9728 §2."""
        return {
            "resource": self.resource,
            "authorization_servers": list(self.issuers),
            "scopes_supported": list(self.scopes),
            "bearer_methods_supported": ["header"],
            "resource_name": "AgentGate",
        }

    def challenge(self, error: str | None = None, description: str | None = None) -> dict[str, str]:
        """The `WWW-Authenticate` header (RFC 6750 §3, RFC 9728 §5.1); without `error` where nothing was presented."""
        members = {
            "realm": "agentgate",
            "error": error,
            "error_description": description,
            "scope": " ".join(self.scopes) or None,
            "resource_metadata": self.metadata_url,
        }
        said = ", ".join(f'{name}="{value}"' for name, value in members.items() if value is not None)
        return {"WWW-Authenticate": f"Bearer {said}"}
