"""What every policy engine promises. An adapter's test subclasses `PolicyEngineContract` and provides `engine`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.policy._compile import OpaCompiler
from agentgate.adapters.policy.directory import PolicyDirectory
from agentgate.core.decision import NoRuling, Ruling, Verdict, read_ruling
from agentgate.core.errors import PolicyInvalid, ReasonCode
from agentgate.core.policy import PolicyBundle
from agentgate.core.strict_json import canonical
from agentgate.ports.policy import PolicyEngine
from tests.opa_server import NO_OPA, OPA
from tests.vectors import builtins, decisions

POLICIES = Path(__file__).resolve().parents[2] / "policies"

needs_opa = pytest.mark.skipif(OPA is None, reason=NO_OPA)


async def shipped(data: Mapping[str, Any] = decisions.DATA) -> PolicyBundle:
    """The shipped Rego with its committed compiled form, over other data."""
    return replace(await PolicyDirectory(POLICIES, {}, compiler=None).read(), data=data)


async def compiled(source: str, data: Mapping[str, Any] | None = None) -> PolicyBundle:
    """A policy of a test's own. Needs OPA."""
    assert OPA is not None, NO_OPA
    bundle = PolicyBundle({"test.rego": source.encode()}, data or {}, None)
    return replace(bundle, wasm=await OpaCompiler(OPA).compile(bundle))


def question(value: Any) -> bytes:
    return b'{"input":%b}' % canonical(value)


def in_policy(body: str) -> str:
    return f"package agentgate\n\n{body}\n\ntools := {{}}\n"


BROKEN = PolicyBundle({"broken.rego": b"package agentgate\n\ndecision := {\n"}, {}, None)


class PolicyEngineContract:
    """Three fixtures: `engine` has `shipped()` in force, `echo` has ECHO, `builtin_engine` has builtins.POLICY."""

    async def test_revision_is_that_of_the_bundle_in_force(self, engine: PolicyEngine) -> None:
        bundle = await shipped()
        assert await engine.revision() == bundle.revision
        answer = await engine.query("decision", question(decisions.ask("db_query")))
        assert isinstance(answer, Ruling)
        assert answer.revision == bundle.revision

    @pytest.mark.parametrize("vector", decisions.VECTORS, ids=lambda vector: vector.name)
    async def test_decides(self, engine: PolicyEngine, vector: decisions.Vector) -> None:
        answer = await engine.query("decision", question(vector.question))
        assert isinstance(answer, Ruling), answer
        assert answer.value == vector.answer
        assert read_ruling(answer).verdict == vector.answer["action"]

    @pytest.mark.parametrize(("name", "asked", "tools"), decisions.TOOLS, ids=[name for name, _, _ in decisions.TOOLS])
    async def test_lists_tools(self, engine: PolicyEngine, name: str, asked: Any, tools: Mapping[str, str]) -> None:
        answer = await engine.query("tools", question(asked))
        assert isinstance(answer, Ruling)
        assert answer.value == tools

    async def test_questions_at_once_do_not_mix(self, engine: PolicyEngine) -> None:
        asked = [vector for vector in decisions.VECTORS if len(canonical(vector.question)) < 2_000]
        answers = await asyncio.gather(*(engine.query("decision", question(one.question)) for one in asked))
        assert [answer.value for answer in answers if isinstance(answer, Ruling)] == [one.answer for one in asked]

    async def test_new_data_is_a_new_revision_and_decides(self, engine: PolicyEngine) -> None:
        before = await engine.revision()
        bundle = await shipped({**decisions.DATA, "roles": {"agent": {"deny": ["db_query"]}}})
        await engine.enforce(bundle)
        assert before != bundle.revision == await engine.revision()
        answer = await engine.query("decision", question(decisions.ask("db_query")))
        assert answer == Ruling(decisions.CLOSED, bundle.revision)

    async def test_data_without_lists_denies(self, engine: PolicyEngine) -> None:
        await engine.enforce(await shipped({}))
        answer = await engine.query("decision", question(decisions.ask("db_query")))
        assert isinstance(answer, Ruling)
        assert answer.value == decisions.UNKNOWN

    async def test_a_broken_policy_changes_nothing(self, engine: PolicyEngine) -> None:
        before = await engine.revision()
        with pytest.raises(PolicyInvalid):
            await engine.enforce(BROKEN)
        assert await engine.revision() == before
        answer = await engine.query("decision", question(decisions.ask("db_query")))
        assert isinstance(answer, Ruling)
        assert answer.value == decisions.READ

    @needs_opa
    async def test_an_undefined_rule_is_a_reason_of_its_own(self, engine: PolicyEngine) -> None:
        await engine.enforce(await compiled(in_policy('decision := {"action": "ALLOW", "reason": ""} if input.x')))
        answer = await engine.query("decision", question({}))
        assert isinstance(answer, NoRuling)
        assert answer.reason is ReasonCode.POLICY_UNDEFINED

    @needs_opa
    @pytest.mark.parametrize("text", decisions.FORGERIES, ids=range(len(decisions.FORGERIES)))
    async def test_an_echo_comes_back_unchanged(self, echo: PolicyEngine, text: str) -> None:
        """What an agent wrote can stand in a reason, and cannot leave it."""
        answer = await echo.query("decision", question({"text": text, "map": {text: text}}))
        assert isinstance(answer, Ruling), answer
        assert answer.value == {"action": "DENY", "reason": text, "matched_rule": "echo", "keys": [text]}
        assert read_ruling(answer).verdict is Verdict.DENY

    @needs_opa
    @pytest.mark.parametrize(
        "body",
        [
            'decision := "ALLOW"',
            "decision := true",
            'decision := [{"action": "ALLOW", "reason": ""}]',
            'decision := {"action": "allow", "reason": ""}',
            'decision := {"action": "ALLOW"}',
            'decision := {"action": ["ALLOW"], "reason": ""}',
            'decision := {"action": "ALLOW", "reason": "", "is_write_action": "no"}',
            'decision := {"action": "ALLOW", "reason": "", "credential_ttl": 1.5}',
        ],
    )
    async def test_an_answer_of_another_shape_allows_nothing(self, engine: PolicyEngine, body: str) -> None:
        await engine.enforce(await compiled(in_policy(body)))
        decision = read_ruling(await engine.query("decision", question({})))
        assert decision.verdict is Verdict.DENY
        assert decision.reason_code is ReasonCode.POLICY_MALFORMED

    @needs_opa
    async def test_two_rules_that_disagree_are_no_decision(self, engine: PolicyEngine) -> None:
        body = (
            'decision := {"action": "ALLOW", "reason": "a"} if input.a\n\n'
            'decision := {"action": "DENY", "reason": "b"} if input.b'
        )
        await engine.enforce(await compiled(in_policy(body)))
        answer = await engine.query("decision", question({"a": 1, "b": 1}))
        assert isinstance(answer, NoRuling)
        assert answer.reason is ReasonCode.POLICY_ERROR
        again = await engine.query("decision", question({"b": 1}))
        assert isinstance(again, Ruling)

    @needs_opa
    @pytest.mark.parametrize(
        ("name", "arguments", "value"),
        builtins.VECTORS,
        ids=[f"{name}-{number}" for number, (name, _, _) in enumerate(builtins.VECTORS)],
    )
    async def test_built_in(self, builtin_engine: PolicyEngine, name: str, arguments: Any, value: Any) -> None:
        answer = await builtin_engine.query("decision", raw_question({"name": name, "args": arguments}))
        if value is builtins.FAILS:
            assert isinstance(answer, NoRuling), answer
            assert answer.reason is ReasonCode.POLICY_ERROR
        else:
            assert isinstance(answer, Ruling), answer
            assert answer.value == {"value": value}

    @needs_opa
    async def test_one_evaluation_sees_one_time(self, builtin_engine: PolicyEngine) -> None:
        answer = await builtin_engine.query("decision", question({"name": "now twice"}))
        assert isinstance(answer, Ruling)
        assert answer.value["value"] > builtins.NOON - 10**18

    @needs_opa
    async def test_a_deny_rule_whose_built_in_fails_does_not_fail_open(self, engine: PolicyEngine) -> None:
        body = (
            'default decision := {"action": "ALLOW", "reason": "nothing against it"}\n\n'
            'decision := {"action": "DENY", "reason": "expired"} if time.parse_rfc3339_ns(input.until) < 1'
        )
        await engine.enforce(await compiled(in_policy(body)))
        decision = read_ruling(await engine.query("decision", question({"until": "yesterday"})))
        assert decision.verdict is Verdict.DENY
        assert decision.reason_code is ReasonCode.POLICY_ERROR


def raw_question(value: Any) -> bytes:
    """Nanoseconds are beyond what a caller may send as a number, but not beyond what Rego computes with."""
    return b'{"input":%b}' % json.dumps(value, ensure_ascii=False).encode()


ECHO = in_policy(
    'decision := {"action": "DENY", "reason": input.text, "matched_rule": "echo", "keys": [k | some k, _ in input.map]}'
)
