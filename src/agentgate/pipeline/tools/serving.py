"""Puts accepted tools where calls find them, once the policy in force knows them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from agentgate.core.call import Access, Tool
from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced
from agentgate.pipeline.policy.desk import TOOLS
from agentgate.pipeline.tools.offers import Offer, ServerRules
from agentgate.pipeline.tools.registry import Registry

logger = logging.getLogger("agentgate.tools")

_ROUNDS_OF_REST: Final = 5
"""Seconds between two tries to load a policy that failed."""


class Policies(Protocol):
    """What is needed of the policy desk."""

    known_tools: Mapping[str, Any] | None

    async def load(self, actor: str, what: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A tool server of the configuration: what is said of its tools, and what stands for it beside them."""

    rules: ServerRules
    operations: Mapping[str, Tool]
    """What is no tool but can be called: resources, prompts, completions, by their names."""


def facts_of(tool: Tool) -> dict[str, Any]:
    """What policy's data say of a tool."""
    return _facts(tool.name, tool.access, tool.upstream, tool.labels)


def _facts(name: str, access: Access, upstream: str, labels: Sequence[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "access": access.value, "upstream": upstream}
    return facts | ({"labels": list(labels)} if labels else {})


class ToolServing:
    """What policy and calls know of tools."""

    def __init__(
        self, servers: Mapping[str, Served], registry: Registry, policy: Policies, facts: dict[str, dict[str, Any]]
    ) -> None:
        """`facts` is what the policy source takes the tools from; it is kept here."""
        self._servers = servers
        self._registry = registry
        self._policy = policy
        self._facts = facts
        self.fixed: dict[str, Tool] = dict(registry)
        """What there is whatever servers say: declared tools, and the servers' operations."""
        for served in servers.values():
            self.fixed |= served.operations
        self._fixed_facts = {name: facts_of(tool) for name, tool in self.fixed.items()}
        self._rest = 0
        self.trouble: str | None = None
        """Why accepted tools are not served, for health."""
        facts.clear()
        facts.update(self._fixed_facts)

    def know(self, offers: Sequence[Offer]) -> None:
        """Have policy's next load bring what is offered now."""
        facts = self._fixed_facts | {offer.name: self._facts_of(offer) for offer in offers if offer.in_policy}
        if facts != self._facts:
            self._facts.clear()
            self._facts.update(facts)
            self._rest = 0

    def _facts_of(self, offer: Offer) -> dict[str, Any]:
        labels = self._servers[offer.server].rules.labels_of(offer.tool)
        return _facts(offer.name, offer.access, offer.server, labels)

    async def enforce(self) -> bool:
        """Have the policy know the tools that are to be served; whether it was asked to. One that cannot be loaded
        serves no new tool."""
        if self._policy.known_tools in (None, self._facts):
            self.trouble = None
            return False
        if self._policy.known_tools == {}:
            return False  # the first policy is not in force yet
        if self._rest > 0:
            self._rest -= 1
            return False
        try:
            await self._policy.load("", TOOLS)
            self.trouble = None
        except PolicyExternal:
            self._policy.known_tools = None
        except (PolicyInvalid, PolicyNotEnforced) as error:
            self.trouble, self._rest = f"the policy cannot be loaded: {error}", _ROUNDS_OF_REST
            logger.error("accepted tools are not served yet, because %s", self.trouble)
        return True

    def serve(self, offers: Sequence[Offer]) -> list[str]:
        """Put into the registry what was accepted, as far as the policy in force knows it; the servers of which other
        tools are served now."""
        changed: list[str] = []
        known = self._policy.known_tools
        for name, served in self._servers.items():
            tools = dict(served.operations)
            for offer in offers:
                is_known = known is None or known.get(offer.name) == self._facts_of(offer)
                if offer.server == name and offer.made is not None and is_known:
                    tools[offer.name] = offer.made
            before = self._registry.of_server(name)
            if {key: (tool, tool.quarantine) for key, tool in before.items()} != {
                key: (tool, tool.quarantine) for key, tool in tools.items()
            }:
                self._registry.serve(name, tools)
                changed.append(name)
        return changed
