"""What docs/policy.md shows is understood by the gateway, does what the page says, and names what there is."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from agentgate.adapters.parsers.arguments import ArgumentParsers
from agentgate.adapters.policy._compile import OpaCompiler
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.core.decision import Ruling
from agentgate.core.policy import ROOTS
from agentgate.core.tiers import read_rules
from agentgate.pipeline.policy.asking import Questions
from tests.contracts.policy_engine import POLICIES, needs_opa, question, shipped
from tests.fakes import REDACTOR, FakeEngine
from tests.opa_server import OPA
from tests.vectors.decisions import ask
from tests.vectors.packs import FACTS

PAGE = (Path(__file__).parents[1] / "docs" / "policy.md").read_text(encoding="utf-8")
EXAMPLE = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])
OWN = re.findall(r"```rego\n(.*?)```", PAGE, re.DOTALL)[0]
DATA = json.loads((POLICIES / "data.json").read_text(encoding="utf-8"))
FACTS_OF_S = {"id": "s", **FACTS}


async def _decision(engine: WasmPolicyEngine, asked: dict[str, object]) -> tuple[str, str]:
    answer = await engine.query("decision", question(asked))
    assert isinstance(answer, Ruling), answer
    return answer.value["action"], answer.value["reason"]


async def test_the_example_is_understood_and_in_force() -> None:
    data = DATA | EXAMPLE
    assert set(data) <= set(ROOTS)
    assert read_rules(data).session_facts is True
    rules = Questions(FakeEngine(), ArgumentParsers(), REDACTOR).read(data)
    assert rules.labels.servers == {"crm": ("private",)}
    engine = WasmPolicyEngine()
    await engine.enforce(await shipped(data))
    monday = {"session": FACTS_OF_S, "time": "2026-11-23T10:00:00Z", "tool": {}}
    assert await _decision(engine, ask("api_get", **monday)) == ("ALLOW", "Read-only tool")
    assert await _decision(engine, ask("db_insert", **monday)) == ("REQUIRE_APPROVAL", "Write requires approval")
    sunday = {**monday, "time": "2026-11-22T10:00:00Z"}
    assert await _decision(engine, ask("db_insert", **sunday)) == ("DENY", "Outside of working hours")


@needs_opa
async def test_the_pack_of_your_own_does_what_the_page_says() -> None:
    assert OPA is not None
    base = await shipped(DATA | {"packs": {"ours": {}}})
    bundle = replace(base, modules={**base.modules, "packs/ours.rego": OWN.encode()}, wasm=None)
    engine = WasmPolicyEngine()
    await engine.enforce(replace(bundle, wasm=await OpaCompiler(OPA).compile(bundle)))
    monday = {"time": "2026-11-23T10:00:00Z", "tool": {}}
    saved = {**FACTS_OF_S, "prior": {"file_write": {"calls": 1, "age_s": 600}}}
    late = {**FACTS_OF_S, "prior": {"file_write": {"calls": 1, "age_s": 601}}}
    assert (await _decision(engine, ask("db_update", session=saved, **monday)))[0] == "REQUIRE_APPROVAL"
    for session in (late, FACTS_OF_S, {"id": "s"}):
        assert await _decision(engine, ask("db_update", session=session, **monday)) == ("DENY", "Make a backup first")
    sunday = {"time": "2026-11-22T10:00:00Z", "tool": {}}
    assert (await _decision(engine, ask("db_query", **sunday)))[0] == "REQUIRE_APPROVAL"


@pytest.mark.parametrize("folder", ["packs", "lib"])
def test_every_pack_and_library_is_on_the_page(folder: str) -> None:
    for path in (POLICIES / folder).glob("*.rego"):
        if not path.name.endswith("_test.rego"):
            assert f"`{path.stem}`" in PAGE, path.name


@pytest.mark.parametrize("path", sorted((POLICIES / "packs").glob("*.rego")), ids=lambda path: path.stem)
def test_every_option_of_a_pack_is_on_the_page(path: Path) -> None:
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{path.stem}` |"))
    for option in re.findall(
        r'"(\w+)": "(?:names|numbers|flag|text|action|terms)!?"', path.read_text(encoding="utf-8")
    ):
        assert f"`{option}`" in row, option
