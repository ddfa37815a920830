"""What the policy's data may say of labels and of arguments to parse, and the revision that stands for all of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core import labels
from agentgate.core.errors import PolicyInvalid
from agentgate.core.facts import Facts, Past
from agentgate.core.labels import LabelRules, of_findings, read_labels
from agentgate.core.parsing import MOST_CHARS, MOST_TEXTS, read_parse, texts_of
from agentgate.core.policy import PolicyBundle
from tests.fakes import TOOL


def test_a_tool_has_its_own_labels_its_servers_and_those_by_its_name_each_once() -> None:
    about = {"tools": {TOOL.name: ["pii", "own", "x"]}, "servers": {TOOL.upstream: ["private", "pii"]}}
    rules = read_labels({"labels": about, "result_labels": True})
    assert rules == LabelRules({TOOL.name: ("pii", "own", "x")}, {TOOL.upstream: ("private", "pii")}, of_results=True)
    assert rules.of(replace(TOOL, labels=("own", "first"))) == ("own", "first", "private", "pii", "x")
    assert rules.of(replace(TOOL, name="other", upstream="other", labels=("own",))) == ("own",)


def test_data_that_says_nothing_labels_nothing() -> None:
    assert read_labels({}) == LabelRules({}, {}, of_results=False)
    assert LabelRules().of(TOOL) == ()


def test_what_redaction_finds_in_a_result_is_a_secret_or_of_a_person() -> None:
    assert of_findings(["secret", "secret"]) == ("secret",)
    assert of_findings(["email", "card", "secret"]) == ("pii", "secret") == labels.OF_UNREAD
    assert of_findings([]) == ()


def of_tool(value: object) -> dict[str, Any]:
    return {"labels": {"tools": {"a": value}}}


MOST = "data.labels.tools.a must be a list of at most 32 labels"


@pytest.mark.parametrize(
    ("read", "data", "told"),
    [
        (read_labels, {"labels": []}, "data.labels must map names to labels"),
        (read_labels, {"labels": {"tools": []}}, "data.tools must map names to labels"),
        (read_labels, {"labels": {"servers": {"a": "x"}}}, "data.labels.servers.a must be a list of at most 32 labels"),
        (read_labels, {"labels": {"tool" * 20: {}}}, f"data.labels: '{'tool' * 16}' is neither tools nor servers"),
        (read_labels, {"result_labels": 1}, "data.result_labels must be true or false"),
        *[(read_labels, of_tool(value), MOST) for value in (None, [7], [""], ["x" * 129], ["\n"], ["x"] * 33)],
        (read_parse, {"parse": []}, "data.parse must map tools to arguments and their kinds"),
        (read_parse, {"parse": {"a/" * 40: {}}}, f"data.parse: '{'a/' * 32}' is not the name of a tool"),
        *[
            (read_parse, {"parse": {"a": value}}, "data.parse.a must map names of arguments to kinds")
            for value in ([], {"path": 7}, {"": "path"}, {"/": "path"})
        ],
    ],
)
def test_data_that_is_not_understood_is_refused_with_its_place(
    read: Callable[[Mapping[str, Any]], object], data: dict[str, Any], told: str
) -> None:
    with pytest.raises(PolicyInvalid) as refused:
        read(data)
    assert str(refused.value) == told


def test_as_many_and_as_long_labels_as_are_allowed_are_read() -> None:
    assert read_labels(of_tool(["x" * 128] * 32)).tools["a"] == ("x" * 128,) * 32


def test_rules_of_parsing_are_read_as_they_are() -> None:
    assert read_parse({"parse": {"bash": {"command": "shell", "/a/b": "path"}}})["bash"]["/a/b"] == "path"
    assert read_parse({}) == {}


MANY = ["x" * (MOST_CHARS // MOST_TEXTS)] * MOST_TEXTS
ARGUMENTS = {
    "one": "a", "none": None, "list": ["a", "b"], "mixed": ["a", 7], "deep": {"er": {"x": "c"}}, "a/b": {"~1": "d"},
    "many": MANY, "more": ["", *MANY], "longer": [*MANY[1:], MANY[0] + "x"], "long": "x" * (MOST_CHARS + 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("one", ["a"]),
        ("list", ["a", "b"]),
        ("/deep/er/x", ["c"]),
        ("/a~1b/~01", ["d"]),
        ("many", MANY),
        ("long", [ARGUMENTS["long"]]),
        ("gone", []),
        ("/deep/gone/x", []),
        ("deep/er/x", []),
        *[(name, None) for name in ("none", "mixed", "deep", "more", "longer", "/one/x", "/list/0")],
    ],
)
def test_texts_of_an_argument_are_found_or_it_is_said_that_it_is_something_else(
    name: str, found: list[str] | None
) -> None:
    """Where it is something else nobody knows what the tool makes of it: that is not the same as nothing."""
    assert texts_of(ARGUMENTS, name) == found


def test_a_session_past_is_told_in_whole_seconds_that_are_never_negative() -> None:
    """Two members' clocks differ: what ended in the future has just ended."""
    past = Facts(3, 40, 5, frozenset({"pii", "own"}), {"a": Past(2, 10.0), "b": Past(1, 99.0)})
    assert past.for_policy(12.9) == {
        "calls": 3, "bytes": 40, "cost_micros": 5, "labels": ["own", "pii"],
        "prior": {"a": {"calls": 2, "age_s": 2}, "b": {"calls": 1, "age_s": 0}},
    }  # fmt: skip
    assert Facts().for_policy(0.0) == {"calls": 0, "bytes": 0, "cost_micros": 0, "labels": [], "prior": {}}


def test_a_revision_is_the_digest_of_rules_and_data_and_of_nothing_else() -> None:
    """Members on different machines compare it, and packs name it for years."""
    rules = {"b.rego": b"xyz", "é.rego": b""}
    bundle = PolicyBundle(rules, {"roles": {"a": 1}}, None)
    source = hashlib.sha256(b"6 b.rego 3 xyz" + b"7 \xc3\xa9.rego 0 ").hexdigest()
    whole = hashlib.sha256(source.encode() + b'{"roles":{"a":1}}').hexdigest()
    assert bundle.source_sha256 == source
    assert bundle.revision == f"sha256:{whole[:16]}"
    assert replace(bundle, label="v7").revision == f"v7+sha256:{whole[:16]}"
    assert replace(bundle, modules=dict(reversed(rules.items())), wasm=b"x").revision == bundle.revision
