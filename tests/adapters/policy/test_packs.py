"""The shipped packs on both engines, and what holds for packs as such."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agentgate.adapters.policy._compile import OpaCompiler
from agentgate.adapters.policy.opa import OpaPolicyEngine, Waits
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.core.decision import Ruling, Terms, read_ruling
from agentgate.ports.policy import PolicyEngine
from tests.contracts.policy_engine import compiled, needs_opa, question, shipped
from tests.opa_server import OPA, OpaServer, Shelf
from tests.vectors import decisions, packs

RANK = {"DENY": 0, "REQUIRE_APPROVAL": 1, "ALLOW": 2}


@pytest.fixture(scope="module")
def wasm() -> WasmPolicyEngine:
    return WasmPolicyEngine()


@pytest.fixture(scope="module")
def opa_server() -> Iterator[tuple[OpaServer, Shelf]]:
    shelf = Shelf()
    with OpaServer(shelf=shelf) as server:
        yield server, shelf
    shelf.close()


@pytest.fixture
async def opa(opa_server: tuple[OpaServer, Shelf]) -> AsyncIterator[OpaPolicyEngine]:
    server, shelf = opa_server
    engine = OpaPolicyEngine(server.url, waits=Waits(query_s=5.0), on_publish=shelf.announce)
    shelf.show(lambda: engine.published)
    yield engine
    await engine.aclose()


async def _decide(engine: PolicyEngine, asked: dict[str, Any]) -> dict[str, Any]:
    answer = await engine.query("decision", question(asked))
    assert isinstance(answer, Ruling), answer
    found: dict[str, Any] = answer.value
    assert read_ruling(answer).verdict == found["action"], "the gateway takes it as it is meant"
    return found


async def _check(engine: PolicyEngine, group: packs.Group) -> None:
    await engine.enforce(await shipped(group.data))
    for case in group.cases:
        found = await _decide(engine, case.question)
        assert found["action"] == case.action, (case.question, found)
        assert case.says in found["reason"], (case.question, found)
        if case.action == "DENY" and "allowlist" not in case.says:
            assert found["matched_rule"].startswith("pack:"), found


@pytest.mark.parametrize("group", [*packs.GROUPS, *packs.MALFORMED], ids=lambda group: group.name)
async def test_packs_decide_in_process(wasm: WasmPolicyEngine, group: packs.Group) -> None:
    await _check(wasm, group)


@needs_opa
@pytest.mark.parametrize("group", packs.GROUPS, ids=lambda group: group.name)
async def test_packs_decide_in_opa(opa: OpaPolicyEngine, group: packs.Group) -> None:
    await _check(opa, group)


@needs_opa
async def test_malformed_options_deny_in_opa_too(opa: OpaPolicyEngine) -> None:
    for group in packs.MALFORMED[::4]:
        await _check(opa, group)


@pytest.mark.parametrize("group", packs.GROUPS, ids=lambda group: group.name)
async def test_a_pack_only_takes_away(wasm: WasmPolicyEngine, group: packs.Group) -> None:
    """On every question to the shipped policy, and on every question to a pack. One that is too large for a pack to
    look through is refused."""
    asked = [vector.question for vector in decisions.VECTORS] + [case.question for case in group.cases]
    await wasm.enforce(await shipped({**group.data, "packs": {}}))
    without = [await _decide(wasm, one) for one in asked]
    await wasm.enforce(await shipped(group.data))
    for one, before in zip(asked, without, strict=True):
        answer = await wasm.query("decision", question(one))
        if not isinstance(answer, Ruling):
            assert len(question(one)) > 5_000, one
            continue
        after = answer.value
        assert RANK[after["action"]] <= RANK[before["action"]], one
        assert after["is_write_action"] == before["is_write_action"]
        if before["action"] == "DENY":
            assert after == before


GUARDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sql_guard": ("sql:postgres", {}),
    "shell_guard": ("shell", {"commands": ["ls"]}),
    "path_allow": ("path", {"under": ["/"]}),
    "domain_allow": ("url", {"domains": ["a.example"]}),
}


@pytest.mark.parametrize("pack", GUARDS)
async def test_a_guard_that_is_about_nothing_denies(wasm: WasmPolicyEngine, pack: str) -> None:
    """One whose tool is misspelt, or for which nothing is parsed, would let through all that it is there for."""
    kind, options = GUARDS[pack]
    other = "path" if kind != "path" else "shell"
    for parse, tools, action in (
        ({"file_read": {"path": kind}}, None, "ALLOW"),
        ({"file_read": {"path": kind}}, ["file_read"], "ALLOW"),
        ({"file_read": {"path": kind}}, ["file_raed"], "DENY"),
        ({"file_read": {"path": kind}}, ["file_read", "file_raed"], "DENY"),
        ({"file_read": {"path": other}}, None, "DENY"),
        ({}, None, "DENY"),
        (None, None, "DENY"),
    ):
        data = {**decisions.DATA, "packs": {pack: options if tools is None else {**options, "tools": tools}}}
        await wasm.enforce(await shipped(data if parse is None else {**data, "parse": parse}))
        found = await _decide(wasm, decisions.ask("db_query"))
        assert found["action"] == action, (parse, tools, found)
        assert action == "ALLOW" or "data.parse has no argument of that kind" in found["reason"]


async def test_terms_of_a_pack_are_those_of_the_approval(wasm: WasmPolicyEngine) -> None:
    await wasm.enforce(await shipped(packs.WRITES.data))
    answer = await wasm.query("decision", question(decisions.ask("db_insert")))
    assert isinstance(answer, Ruling)
    assert read_ruling(answer).terms == Terms(quorum=2)
    assert (answer.value["matched_rule"], answer.value["reason"]) == (
        "write_requires_approval",
        "Write requires approval",
    ), "it narrows an answer, and does not become it"


async def test_read_only_hides_what_it_denies(wasm: WasmPolicyEngine) -> None:
    await wasm.enforce(await shipped(packs.READ_ONLY.data))
    answer = await wasm.query("tools", question({"agent": {"id": "agent:bot", "roles": ["agent"]}}))
    assert isinstance(answer, Ruling)
    assert answer.value == {**dict.fromkeys((*decisions.READS, "lookup"), "allow"), "create_ticket": "approval"}


@needs_opa
async def test_a_directory_without_packs_denies_who_asks_for_them(wasm: WasmPolicyEngine) -> None:
    """The shipped agentgate.rego alone is a policy; packs that are not there are not passed over."""
    whole = await shipped()
    alone = whole.modules["agentgate.rego"].decode()
    bundle = await compiled(alone, decisions.DATA)
    await wasm.enforce(bundle)
    assert (await _decide(wasm, decisions.ask("db_query")))["action"] == "ALLOW"
    await wasm.enforce(replace(bundle, data={**decisions.DATA, "packs": {"read_only": {}}}))
    found = await _decide(wasm, decisions.ask("db_query"))
    assert (found["action"], found["reason"]) == ("DENY", "There is no pack of this name")


@pytest.mark.parametrize("depth", range(12))
async def test_a_field_is_found_at_any_depth(wasm: WasmPolicyEngine, depth: int) -> None:
    await wasm.enforce(await shipped({**decisions.DATA, "packs": {"forbidden_fields": {"fields": ["password"]}}}))
    for name, action in (("Pass-Word", "DENY"), ("word", "ALLOW")):
        value: Any = {"note": ["password", {"pass": 1, name: None}, {}, []]}
        for level in range(depth):
            value = {"a": [value], "b": 1} if level % 3 else {"c": {"d": value}}
        found = await _decide(wasm, decisions.ask("db_query", arguments=value))
        assert found["action"] == action, value


@pytest.mark.parametrize(
    "many",
    [
        {"rows": [{"id": n, "name": "x"} for n in range(2_000)]},
        {"numbers": list(range(10_000))},
        {"table": [[n, [n]] for n in range(1_000)]},
        {f"a{n}": n for n in range(600)},
    ],
    ids=["rows", "numbers", "table", "names"],
)
async def test_large_arguments_are_looked_through(wasm: WasmPolicyEngine, many: dict[str, Any]) -> None:
    await wasm.enforce(await shipped({**decisions.DATA, "packs": {"forbidden_fields": {"fields": ["password"]}}}))
    assert (await _decide(wasm, decisions.ask("db_query", arguments=many)))["action"] == "ALLOW"
    found = await _decide(wasm, decisions.ask("db_query", arguments={**many, "last": [{"password": 1}]}))
    assert found["reason"] == "The field password is forbidden"


OWN = """package agentgate.packs.own

findings := {findings}
"""


@needs_opa
@pytest.mark.parametrize(
    "findings",
    ['{{"action": "ALLOW"}}', "{1}", '["x"]', '{"a": {"reason": 1}}', "{null}", '{{"action": "deny", "reason": "x"}}'],
)
async def test_a_finding_that_is_not_understood_denies(wasm: WasmPolicyEngine, findings: str) -> None:
    base = await shipped()
    modules = {
        "agentgate.rego": base.modules["agentgate.rego"],
        "own.rego": OWN.replace("{findings}", findings).encode(),
    }
    assert OPA is not None
    bundle = replace(base, modules=modules, data={**decisions.DATA, "packs": {"own": {}}}, wasm=None)
    await wasm.enforce(replace(bundle, wasm=await OpaCompiler(OPA).compile(bundle)))
    assert (await _decide(wasm, decisions.ask("db_query")))["action"] == "DENY"


async def test_questions_at_once_keep_to_their_own(wasm: WasmPolicyEngine) -> None:
    await wasm.enforce(await shipped(packs.SQL.data))
    found = await asyncio.gather(*(_decide(wasm, case.question) for case in packs.SQL.cases))
    assert [one["action"] for one in found] == [case.action for case in packs.SQL.cases]
