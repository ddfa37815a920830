"""The only reader of the environment and of agentgate.yaml: one frozen `Settings`, checked before anything starts.

The environment (`AGENTGATE_*`, v0.2's names included) goes over the file, the file over the defaults.
`docs/configuration.md` lists every variable; a test keeps it and `ENVIRONMENT` alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from agentgate.core.call import (
    Access,
    AgentId,
    KnownKey,
    Principal,
    PrincipalKind,
    Role,
    TenantId,
    is_id,
    is_tool_name,
    key_sha256,
)
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.hosts import is_loopback
from agentgate.core.redaction.redactor import MIN_KEY_BYTES, Mode
from agentgate.core.retention import DEFAULT_DAYS, BelowFloor, Rule

MIN_SECRET_CHARS: Final = 16
MIN_HMAC_KEY_BYTES: Final = 32
"""As long as the hash; a shorter key would be the weakest part of a signature (RFC 2104 §3)."""
_HMAC_KEYS: Final = frozenset({"AGENTGATE_SIGNING_KEY", "AGENTGATE_REDACTION_KEY"})
DEFAULT_SECRETS: Final = frozenset({"approved", "admin-secret-change-me", "change-me-in-production-please"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Server(_Part):
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    workers: int = Field(default=1, ge=1, le=64)
    base_url: str | None = None
    hosts: tuple[str, ...] = ()
    """Further names under which the gateway may be addressed (the Host allow-list)."""
    origins: tuple[str, ...] = ()
    """Web origins that may call it; same-origin always may."""
    max_body_bytes: int = Field(default=1_048_576, ge=1024)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    refusals_per_second: int = Field(default=20, ge=1)


class Key(_Part):
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


class OAuth(_Part):
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


class Auth(_Part):
    keys: tuple[Key, ...] = ()
    admin_key: str | None = None
    oauth: OAuth | None = None


class Policy(_Part):
    kind: str = "wasm"
    path: Path | None = None
    url: str | None = None
    timeout_ms: int = Field(default=200, ge=10, le=60_000)
    label: str = ""
    ca_file: Path | None = None
    token: str | None = None


class ContainmentPart(_Part):
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


class FileRef(_Part):
    file: Path


class EnvRef(_Part):
    env: str


class CheckpointWebhook(_Part):
    """Who is sent checkpoints and tells the newest one at a start."""

    url: str = Field(pattern=r"^https?://")
    secret: str | None = None
    every_s: float = Field(default=10.0, ge=1, le=86_400)
    optional: bool = False


class WitnessPart(_Part):
    """A C2SP tlog-witness: its submission prefix and its cosignature key."""

    url: str = Field(pattern=r"^https?://")
    vkey: str


class LogPart(_Part):
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

    @property
    def kind(self) -> str:
        """What the log is kept in, by the scheme of its URL."""
        scheme = "sqlite" if self.url is None else self.url.partition(":")[0]
        return "postgresql" if scheme == "postgres" else scheme


class Signing(_Part):
    """What envelopes are signed with."""

    kind: str = "ecdsa"
    key: EnvRef | FileRef | None = None


class Retention(_Part):
    """For how long bodies are kept: arguments, contexts, texts. Leaves and proofs stay for good."""

    days: int = Field(default=DEFAULT_DAYS, ge=0, le=36_500)
    force_below_floor: bool = False
    automatic: bool = True
    compress_after_days: int | None = Field(default=30, ge=0, le=36_500)
    """None: never."""


class Evidence(_Part):
    hmac_key: EnvRef | FileRef | None = None
    signing_key: str | None = None
    signing: Signing = Signing()
    former_keys: tuple[Path, ...] = ()
    """Public keys that signed envelopes before."""
    max_events: int = Field(default=100_000, ge=1, le=1_000_000)
    timestamp_url: str | None = None
    timestamp_ca: Path | None = None
    timestamp_required: bool = False


class Approvals(_Part):
    ttl_s: float = Field(default=900.0, gt=0, le=2_592_000)
    static_token: str | None = None


class McpPart(_Part):
    """The door `/mcp`."""

    hold_s: float = Field(default=3.0, ge=0, le=50)
    """For how long a call may wait for its approval. Most clients give up after 60 s, some after 5."""
    session_idle_s: float = Field(default=1800.0, ge=1, le=604_800)
    max_sessions: int = Field(default=1000, ge=1, le=100_000)
    instructions: str | None = None
    meta: tuple[str, ...] = ()
    """Members of a client's `_meta` that servers get, as part of the call."""


class Redaction(_Part):
    """What stands in the log instead of secrets and personal data."""

    mode: Mode = Mode.REDACT
    key: EnvRef | FileRef | None = None
    secret: str | None = None
    """The key itself, once it was read."""
    patterns: dict[str, str] = {}
    """Further classes of data, by name, in RE2's syntax."""
    without: tuple[Literal["email", "card", "ssn", "iban", "phone"], ...] = ()
    """Classes that stay readable."""


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


class Webhook(_Part):
    url: str | None = None
    secret: str | None = None


class Settings(_Part):
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
    mcp: McpPart = McpPart()
    redaction: Redaction = Redaction()
    upstreams: dict[str, UpstreamPart] = {}
    tools: dict[Annotated[str, Field(min_length=1)], ToolPart] = {}
    credentials: dict[str, CredentialPart] = {}
    webhook: Webhook = Webhook()

    @field_validator("tools")
    @classmethod
    def _tool_names(cls, value: dict[str, ToolPart]) -> dict[str, ToolPart]:
        for name in value:
            if not is_tool_name(name):
                raise ValueError(f"{name!r} is not a tool name: letters, digits and _.- , at most 128, no '..'")
        return value

    @field_validator("upstreams", "credentials")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not is_tool_name(name):  # an upstream is killed by its name, and an alias is written into the log
                raise ValueError(f"{name!r} is not a name: letters, digits and _.- , at most 128, no '..'")
        return value

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.server.host)


ENVIRONMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "AGENTGATE_DATA_DIR": ("data_dir",),
    "AGENTGATE_HOST": ("server", "host"),
    "AGENTGATE_PORT": ("server", "port"),
    "AGENTGATE_WORKERS": ("server", "workers"),
    "AGENTGATE_BASE_URL": ("server", "base_url"),
    "AGENTGATE_HOSTS": ("server", "hosts"),
    "AGENTGATE_ORIGINS": ("server", "origins"),
    "AGENTGATE_LOG_LEVEL": ("server", "log_level"),
    "AGENTGATE_ADMIN_API_KEY": ("auth", "admin_key"),
    "AGENTGATE_OPA_URL": ("policy", "url"),
    "AGENTGATE_OPA_TOKEN": ("policy", "token"),
    "AGENTGATE_POLICY_PATH": ("policy", "path"),
    "AGENTGATE_POLICY_VERSION": ("policy", "label"),
    "AGENTGATE_REDIS_URL": ("containment", "url"),
    "AGENTGATE_RATE_WINDOW_SECONDS": ("containment", "rate_window_s"),
    "AGENTGATE_DATABASE_URL": ("log", "url"),
    "AGENTGATE_CHECKPOINT_FILE": ("log", "checkpoint_file"),
    "AGENTGATE_RETENTION_DATABASE_URL": ("log", "retention_url"),
    "AGENTGATE_RETENTION_DAYS": ("retention", "days"),
    "AGENTGATE_SIGNING_KEY": ("evidence", "signing_key"),
    "AGENTGATE_APPROVAL_TOKEN": ("approvals", "static_token"),
    "AGENTGATE_REDACTION_MODE": ("redaction", "mode"),
    "AGENTGATE_REDACTION_KEY": ("redaction", "secret"),
    "AGENTGATE_WEBHOOK_URL": ("webhook", "url"),
    "AGENTGATE_WEBHOOK_SECRET": ("webhook", "secret"),
}
"""Variable to place in `Settings`. AGENTGATE_CONFIG names the file, and AGENTGATE_TRACE_DB is v0.2's database path."""

_LISTS: Final = frozenset({"AGENTGATE_HOSTS", "AGENTGATE_ORIGINS"})


def load(
    environment: Mapping[str, str] | None = None,
    *,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings in force. Without `environment` it is the process's own.

    `overrides` (the command line's) are dotted places with their values, and go over everything.

    Raises:
        UnsafeConfiguration: the file cannot be read, a value is not allowed, or the combination is unsafe;
            the text says what to change.
    """
    environment = os.environ if environment is None else environment
    named = environment.get("AGENTGATE_CONFIG")
    tree = _read(config or (Path(named) if named else None))
    for variable, place in ENVIRONMENT.items():
        text = environment.get(variable)
        if text:
            _put(tree, place, _listed(text) if variable in _LISTS else text)
    if trace_db := environment.get("AGENTGATE_TRACE_DB"):
        _put(tree, ("log", "url"), f"sqlite:///{trace_db}")
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(tree, tuple(dotted.split(".")), value)
    _imply_kind(tree, "containment", "redis")
    _imply_kind(tree, "policy", "opa")
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise UnsafeConfiguration(first_error(error)) from None
    settings = _resolved(settings, environment)
    _refuse_unsafe(settings)
    return settings


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsafeConfiguration(f"the configuration {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UnsafeConfiguration(f"the configuration {path} is not YAML{where(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UnsafeConfiguration(f"the configuration {path} must be a mapping of sections")
    return tree


def where(error: Exception) -> str:
    """The place of a YAML error. Its own text quotes the file, and with it perhaps a secret."""
    mark = getattr(error, "problem_mark", None)
    return f": line {mark.line + 1}, column {mark.column + 1}" if mark is not None else " in UTF-8"


def _put(tree: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    *sections, name = place
    for section in sections:
        inner = tree.get(section)
        tree[section] = inner = dict(inner) if isinstance(inner, dict) else {}
        tree = inner
    tree[name] = value


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _imply_kind(tree: dict[str, Any], section: str, kind: str) -> None:
    """A section with a `url` and no `kind` is of the kind that has one."""
    part = tree.get(section)
    if isinstance(part, dict) and part.get("url") and "kind" not in part:
        _put(tree, (section, "kind"), kind)


def first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    # never the input itself: it may be a secret
    return f"setting {place or 'file'}: {first['msg']}"


def _resolved(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Secrets that are named by variable or file, read."""
    evidence = settings.evidence
    if evidence.signing_key is None and evidence.hmac_key is not None:
        secret = _secret("evidence.hmac_key", evidence.hmac_key, environment)
        settings = settings.model_copy(update={"evidence": evidence.model_copy(update={"signing_key": secret})})
    redaction = settings.redaction
    if redaction.secret is None and redaction.key is not None:
        secret = _secret("redaction.key", redaction.key, environment)
        settings = settings.model_copy(update={"redaction": redaction.model_copy(update={"secret": secret})})
    return settings


def _secret(name: str, ref: EnvRef | FileRef, environment: Mapping[str, str]) -> str:
    """What a setting refers to. Raises UnsafeConfiguration."""
    if isinstance(ref, EnvRef):
        secret = environment.get(ref.env)
        if not secret:
            raise UnsafeConfiguration(f"{name} names the variable {ref.env}, which is not set")
        return secret
    try:
        return ref.file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UnsafeConfiguration(f"{name}: {ref.file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnsafeConfiguration(f"{name}: {ref.file} is not text; write the key in base64") from None


def _refuse_unsafe(settings: Settings) -> None:
    """Combinations that must not start. Each sentence says what to change."""
    hook = settings.log.checkpoint_webhook
    secrets = {
        "AGENTGATE_ADMIN_API_KEY": settings.auth.admin_key,
        "AGENTGATE_SIGNING_KEY": settings.evidence.signing_key,
        "AGENTGATE_APPROVAL_TOKEN": settings.approvals.static_token,
        "AGENTGATE_WEBHOOK_SECRET": settings.webhook.secret,
        "AGENTGATE_REDACTION_KEY": settings.redaction.secret,
        "log.checkpoint_webhook.secret": hook.secret if hook is not None else None,
    }
    seen: dict[str, str] = {}
    for name, secret in secrets.items():
        if secret is None:
            continue
        if secret in DEFAULT_SECRETS:
            raise UnsafeConfiguration(f"{name} is a default that everybody knows; set a random one")
        least = MIN_HMAC_KEY_BYTES if name in _HMAC_KEYS else MIN_SECRET_CHARS
        if len(secret.encode()) < least or len(set(secret)) < 5:
            raise UnsafeConfiguration(f"{name} is too easy to guess; set at least {least} random characters")
        if secret in seen:
            raise UnsafeConfiguration(f"{name} equals {seen[secret]}; give each its own secret")
        seen[secret] = name
    if settings.evidence.timestamp_url is None and (
        settings.evidence.timestamp_required or settings.evidence.timestamp_ca is not None
    ):
        raise UnsafeConfiguration("evidence wants time stamps, but evidence.timestamp_url names no authority: set it")
    if settings.server.workers > 1 and settings.log.kind == "sqlite":
        raise UnsafeConfiguration(
            "several workers need a log that they can share: set log.url to PostgreSQL, or workers: 1"
        )
    if settings.server.workers > 1 and settings.containment.kind == "local":
        raise UnsafeConfiguration(
            "several workers need kill flags that they can share: set containment.url to a Redis, or workers: 1"
        )
    if settings.containment.kind == "local" and settings.containment.url:
        raise UnsafeConfiguration("containment.kind is local, but containment.url is set: drop one of them")
    if settings.policy.kind == "wasm" and settings.policy.url:
        raise UnsafeConfiguration("policy.kind is wasm, but policy.url is set: drop one of them")
    _refuse_unsafe_retention(settings)
    _refuse_unsafe_keys(settings.auth)
    if settings.policy.kind == "opa" and not settings.policy.url:
        raise UnsafeConfiguration("policy.kind is opa, but policy.url (AGENTGATE_OPA_URL) is not set")
    if settings.containment.kind == "redis" and not settings.containment.url:
        raise UnsafeConfiguration("containment.kind is redis, but containment.url (AGENTGATE_REDIS_URL) is not set")
    if settings.redaction.mode is not Mode.REDACT and settings.redaction.secret is None:
        raise UnsafeConfiguration(
            f"redaction.mode {settings.redaction.mode} needs a key of at least {MIN_KEY_BYTES} bytes: set redaction.key"
        )


def _refuse_unsafe_retention(settings: Settings) -> None:
    try:
        Rule(settings.retention.days, forced=settings.retention.force_below_floor)
    except BelowFloor as error:
        raise UnsafeConfiguration(f"retention.days: {error} (retention.force_below_floor: true)") from None
    if settings.log.retention_url is not None and settings.log.kind != "postgresql":
        raise UnsafeConfiguration("log.retention_url names a role of PostgreSQL, and the log is in SQLite: drop it")


def _refuse_unsafe_keys(auth: Auth) -> None:
    if auth.admin_key is not None and not auth.admin_key.isascii():
        raise UnsafeConfiguration("AGENTGATE_ADMIN_API_KEY must be ASCII: headers carry nothing else reliably")
    known = {key_sha256(secret) for secret in DEFAULT_SECRETS}
    seen = {key_sha256(auth.admin_key): "the admin key"} if auth.admin_key is not None else {}
    ids: set[str] = set()
    for key in auth.keys:
        if key.sha256 in known:
            raise UnsafeConfiguration(f"auth.keys: {key.id} is a default that everybody knows; make a random one")
        if key.sha256 in seen:
            raise UnsafeConfiguration(f"auth.keys: {key.id} is the same key as {seen[key.sha256]}; give each its own")
        if key.id in ids:
            raise UnsafeConfiguration(f"auth.keys: there are two keys with the id {key.id}")
        seen[key.sha256] = key.id
        ids.add(key.id)


def refuse_public_without_keys(settings: Settings, *, has_agent_keys: bool) -> None:
    """Without an agent key everybody who reaches the port is the principal `local`: loopback only.

    Raises:
        UnsafeConfiguration
    """
    if not has_agent_keys and not settings.is_loopback:
        raise UnsafeConfiguration(
            f"listening on {settings.server.host} without any agent key would let everybody in; "
            "make one with `agentgate keys create --agent NAME`, or listen on 127.0.0.1"
        )


def environment() -> Mapping[str, str]:
    """The process's variables, for the few parts that look a name up later: credentials, the compiler."""
    return os.environ


def signing_key_from_environment() -> str | None:
    """The HMAC key of evidence, for commands that need nothing else."""
    return os.environ.get("AGENTGATE_SIGNING_KEY")


def workers_folder(config: Settings) -> Path:
    """What the workers of a service tell each other, for as long as it runs."""
    return config.data_dir / "workers"
