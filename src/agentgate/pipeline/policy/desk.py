"""The policy in force: loading it, reloading it, and asking what a caller may call.

All members of a log enforce one policy. Whoever loads another one writes that to the log; the others see it within a
second and take it from their own policy directories. A directory that gives another one changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from agentgate.core.call import Principal, Tool
from agentgate.core.decision import Ruling
from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced, PolicyOvertaken
from agentgate.core.event import Kind
from agentgate.core.policy import PolicyBundle
from agentgate.core.strict_json import canonical_plain
from agentgate.core.tiers import LimitRules, read_rules
from agentgate.pipeline.containment.control import Containment
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.policy.asking import AskRules, Questions
from agentgate.pipeline.records.books import Books
from agentgate.ports.log import LogReader
from agentgate.ports.policy import PolicyEngine, PolicySource

logger = logging.getLogger("agentgate.policy")


_START = "start"
TOOLS = "tools"
"""Why policy is loaded again when what tool servers bring has changed."""
_OF_ITSELF = (_START, TOOLS)
_EVER = ("allow", "approval")
"""What policy's `tools` document says of a tool that may be called."""


@dataclass(frozen=True, slots=True)
class Enforced:
    """What a load or reload put in force."""

    revision: str
    tools_count: int


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A bundle that was published and not in force in time: it will be, once the engine answers again."""

    revision: str
    limits: LimitRules
    asks: AskRules
    tools: Mapping[str, Any]
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
        questions: Questions,
        books: Books,
        others: LogReader | None,
        containment: Containment,
        tools: Mapping[str, Tool],
        label: str,
    ) -> None:
        """`others` is the log that other members write to as well; None when there are none."""
        self._engine = engine
        self._source = source
        self._limits = limits
        self._questions = questions
        self._books = books
        self._others = others
        self._containment = containment
        self._tools = tools
        self._label = label
        self._loading = asyncio.Lock()
        self._awaited: _Awaited | None = None
        self._revision = ""
        """Of the bundle that is in force here, as far as it came from our own directory; empty before the first."""
        self._told = ""
        """What the newest policy event of any member names."""
        self._read_to = -1
        """The index of that event."""
        self.behind: str | None = None
        """The revision that the other members enforce and this one cannot; for health."""
        self.known_tools: Mapping[str, Any] | None = {}
        """What the policy in force knows of tools, by their names; None where the engine has policies of its own."""

    async def load(self, actor: str, what: str) -> Enforced:
        """Read the policy directory and enforce what it says.

        Raises:
            PolicyInvalid, PolicyNotEnforced, PolicyExternal: what was in force stays in force.
            LogUnavailable: enforced, but not recorded; the caller must not be told that all is well.
        """
        async with self._loading:
            # What a person asks for comes before what another worker published meanwhile; all else gives way to it.
            seen = self._published() if what in _OF_ITSELF else None
            bundle = await self._read()
            limits, asks = read_rules(bundle.data), self._questions.read(bundle.data)
            awaited = _Awaited(bundle.revision, limits, asks, bundle.data.get("tools", {}), actor, what)
            try:
                await self._engine.enforce(bundle, instead_of=seen)
            except PolicyOvertaken:  # it will not come into force later either
                raise
            except PolicyNotEnforced:
                self._awaited = awaited
                raise
            await self._in_force(awaited)
            return Enforced(bundle.revision, len(self._tools))

    async def _read(self) -> PolicyBundle:
        return replace(await self._source.read(), label=self._label)

    def _published(self) -> str:
        """Raises PolicyNotEnforced: what is published cannot be known."""
        try:
            return self._engine.published_revision
        except OSError as error:
            raise PolicyNotEnforced(self._revision, None) from error

    async def prepare(self) -> None:
        """Limits before the first call: an engine elsewhere may be deciding already. Raises PolicyInvalid."""
        data = (await self._source.read()).data
        limits, asks = read_rules(data), self._questions.read(data)
        self._limits.load(limits)
        self._questions.load(asks)

    async def settle(self) -> None:
        """Once a second: what came into force after its load had given up is taken over whole, and what another
        member enforces is enforced here too.

        Raises:
            LogUnavailable: not recorded or not read yet; the next round tries again.
        """
        if self._loading.locked():
            return
        awaited = self._awaited
        if awaited is not None and await self._engine.revision() == awaited.revision and self._awaited is awaited:
            await self._in_force(awaited)
        await self._hear()
        if self._told == self._revision:
            self.behind = None
        elif self._told and self._revision and not self._loading.locked():
            async with self._loading:
                await self._follow(self._told)

    async def _hear(self) -> None:
        """What the newest policy event names. Raises LogUnavailable."""
        if self._others is None:
            return
        async for record in self._others.records(first=self._read_to + 1, kinds=(Kind.POLICY.value,)):
            self._told, self._read_to = record.fields["policy_revision"], record.index

    async def _follow(self, revision: str) -> None:
        """Enforce `revision` if the policy directory gives it. What cannot be done is said once, and tried again."""
        try:
            seen = self._published()
            bundle = await self._read()
            if bundle.revision == revision:
                limits, asks = read_rules(bundle.data), self._questions.read(bundle.data)
                await self._engine.enforce(bundle, instead_of=seen)
                self._take(revision, limits, asks, bundle.data.get("tools", {}))
                logger.info("policy %s is enforced, as another member does", revision)
                return
            trouble = f"the policy directory here gives {bundle.revision}"
        except (PolicyInvalid, PolicyNotEnforced, PolicyExternal) as error:
            trouble = str(error)
        if self.behind != revision:
            logger.warning(
                "another member enforces policy %s; here it stays %s, because %s", revision, self._revision, trouble
            )
        self.behind = revision

    def _take(self, revision: str, limits: LimitRules, asks: AskRules, tools: Mapping[str, Any]) -> None:
        self._limits.load(limits)
        self._questions.load(asks)
        self.known_tools = tools
        self._revision = revision
        self.behind = None

    async def _in_force(self, awaited: _Awaited) -> None:
        self._take(awaited.revision, awaited.limits, awaited.asks, awaited.tools)
        self._awaited = awaited
        is_own_act = awaited.what not in _OF_ITSELF
        if not is_own_act:
            await self._hear()
        if is_own_act or self._told != awaited.revision:  # else another member has said so
            await self._books.policy(awaited.actor, awaited.revision, awaited.what)
            self._told = awaited.revision
        self._awaited = None

    async def start(self) -> None:
        """The first load. An engine with policies of its own keeps them; limits still come from our data."""
        try:
            await self.load("", _START)
        except PolicyExternal:
            self.known_tools = None
            await self.prepare()

    async def tools_for(self, caller: Principal) -> list[str] | None:
        """Names the caller may call without approval and that no kill covers; None when policy does not say."""
        visible = await self.visible_to(caller)
        return None if visible is None else [name for name, how in visible.items() if how == "allow"]

    async def visible_to(self, caller: Principal) -> Mapping[str, str] | None:
        """Names the caller may ever call and that neither a kill nor a quarantine covers, each with `allow` or
        `approval`; None when policy does not say."""
        ruled = await self.ruled_for(caller)
        if ruled is None:
            return None
        kills = self._containment.kills_tool
        return {
            name: how
            for name, how in ruled.items()
            if (tool := self._tools[name]).quarantine is None and not kills(caller, name, tool.upstream)
        }

    async def ruled_for(self, caller: Principal) -> Mapping[str, str] | None:
        """As `visible_to`, killed or not: what a caller whose call was stopped may know of."""
        question = canonical_plain({"input": {"agent": caller.for_policy}})
        answer = await self._engine.query("tools", question)
        if not isinstance(answer, Ruling) or not isinstance(answer.value, dict):
            return None
        how = answer.value
        return {name: how[name] for name in self._tools if how.get(name) in _EVER}
