"""JSON Schema on jsonschema-rs."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator

import pytest

from agentgate.adapters.schema.jsonschema import JsonSchemas
from tests.contracts.schemas import SchemasContract


@pytest.fixture
def listener() -> Iterator[tuple[str, list[str]]]:
    """A web server that would gladly serve a schema, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"type": "object"}')

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
        thread.join()


class TestJsonSchemas(SchemasContract):
    @pytest.fixture
    def schemas(self) -> JsonSchemas:
        return JsonSchemas()

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
