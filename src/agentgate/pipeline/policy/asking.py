"""What policy is asked about a call: its arguments as the gateway's parsers read them, its labels, its session's past.

All of it by the data of the policy in force, which a load replaces whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from agentgate.core.call import Call
from agentgate.core.decision import Decision, read_ruling
from agentgate.core.errors import PolicyInvalid
from agentgate.core.event import rfc3339
from agentgate.core.facts import Facts
from agentgate.core.labels import OF_UNREAD, LabelRules, of_findings, read_labels
from agentgate.core.parsing import ParseRules, read_parse, texts_of
from agentgate.core.policy import policy_question
from agentgate.core.redaction.redactor import Redactor
from agentgate.ports.policy import ArgumentParser, PolicyEngine

_NOT_TEXT: Final = "not a text, nor a list of a few texts"


@dataclass(frozen=True, slots=True)
class AskRules:
    """What the policy's data says of how it wants to be asked."""

    parse: ParseRules = field(default_factory=dict)
    labels: LabelRules = field(default_factory=LabelRules)


class Questions:
    """Asks policy about calls, and labels what came of them."""

    def __init__(self, engine: PolicyEngine, parser: ArgumentParser, redactor: Redactor) -> None:
        self._engine = engine
        self._parser = parser
        self._redactor = redactor
        self._rules = AskRules()

    def read(self, data: Mapping[str, Any]) -> AskRules:
        """The rules in a policy's data, with the parsers that they need at hand. Raises PolicyInvalid."""
        if not isinstance(data.get("packs", {}), dict):
            raise PolicyInvalid("data.packs must map packs to their options")
        rules = AskRules(read_parse(data), read_labels(data))
        for tool, arguments in rules.parse.items():
            try:
                self._parser.prepare(arguments.values())
            except (ValueError, ImportError, OSError) as error:  # also a parser that cannot be loaded: no file is left
                raise PolicyInvalid(f"data.parse.{tool}: {error}") from error
        return rules

    def load(self, rules: AskRules) -> None:
        self._rules = rules

    async def ask(self, call: Call, *, has_approval_token: bool, now: datetime, facts: Facts | None) -> Decision:
        """What policy says about a call. `facts` are its session's past, where policy wants it."""
        wanted = self._rules.parse.get(call.tool_name)
        question = policy_question(
            call,
            has_approval_token=has_approval_token,
            now=rfc3339(now),
            labels=self._rules.labels.of(call.tool) if call.tool is not None else (),
            past=facts.for_policy(now.timestamp()) if facts is not None else None,
            parsed=self._parsed(call, wanted) if wanted is not None else None,
        )
        return read_ruling(await self._engine.query("decision", question))

    def labels(self, call: Call, result: bytes) -> tuple[str, ...]:
        """What kinds of data a session has touched by this call, as its tool said them: before anything is redacted."""
        rules = self._rules.labels
        labels = rules.of(call.tool) if call.tool is not None else ()
        if not rules.of_results:
            return labels
        kinds = self._redactor.classes(result)
        found = OF_UNREAD if kinds is None else of_findings(kinds)
        return tuple(dict.fromkeys((*labels, *found)))

    def _parsed(self, call: Call, wanted: Mapping[str, str]) -> dict[str, list[Mapping[str, Any]]]:
        parsed: dict[str, list[Mapping[str, Any]]] = {}
        for argument, kind in wanted.items():
            texts = texts_of(call.arguments, argument)
            if texts is None:
                parsed[argument] = [{"kind": kind.partition(":")[0], "error": _NOT_TEXT}]
            elif texts:
                parsed[argument] = [self._parser.parse(kind, text) for text in texts]
        return parsed
