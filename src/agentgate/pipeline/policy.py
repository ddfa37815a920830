"""The policy in force: loading it, reloading it, and asking what a caller may call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentgate.core.call import Principal, Tool
from agentgate.core.decision import Ruling
from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced
from agentgate.core.policy import PolicyBundle
from agentgate.core.strict_json import canonical_plain
from agentgate.pipeline.control import Books, Containment
from agentgate.pipeline.gate import RateLimits
from agentgate.ports import PolicyEngine, PolicySource


@dataclass(frozen=True, slots=True)
class Enforced:
    """What a load or reload put in force."""

    revision: str
    tools_count: int


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A bundle that was published and not in force in time: it will be, once the engine answers again."""

    revision: str
    limits: Mapping[str, int]
    actor: str
    what: str


class PolicyDesk:
    """Loads bundles into the engine. One load at a time; a failed one changes nothing."""

    def __init__(
        self,
        *,
        engine: PolicyEngine,
        source: PolicySource,
        limits: RateLimits,
        books: Books,
        containment: Containment,
        tools: Mapping[str, Tool],
        label: str,
    ) -> None:
        self._engine = engine
        self._source = source
        self._limits = limits
        self._books = books
        self._containment = containment
        self._tools = tools
        self._label = label
        self._loading = asyncio.Lock()
        self._awaited: _Awaited | None = None

    async def load(self, actor: str, what: str) -> Enforced:
        """Read the policy directory and enforce what it says.

        Raises:
            PolicyInvalid, PolicyNotEnforced, PolicyExternal: what was in force stays in force.
            LogUnavailable: enforced, but not recorded; the caller must not be told that all is well.
        """
        async with self._loading:
            bundle = replace(await self._source.read(), label=self._label)
            limits = _limits(bundle)
            awaited = _Awaited(bundle.revision, limits, actor, what)
            try:
                await self._engine.enforce(bundle)
            except PolicyNotEnforced:
                self._awaited = awaited
                raise
            await self._in_force(awaited)
            return Enforced(bundle.revision, len(self._tools))

    async def prepare(self) -> None:
        """Limits before the first call: an engine elsewhere may be deciding already. Raises PolicyInvalid."""
        self._limits.load(_limits(await self._source.read()))

    async def settle(self) -> None:
        """Once a second: what came into force after its load had given up is taken over whole.

        Raises:
            LogUnavailable: not recorded yet; the next round tries again.
        """
        awaited = self._awaited
        if awaited is None or self._loading.locked():
            return
        if await self._engine.revision() == awaited.revision and self._awaited is awaited:
            await self._in_force(awaited)

    async def _in_force(self, awaited: _Awaited) -> None:
        self._limits.load(awaited.limits)
        self._awaited = awaited
        await self._books.policy(awaited.actor, awaited.revision, awaited.what)
        self._awaited = None

    async def start(self) -> None:
        """The first load. An engine with policies of its own keeps them; limits still come from our data."""
        try:
            await self.load("", "start")
        except PolicyExternal:
            await self.prepare()

    async def tools_for(self, caller: Principal) -> list[str] | None:
        """Names the caller may call without approval and that no kill covers; None when policy does not say."""
        question = canonical_plain(
            {
                "input": {
                    "agent": {
                        "id": caller.name,
                        "kind": caller.kind.value,
                        "roles": sorted(role.value for role in caller.roles),
                        "tenant": caller.tenant,
                    }
                }
            }
        )
        answer = await self._engine.query("tools", question)
        if not isinstance(answer, Ruling) or not isinstance(answer.value, dict):
            return None
        return [
            name
            for name, tool in self._tools.items()
            if answer.value.get(name) == "allow" and not self._containment.kills_tool(caller, name, tool.upstream)
        ]


def _limits(bundle: PolicyBundle) -> dict[str, int]:
    """`rate_limits` of the bundle's data, checked.

    Raises:
        PolicyInvalid: a limit that is not a whole number of calls.
    """
    limits = bundle.data.get("rate_limits", {})
    if not isinstance(limits, dict):
        raise PolicyInvalid("data.rate_limits must map tool names to numbers of calls")
    for tool, limit in limits.items():
        if type(limit) is not int or not 1 <= limit <= 1_000_000:
            raise PolicyInvalid(f"data.rate_limits.{tool} must be a whole number of calls from 1 to 1000000")
    return dict(limits)
