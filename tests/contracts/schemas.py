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
_DRAFT_7 = "http://json-schema.org/draft-07/schema#"
_AND_OR_LEAF = {"anyOf": [{"$ref": "#/$defs/and"}, {"$ref": "#/$defs/or"}, {"$ref": "#/$defs/leaf"}]}
FILTER = {
    "$defs": {
        "and": {"properties": {"op": {"const": "and"}, "of": {"type": "array", "items": _AND_OR_LEAF}}},
        "or": {"properties": {"op": {"const": "or"}, "of": {"type": "array", "items": _AND_OR_LEAF}}},
        "leaf": {"properties": {"value": {"type": "string"}}, "required": ["value"]},
    },
    "properties": {"limit": {"type": "integer"}, "filter": _AND_OR_LEAF},
}
FILTER["$defs"]["and"]["required"] = FILTER["$defs"]["or"]["required"] = ["op", "of"]  # type: ignore[index]
"""What pydantic writes for a filter of `and`, `or` and leaves."""


_IGNORES_WHAT_IS_BESIDE = {
    "$schema": _DRAFT_7,
    "$ref": "#/definitions/a",
    "required": ["z"],
    "definitions": {"a": {"minProperties": 1}},
}
_LOOKS_THROUGH = {"$ref": "#/$defs/a", "unevaluatedProperties": False, "$defs": {"a": {"properties": {"a": {}}}}}
_BUNDLE = {
    "$id": "https://example.org/whole/",
    "$ref": "a.json",
    "$defs": {
        "a": {"$id": "a.json", "properties": {"a": {"$ref": "parts/b.json#/$defs/it"}}},
        "b": {"$id": "parts/b.json", "allOf": [{"$ref": "../a.json"}], "$defs": {"it": {"required": ["b"]}}},
    },
}
_DYNAMIC = {"$dynamicAnchor": "n", "properties": {"n": {"$dynamicRef": "#n"}}, "required": ["a"]}


def nested(levels: int, value: Any) -> dict[str, Any]:
    """Arguments for `FILTER`."""
    inner: dict[str, Any] = {"value": value}
    for level in range(levels):
        inner = {"op": ("and", "or")[level % 2], "of": [inner]}
    return {"filter": inner}


def doubling(keyword: str, levels: int) -> dict[str, Any]:
    """A schema of a few bytes a level that asks everything twice on each."""
    defs: dict[str, Any] = {f"a{n}": {keyword: [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(levels)}
    return {"$ref": "#/$defs/a0", "$defs": {**defs, f"a{levels}": {"type": "string"}}}


def every_kind_in_every_kind(kinds: int) -> dict[str, Any]:
    """As a tree of syntax is described."""
    refs = [{"$ref": f"#/$defs/t{n}"} for n in range(kinds)]
    of = {"type": "array", "items": {"anyOf": refs}}
    kind = {"type": "object", "properties": {"of": of}, "required": ["of"]}
    return {"$ref": "#/$defs/t0", "$defs": {f"t{n}": kind for n in range(kinds)}}


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

    @pytest.mark.parametrize("levels", [1, 3, 12, 30])
    def test_a_recursive_union_answers_at_once_however_deep_the_arguments_are(
        self, schemas: Schemas, levels: int
    ) -> None:
        """Each level would multiply what is wrong with it by the branches of the union."""
        check = schemas.compile(FILTER)
        started = time.thread_time()
        assert check(nested(levels, "a")) is None
        sentence = check(nested(levels, 5))
        assert time.thread_time() - started < 0.5
        assert sentence is not None
        assert sentence.startswith("arguments.filter: does not ")
        assert ("satisfy anyOf" in sentence) is (levels < 10)
        assert check({"limit": "x"}) == "arguments.limit: must be an integer"

    @pytest.mark.parametrize("keyword", ["anyOf", "allOf", "oneOf"])
    @pytest.mark.parametrize("draft", ["https://json-schema.org/draft/2020-12/schema", _DRAFT_7])
    def test_references_are_followed_only_so_often(self, schemas: Schemas, keyword: str, draft: str) -> None:
        """Nothing fits then, also below `not`: what was not looked at must not count as found wanting."""
        schema = doubling(keyword, 40)
        first = schema["$defs"]["a0"]
        for schema_of_p in (first, {"not": first}, {"if": first, "then": False}):
            whole = {"$schema": draft, "properties": {"p": schema_of_p}, "$defs": schema["$defs"]}
            check = schemas.compile(whole)
            started = time.thread_time()
            said = [check({"p": value}) for value in ("text", 5, {})]
            assert time.thread_time() - started < 1.5
            assert "arguments: take too many steps to check against this schema" in said

    def test_kinds_within_kinds_are_checked_only_so_long(self, schemas: Schemas) -> None:
        check = schemas.compile(every_kind_in_every_kind(20))
        value: Any = 5
        for _ in range(40):
            value = {"of": [value]}
        started = time.thread_time()
        assert check(value) is not None
        assert time.thread_time() - started < 0.5
        assert check({"of": [{"of": []}]}) is None

    def test_what_looks_twice_is_counted_as_well(self, schemas: Schemas) -> None:
        schema: dict[str, Any] = {"properties": {"a": {}}}
        for _ in range(28):
            schema = {"allOf": [schema], "unevaluatedProperties": False}
        started = time.thread_time()
        assert schemas.compile(schema)({"a": 1}) is not None
        assert time.thread_time() - started < 0.5

    @pytest.mark.parametrize(
        ("rule", "value", "count"),
        [
            ({"multipleOf": 0.01}, 1e300, 200_000),
            ({"multipleOf": 1e-300}, 0.5, 200_000),
            ({"enum": [{"a": n, "b": "b"} for n in range(500)]}, {"a": 499, "b": "b"}, 60_000),
            ({"enum": [n + 0.5 for n in range(500)]}, 499.5, 150_000),
            ({"enum": list(range(3_000))}, 2_999.0, 150_000),
            ({"const": {"a": [[0.5] * 500]}}, {"a": [[0.5] * 500]}, 600),
        ],
    )
    @pytest.mark.parametrize("draft", ["https://json-schema.org/draft/2020-12/schema", _DRAFT_7])
    @pytest.mark.parametrize("within", ["items", "contains", "not"])
    def test_what_is_slow_to_compare_is_compared_only_so_often(
        self, schemas: Schemas, draft: str, within: str, rule: dict[str, Any], value: Any, count: int
    ) -> None:
        rules = {"items": rule, "contains": {"not": rule}, "not": {"not": {"items": rule}}}
        keyword = "items" if within == "not" else within
        check = schemas.compile({"$schema": draft, "properties": {"a": {keyword: rules[within]}}})
        started = time.thread_time()
        assert check({"a": [value] * count}) is not None
        assert time.thread_time() - started < 1.5

    def test_a_long_list_of_prices_and_choices_is_no_trouble(self, schemas: Schemas) -> None:
        row = {"price": {"multipleOf": 0.01}, "size": {"enum": list(range(0, 200, 5))}, "unit": {"enum": ["kg", "l"]}}
        check = schemas.compile({"properties": {"a": {"items": {"properties": row}}}})
        assert check({"a": [{"price": 12.34, "size": 45, "unit": "kg"}] * 5_000}) is None
        assert (
            schemas.compile({"properties": {"a": {"items": {"enum": list(range(250))}}}})({"a": [249] * 5_000}) is None
        )
        assert check({"a": [{"price": 12.345}]}) == "arguments.a[0].price: must be a multiple of 0.01"
        sentence = check({"a": [{"size": 7}]})
        assert sentence is not None
        assert sentence.startswith("arguments.a[0].size: must be one of [0,5,10,")

    def test_many_things_of_many_kinds_are_no_trouble(self, schemas: Schemas) -> None:
        kinds = {f"k{n}": {"properties": {"kind": {"const": n}}, "required": ["kind"]} for n in range(30)}
        refs = [{"$ref": f"#/$defs/{name}"} for name in kinds]
        check = schemas.compile({"$defs": kinds, "properties": {"all": {"items": {"oneOf": refs}}}})
        assert check({"all": [{"kind": n % 30} for n in range(5_000)]}) is None
        assert check({"all": [{"kind": 30}]}) == "arguments.all[0]: does not satisfy oneOf"
        sentence = check({"all": [{"kind": n % 31} for n in range(5_000)]})
        assert sentence == "arguments.all: does not fit, and it would take too long to say where"

    def test_of_what_is_made_of_many_parts_it_is_told_which_argument_does_not_fit(self, schemas: Schemas) -> None:
        """An error repeats all that it is about: half a second, in which no kill is heard."""
        check = schemas.compile({"properties": {"a": {"type": "string"}}, "additionalProperties": False})
        many, few = [[] for _ in range(300_000)], [[] for _ in range(3_000)]
        started = time.thread_time()
        assert check({"a": many}) == "arguments.a: does not fit, and it would take too long to say where"
        assert check({"b": many}) == "arguments: does not fit, and it would take too long to say where"
        assert time.thread_time() - started < 0.3
        assert check({"a": few}) == "arguments.a: must be a string"

    def test_a_thousand_misfits_cost_as_much_as_one(self, schemas: Schemas) -> None:
        check = schemas.compile({"properties": {"a": {"items": {"type": "integer"}}}})
        started = time.thread_time()
        assert check({"a": ["x"] * 300_000}) == "arguments.a[0]: must be an integer"
        assert time.thread_time() - started < 0.5

    @pytest.mark.parametrize(
        ("schema", "fits", "misfits"),
        [
            ({"$ref": "#/allOf/0", "allOf": [{"required": ["a"]}]}, {"a": 1}, {}),
            ({"properties": {"allOf": {"type": "string"}, "$ref": {"$ref": "#/properties/allOf"}}}, {}, {"$ref": 1}),
            (
                {"properties": {"unevaluatedItems": {"$ref": "#/$defs/a"}}, "$defs": {"a": False}},
                {},
                {"unevaluatedItems": 1},
            ),
            (_IGNORES_WHAT_IS_BESIDE, {"a": 1}, {}),
            (_LOOKS_THROUGH, {"a": 1}, {"b": 1}),
            (_DYNAMIC, {"a": 1, "n": {"a": 1}}, {"a": 1, "n": {}}),
            ({"$ref": "#/$defs/x~1y%25", "$defs": {"x/y%": {"anyOf": [{"required": ["a"]}]}}}, {"a": 1}, {}),
            (_BUNDLE, {"a": {"b": 1}}, {"a": {}}),
            ({"$ref": "#a", "$defs": {"x": {"$anchor": "a", "required": ["a"]}}}, {"a": 1}, {}),
            (
                {"$schema": _DRAFT_7, "properties": {"a": {"$ref": _DRAFT_7}}},
                {"a": {"type": "string"}},
                {"a": {"type": 5}},
            ),
        ],
    )
    def test_counting_changes_nothing_of_what_a_schema_means(
        self, schemas: Schemas, schema: Mapping[str, Any], fits: Mapping[str, Any], misfits: Mapping[str, Any]
    ) -> None:
        check = schemas.compile(schema)
        assert check(fits) is None
        assert check(misfits) is not None

    @pytest.mark.parametrize("keyword", ["enum", "const"])
    def test_a_reference_that_nothing_would_count_is_refused(self, schemas: Schemas, keyword: str) -> None:
        values = [{"anyOf": [{"$ref": "#/enum/0"}]}]
        with pytest.raises(ValueError, match=f"reference inside of {keyword}"):
            schemas.compile({keyword: values})
        with pytest.raises(ValueError, match="reference inside of properties"):
            schemas.compile({"$ref": "#/x/properties", "x": {"properties": {"$ref": "#/x/properties"}}})
        with pytest.raises(ValueError, match="another draft inside"):
            schemas.compile({"$defs": {"a": {"$id": "urn:a", "$schema": _DRAFT_7}}, "$ref": "urn:a"})

    @pytest.mark.parametrize("pattern", [r"\p{L}{24}N%d", r"^(?=a)\p{L}{24}N%d"])
    def test_patterns_that_are_too_large_together_are_refused(self, schemas: Schemas, pattern: str) -> None:
        with pytest.raises(ValueError, match="patterns in the schema are too large together"):
            schemas.compile({"properties": {f"p{n}": {"pattern": pattern % n} for n in range(20)}})
        with pytest.raises(ValueError, match="patterns in the schema are too large together"):
            schemas.compile({"patternProperties": {pattern % n: {} for n in range(20)}})
        schemas.compile({"properties": {f"p{n}": {"pattern": pattern % 1} for n in range(20)}})
        schemas.compile({"properties": {f"p{n}": {"pattern": rf"^[\w.-]{{1,64}}/{n}$"} for n in range(200)}})

    def test_examining_refuses_what_is_no_schema_and_leaves_patterns_alone(self, schemas: Schemas) -> None:
        schemas.examine({"properties": {"a": {"pattern": r"(a)\1"}}, "patternProperties": {"^(?!a)b": False}})
        for schema in ({"type": "strin"}, {"$ref": "#", "allOf": 5}, {"$schema": 7}, {"maximum": float("nan")}):
            for look in (schemas.examine, schemas.compile):
                with pytest.raises(ValueError, match=r"schema|Schema"):
                    look(schema)

    def test_what_the_library_fails_on_is_refused(self, schemas: Schemas) -> None:
        """It throws what is no Exception: nobody else would catch that, and the gateway would end."""
        inner = {"$id": "http://o/x", "$anchor": "n"}
        schema = {"properties": {"a": {"$id": "http://o/x", "$dynamicRef": "#n"}}, "$defs": {"x": inner}}
        schemas.examine(schema)
        with pytest.raises(ValueError, match="cannot be compiled"):
            schemas.compile(schema)

    @pytest.mark.parametrize("keyword", ["unevaluatedProperties", "unevaluatedItems"])
    @pytest.mark.parametrize("union", ["anyOf", "allOf", "oneOf"])
    def test_what_would_be_written_out_over_and_over_is_refused(
        self, schemas: Schemas, keyword: str, union: str
    ) -> None:
        """Some of these took all memory, at a few bytes for each time it was doubled."""
        for levels in (14, 40):
            schema = doubling(union, levels) | {keyword: False}
            started = time.thread_time()
            with pytest.raises(ValueError, match="unevaluated"):
                schemas.compile(schema)
            assert time.thread_time() - started < 0.3
        wide = doubling(union, 9)
        schemas.compile(wide | {keyword: False})
        wide["$defs"]["a9"] = {"properties": {f"p{n}": {} for n in range(400)}}
        with pytest.raises(ValueError, match="unevaluated"):
            schemas.compile(wide | {keyword: False})
        parts = {f"p{n}": {"$ref": "#/$defs/base", keyword: False} for n in range(200)}
        base = {"properties": {f"p{n}": {} for n in range(100)}}
        schemas.compile({"$defs": {"base": base}, "properties": parts})

    def test_a_circle_is_asked_once(self, schemas: Schemas) -> None:
        """As where a kind is described by all its kinds, and each of them by what they have in common."""
        kinds = {f"k{n}": {"allOf": [{"$ref": "#/$defs/any"}], "required": [f"k{n}"]} for n in range(10)}
        any_of = {
            "anyOf": [{"$ref": f"#/$defs/{name}"} for name in kinds],
            "properties": {"in": {"$ref": "#/$defs/any"}},
        }
        check = schemas.compile({"$ref": "#/$defs/any", "$defs": {**kinds, "any": any_of}})
        assert check({"k3": 1, "in": {"k1": 1}}) is None
        assert check({"k3": 1, "in": 5}) is None
        assert check({"k3": 1, "in": {}}) is not None
        with pytest.raises(ValueError, match="unevaluated"):
            schemas.compile({"$ref": "#/$defs/any", "$defs": {**kinds, "any": {**any_of, "unevaluatedItems": False}}})

    def test_examining_takes_no_time_whatever_it_would_take_to_compile(self, schemas: Schemas) -> None:
        schemas.examine(doubling("anyOf", 40) | {"unevaluatedProperties": False})
        patterns = {"patternProperties": {rf"\\p{{L}}{{{n}}}N": True for n in range(500)}}
        schemas.examine({**patterns, "additionalProperties": False})
