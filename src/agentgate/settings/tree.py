"""All sections together."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationInfo, field_validator

from agentgate.core.call import is_tool_name
from agentgate.core.hosts import is_loopback
from agentgate.settings.identity import Auth
from agentgate.settings.part import Part
from agentgate.settings.reach import CredentialPart, ToolPart, UpstreamPart, Webhook, WebhookPart
from agentgate.settings.sections import (
    Approvals,
    ContainmentPart,
    Evidence,
    Idempotency,
    LogPart,
    McpPart,
    Policy,
    Redaction,
    Retention,
    Server,
)


class Settings(Part):
    """Everything that can be configured."""

    data_dir: Path = Path("agentgate-data")
    server: Server = Server()
    auth: Auth = Auth()
    policy: Policy = Policy()
    containment: ContainmentPart = ContainmentPart()
    log: LogPart = LogPart()
    retention: Retention = Retention()
    evidence: Evidence = Evidence()
    approvals: Approvals = Approvals()
    idempotency: Idempotency = Idempotency()
    mcp: McpPart = McpPart()
    redaction: Redaction = Redaction()
    upstreams: dict[str, UpstreamPart] = Field(default_factory=dict)
    tools: dict[Annotated[str, Field(min_length=1)], ToolPart] = Field(default_factory=dict)
    credentials: dict[str, CredentialPart] = Field(default_factory=dict)
    webhook: Webhook = Webhook()
    webhooks: tuple[WebhookPart, ...] = ()

    @field_validator("tools", "upstreams", "credentials")
    @classmethod
    def _names(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        for name in value:
            if not is_tool_name(name):  # an upstream is killed by its name, and an alias is written into the log
                what = "a tool name" if info.field_name == "tools" else "a name"
                raise ValueError(f"{name!r} is not {what}: letters, digits and _.- , at most 128, no '..'")
        return value

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.server.host)
