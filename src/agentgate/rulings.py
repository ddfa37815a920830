"""What the policy of a directory says, without a gateway: for who writes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, cast

from agentgate import toolservers
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.parsers.arguments import ArgumentParsers
from agentgate.adapters.policy.directory import PolicyDirectory
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.core.call import (
    AgentId,
    Call,
    Door,
    Principal,
    PrincipalKind,
    Role,
    SessionId,
    TenantId,
    Tool,
    TraceId,
    is_id,
)
from agentgate.core.decision import Decision
from agentgate.core.facts import Facts, Past
from agentgate.core.tiers import read_rules
from agentgate.kinds import make_compiler, make_redactor, make_tools, policy_path
from agentgate.pipeline.calls.checks import first_refusal
from agentgate.pipeline.policy.asking import Questions
from agentgate.pipeline.tools.serving import facts_of
from agentgate.ports.upstreams import Upstream
from agentgate.settings import Settings

_PACKS: Final = "packs/"


class CannotAsk(ValueError):
    """The question cannot be put as it was given. The text is one sentence."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One call, as `agentgate policy try` is told of it."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    agent: str = "agent"
    roles: tuple[Role, ...] = (Role.AGENT,)
    tenant: str = "default"
    tier: str = ""
    session_facts: Mapping[str, Any] | None = None
    """In the form of `input.session`; None: a session that did nothing yet."""
    is_approved: bool = False


@dataclass(frozen=True, slots=True)
class Pack:
    """A file in `packs/`."""

    name: str
    about: str
    is_on: bool


async def ask_policy(config: Settings, asked: Asked) -> tuple[Decision, str]:
    """What the gateway would decide, as far as policy has a say in it, and the revision that said so.

    Raises:
        CannotAsk: there is no such tool, or something that was given makes no sense.
        AgentGateError: the policy, or the configuration, is not one.
    """
    tools = make_tools(config, {name: cast("Upstream", _TakesAll()) for name in config.upstreams})
    source = PolicyDirectory(
        policy_path(config), {name: facts_of(tool) for name, tool in tools.items()}, compiler=make_compiler()
    )
    bundle = replace(await source.read(), label=config.policy.label)
    engine = WasmPolicyEngine()
    try:
        questions = Questions(engine, ArgumentParsers(), make_redactor(config))
        questions.load(questions.read(bundle.data))
        await engine.enforce(bundle)
        if asked.tool not in tools:
            raise CannotAsk(_no_tool(config, asked.tool))
        call = _call(asked, tools[asked.tool])
        now = SystemClock().now().replace(microsecond=0)
        is_told = read_rules(bundle.data).session_facts
        if asked.session_facts is not None and not is_told:
            raise CannotAsk('policy is not told what a session did: data.json has no "session_facts": true')
        facts = _facts(asked.session_facts or {}, now) if is_told else None
        decision = first_refusal(call) or await questions.ask(
            call, has_approval_token=asked.is_approved, now=now, facts=facts
        )
        return decision, bundle.revision
    finally:
        await engine.aclose()


def _call(asked: Asked, tool: Tool) -> Call:
    """Raises CannotAsk."""
    for what, name in (("an agent", asked.agent), ("a tenant", asked.tenant)):
        if not is_id(name):
            raise CannotAsk(f"{name[:64]!r} is no name of {what}")
    agent, tenant = AgentId(asked.agent), TenantId(asked.tenant)
    caller = Principal(PrincipalKind.AGENT, agent, tenant, frozenset(asked.roles), "api_key", tier=asked.tier)
    return Call(TraceId("try"), Door.REST, caller, SessionId("try"), tool.name, tool, asked.arguments, {})


async def packs_of(config: Settings) -> list[Pack]:
    """The packs in the policy directory, by name. Raises AgentGateError."""
    bundle = await PolicyDirectory(policy_path(config), {}, compiler=None).read()
    options = bundle.data.get("packs", {})
    found = []
    for path, text in sorted(bundle.modules.items()):
        name = path.removeprefix(_PACKS).removesuffix(".rego")
        if path.startswith(_PACKS) and "/" not in name:
            found.append(Pack(name, _first_sentence(text.decode(errors="replace")), name in options))
    return found


async def tiers_of(config: Settings) -> frozenset[str]:
    """The tiers that the policy directory's data has. Raises AgentGateError."""
    bundle = await PolicyDirectory(policy_path(config), {}, compiler=None).read()
    return frozenset(read_rules(bundle.data).tiers)


def _first_sentence(rego: str) -> str:
    """Of the comment that a file begins with."""
    words: list[str] = []
    for line in rego.splitlines():
        if not line.startswith("#") or not line.strip("# "):
            break
        words.append(line.strip("# "))
    sentence, dot, _ = " ".join(words).partition(". ")
    return sentence + dot.strip()


class _TakesAll:
    """In the place of upstreams, which nothing is sent to."""

    def validate_options(self, options: Mapping[str, Any]) -> None: ...


def _no_tool(config: Settings, name: str) -> str:
    text = f"no tool {name[:128]!r} is declared in the configuration"
    if toolservers.names(config):
        text += "; what MCP servers bring is known to a running gateway alone"
    return text


def _facts(said: Mapping[str, Any], now: datetime) -> Facts:
    """Raises CannotAsk."""
    known = {"calls", "bytes", "cost_micros", "labels", "prior"}
    if strange := sorted(said.keys() - known):
        raise CannotAsk(f"session facts have no {strange[0][:64]!r}; they may have {', '.join(sorted(known))}")
    labels, prior = said.get("labels", []), said.get("prior", {})
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise CannotAsk("labels must be a list of texts")
    if not isinstance(prior, dict) or not all(isinstance(past, dict) for past in prior.values()):
        raise CannotAsk('prior must be of the form {"TOOL": {"calls": 1, "age_s": 60}}')
    tools = {
        name: Past(_number(past, "calls", 1), now.timestamp() - _number(past, "age_s")) for name, past in prior.items()
    }
    calls, size, cost = (_number(said, name) for name in ("calls", "bytes", "cost_micros"))
    return Facts(calls, size, cost, frozenset(labels), tools)


def _number(said: Mapping[str, Any], name: str, otherwise: int = 0) -> int:
    value = said.get(name, otherwise)
    if type(value) is not int or value < 0:
        raise CannotAsk(f"{name} must be a whole number")
    return value
