"""What the gateway reaches: upstreams, their tools, the credentials they want, and who is told of things."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from agentgate.core.call import Access
from agentgate.settings.part import EnvRef, FileRef, OpenPart, Part


class UpstreamPart(OpenPart):
    """An upstream: `kind`, and whatever that kind takes."""

    kind: str
    credential: str | None = None
    session_credential: str | None = None
    """Of an MCP server: for its sessions, which begin without a caller. None: the same as for calls."""
    timeout_ms: int = Field(default=30_000, ge=1)


class ToolPart(OpenPart):
    """A tool: its upstream, what it does to the world, its arguments, and what the upstream kind takes."""

    upstream: str
    access: Access
    input_schema: dict[str, Any]
    description: str = ""
    timeout_ms: int | None = Field(default=None, ge=1)


class CredentialPart(OpenPart):
    """A credential: `kind`, and whatever that kind takes."""

    kind: str
    timeout_ms: int = Field(default=5_000, ge=1, le=60_000)
    """The longest that a call waits for it."""
    only: tuple[str, ...] = ()
    """Addresses at or below which an upstream must be that it is sent to. Empty: those that name it."""


class Webhook(Part):
    """v0.2's one endpoint."""

    url: str | None = None
    secret: str | None = None
    allow_private: bool = False


class WebhookPart(Part):
    """One of several endpoints that are told of things."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Under which its place in the log is kept; without one it is made of the URL."""
    kind: Literal["webhook", "slack"] = "webhook"
    url: str | EnvRef | FileRef
    secret: str | EnvRef | FileRef | None = None
    events: tuple[str, ...] = ("*",)
    tenants: tuple[str, ...] = ()
    """Empty: all of them."""
    allow_private: bool = False
