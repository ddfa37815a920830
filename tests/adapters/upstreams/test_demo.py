"""The demo tools: they work, and nothing gets out of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.upstreams.demo import DEMO_TOOLS, DemoUpstream
from agentgate.core import strict_json
from agentgate.core.call import Access
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Delivered, Undelivered
from tests.contracts.upstream import UpstreamContract, granted, make_tool


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "demo"


@pytest.fixture
async def upstream(directory: Path) -> AsyncIterator[DemoUpstream]:
    upstream = DemoUpstream(directory)
    yield upstream
    await upstream.aclose()


async def call(upstream: DemoUpstream, tool: str, **arguments: Any) -> Delivered | Undelivered:
    return await upstream.send(granted(make_tool(tool), arguments), None)


async def result(upstream: DemoUpstream, tool: str, **arguments: Any) -> Any:
    answer = await call(upstream, tool, **arguments)
    assert isinstance(answer, Delivered), answer
    strict_json.check(answer.value)
    return answer.value


async def refusal(upstream: DemoUpstream, tool: str, **arguments: Any) -> str:
    answer = await call(upstream, tool, **arguments)
    assert isinstance(answer, Undelivered), answer
    assert answer.reason is ReasonCode.UPSTREAM_ERROR
    return answer.detail


class TestDemoUpstream(UpstreamContract):
    @pytest.fixture
    def good(self) -> Grant:
        return granted(make_tool("db_query"), {"query": "SELECT id, name FROM products LIMIT 1"})

    @pytest.fixture
    def bad(self) -> Grant:
        return granted(make_tool("db_query"), {"query": "SELECT nonsense FROM nowhere"})

    @pytest.fixture
    def endless(self) -> Grant:
        return granted(make_tool("slow"), {"seconds": 60})


class TestDeclarations:
    def test_they_are_v02s_tools_and_a_slow_one(self) -> None:
        writes = {tool.name for tool in DEMO_TOOLS if tool.access is Access.WRITE}
        assert writes == {"db_insert", "db_update", "file_write", "api_post"}
        assert {tool.name for tool in DEMO_TOOLS} - writes == {
            "db_query", "file_read", "api_get", "rate_limited_tool", "slow",
        }  # fmt: skip

    def test_their_schemas_compile_and_refuse_undeclared_arguments(self) -> None:
        for tool in DEMO_TOOLS:
            misfit = JsonSchemas().compile(tool.input_schema)({"surprise": 1})
            assert (misfit is None) == (tool.name == "rate_limited_tool"), tool.name

    def test_a_demo_tool_takes_no_options(self, upstream: DemoUpstream) -> None:
        upstream.validate_options({})
        with pytest.raises(ValueError, match="no options"):
            upstream.validate_options({"path": "/x"})


class TestReading:
    async def test_the_first_product_is_the_widget(self, upstream: DemoUpstream) -> None:
        query = "SELECT id, name FROM products LIMIT 1"
        assert await result(upstream, "db_query", query=query) == {
            "rows": [{"id": 1, "name": "Widget"}],
            "query": query,
        }

    async def test_every_table_has_rows(self, upstream: DemoUpstream) -> None:
        for table in ("products", "customers", "orders", "users", "logs", "items", "test", "widgets"):
            assert (await result(upstream, "db_query", query=f"SELECT * FROM {table} LIMIT 1"))["rows"]

    async def test_joins_and_aggregates_work(self, upstream: DemoUpstream) -> None:
        query = """SELECT c.name, sum(o.quantity * p.price) AS total FROM orders o
                   JOIN customers c ON c.id = o.customer_id JOIN products p ON p.id = o.product_id
                   WHERE o.status = 'open' GROUP BY c.name ORDER BY total DESC"""
        assert (await result(upstream, "db_query", query=query))["rows"][0] == {"name": "Ada Example", "total": 250.0}

    @pytest.mark.parametrize(
        "query",
        [
            "DELETE FROM products",
            "INSERT INTO products (name) VALUES ('x')",
            "UPDATE products SET name = 'x'",
            "DROP TABLE products",
            "CREATE TABLE x (y)",
            "ATTACH ':memory:' AS other",
            "PRAGMA journal_mode = DELETE",
            "SELECT * FROM pragma_database_list",
            "SELECT load_extension('x')",
            "SELECT writefile('x', 'y')",
            "VACUUM INTO 'x'",
            "BEGIN",
            "SELECT 1; DELETE FROM products",
            "SELECT \x00",
            "",
        ],
    )
    async def test_only_a_select_on_the_sample_tables_runs(self, upstream: DemoUpstream, query: str) -> None:
        assert await refusal(upstream, "db_query", query=query)
        assert (await result(upstream, "db_query", query="SELECT count(*) AS n FROM products"))["rows"] == [{"n": 5}]

    async def test_a_refusal_does_not_repeat_the_query(self, upstream: DemoUpstream) -> None:
        for query in ("SELECT hunter2 FROM users", 'SELECT * FROM "hunter2"', "SELECT 1 hunter2 hunter2 x", "hunter2"):
            assert "hunter2" not in await refusal(upstream, "db_query", query=query)

    async def test_values_that_strict_json_lacks_become_texts(self, upstream: DemoUpstream) -> None:
        query = "SELECT 9e999 AS i, 9223372036854775807 AS n, x'00ff' AS b"
        row = (await result(upstream, "db_query", query=query))["rows"][0]
        assert row == {"i": "inf", "n": "9223372036854775807", "b": "00ff"}

    async def test_rows_are_capped_and_the_answer_says_so(self, upstream: DemoUpstream) -> None:
        answer = await result(
            upstream, "db_query", query="SELECT 1 FROM products a, products b, products c, products d"
        )
        assert len(answer["rows"]) == 200
        assert answer["truncated"] is True

    @pytest.mark.parametrize(
        "query",
        [
            "SELECT count(*) FROM " + ", ".join(f"products p{i}" for i in range(30)),
            "SELECT a.id FROM "
            + ", ".join(f"products {c}" for c in "abcdefgh")
            + " ORDER BY a.name || b.name || c.name",
            "SELECT group_concat(a.name || b.name) FROM products a, products b, products c, products d, products e",
            "WITH RECURSIVE t(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM t) SELECT max(x) FROM t",
            "/* ' */ WITH a AS (SELECT 1) SELECT 1 FROM a /* ' */",
            "-- '\nWITH a AS (SELECT 1) SELECT 1 FROM a --'",
            "WITH c0 AS (SELECT 1 x), "
            + ", ".join(f"c{i} AS (SELECT a.x FROM c{i - 1} a, c{i - 1} b, c{i - 1} c)" for i in range(1, 30))
            + " SELECT count(*) FROM c29",
            "SELECT id IN ("
            + ", ".join(["id"] * 1000)
            + ") AS q FROM products WHERE 1 IN ("
            + ", ".join(["q"] * 900)
            + ")",
            "SELECT x IN ("
            + ",".join(["x"] * 300)
            + ") FROM (SELECT id IN ("
            + ",".join(["id"] * 300)
            + ") AS x FROM users)",
            "SELECT randomblob(1000000000)",
            "SELECT hex(zeroblob(100000000))",
            "SELECT printf('%.*c', 100000000, 'x')",
            "SELECT " + "[" * 4000,
            "SELECT '" + "'" * 4000,
            "SELECT " + "(" * 4000,
        ],
    )
    async def test_a_hostile_query_is_refused_before_the_loop_notices(self, upstream: DemoUpstream, query: str) -> None:
        started = time.thread_time()
        await refusal(upstream, "db_query", query=query)
        assert time.thread_time() - started < 0.05

    async def test_many_costly_functions_in_one_statement_are_refused(self, upstream: DemoUpstream) -> None:
        await result(upstream, "db_insert", table="items", data={"name": "a" * 16_000})
        like = "(name LIKE '%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%a%b')"
        for times in (16, 40):
            started = time.thread_time()
            await call(upstream, "db_query", query="SELECT " + "+".join([like] * times) + " AS n FROM items")
            assert time.thread_time() - started < 0.05


class TestWriting:
    async def test_an_inserted_row_can_be_read(self, upstream: DemoUpstream) -> None:
        inserted = await result(upstream, "db_insert", table="users", data={"name": "zoe", "active": True})
        assert inserted == {"inserted_id": 4, "table": "users"}
        rows = (await result(upstream, "db_query", query="SELECT name, active FROM users WHERE id = 4"))["rows"]
        assert rows == [{"name": "zoe", "active": 1}]

    async def test_an_update_changes_what_where_names(self, upstream: DemoUpstream) -> None:
        updated = await result(upstream, "db_update", table="orders", set={"status": "held"}, where={"status": "open"})
        assert updated == {"updated": 2, "table": "orders"}

    @pytest.mark.parametrize("arguments", [{}, {"data": {"name": "ok"}}, {"set": {"name": "ok"}}])
    async def test_an_update_without_where_changes_one_row(
        self, upstream: DemoUpstream, arguments: dict[str, Any]
    ) -> None:
        """v0.2's callers send no `where` and expect `updated: 1`; nobody may lose a whole table that way."""
        assert await result(upstream, "db_update", table="items", **arguments) == {"updated": 1, "table": "items"}

    @pytest.mark.parametrize(
        ("tool", "arguments"),
        [
            ("db_insert", {"table": "nowhere", "data": {}}),
            ("db_insert", {"table": 'items"; DROP TABLE items; --', "data": {}}),
            ("db_insert", {"table": "sqlite_master", "data": {"name": "x"}}),
            ("db_insert", {"table": "items", "data": {'name") VALUES (1); --': "x"}}),
            ("db_insert", {"table": "items", "data": {"name": {"nested": 1}}}),
            ("db_insert", {"table": "items", "data": {"name": "x" * 20_000}}),
            ("db_insert", {"table": "items", "data": {"id": 1}}),
            ("db_update", {"table": "items", "set": {"name = 'x' --": 1}, "where": {}}),
            ("db_update", {"table": "items", "set": {}, "where": {"1=1 OR id": 1}}),
            ("db_insert", {"table": ["items"], "data": {}}),
            ("db_insert", {}),
        ],
    )
    async def test_names_and_values_cannot_be_sql(
        self, upstream: DemoUpstream, tool: str, arguments: dict[str, Any]
    ) -> None:
        assert await refusal(upstream, tool, **arguments)
        assert (await result(upstream, "db_query", query="SELECT count(*) AS n FROM items"))["rows"] == [{"n": 2}]

    async def test_a_value_stays_a_value(self, upstream: DemoUpstream) -> None:
        hostile = "x'); DROP TABLE items; --"
        await result(upstream, "db_insert", table="items", data={"name": hostile})
        rows = (await result(upstream, "db_query", query="SELECT name FROM items WHERE id = 3"))["rows"]
        assert rows == [{"name": hostile}]

    async def test_what_was_written_is_there_after_a_restart(self, upstream: DemoUpstream, directory: Path) -> None:
        await result(upstream, "db_insert", table="logs", data={"message": "kept"})
        await upstream.aclose()
        again = DemoUpstream(directory)
        assert len((await result(again, "db_query", query="SELECT * FROM logs"))["rows"]) == 2
        await again.aclose()


class TestFiles:
    async def test_a_sample_file_can_be_read(self, upstream: DemoUpstream) -> None:
        assert "sandbox" in (await result(upstream, "file_read", path="README.txt"))["content"]

    @pytest.mark.parametrize("path", ["new.txt", "/tmp/new.txt", "a/b/c.txt", "./d.txt", "ünï.txt"])
    async def test_what_is_written_is_read_back_inside_the_sandbox(
        self, upstream: DemoUpstream, directory: Path, path: str
    ) -> None:
        assert await result(upstream, "file_write", path=path, content="héllo") == {"path": path, "status": "written"}
        assert await result(upstream, "file_read", path=path) == {"path": path, "content": "héllo"}
        assert (directory / "files" / path.lstrip("/")).read_text() == "héllo"

    async def test_writing_again_replaces(self, upstream: DemoUpstream) -> None:
        await result(upstream, "file_write", path="a.txt", content="long content")
        await result(upstream, "file_write", path="a.txt", content="s")
        assert (await result(upstream, "file_read", path="a.txt"))["content"] == "s"

    @pytest.mark.parametrize(
        "path",
        ["../secret.txt", "tmp/../../secret.txt", "/../secret.txt", "..", "", "/", "tmp", "tmp/", "a\x00b",
         "link", "out/secret.txt", "README.txt/x", "fifo", "x" * 300, "a/" * 20 + "b"],
    )  # fmt: skip
    async def test_no_path_leads_out_or_hangs(self, upstream: DemoUpstream, directory: Path, path: str) -> None:
        secret = directory / "secret.txt"
        secret.write_text("secret")
        files = directory / "files"
        (files / "link").symlink_to(secret)
        (files / "out").symlink_to(directory)
        os.mkfifo(files / "fifo")
        assert await refusal(upstream, "file_read", path=path)
        assert await refusal(upstream, "file_write", path=path, content="overwritten")
        assert secret.read_text() == "secret"

    async def test_a_missing_file_is_an_error_without_its_name(self, upstream: DemoUpstream) -> None:
        assert await refusal(upstream, "file_read", path="no/such/file") == "No such file or directory"

    async def test_size_is_capped_both_ways(self, upstream: DemoUpstream, directory: Path) -> None:
        assert "larger" in await refusal(upstream, "file_write", path="big", content="x" * (2**20 + 1))
        (directory / "files" / "big").write_bytes(b"x" * (2**20 + 1))
        assert "larger" in await refusal(upstream, "file_read", path="big")

    async def test_a_binary_file_is_refused(self, upstream: DemoUpstream, directory: Path) -> None:
        (directory / "files" / "b.bin").write_bytes(b"\xff\xfe\x00")
        assert "UTF-8" in await refusal(upstream, "file_read", path="b.bin")


class TestLocalService:
    @pytest.mark.parametrize(
        "endpoint",
        ["/users", "users", "https://api.example.com/data", "//example.com/x", "http://[::1]/y", "/a b?c=d#e"],
    )
    async def test_any_endpoint_reaches_the_local_service_alone(self, upstream: DemoUpstream, endpoint: str) -> None:
        answer = await result(upstream, "api_get", endpoint=endpoint)
        assert (answer["endpoint"], answer["status"], answer["data"]["ok"]) == (endpoint, 200, True)

    async def test_a_post_is_created(self, upstream: DemoUpstream) -> None:
        answer = await result(upstream, "api_post", endpoint="/tickets", payload={"title": "x"})
        assert answer == {"endpoint": "/tickets", "status": 201, "data": {"ok": True, "received": {"title": "x"}}}
        assert (await result(upstream, "api_post", endpoint="/tickets"))["status"] == 201

    async def test_a_status_of_error_is_a_tool_error(self, upstream: DemoUpstream) -> None:
        assert await refusal(upstream, "api_get", endpoint="/errors/503") == "the service answered 503"
        assert await refusal(upstream, "api_get", endpoint="http://[bad") != ""

    async def test_thirty_first_calls_at_once_start_one_service(self, upstream: DemoUpstream) -> None:
        answers = await asyncio.gather(*(call(upstream, "api_get", endpoint="/status") for _ in range(30)))
        assert all(isinstance(answer, Delivered) for answer in answers)


class TestTheOthers:
    async def test_rate_limited_tool_echoes(self, upstream: DemoUpstream) -> None:
        assert await result(upstream, "rate_limited_tool", key="value") == {"status": "ok", "echo": {"key": "value"}}

    async def test_slow_takes_its_time(self, upstream: DemoUpstream) -> None:
        assert await result(upstream, "slow", seconds=0.01) == {"status": "ok", "slept_s": 0.01}
        for seconds in (-1, 61, "1", None, True):
            assert await refusal(upstream, "slow", seconds=seconds)

    async def test_an_undeclared_tool_is_not_there(self, upstream: DemoUpstream) -> None:
        answer = await call(upstream, "format_disk")
        assert isinstance(answer, Undelivered)
        assert answer.reached is False
