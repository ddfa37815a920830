"""What every compiler of JSON Schemas promises (ports.Schemas)."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from agentgate.ports.upstreams import Schemas

SECRET = "hunter2-do-not-repeat"


class SchemasContract:
    """Subclasses give a fixture `schemas`."""

    def test_fitting_arguments_pass(self, schemas: Schemas) -> None:
        check = schemas.compile({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
        assert check({"n": 1}) is None

    @pytest.mark.parametrize(
        ("schema", "arguments", "place", "rule"),
        [
            ({"required": ["query"]}, {}, "arguments.query", "is required"),
            ({"properties": {"query": {"type": "string"}}}, {"query": 7}, "arguments.query", "must be a string"),
            ({"properties": {"query": {"enum": ["a", "b"]}}}, {"query": SECRET}, "arguments.query", '["a","b"]'),
            ({"properties": {"query": {"maxLength": 3}}}, {"query": SECRET}, "arguments.query", "at most 3 characters"),
            ({"properties": {"query": {"pattern": "^x+$"}}}, {"query": SECRET}, "arguments.query", "pattern"),
            ({"properties": {"at": {"format": "date-time"}}}, {"at": SECRET}, "arguments.at", "date-time"),
            ({"properties": {"a": {"items": {"type": "integer"}}}}, {"a": [1, SECRET]}, "arguments.a[1]", "an integer"),
            ({"properties": {}, "additionalProperties": False}, {SECRET: SECRET}, "arguments", "does not declare"),
            ({"additionalProperties": {"type": "integer"}}, {SECRET: SECRET}, "undeclared name", "an integer"),
            ({"not": {"required": ["b"]}}, {"b": SECRET}, "arguments", "not"),
            ({"oneOf": [{"required": ["b"]}, {"required": ["c"]}]}, {"d": SECRET}, "arguments", "oneOf"),
        ],
    )
    def test_a_misfit_names_place_and_rule_and_no_value(
        self, schemas: Schemas, schema: Mapping[str, Any], arguments: Mapping[str, Any], place: str, rule: str
    ) -> None:
        sentence = schemas.compile(schema)(arguments)
        assert sentence is not None
        assert place in sentence
        assert rule in sentence
        assert SECRET not in sentence
        assert "\n" not in sentence
        assert len(sentence) < 300

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "strin"},
            {"properties": []},
            {"pattern": "(unclosed"},
            {"$ref": "#/$defs/missing"},
            {"$schema": "http://json-schema.org/draft-04/schema#", "type": "object"},
            {"$schema": 7, "type": "object"},
            {"maximum": float("nan")},
        ],
    )
    def test_what_is_no_schema_is_refused(self, schemas: Schemas, schema: Mapping[str, Any]) -> None:
        with pytest.raises(ValueError, match=r"schema|Schema"):
            schemas.compile(schema)

    def test_an_older_draft_is_read_as_what_it_says(self, schemas: Schemas) -> None:
        """`dependencies` and a list of `items` mean nothing in 2020-12: read as that, they would be ignored."""
        draft7 = {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": {"pair": {"items": [{"type": "integer"}], "additionalItems": False}},
            "dependencies": {"a": ["b"]},
        }
        check = schemas.compile(draft7)
        assert check({"pair": [1]}) is None
        assert check({"pair": [1, 2]}) is not None
        assert check({"a": 1}) is not None
        newer = schemas.compile({"$schema": "https://json-schema.org/draft/2019-09/schema", "required": ["a"]})
        assert newer({}) is not None

    def test_references_inside_the_schema_work(self, schemas: Schemas) -> None:
        check = schemas.compile({"$defs": {"id": {"type": "integer"}}, "properties": {"id": {"$ref": "#/$defs/id"}}})
        assert check({"id": 1}) is None
        assert check({"id": "1"}) == "arguments.id: must be an integer"

    def test_a_pattern_cannot_be_made_to_hang(self, schemas: Schemas) -> None:
        """Look-around and back-references need a backtracking engine: such a schema is refused at start."""
        with pytest.raises(ValueError, match=r"pattern|regex"):
            schemas.compile({"properties": {"a": {"pattern": "(?=a)b"}}})
        check = schemas.compile({"properties": {"a": {"pattern": "^(a+)+$"}}})
        started = time.thread_time()
        assert check({"a": "a" * 50_000 + "!"}) is not None
        assert time.thread_time() - started < 0.5
