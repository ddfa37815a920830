from __future__ import annotations

import asyncio
import random
import resource
from dataclasses import replace

import orjson
import pytest
import wasmtime

from agentgate.adapters.policy import _gofmt
from agentgate.adapters.policy._rego import Number, RegoObject, RegoSet, parse_value, print_value
from agentgate.adapters.policy._wasm_call import FastCalls, fast_calls_fit
from agentgate.adapters.policy._wasm_instance import Limits
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.errors import PolicyInvalid, ReasonCode
from agentgate.core.policy import PolicyBundle
from tests.contracts.policy_engine import (
    ECHO,
    PolicyEngineContract,
    compiled,
    in_policy,
    needs_opa,
    question,
    raw_question,
    shipped,
)
from tests.vectors import builtins, decisions

FRUGAL = 100_000
"""Enough for a call by one role, not for one by a hundred."""

READ = question(decisions.ask("db_query"))


@pytest.fixture(scope="module")
def shared() -> WasmPolicyEngine:
    """One engine for the module: it keeps the compiled module, so that a test does not pay for compiling."""
    return WasmPolicyEngine()


@pytest.fixture
async def engine(shared: WasmPolicyEngine) -> WasmPolicyEngine:
    await shared.enforce(await shipped())
    return shared


@pytest.fixture(scope="module")
def echo_bundle() -> PolicyBundle:
    return asyncio.run(compiled(ECHO))


@pytest.fixture(scope="module")
def builtin_bundle() -> PolicyBundle:
    return asyncio.run(compiled(builtins.POLICY))


@pytest.fixture
async def echo(shared: WasmPolicyEngine, echo_bundle: PolicyBundle) -> WasmPolicyEngine:
    await shared.enforce(echo_bundle)
    return shared


@pytest.fixture
async def builtin_engine(shared: WasmPolicyEngine, builtin_bundle: PolicyBundle) -> WasmPolicyEngine:
    await shared.enforce(builtin_bundle)
    return shared


class TestWasm(PolicyEngineContract):
    """The contract, in process."""


async def test_before_a_bundle_nothing_is_decided() -> None:
    engine = WasmPolicyEngine()
    answer = await engine.query("decision", READ)
    assert isinstance(answer, NoRuling)
    assert answer.reason is ReasonCode.POLICY_UNAVAILABLE
    assert await engine.revision() is None


def test_the_fast_call_is_the_one_in_use() -> None:
    """If this fails, wasmtime was updated: read _wasm_call.py against the new one before naming it there."""
    assert fast_calls_fit()


async def test_the_public_call_answers_alike(engine: WasmPolicyEngine) -> None:
    slow = WasmPolicyEngine(fast=False)
    await slow.enforce(await shipped())
    for vector in decisions.VECTORS[::7]:
        asked = question(vector.question)
        assert await slow.query("decision", asked) == await engine.query("decision", asked)


@pytest.mark.parametrize(
    "asked",
    [b"", b"{}", b'{"input":', b'{"input":}', b'{"input":{}}}', b'{"input":{}]', b'{"input":{},"x":1}', b'{"inp":{}}',
     b'{"input":{1,2}}', b'{"input":set()}', b'{"input":{"a":"\xff"}}', b'{"input":{"a":"\\ud800"}}'],
)  # fmt: skip
async def test_what_is_not_a_question_is_refused(engine: WasmPolicyEngine, asked: bytes) -> None:
    answer = await engine.query("decision", asked)
    assert isinstance(answer, NoRuling)
    assert answer.reason is ReasonCode.POLICY_ERROR
    assert isinstance(await engine.query("decision", READ), Ruling)


async def _too_expensive(engine: WasmPolicyEngine) -> bytes:
    asked = question(decisions.ask("db_query", roles=(*(f"r{n}" for n in range(200)), "agent")))
    assert isinstance(await engine.query("decision", asked), NoRuling), (
        "the policy became cheap: find a harder question"
    )
    return asked


async def test_out_of_fuel_is_refused_and_the_next_call_is_served() -> None:
    engine = WasmPolicyEngine(limits=Limits(fuel=FRUGAL))
    await engine.enforce(await shipped())
    expensive = await _too_expensive(engine)
    for _ in range(3):
        answer = await engine.query("decision", expensive)
        assert answer == NoRuling(ReasonCode.POLICY_ERROR, "wasm trap: all fuel consumed by WebAssembly")
        assert await engine.query("decision", READ) == Ruling(decisions.READ, (await shipped()).revision)


@needs_opa
async def test_a_policy_that_loops_is_cut(engine: WasmPolicyEngine) -> None:
    loop = "count([x | some x in numbers.range(1, input.n); x % 7 == 0]) >= 0"
    body = f'decision := {{"action": "ALLOW", "reason": ""}} if {loop}'
    await engine.enforce(await compiled(in_policy(body)))
    answer = await engine.query("decision", question({"n": 100_000_000}))
    assert isinstance(answer, NoRuling)
    assert answer.reason is ReasonCode.POLICY_ERROR
    assert isinstance(await engine.query("decision", question({"n": 10})), Ruling)


@needs_opa
async def test_a_policy_that_eats_memory_is_aborted() -> None:
    engine = WasmPolicyEngine(limits=Limits(fuel=10**10, memory_bytes=8 * 1024 * 1024))
    glutton = 'count(concat(",", [input.s | some x in numbers.range(1, input.n)])) > 0'
    body = f'decision := {{"action": "ALLOW", "reason": ""}} if {glutton}'
    await engine.enforce(await compiled(in_policy(body)))
    answer = await engine.query("decision", question({"s": "x" * 1000, "n": 100_000}))
    assert answer == NoRuling(ReasonCode.POLICY_ERROR, "aborted: opa_malloc: failed")
    assert isinstance(await engine.query("decision", question({"s": "x", "n": 10})), Ruling)


async def test_a_question_beyond_the_memory_cap_is_refused() -> None:
    engine = WasmPolicyEngine(limits=Limits(memory_bytes=1024 * 1024))
    await engine.enforce(await shipped())
    answer = await engine.query("decision", question(decisions.ask("db_query", arguments={"v": "x" * 2_000_000})))
    assert isinstance(answer, NoRuling)
    assert "memory cap" in answer.detail
    assert isinstance(await engine.query("decision", READ), Ruling)


async def test_a_question_of_a_megabyte_is_answered(engine: WasmPolicyEngine) -> None:
    answer = await engine.query("decision", question(decisions.ask("db_query", arguments={"v": "x" * 1_000_000})))
    assert isinstance(answer, Ruling)
    assert answer.value == decisions.READ


async def test_memory_is_flat_over_many_evaluations(engine: WasmPolicyEngine) -> None:
    dice = random.Random(7)
    asked = [question(vector.question) for vector in decisions.VECTORS]
    small = [one for one in asked if len(one) < 5_000]
    for one in asked:
        await engine.query("decision", one)
    before = engine.memory_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(200_000):
        await engine.query("decision", dice.choice(small))
    assert engine.memory_bytes == before[0]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[1] < 8 * 1024


async def test_memory_is_flat_over_many_instances() -> None:
    """Each refused call throws an instance away: an agent must not be able to fill the memory with them."""
    engine = WasmPolicyEngine(limits=Limits(fuel=FRUGAL))
    await engine.enforce(await shipped())
    expensive = await _too_expensive(engine)
    for _ in range(50):
        assert isinstance(await engine.query("decision", expensive), NoRuling)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(300):
        await engine.query("decision", expensive)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024


async def test_changed_rego_that_is_not_compiled_is_refused_naming_the_compiler(engine: WasmPolicyEngine) -> None:
    before = await engine.revision()
    with pytest.raises(PolicyInvalid, match="opa on PATH.*old revision stays in force"):
        await engine.enforce(replace(await shipped(), wasm=None))
    assert await engine.revision() == before


@pytest.mark.parametrize(
    "wasm",
    [
        b"",
        b"\0asm",
        b"x" * 100,
        b"\0asm\x01\0\0\0",
        bytes(wasmtime.wat2wasm('(module (import "env" "memory" (memory 1)))')),
    ],
    ids=["empty", "cut", "noise", "no-memory", "not-of-opa"],
)
async def test_a_module_that_is_none_of_opas_is_refused(engine: WasmPolicyEngine, wasm: bytes) -> None:
    before = await engine.revision()
    with pytest.raises(PolicyInvalid):
        await engine.enforce(replace(await shipped(), wasm=wasm))
    assert await engine.revision() == before
    assert isinstance(await engine.query("decision", READ), Ruling)


@needs_opa
async def test_a_policy_that_needs_another_built_in_is_refused_by_its_name(engine: WasmPolicyEngine) -> None:
    before = await engine.revision()
    body = 'decision := {"action": "ALLOW", "reason": http.send({"method": "get", "url": input.url}).raw_body}'
    with pytest.raises(PolicyInvalid, match=r"needs http\.send"):
        await engine.enforce(await compiled(in_policy(body)))
    assert await engine.revision() == before


@needs_opa
async def test_a_policy_without_an_entrypoint_is_refused(engine: WasmPolicyEngine) -> None:
    with pytest.raises(PolicyInvalid):
        await engine.enforce(await compiled("package agentgate\n\ndecision := 1\n"))


@needs_opa
@pytest.mark.parametrize(("name", "arguments"), builtins.NARROWER)
async def test_what_a_built_in_cannot_do_exactly_is_refused(
    builtin_engine: WasmPolicyEngine, name: str, arguments: list[object]
) -> None:
    answer = await builtin_engine.query("decision", raw_question({"name": name, "args": arguments}))
    assert isinstance(answer, NoRuling)
    assert answer.reason is ReasonCode.POLICY_ERROR


@needs_opa
async def test_the_time_is_the_injected_one(builtin_bundle: PolicyBundle) -> None:
    engine = WasmPolicyEngine(now_ns=iter(range(1, 100)).__next__)
    await engine.enforce(builtin_bundle)
    first = await engine.query("decision", question({"name": "now twice"}))
    second = await engine.query("decision", question({"name": "now twice"}))
    assert isinstance(first, Ruling)
    assert isinstance(second, Ruling)
    assert second.value["value"] == first.value["value"] + 1


async def test_concurrent_reloads_end_with_a_whole_one() -> None:
    engine = WasmPolicyEngine()
    await engine.enforce(await shipped())
    bundles = [await shipped({**decisions.DATA, "rate_limits": {"x": number}}) for number in range(8)]
    await asyncio.gather(
        *(engine.enforce(bundle) for bundle in bundles), *(engine.query("decision", READ) for _ in range(50))
    )
    assert await engine.revision() == bundles[-1].revision


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("[1,1.0,1e3]", (Number("1"), Number("1.0"), Number("1e3"))),
        ("set()", RegoSet(())),
        ("{}", RegoObject(())),
        ('{1,"a"}', RegoSet((Number("1"), "a"))),
        ('{"a":{1}}', RegoObject((("a", RegoSet((Number("1"),))),))),
        ('{{1}:["\\u0000\\"]"]}', RegoObject(((RegoSet((Number("1"),)), ('\x00"]',)),))),
    ],
)
def test_values_are_read_and_printed(text: str, value: object) -> None:
    assert parse_value(text) == value
    assert parse_value(print_value(value)) == value


@pytest.mark.parametrize(
    "text", ["", "nul", "[1", "[1 2]", '{"a":1,2}', '{"a"', "1 2", "[1]]", '"\n"', "tru", "{:1}", "-"]
)
def test_what_is_no_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_value(text)


def test_a_character_that_this_unicode_does_not_know_is_not_quoted() -> None:
    with pytest.raises(_gofmt.CannotFormat):
        _gofmt.quote("\U000e0fff")


def test_fast_calls_take_the_failure_with_them() -> None:
    """A trap that is left in its place would be freed twice, or taken for the next call's."""
    config = wasmtime.Config()
    config.consume_fuel = True
    engine = wasmtime.Engine(config)
    store = wasmtime.Store(engine)
    store.set_fuel(1000)
    wat = """(module (memory (export "m") 1)
        (func (export "f") (param i32 i32 i32 i32 i32 i32 i32) (result i32)
            (if (i32.eq (local.get 1) (i32.const 1)) (then (unreachable)))
            (if (i32.eq (local.get 1) (i32.const 2)) (then (loop (br 0))))
            (if (i32.eq (local.get 1) (i32.const 3)) (then (return (i32.const -1))))
            (local.get 3)))"""
    exports = wasmtime.Instance(store, wasmtime.Module(engine, wat), []).exports(store)
    function, memory = exports["f"], exports["m"]
    assert isinstance(function, wasmtime.Func)
    assert isinstance(memory, wasmtime.Memory)
    calls = FastCalls(store, function, memory)
    for _ in range(3):
        for entrypoint, message in ((1, "unreachable"), (2, "fuel"), (3, "outside of the memory")):
            with pytest.raises(Exception, match=message):
                calls.eval(entrypoint, 0, b"x", 64, 72, 1000)
        assert calls.eval(0, 0, orjson.dumps("text") + b"\0", 64, 72, 1000) == b'"text"'
