"""JSON Schema on jsonschema-rs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import jsonschema_rs
import orjson
import pytest
from mcp.types import ClientRequest, ServerRequest
from pydantic import TypeAdapter

from agentgate.adapters.schema._chains import MAX_CHAIN
from agentgate.adapters.schema.jsonschema import _DIALECT, _DRAFTS, JsonSchemas
from agentgate.core.strict_json import MAX_DEPTH
from tests.contracts.schemas import FILTER, SchemasContract, nested
from tests.web import Handler, serving

SMALL_STACK: Final = 2 << 20
"""A quarter of what Linux gives a process, and all that Windows does."""


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A web server that would gladly serve a schema, and the paths that it was asked for."""
    asked: list[str] = []

    class Schema(Handler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.say(200, b'{"type": "object"}')

    with serving(Schema) as url:
        yield url, asked


class TestJsonSchemas(SchemasContract):
    @pytest.fixture
    def schemas(self) -> JsonSchemas:
        return JsonSchemas()

    @pytest.mark.parametrize("fails_at", ["is_valid", "validate"])
    def test_arguments_on_which_the_library_fails_are_refused(
        self, schemas: JsonSchemas, monkeypatch: pytest.MonkeyPatch, fails_at: str
    ) -> None:
        """Nothing is known on which it would, beyond what it fails on when it compiles."""

        class PanicException(BaseException): ...

        class Failing:
            def is_valid(self, _: object) -> bool:
                if fails_at == "is_valid":
                    raise PanicException
                return False

            def validate(self, _: object) -> None:
                raise PanicException

        made = iter([Failing()])
        monkeypatch.setattr("agentgate.adapters.schema.jsonschema._validator", lambda *_, **__: next(made))
        assert schemas.compile({"type": "object"})({}) == "arguments: cannot be checked against this schema"

    def test_a_remote_reference_is_never_fetched(self, schemas: JsonSchemas, listener: tuple[str, list[str]]) -> None:
        url, asked = listener
        for schema in (
            {"$ref": f"{url}/schema.json"},
            {"properties": {"a": {"$dynamicRef": f"{url}/schema.json#x"}}},
            {"$id": f"{url}/base/", "properties": {"a": {"$ref": "other.json"}}},
        ):
            with pytest.raises(ValueError, match="not a usable JSON Schema"):
                schemas.compile(schema)
        assert asked == []

    def test_a_file_reference_is_never_read(self, schemas: JsonSchemas) -> None:
        with pytest.raises(ValueError, match="not a usable JSON Schema") as error:
            schemas.compile({"$ref": "file:///etc/passwd"})
        assert "root:" not in str(error.value)

    def test_a_huge_pattern_is_refused_at_start(self, schemas: JsonSchemas) -> None:
        with pytest.raises(ValueError, match="not a usable JSON Schema"):
            schemas.compile({"pattern": "((a{100}){100}){100}"})

    def test_what_single_arguments_are_asked_is_compiled_once(
        self, schemas: JsonSchemas, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made: list[Any] = []
        validator = jsonschema_rs.Draft202012Validator

        def counting(document: Any, **options: Any) -> jsonschema_rs.Validator:
            made.append(document)
            return validator(document, **options)

        monkeypatch.setitem(_DRAFTS, _DIALECT, counting)
        check = schemas.compile(FILTER)
        for _ in range(3):
            assert str(check(nested(20, 5))).startswith("arguments.filter: does not fit")
        assert len(made) == 2

    @pytest.mark.parametrize("schema", [ClientRequest, ServerRequest])
    def test_what_pydantic_writes_of_large_models_is_taken(self, schemas: JsonSchemas, schema: Any) -> None:
        schemas.compile(TypeAdapter(schema).json_schema())


# --- how far down one value is asked ----------------------------------------------------------------------


def _links(wrapped: str, ref: Any) -> Any:
    """A schema that asks another one of the same value."""
    return {
        "not": {"not": ref},
        "allOf": {"allOf": [ref, {"type": "object"}]},
        "anyOf": {"anyOf": [False, ref]},
        "oneOf": {"oneOf": [ref, False]},
        "if": {"if": ref, "else": False},
        "then": {"if": True, "then": ref},
        "dependentSchemas": {"dependentSchemas": {"in": ref}},
        "unevaluatedProperties": {"allOf": [ref], "unevaluatedProperties": False},
    }[wrapped]


def chained(wrapped: str, count: int, reference: str = "$ref") -> dict[str, Any]:
    """`count` schemas in a row, the last of which asks the first of a member."""
    start = "#" if reference == "$dynamicRef" else "#/$defs/"
    defs = {f"d{n}": _links(wrapped, {reference: f"{start}d{n + 1}"}) for n in range(count)}
    defs[f"d{count}"] = {"properties": {"in": {reference: f"{start}d0"}, "n": {"type": "integer"}}}
    if reference == "$dynamicRef":
        defs = {name: {"$dynamicAnchor": name, **schema} for name, schema in defs.items()}
    return {"$defs": defs, "$ref": "#/$defs/d0"}


WRAPPED = ("not", "allOf", "anyOf", "oneOf", "if", "then", "dependentSchemas", "unevaluatedProperties")


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("reference", ["$ref", "$dynamicRef"])
def test_a_chain_that_is_too_long_for_the_stack_is_refused(wrapped: str, reference: str) -> None:
    """Asked of nested arguments, it ended the process."""
    for count in (50, 400):
        with pytest.raises(ValueError, match=f"more than {MAX_CHAIN} of .* in a row"):
            JsonSchemas().compile(chained(wrapped, count, reference))


@pytest.mark.parametrize("wrapped", WRAPPED)
@pytest.mark.parametrize("innermost", [{}, {"n": "x"}])
def test_the_longest_chain_and_the_deepest_arguments_need_no_large_stack(wrapped: str, innermost: Any) -> None:
    checks = [JsonSchemas().compile(chained(wrapped, 49)), JsonSchemas().compile(in_a_circle(wrapped, 48))]
    arguments = innermost
    for _ in range(MAX_DEPTH):
        arguments = {"in": arguments}
    said: list[str | None] = []
    before = threading.stack_size(SMALL_STACK)
    try:
        asking = threading.Thread(target=lambda: said.extend(check(arguments) for check in checks))
        asking.start()
    finally:
        threading.stack_size(before)
    asking.join()
    assert len(said) == 2


def in_a_circle(wrapped: str, count: int) -> dict[str, Any]:
    """The last asks the first of the same value as well."""
    schema = chained("allOf" if wrapped == "unevaluatedProperties" else wrapped, count)
    schema["$defs"][f"d{count}"]["anyOf"] = [False, {"$ref": "#/$defs/d0"}]
    return schema


def test_a_circle_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=f"more than {MAX_CHAIN} of"):
        JsonSchemas().compile(in_a_circle("allOf", 50))


def _nested(levels: int, schema: dict[str, Any]) -> dict[str, Any]:
    """Resources that are all reached by one name, so that a pointer goes far down in each."""
    for _ in range(levels):
        schema = {"$id": "a", "x": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"$ref": "#", "title": f"{n}"} for n in range(1_500)], "x": [{"$id": "a"}] * 1_500},
        {"allOf": [{"$ref": f"#/x/{n}"} for n in range(1_500)], "x": [{"$id": "a", "0": {}} for _ in range(1_500)]},
        {"allOf": [{"$ref": "#a", "title": f"{n}"} for n in range(1_500)], "x": [{"$anchor": "a"}] * 1_500},
        {
            "allOf": [{"$ref": f"#{'/x' * 41}/{n}"} for n in range(200)],
            "x": _nested(40, {str(n): {} for n in range(200)}),
        },
    ],
)
def test_references_that_may_mean_anything_are_not_all_followed(schema: dict[str, Any]) -> None:
    schema = orjson.loads(orjson.dumps(schema))
    started = time.thread_time()
    with pytest.raises(ValueError, match="refers to too much"):
        JsonSchemas().compile(schema)
    assert time.thread_time() - started < 1


def test_a_long_pointer_is_taken_apart_once_however_many_resources_it_may_be_read_in() -> None:
    started = time.thread_time()
    with pytest.raises(ValueError, match="nothing inside of it is"):
        JsonSchemas().compile({"$ref": "#" + "/" * 60_000, "x": [{"$id": "a"} for _ in range(5_000)]})
    assert time.thread_time() - started < 1


def test_a_long_pointer_is_taken_apart_once_however_many_values_it_is_asked_of() -> None:
    name = "a" * 60_000
    items = {"$ref": "#/$defs/" + "%61" * len(name)}
    check = JsonSchemas().compile(
        {"anyOf": [{"required": ["y"]}], "properties": {"x": {"items": items}}, "$defs": {name: {"type": "integer"}}}
    )
    started = time.thread_time()
    assert check({"x": list(range(3_900))}) is not None
    assert time.thread_time() - started < 0.5


@pytest.mark.parametrize("reference", ["#/x", "#/x/", "#/allOf/-", "#nothing", "a.json", "#/a#b", "%61#x"])
def test_a_reference_that_is_not_found_is_refused_before_the_library_looks(reference: str) -> None:
    with pytest.raises(ValueError, match="nothing inside of it is"):
        JsonSchemas().compile({"$ref": reference, "$defs": {"b": {"$anchor": "b", "$id": "b.json"}}})
