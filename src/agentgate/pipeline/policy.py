"""The policy in force: loading it, reloading it, and asking what a caller may call."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentgate.core.call import Principal, Tool
from agentgate.core.decision import Ruling
from agentgate.core.errors import PolicyExternal, PolicyInvalid
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

    async def load(self, actor: str, what: str) -> Enforced:
        """Read the policy directory and enforce what it says.

        Raises:
            PolicyInvalid, PolicyNotEnforced, PolicyExternal: what was in force stays in force.
            LogUnavailable: enforced, but not recorded; the caller must not be told that all is well.
        """
        async with self._loading:
            bundle = replace(await self._source.read(), label=self._label)
            limits = _limits(bundle)
            await self._engine.enforce(bundle)
            self._limits.load(limits)
            await self._books.policy(actor, bundle.revision, what)
            return Enforced(bundle.revision, len(self._tools))

    async def start(self) -> None:
        """The first load. An engine with policies of its own keeps them; limits still come from our data."""
        try:
            await self.load("", "start")
        except PolicyExternal:
            self._limits.load(_limits(await self._source.read()))

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
