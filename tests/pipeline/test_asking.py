"""Questions and labels, by the data of the policy in force."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from agentgate.adapters.parsers.arguments import ArgumentParsers
from agentgate.core.errors import PolicyInvalid, ReasonCode
from agentgate.core.event import Kind
from agentgate.core.facts import Facts, Past
from agentgate.core.redaction.redactor import Redactor
from agentgate.pipeline.policy.asking import Questions
from agentgate.ports.upstreams import Undelivered
from tests.fakes import REDACTOR, TOOL, FakeEngine, a_call
from tests.pipeline.conftest import House

NOW = datetime(2026, 1, 1, tzinfo=UTC)
CARD = json.dumps({"rows": [{"a": "4111 1111 1111 1111"}]}).encode()
SECRET = json.dumps({"note": "the key is AKIAIOSFODNN7EXAMPLE", "password": "hunter2-hunter2"}).encode()


class _Asked:
    """Questions over some data, and an engine that remembers what it was asked."""

    def __init__(self, data: Mapping[str, Any], redactor: Redactor = REDACTOR) -> None:
        self.engine = FakeEngine()
        self.questions = Questions(self.engine, ArgumentParsers(), redactor)
        self.questions.load(self.questions.read(data))

    async def about(self, arguments: Mapping[str, Any], facts: Facts | None = None, **more: Any) -> dict[str, Any]:
        call = replace(a_call(arguments=arguments), **more)
        await self.questions.ask(call, has_approval_token=False, now=NOW, facts=facts)
        asked: dict[str, Any] = self.engine.asked[-1]
        return asked.get("input", asked)


async def test_nothing_is_parsed_or_told_that_was_not_asked_for() -> None:
    asked = await _Asked({}).about({"query": "select 1"})
    assert "parsed" not in asked
    assert (asked["time"], asked["session"].keys()) == ("2026-01-01T00:00:00.000000Z", {"id"})
    assert "labels" not in asked["tool"]


async def test_a_sessions_past_stands_beside_its_id() -> None:
    facts = Facts(2, 300, 0, frozenset({"pii"}), {"backup": Past(1, NOW.timestamp() - 59.9)})
    asked = await _Asked({}).about({}, facts)
    assert asked["session"] == {
        "id": asked["session_id"],
        "calls": 2,
        "bytes": 300,
        "cost_micros": 0,
        "labels": ["pii"],
        "prior": {"backup": {"calls": 1, "age_s": 59}},
    }


@pytest.mark.parametrize(
    ("arguments", "parsed"),
    [
        ({"p": "/a/b"}, {"p": [{"kind": "path", "path": "/a/b", "absolute": True, "traversal": False}]}),
        ({"p": []}, {}),
        ({"other": 1}, {}),
        ({"p": None}, {"p": [{"kind": "path", "error": "not a text, nor a list of a few texts"}]}),
        ({"p": ["a", 1]}, {"p": [{"kind": "path", "error": "not a text, nor a list of a few texts"}]}),
        ({"p": ["a"] * 65}, {"p": [{"kind": "path", "error": "not a text, nor a list of a few texts"}]}),
        ({"p": ["a" * 9000, "a" * 9000]}, {"p": [{"kind": "path", "error": "not a text, nor a list of a few texts"}]}),
        ({"deep": {"er": "a.example"}}, {"/deep/er": [{"kind": "domain", "host": "a.example", "ip": False}]}),
        ({"deep": "flat"}, {"/deep/er": [{"kind": "domain", "error": "not a text, nor a list of a few texts"}]}),
    ],
)
async def test_arguments_are_parsed_where_data_says(arguments: dict[str, Any], parsed: dict[str, Any]) -> None:
    made = _Asked({"parse": {TOOL.name: {"p": "path", "/deep/er": "domain"}}})
    assert (await made.about(arguments))["parsed"] == parsed


async def test_labels_are_of_tool_server_and_data() -> None:
    data = {"labels": {"tools": {TOOL.name: ["b"]}, "servers": {TOOL.upstream: ["a", "b"]}}}
    asked = await _Asked(data).about({}, tool=replace(TOOL, labels=("own",)))
    assert asked["tool"]["labels"] == ["own", "a", "b"]


def test_results_are_labelled_by_what_is_found_in_them_where_that_is_wanted() -> None:
    call = a_call()
    wanted, unwanted = _Asked({"result_labels": True}).questions, _Asked({}).questions
    assert wanted.labels(call, CARD) == ("pii",)
    assert wanted.labels(call, SECRET) == ("secret",)
    assert wanted.labels(call, b'{"rows":[1,2,"plain"]}') == ()
    assert unwanted.labels(call, CARD) == ()


def test_a_result_that_cannot_be_looked_through_may_hold_anything() -> None:
    assert _Asked({"result_labels": True}).questions.labels(a_call(), b"") == ("pii", "secret")


@pytest.mark.parametrize(
    "data",
    [
        {"parse": None},
        {"parse": {"a b": {}}},
        {"parse": {"t": {"": "path"}}},
        {"parse": {"t": {"/": "path"}}},
        {"parse": {"t": {"x": 1}}},
        {"parse": {"t": {"x": "sql"}}},
        {"labels": []},
        {"labels": {"tools": {"t": "x"}}},
        {"labels": {"tools": {"t": [""]}}},
        {"labels": {"tools": {"t": ["x"] * 33}}},
        {"labels": {"others": {}}},
        {"result_labels": "yes"},
        {"packs": None},
        {"packs": []},
        {"packs": False},
    ],
)
def test_data_that_is_not_understood_is_refused_whole(data: dict[str, Any]) -> None:
    with pytest.raises(PolicyInvalid, match=r"data\."):
        _Asked(data)


async def test_what_a_tool_says_in_failing_is_data_too(house: House) -> None:
    """Else a tool could hand out what is private in its error messages, and no session would have touched it."""
    house.questions.load(house.questions.read({"labels": {"tools": {TOOL.name: ["private"]}}, "result_labels": True}))
    words = "no such card: 4111 1111 1111 1111"
    house.upstream.answer = Undelivered(ReasonCode.UPSTREAM_ERROR, words, status=500)
    answer = await house.gate.pass_through(a_call())
    assert answer.reason_code is ReasonCode.UPSTREAM_ERROR
    assert house.log.of(Kind.FINISHED)[-1]["labels"] == ["pii", "private"]


async def test_what_never_reached_its_tool_touched_nothing(house: House) -> None:
    house.questions.load(house.questions.read({"labels": {"tools": {TOOL.name: ["private"]}}}))
    house.upstream.answer = Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "refused", reached=False)
    await house.gate.pass_through(a_call())
    assert "labels" not in house.log.of(Kind.FINISHED)[-1]
