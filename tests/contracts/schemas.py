"""What every compiler of JSON Schemas promises (ports.Schemas)."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import Any

import pytest

from agentgate.ports.upstreams import Schemas

SECRET = "hunter2-do-not-repeat"
_ZOD_EMAIL = r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_ZOD_HOST = rf"^(?=.{{1,253}}\.?$){_LABEL}(?:\.{_LABEL})*\.?$"


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
        """Back-references, and look-around but at the beginning, need an engine that steps back: refused at start."""
        for pattern in (
            r"(?=a)b",
            r"(a)\1",
            r"^a(?=b)",
            r"^(?<!a)b",
            r"^(?!(?=a)b)c",
            r"^(?=a)*b",
            r"^(?!a",
            r"^(?!a)[]b]",
        ):
            with pytest.raises(ValueError, match=r"pattern|regex"):
                schemas.compile({"properties": {"a": {"pattern": pattern}}})
        with pytest.raises(ValueError, match=r"pattern|regex"):
            schemas.compile({"patternProperties": {"^(?!a)b": False}})
        check = schemas.compile({"properties": {"a": {"pattern": "^(a+)+$"}}})
        started = time.thread_time()
        assert check({"a": "a" * 50_000 + "!"}) is not None
        assert time.thread_time() - started < 0.5

    @pytest.mark.parametrize(
        ("pattern", "fits", "misfits"),
        [
            (_ZOD_EMAIL, ("bob.b@example.com",), (".bob@example.com", "b..b@example.com", "bob@example", "")),
            (_ZOD_HOST, ("gate.example.org", "a."), ("-a", "a" * 254, "a..b")),
            (r"^(?=.*[A-Z])(?=.*\d).{8,}$", ("abcdefG1",), ("abcdefg1", "ABCDEFGH", "aB1")),
            (r"^$|^(?![)(|\]])[)(|a]+$", ("", "a)"), (")a", "|")),
            (r"^(?!a|b)c|d$", ("cx", "ad"), ("ac", "x")),
            (r"^(?!\))(?=(?:x|\(y\))z).{2,9}$", ("xz", "(y)z"), ("x", ")xz")),
        ],
    )
    def test_look_ahead_at_the_beginning_means_what_it_says(
        self, schemas: Schemas, pattern: str, fits: tuple[str, ...], misfits: tuple[str, ...]
    ) -> None:
        """Also below `not` and behind references, where a check that gave up half way would let everything pass."""
        check = schemas.compile({"$defs": {"t": {"pattern": pattern}}, "properties": {"a": {"$ref": "#/$defs/t"}}})
        opposite = schemas.compile({"properties": {"a": {"not": {"pattern": pattern}}}})
        assert all(re.search(pattern, text) for text in fits)  # Python reads these as JavaScript does
        assert not any(re.search(pattern, text) for text in misfits)
        for text in (*fits, *misfits):
            assert (check({"a": text}) is None) is (text in fits) is (opposite({"a": text}) is not None)
        sentence = check({"a": SECRET + "\n)"})
        assert sentence is not None
        assert sentence.startswith("arguments.a: must match the pattern")
        assert SECRET not in sentence
        assert check({"a": 7}) is None

    @pytest.mark.parametrize(
        "pattern", [r"^(?=a)(a+)+$", r"^(?!(a+)+$)a", r"^(?=(a|aa)+$)(?!b)(a|a)*$", r"^(?=.*x)(?=.*y)(?=.*z).*q"]
    )
    def test_no_look_ahead_can_be_made_to_hang(self, schemas: Schemas, pattern: str) -> None:
        check = schemas.compile({"properties": {"a": {"type": "array", "items": {"pattern": pattern}}}})
        started = time.thread_time()
        assert check({"a": ["a" * 50_000 + "!", "a" * 50_000 + "!", "b"]}) is not None
        assert time.thread_time() - started < 0.5
