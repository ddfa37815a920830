"""What a call is counted against, by the data of the policy in force.

docs/limits.md says what each of them means. The counting itself is admission's; where that does not know what was used
(Redis lost it, or never heard of the session), the log is counted first, and nothing is let in before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from agentgate.core.amounts import ONE_CALL
from agentgate.core.budget import Budget, Period
from agentgate.core.call import Call
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.facts import Facts
from agentgate.core.tiers import DEFAULT, MINUTE_S, LimitRules, Tier
from agentgate.pipeline.limits.recount import Recount
from agentgate.pipeline.limits.toll import Toll
from agentgate.ports.containment import Admission, Admitted, Counted, NotAdmitted, Quota, RateLimit

_TRIES: Final = 3
_SESSION_ONLY: Final = Budget(Period.SESSION)
"""Limits nothing; there so that facts are counted."""


@dataclass(frozen=True, slots=True)
class _Terms:
    """What a tier says of one tool."""

    quota: Quota | None
    action: Budget | None


class RateLimits:
    """How often who may call what, and what that may use; taken from the data of the policy in force."""

    def __init__(self, window_s: float, recount: Recount | None = None) -> None:
        """`window_s` is that of `rate_limits`; tiers are per minute. Without `recount` no unknown budget is filled."""
        self.window_s = window_s
        self.rules = LimitRules()
        self._recount = recount
        self._plain: Mapping[str, Quota] = {}
        self._terms: dict[tuple[str, str], _Terms] = {}
        """Made once for each tier and each tool that something is said of; "" stands for all other tools."""

    def load(self, rules: LimitRules) -> None:
        self.rules = rules
        self._plain = {tool: Quota((RateLimit(limit, self.window_s),)) for tool, limit in rules.rate_limits.items()}
        self._terms = {}

    async def admit(
        self, admission: Admission, call: Call, seen: int, *, is_free: bool
    ) -> tuple[Admitted | NotAdmitted | Decision, Toll | None]:
        """Ask admission, once the log was counted where it must be. A Decision is a refusal that needs no asking.
        `is_free`: it counts as a request, and against no budget."""
        rules = self.rules
        if not rules.tiers and not rules.session_facts and not call.caller.tier:
            return await admission.admit(call, self._plain.get(call.tool_name), seen), None
        terms = self._terms_for(call)
        if terms is None:
            text = f"The limits of tier {call.caller.tier} are not known: the policy's data does not have it"
            return refusal(ReasonCode.BUDGET_UNKNOWN, text, "tier_unknown"), None
        if is_free and terms.quota is not None:
            limits = Quota(terms.quota.limits) if terms.quota.limits else None
            return await admission.admit(call, limits, seen), None
        if terms.quota is None or not (terms.quota.budgets or terms.action):
            return await admission.admit(call, terms.quota, seen), None
        charge = ONE_CALL._replace(bytes=len(call.arguments_json), cost=rules.costs.get(call.tool_name, 0))
        quota = Quota(terms.quota.limits, terms.quota.budgets, charge, terms.quota.wants_facts)
        toll = Toll(quota, terms.action)
        over = toll.over_alone()
        if over is not None:
            return over, None
        answer = await self._counted(admission, call, quota, seen)
        if isinstance(answer, Admitted):
            toll.facts, toll.alert = answer.facts, answer.alert or toll.alert
        return answer, toll

    async def facts(self, call: Call) -> Facts | None:
        """What the session of `call` did before, as the log says; None where policy does not want to know.

        Raises:
            LogUnavailable: also when the log takes too long to say.
        """
        if not self.rules.session_facts or self._recount is None:
            return None
        return await self._recount.facts(call)

    async def aclose(self) -> None:
        if self._recount is not None:
            await self._recount.aclose()

    async def _counted(self, admission: Admission, call: Call, quota: Quota, seen: int) -> Admitted | NotAdmitted:
        answer = await admission.admit(call, quota, seen)
        for _ in range(_TRIES):
            if not isinstance(answer, NotAdmitted) or not answer.uncounted or self._recount is None:
                break
            if not await self._recount.fill(admission, call, answer.uncounted):
                break
            answer = await admission.admit(call, quota, seen)
        return answer

    def _terms_for(self, call: Call) -> _Terms | None:
        """None: nobody knows the caller's tier."""
        name = call.caller.tier or DEFAULT
        tier = self.rules.tiers.get(name)
        if tier is None:
            if call.caller.tier:
                return None
            tier = _NO_TIER
        known = call.tool_name in tier.tools or call.tool_name in self.rules.rate_limits
        key = name, call.tool_name if known else ""
        terms = self._terms.get(key)
        if terms is None:
            terms = self._terms[key] = self._made(tier, key[1])
        return terms

    def _made(self, tier: Tier, tool: str) -> _Terms:
        limits = []
        if tool in tier.tools:
            if (per_minute := tier.tools[tool]) is not None:
                limits.append(RateLimit(per_minute, MINUTE_S))
        elif tool in self.rules.rate_limits:
            limits.append(RateLimit(self.rules.rate_limits[tool], self.window_s))
        if tier.session is not None:
            limits.append(RateLimit(tier.session, MINUTE_S, Counted.SESSION))
        if tier.agent is not None:
            limits.append(RateLimit(tier.agent, MINUTE_S, Counted.AGENT))
        budgets, wants_facts = tier.budgets, self.rules.session_facts
        if wants_facts and not any(budget.period is Period.SESSION for budget in budgets):
            budgets = (_SESSION_ONLY, *budgets)
        is_counted = limits or budgets or tier.action
        return _Terms(Quota(tuple(limits), budgets, wants_facts=wants_facts) if is_counted else None, tier.action)


_NO_TIER: Final = Tier()
