"""What the gateway reaches: upstreams, their tools, the credentials they want, and who is told of things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from agentgate.core.call import Access
from agentgate.settings.part import Part


class UpstreamPart(BaseModel):
    """An upstream: `kind`, and whatever that kind takes."""

    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str
    credential: str | None = None
    timeout_ms: int = Field(default=30_000, ge=1)

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class ToolPart(BaseModel):
    """A tool: its upstream, what it does to the world, its arguments, and what the upstream kind takes."""

    model_config = ConfigDict(frozen=True, extra="allow")
    upstream: str
    access: Access
    input_schema: dict[str, Any]
    description: str = ""
    timeout_ms: int | None = Field(default=None, ge=1)

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class CredentialPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
    kind: str

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class Webhook(Part):
    url: str | None = None
    secret: str | None = None
