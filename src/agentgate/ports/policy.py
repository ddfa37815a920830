"""What decides: policy engines and where their bundles come from."""

from __future__ import annotations

from typing import Literal, Protocol

from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.policy import PolicyBundle

Rule = Literal["decision", "tools"]
"""`agentgate/decision` decides one call; `agentgate/tools` answers `{name: "allow" | "approval"}` for a caller."""


class PolicyEngine(Protocol):
    """Evaluates the policy in force (a PDP)."""

    async def query(self, rule: Rule, question: bytes) -> Ruling | NoRuling:
        """The value of a rule for `{"input": …}` bytes. Never raises: a failure is a `NoRuling`."""
        ...

    async def enforce(self, bundle: PolicyBundle) -> None:
        """Make `bundle` the policy in force; when this returns, `query` answers from it.

        Raises:
            PolicyInvalid: it does not compile, needs a built-in that is not offered, or is not compiled;
                what was in force stays.
            PolicyNotEnforced: the engine did not take it in time; the old one may still answer.
            PolicyExternal: the engine runs its own policies.
        """
        ...

    async def revision(self) -> str | None:
        """The revision that is enforced now, or None when the engine does not answer."""
        ...

    async def aclose(self) -> None: ...


class PolicySource(Protocol):
    """Where bundles come from."""

    async def read(self) -> PolicyBundle:
        """The bundle as it stands in the policy directory now, compiled if a compiler is at hand.

        Raises:
            PolicyInvalid: unreadable, not Rego, or data that is not strict JSON.
        """
        ...
