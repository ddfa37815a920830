"""The gateway's own sections: where it listens, what decides, what stops, what remembers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator

from agentgate.core.hosts import is_host
from agentgate.core.redaction.marks import Mode
from agentgate.core.retention import DEFAULT_DAYS
from agentgate.settings.part import EnvRef, FileRef, Part

_BASE_URL = re.compile(r"https?://[^/?#@\s]+(/[^?#\s]*)?\Z")
"""What is appended to it is a path: with a query or a fragment links would lead elsewhere."""
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@\s]+/?", re.IGNORECASE)


def _has_a_host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host = parts.hostname if parts.port != 0 else None  # `port` raises for one that is none
    except ValueError:  # whose text quotes the URL, and with it perhaps a secret
        host = None
    if not host or not is_host(host):
        raise ValueError("must be http(s)://host[:port][/path]")
    return url


_Url = Annotated[str, Field(pattern=r"^https?://"), AfterValidator(_has_a_host)]


class Server(Part):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    base_url: str | None = None
    hosts: tuple[str, ...] = ()
    """Further names under which the gateway may be addressed (the Host allow-list)."""
    origins: tuple[str, ...] = ()
    """Web origins that may call it; same-origin always may."""
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    request_timeout_s: float = Field(default=30.0, gt=0, le=600)
    """Within that time from its first byte a request is there as a whole, or its connection is closed."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    refusals_per_second: int = Field(default=20, ge=1)

    @field_validator("host")
    @classmethod
    def _is_a_host(cls, value: str) -> str:
        if not is_host(value):
            raise ValueError("must be an address of this machine, or its name")
        return value

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        if value is not None and not _BASE_URL.match(value):
            raise ValueError("must be http(s)://host[:port][/path]")
        return value if value is None else _has_a_host(value)

    @field_validator("origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(_ORIGIN.fullmatch(origin) for origin in value):
            raise ValueError("each must be scheme://host[:port], as browsers say it")
        return value


class Policy(Part):
    kind: str = "wasm"
    path: Path | None = None
    url: str | None = None
    timeout_ms: int = Field(default=200, ge=10, le=60_000)
    label: str = ""
    ca_file: Path | None = None
    token: str | None = None


class ContainmentPart(Part):
    kind: str = "local"
    url: str | None = None
    timeout_ms: int = Field(default=100, ge=10, le=5_000)
    rate_window_s: float = Field(default=60.0, gt=0, le=86_400)
    drain_timeout_s: float = Field(default=2.0, gt=0, le=600)
    lease_s: float = Field(default=3.0, ge=1.5, le=60)
    """For how long a replica may go on that hears of kills neither from Redis nor from the log."""
    presumed_gone_after_s: float = Field(default=60.0, ge=5, le=86_400)
    release_quorum: int = Field(default=1, ge=1, le=10)
    """How many different persons must ask before a kill is released."""


class CheckpointWebhook(Part):
    """Who is sent checkpoints and tells the newest one at a start."""

    url: _Url
    secret: str | None = None
    every_s: float = Field(default=10.0, ge=1, le=86_400)
    optional: bool = False


class WitnessPart(Part):
    """A C2SP tlog-witness: its submission prefix and its cosignature key."""

    url: _Url
    vkey: str


class LogPart(Part):
    url: str | None = None
    retention_url: str | None = None
    """The same PostgreSQL database, for the role that may delete bodies."""
    checkpoint_key: FileRef | EnvRef | None = None
    former_keys: tuple[str, ...] = ()
    """C2SP vkeys that signed checkpoints before, the newest first."""
    checkpoint_file: Path | None = None
    checkpoint_webhook: CheckpointWebhook | None = None
    witnesses: tuple[WitnessPart, ...] = ()
    origin: str = "agentgate.local/log/0"

    @field_validator("origin")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if not value or not value.isprintable() or " " in value or "+" in value:  # what a note can say (core/note.py)
            raise ValueError("must be a name without spaces, plus signs and control characters")
        return value

    @property
    def kind(self) -> str:
        """What the log is kept in, by the scheme of its URL."""
        scheme = "sqlite" if self.url is None else self.url.partition(":")[0]
        return "postgresql" if scheme == "postgres" else scheme


class Signing(Part):
    """What envelopes are signed with."""

    kind: str = "ecdsa"
    key: EnvRef | FileRef | None = None


class Retention(Part):
    """For how long bodies are kept: arguments, contexts, texts. Leaves and proofs stay for good."""

    days: int = Field(default=DEFAULT_DAYS, ge=0, le=36_500)
    force_below_floor: bool = False
    automatic: bool = True
    compress_after_days: int | None = Field(default=30, ge=0, le=36_500)
    """None: never."""


class Evidence(Part):
    hmac_key: EnvRef | FileRef | None = None
    signing_key: str | None = None
    signing: Signing = Signing()
    former_keys: tuple[Path, ...] = ()
    """Public keys that signed envelopes before."""
    max_events: int = Field(default=100_000, ge=1, le=1_000_000)
    timestamp_url: _Url | None = None
    timestamp_ca: Path | None = None
    timestamp_required: bool = False


class Approvals(Part):
    ttl_s: float = Field(default=900.0, gt=0, le=2_592_000)
    static_token: str | None = None


class Idempotency(Part):
    """For how long an answer is kept for who asks again under its idempotency key, up to which size, and how many bytes
    of one caller's in all."""

    keep_s: float = Field(default=86_400.0, ge=60, le=2_592_000)
    max_bytes: int = Field(default=1_048_576, ge=0, le=67_108_864)
    max_bytes_per_caller: int = Field(default=67_108_864, ge=0, le=1_099_511_627_776)


class McpPart(Part):
    """The door `/mcp`."""

    hold_s: float = Field(default=3.0, ge=0, le=50)
    """For how long a call may wait for its approval. Most clients give up after 60 s, some after 5."""
    session_idle_s: float = Field(default=1800.0, ge=1, le=604_800)
    max_sessions: int = Field(default=1000, ge=1, le=100_000)
    instructions: str | None = None
    meta: tuple[str, ...] = ()
    """Members of a client's `_meta` that servers get, as part of the call."""


class Redaction(Part):
    """What stands in the log instead of secrets and personal data."""

    mode: Mode = Mode.REDACT
    key: EnvRef | FileRef | None = None
    secret: str | None = None
    """The key itself, once it was read."""
    patterns: dict[str, str] = Field(default_factory=dict)
    """Further classes of data, by name, in RE2's syntax."""
    without: tuple[Literal["email", "card", "ssn", "iban", "phone"], ...] = ()
    """Classes that stay readable."""
