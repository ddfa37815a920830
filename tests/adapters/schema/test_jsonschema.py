"""JSON Schema on jsonschema-rs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentgate.adapters.schema.jsonschema import JsonSchemas
from tests.contracts.schemas import SchemasContract
from tests.web import Handler, serving


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
