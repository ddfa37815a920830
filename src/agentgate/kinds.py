"""What can be configured, by the name of its file: settings in, concrete adapters out.

An unknown kind stops the start and names the known ones.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from agentgate import settings as configuration
from agentgate import toolservers
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.containment.local import LocalAdmission
from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.adapters.detectors.known import KnownData
from agentgate.adapters.detectors.patterns import OwnPatterns
from agentgate.adapters.exports.csv import CommaSeparated
from agentgate.adapters.exports.jsonl import JsonLines
from agentgate.adapters.exports.oscal import OscalResults
from agentgate.adapters.exports.otlp import OtlpLines
from agentgate.adapters.policy._compile import OpaCompiler, find_opa
from agentgate.adapters.policy.opa import OpaPolicyEngine, Waits
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.upstreams.demo import DEMO_TOOLS, DemoTool, DemoUpstream
from agentgate.core.call import MemberId, Tool, ToolName
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.redaction.marks import Marks
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.redaction.sensitive import Detector
from agentgate.credentials import OfProcess
from agentgate.pipeline.calls.run import Route
from agentgate.pipeline.records.audit import Forms
from agentgate.ports.containment import Admission
from agentgate.ports.upstreams import CredentialSource, Upstream
from agentgate.settings import Settings

EXPORTS: Final[Forms] = {
    "jsonl": lambda _: JsonLines(),
    "csv": lambda _: CommaSeparated(),
    "oscal": OscalResults,
    "otlp": lambda _: OtlpLines(),
}
"""The forms in which events leave the gateway, by their names."""


class KillStore(Admission, Protocol):
    """An admission that is started, and told under which name this process goes."""

    async def start(self) -> None: ...

    def rename(self, member: str) -> None: ...


def make_admission(config: Settings, *, log_id: str, member: MemberId, clock: SystemClock) -> KillStore:
    """The kill store that `containment.kind` names. Raises UnsafeConfiguration."""
    part = config.containment
    match part.kind:
        case "local":
            return LocalAdmission(member=member, clock=clock)
        case "redis":
            return RedisAdmission(part.url or "", log_id=log_id, member=member, deadline_s=part.timeout_ms / 1000)
        case _:
            raise configuration.unknown_kind("containment", part.kind, ("local", "redis"))


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
            raise configuration.unknown_kind("policy", part.kind, ("opa", "wasm"))


def make_compiler() -> OpaCompiler | None:
    binary = find_opa(configuration.environment())
    return OpaCompiler(binary) if binary is not None else None


def make_upstreams(config: Settings, source: CredentialSource) -> dict[str, Upstream]:
    """All that are configured, and the demo's for the demo tools. Raises UnsafeConfiguration."""
    made = {name: make_upstream(name, config, source) for name in config.upstreams}
    return {**made, "demo": DemoUpstream(config.data_dir / "demo")} if _offers_demo(config) else made


def _offers_demo(config: Settings) -> bool:
    """Whether the demo tools are what can be called: nothing else is configured, with or without a mistake in it."""
    return not config.tools and all(part.kind == "demo" for part in config.upstreams.values())


def make_upstream(name: str, config: Settings, source: CredentialSource) -> Upstream:
    """The upstream `name`. Raises UnsafeConfiguration."""
    part = config.upstreams[name]
    try:
        match part.kind:
            case "demo":
                return DemoUpstream(config.data_dir / "demo")
            case "http":
                from agentgate.adapters.upstreams.http import HttpUpstream  # its client is for who has such an upstream

                options = {"timeout_s": part.timeout_ms / 1000, **part.options}
                return HttpUpstream(**options)
            case toolservers.KIND:
                return _make_mcp(name, config, source)
            case _:
                raise configuration.unknown_kind(f"upstreams.{name}", part.kind, ("demo", "http", "mcp"))
    except (TypeError, ValueError) as error:
        raise UnsafeConfiguration(f"upstreams.{name}: {error}") from None


def _make_mcp(name: str, config: Settings, source: CredentialSource) -> Upstream:
    """Raises TypeError, ValueError: with a sentence, or naming a member that there is not."""
    from agentgate.adapters.upstreams.mcp import McpUpstream  # the SDK takes half a second: for who has such a server

    part = config.upstreams[name]
    options = {name: value for name, value in part.options.items() if name not in toolservers.RULES}
    if "connect_timeout_ms" in options:
        options["connect_timeout_s"] = options.pop("connect_timeout_ms") / 1000
    alias = part.session_credential or part.credential
    if alias is not None:
        options["credential"] = lambda: source.credential(alias, scope=None, ttl_s=None)
    return McpUpstream(name, schemas=JsonSchemas(), **options)


def make_redactor(config: Settings) -> Redactor:
    """What takes secrets and personal data out of whatever is recorded. Raises UnsafeConfiguration."""
    part = config.redaction
    detectors: list[Detector] = [KnownData(without=part.without)]
    if part.patterns:
        try:
            detectors.append(OwnPatterns(part.patterns))
        except ValueError as error:
            raise UnsafeConfiguration(f"redaction.patterns: {error}") from None
    try:
        return Redactor(Marks(part.mode, (part.secret or "").encode()), detectors)
    except ValueError as error:
        raise UnsafeConfiguration(str(error)) from None


def make_tools(config: Settings, upstreams: Mapping[str, Upstream]) -> dict[str, Tool]:
    """Every tool that the configuration declares, or v0.2's demo tools when it has neither tools nor upstreams for any.

    Raises:
        UnsafeConfiguration: naming the tool and what is wrong with it.
    """
    schemas = JsonSchemas()
    if _offers_demo(config):
        return {tool.name: _demo_tool(tool, schemas) for tool in DEMO_TOOLS}
    tools: dict[str, Tool] = {}
    for name, part in config.tools.items():
        upstream = upstreams.get(part.upstream)
        if upstream is None:
            raise UnsafeConfiguration(f"tools.{name}: there is no upstream {part.upstream!r}")
        if part.upstream in toolservers.names(config):
            text = f"{part.upstream} is an MCP server, which brings its tools itself (upstreams.{part.upstream}.tools)"
            raise UnsafeConfiguration(f"tools.{name}: {text}")
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


def make_routes(config: Settings, upstreams: Mapping[str, Upstream], source: CredentialSource) -> dict[str, Route]:
    routes = {}
    for name, upstream in upstreams.items():
        part_of = config.upstreams.get(name)
        alias_of = part_of.credential if part_of is not None else None
        is_process = part_of is not None and "command" in part_of.options
        routes[name] = Route(upstream, alias_of, OfProcess(source) if is_process else source)
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


def open_private(directory: Path) -> None:
    """The data directory, for its owner only. Raises UnsafeConfiguration."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UnsafeConfiguration(f"the data directory {directory} cannot be made: {error.strerror}") from None
    if not os.access(directory, os.W_OK | os.X_OK):
        raise UnsafeConfiguration(f"the data directory {directory} cannot be written")
