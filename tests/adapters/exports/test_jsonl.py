"""Events as JSON lines."""

from __future__ import annotations

import hashlib
import json

from agentgate.adapters.exports.jsonl import JsonLines
from agentgate.core.strict_json import canonical
from tests.contracts.export import ExportContract, exported, records


class TestJsonLines(ExportContract):
    begin = staticmethod(lambda _: JsonLines())


def lines() -> list[dict[str, object]]:
    return [json.loads(line) for line in exported(JsonLines(), records()).splitlines()]


def test_a_line_can_be_checked_against_the_log() -> None:
    """By who has nothing but the line: the event's canonical form is the leaf, salt and body are what it binds."""
    raw = exported(JsonLines(), records()).splitlines()
    for line, record in zip(raw, records(), strict=True):
        said = json.loads(line)
        assert canonical(said["event"]) == record.leaf
        assert line.count(record.leaf) == 1
        if said["body"] is not None:
            body = canonical(said["body"])
            assert body == record.raw_body
            assert hashlib.sha256(bytes.fromhex(said["salt"]) + body).hexdigest() == said["event"]["body_sha256"]


def test_a_pruned_body_is_null() -> None:
    assert (lines()[-1]["body"], lines()[-1]["salt"], lines()[-1]["index"]) == (None, None, 901)


def test_every_record_is_one_line() -> None:
    assert [line["index"] for line in lines()] == [record.index for record in records()]
