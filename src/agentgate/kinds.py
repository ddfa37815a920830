"""What can be configured, by the name of its file: settings in, concrete adapters out.

An unknown kind stops the start and names the known ones. Only `app.py` uses this.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from agentgate import settings as configuration
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.containment.local import LocalAdmission
from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.adapters.credentials.env import EnvCredentials
from agentgate.adapters.log._integrator import CheckpointSigner
from agentgate.adapters.log.sqlite import SqliteLog
from agentgate.adapters.log.sqlite import verify as verify_sqlite
from agentgate.adapters.notify.webhook import SilentNotifier, WebhookNotifier
from agentgate.adapters.policy._compile import OpaCompiler, find_opa
from agentgate.adapters.policy.opa import OpaPolicyEngine, Waits
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.upstreams.demo import DEMO_TOOLS, DemoTool, DemoUpstream
from agentgate.adapters.upstreams.http import HttpUpstream
from agentgate.core.audit import Report
from agentgate.core.call import MemberId, Tool, ToolName
from agentgate.core.errors import LogUnavailable, UnsafeConfiguration
from agentgate.core.note import NoteKey
from agentgate.pipeline.run import Route
from agentgate.ports import Admission, CredentialSource, Log, LogReader, Notifier, Upstream
from agentgate.settings import Settings


class KillStore(Admission, Protocol):
    """An admission that is started, and told under which name this process goes."""

    async def start(self) -> None: ...

    def rename(self, member: str) -> None: ...


def _unknown(what: str, kind: str, known: Iterable[str]) -> UnsafeConfiguration:
    return UnsafeConfiguration(f"{what}: there is no kind {kind!r}; there is {', '.join(sorted(known))}")


class LogStore(Log, LogReader, Protocol):
    """A log that is opened."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes may append to it at the same time."""
        ...

    async def integrate(self) -> None:
        """Have a checkpoint over everything that is durable now. Raises LogUnavailable."""
        ...


async def make_log(config: Settings, signer: CheckpointSigner) -> LogStore:
    """The log at `log.url`, opened.

    Raises:
        UnsafeConfiguration, LogBroken, LogUnavailable: it cannot be used; the text says why.
    """
    part = config.log
    match part.kind:
        case "sqlite":
            return await SqliteLog.open(_sqlite_path(config), signer, part.origin)
        case "postgresql":
            from agentgate.adapters.log.postgresql import PostgresLog  # its driver is for who has PostgreSQL

            witness = config.data_dir / "log.checkpoint"
            return await PostgresLog.open(part.url or "", signer, part.origin, witness=witness)
        case _:
            raise _unknown("log", part.kind, ("postgresql", "sqlite"))


async def check_log(config: Settings, key: NoteKey) -> Report:
    """Derive the log at `log.url` again, with or without gateways that write to it.

    Raises:
        LogUnavailable, UnsafeConfiguration: there is no log, or it cannot be read.
    """
    part = config.log
    match part.kind:
        case "sqlite":
            path = _sqlite_path(config)
            if not path.is_file():
                raise LogUnavailable(f"there is no log at {path}")
            return await verify_sqlite(path, part.origin, [key])
        case "postgresql":
            from agentgate.adapters.log import postgresql  # as in `make_log`

            return await postgresql.verify(part.url or "", part.origin, [key])
        case _:
            raise _unknown("log", part.kind, ("postgresql", "sqlite"))


async def migrate_log(config: Settings, *, to: str, drop_events: bool) -> list[str]:
    """Bring the schema of a PostgreSQL log to a revision; what was done.

    Raises:
        UnsafeConfiguration, LogUnavailable
    """
    if config.log.kind != "postgresql":
        raise UnsafeConfiguration(
            "only a log in PostgreSQL is migrated (SQLite makes its schema itself); name the database: --database-url postgresql://…"
        )
    from agentgate.adapters.log._migrate import migrate  # as in `make_log`

    return await migrate(config.log.url or "", to=to, drop_events=drop_events)


def _sqlite_path(config: Settings) -> Path:
    url = config.log.url
    if url is None:
        return config.data_dir / "log.db"
    if not url.startswith("sqlite:///"):
        raise UnsafeConfiguration("log.url: a SQLite file is named as sqlite:///PATH")
    return Path(url.removeprefix("sqlite:///"))


def make_admission(config: Settings, *, log_id: str, member: MemberId, clock: SystemClock) -> KillStore:
    """The kill store that `containment.kind` names. Raises UnsafeConfiguration."""
    part = config.containment
    match part.kind:
        case "local":
            return LocalAdmission(member=member, clock=clock)
        case "redis":
            return RedisAdmission(part.url or "", log_id=log_id, member=member, deadline_s=part.timeout_ms / 1000)
        case _:
            raise _unknown("containment", part.kind, ("local", "redis"))


def make_engine(config: Settings) -> WasmPolicyEngine | OpaPolicyEngine:
    """The policy engine that `policy.kind` names. Raises UnsafeConfiguration."""
    part = config.policy
    match part.kind:
        case "wasm":
            return WasmPolicyEngine()
        case "opa":
            waits = Waits(query_s=part.timeout_ms / 1000)
            try:
                return OpaPolicyEngine(
                    part.url or "",
                    waits=waits,
                    ca_file=part.ca_file,
                    token=part.token,
                    compiler=make_compiler(),
                    shelf=workers_file(config, "bundle"),
                )
            except ValueError as error:
                raise UnsafeConfiguration(f"policy.url: {error}") from None
        case _:
            raise _unknown("policy", part.kind, ("opa", "wasm"))


def make_compiler() -> OpaCompiler | None:
    binary = find_opa(configuration.environment())
    return OpaCompiler(binary) if binary is not None else None


def make_upstream(name: str, config: Settings) -> Upstream:
    """The upstream `name`. Raises UnsafeConfiguration."""
    part = config.upstreams[name]
    try:
        match part.kind:
            case "demo":
                return DemoUpstream(config.data_dir / "demo")
            case "http":
                options = {"timeout_s": part.timeout_ms / 1000, **part.options}
                return HttpUpstream(**options)
            case _:
                raise _unknown(f"upstreams.{name}", part.kind, ("demo", "http"))
    except (TypeError, ValueError) as error:
        raise UnsafeConfiguration(f"upstreams.{name}: {error}") from None


def make_notifier(config: Settings, clock: SystemClock) -> Notifier:
    """v0.2's webhook where one is configured. Raises UnsafeConfiguration."""
    if config.webhook.url is None:
        return SilentNotifier()
    try:
        return WebhookNotifier(config.webhook.url, config.webhook.secret, clock)
    except ValueError as error:
        raise UnsafeConfiguration(str(error)) from None


def make_tools(config: Settings, upstreams: Mapping[str, Upstream]) -> dict[str, Tool]:
    """Every tool that can be called: the declared ones, or v0.2's demo tools when none is declared.

    Raises:
        UnsafeConfiguration: naming the tool and what is wrong with it.
    """
    schemas = JsonSchemas()
    if not config.tools:
        return {tool.name: _demo_tool(tool, schemas) for tool in DEMO_TOOLS}
    tools: dict[str, Tool] = {}
    for name, part in config.tools.items():
        upstream = upstreams.get(part.upstream)
        if upstream is None:
            raise UnsafeConfiguration(f"tools.{name}: there is no upstream {part.upstream!r}")
        try:
            upstream.validate_options(part.options)
            check = schemas.compile(part.input_schema)
        except ValueError as error:
            raise UnsafeConfiguration(f"tools.{name}: {error}") from None
        timeout_ms = part.timeout_ms or config.upstreams[part.upstream].timeout_ms
        tools[name] = Tool(
            name=ToolName(name),
            upstream=part.upstream,
            access=part.access,
            input_schema=part.input_schema,
            description=part.description,
            options=part.options,
            timeout_s=timeout_ms / 1000,
            check=check,
        )
    return tools


def _demo_tool(tool: DemoTool, schemas: JsonSchemas) -> Tool:
    return Tool(
        name=ToolName(tool.name),
        upstream="demo",
        access=tool.access,
        input_schema=tool.input_schema,
        description=tool.description,
        timeout_s=tool.timeout_s,
        check=schemas.compile(tool.input_schema),
    )


def make_routes(config: Settings, upstreams: Mapping[str, Upstream]) -> dict[str, Route]:
    """Upstreams with their credentials. Raises UnsafeConfiguration."""
    names: dict[str, str] = {}
    for alias, part in config.credentials.items():
        if part.kind != "env":
            raise _unknown(f"credentials.{alias}", part.kind, ("env",))
        names[alias] = str(part.options.get("name", ""))
    try:
        source: CredentialSource = EnvCredentials(names, configuration.environment())
    except ValueError as error:
        raise UnsafeConfiguration(f"credentials: {error}") from None
    routes = {}
    for name, upstream in upstreams.items():
        part_of = config.upstreams.get(name)
        alias_of = part_of.credential if part_of is not None else None
        if alias_of is not None and alias_of not in config.credentials:
            raise UnsafeConfiguration(f"upstreams.{name}: there is no credential {alias_of!r}")
        routes[name] = Route(upstream, alias_of, source)
    return routes


def policy_path(config: Settings) -> Path:
    """The policy directory: the configured one, `./policies`, or the one that came with the package."""
    if config.policy.path is not None:
        return config.policy.path
    here = Path("policies")
    package = Path(__file__).parent
    candidates = (here, package / "_policies", package.parents[1] / "policies")
    return next((path for path in candidates if (path / "agentgate.rego").is_file()), here)


def admin_key(config: Settings) -> str:
    """The configured admin key, or the one that first start generates and keeps in a 0600 file."""
    if config.auth.admin_key is not None:
        return config.auth.admin_key
    path = config.data_dir / "admin.key"
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if path.stat().st_mode & 0o077:
            raise UnsafeConfiguration(f"{path} can be read by others; run: chmod 600 {path}") from None
        return path.read_text(encoding="utf-8").strip()
    key = f"agk_{secrets.token_urlsafe(32)}"
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(key)
    return key


def workers_file(config: Settings, name: str) -> Path | None:
    """A file that the workers of a service have in common; None where there is one only. Raises UnsafeConfiguration."""
    if config.server.workers == 1:
        return None
    folder = configuration.workers_folder(config)
    open_private(folder)
    return folder / name


def log_key_path(config: Settings) -> Path:
    return config.log.checkpoint_key.file if config.log.checkpoint_key else config.data_dir / "log-key.pem"


def open_private(directory: Path) -> None:
    """The data directory, for its owner only. Raises UnsafeConfiguration."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnsafeConfiguration(f"the data directory {directory} cannot be made: {error.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UnsafeConfiguration(f"the data directory {directory} cannot be written")
