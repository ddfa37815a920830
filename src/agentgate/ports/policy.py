"""What decides: policy engines and where their bundles come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.policy import PolicyBundle

Rule = Literal["decision", "tools"]
"""`agentgate/decision` decides one call; `agentgate/tools` answers `{name: "allow" | "approval"}` for a caller."""


class PolicyEngine(Protocol):
    """Evaluates the policy in force (a PDP)."""

    async def query(self, rule: Rule, question: bytes) -> Ruling | NoRuling:
        """The value of a rule for `{"input": …}` bytes. Never raises: a failure is a `NoRuling`."""
        ...

    @property
    def published_revision(self) -> str:
        """The revision that the engine is to have, whichever worker published it; "" when there is none, or where the
        engine is this process's own. Raises OSError."""
        ...

    async def enforce(self, bundle: PolicyBundle, *, instead_of: str | None = None) -> None:
        """Make `bundle` the policy in force; when this returns, `query` answers from it.

        With `instead_of`, the `published_revision` before the bundle was read, it gives way to what another worker
        published since.

        Raises:
            PolicyInvalid: it does not compile, needs a built-in that is not offered, or is not compiled;
                what was in force stays.
            PolicyNotEnforced: the engine did not take it in time; the old one may still answer.
            PolicyOvertaken: another worker published another one meanwhile.
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


class ArgumentParser(Protocol):
    """Says what a text means that is a program, a path or an address. Bounded in time and memory."""

    def prepare(self, kinds: Iterable[str]) -> None:
        """Have the parsers of these kinds at hand. Raises ValueError: there is none of such a kind."""
        ...

    def parse(self, kind: str, text: str) -> Mapping[str, Any]:
        """`{kind, ...}` as docs/policy.md has it, or `{kind, error}` for what is not understood whole. Never raises.
        What it answers must not be changed."""
        ...
