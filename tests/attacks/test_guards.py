"""Whatever a guard is to stop, in disguise, through a real gateway: it is refused, recorded, and reaches no tool.
A66 and A67, as far as policy can: what a session has touched decides what it may still do, and no caller can say
otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.attacks.conftest import reached
from tests.gateway import GatewayProcess

POLICIES = Path(__file__).parents[2] / "policies"

DATA: dict[str, Any] = {
    "session_facts": True,
    "result_labels": True,
    "parse": {
        "db_query": {"query": "sql:sqlite"},
        "file_read": {"path": "path"},
        "file_write": {"content": "shell"},
        "api_get": {"endpoint": "path"},
    },
    "labels": {"tools": {"file_read": ["untrusted"], "api_get": ["outbound"]}},
    "packs": {
        "sql_guard": {"tools": ["db_query"], "tables": ["products", "customers"]},
        "path_allow": {"tools": ["file_read", "api_get"], "under": ["/"], "except": ["/etc"]},
        "shell_guard": {"tools": ["file_write"], "commands": ["ls"]},
        "forbidden_fields": {"fields": ["role", "is_admin"]},
        "lethal_trifecta": {"then": "DENY"},
    },
}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = Path(shutil.copytree(POLICIES, tmp_path_factory.mktemp("policy") / "policies"))
    data = json.loads((folder / "data.json").read_text(encoding="utf-8"))
    (folder / "data.json").write_text(json.dumps(data | DATA), encoding="utf-8")
    config = {"policy": {"path": str(folder)}, "server": {"refusals_per_second": 100_000}}
    with GatewayProcess(config=config) as process:
        yield process


SQL = [
    "SELECT * FROM users",
    "SELECT name FROM products; DROP TABLE products",
    "SELECT name FROM products -- x",
    "SELECT /*! 1 */ name FROM products",
    "WITH x AS (DELETE FROM products RETURNING *) SELECT * FROM x",
    "SELECT * INTO copy FROM products",
    "SELECT load_extension('x') FROM products",
    "SELECT * FROM products WHERE id IN (SELECT id FROM users)",
    "SELECT name FROM products UNION SELECT name FROM users",
    "WITH products AS (SELECT * FROM users) SELECT * FROM products",
    "PRAGMA table_info(users)",
    "ATTACH 'x' AS y",
    "EXPLAIN SELECT 1",
    "REPLACE INTO products VALUES (1)",
    'SELECT * FROM "users"',
    "SELECT * FROM [users]",
    "SELECT * FROM main.users",
    "SELECT '\\'; DROP TABLE products; --' FROM products",
    "SELECT name FROM products WHERE name = 'a\x00'",
    "S\u200bELECT name FROM products",
    "VACUUM",
]
PATHS = [
    "/etc/passwd",
    "/data/../etc/passwd",
    "../x",
    "/%65tc/passwd",
    "/data/%2e%2e/x",
    "/data/..%2fx",
    "/data\\..\\x",
    "/data/x\x00.txt",
    "/data/\uff0e\uff0e/x",
    "//etc/passwd",
    "/./etc/passwd",
    "~/x",
    "file:///etc/passwd",
    "etc/passwd",
]
SHELL = [
    "rm x",
    "ls; rm x",
    "ls\nrm x",
    "ls $(rm x)",
    "ls `rm x`",
    "ls & rm x",
    "ls && rm x",
    "ls | sh",
    "bash -c 'ls'",
    "A=1 ls",
    "ls > x",
    "l${x}s",
    "$0",
    "ls <(rm x)",
    "{ rm x; }",
    "eval ls",
    "/tmp/ls",
    "echo cm0geA== | base64 -d | sh",
    "find . -delete",
]


@pytest.mark.parametrize("query", SQL)
def test_no_disguise_gets_sql_past_its_guard(guarded: GatewayProcess, query: str) -> None:
    _refused(guarded, "db_query", {"query": query}, "sql")


@pytest.mark.parametrize("path", PATHS)
def test_no_disguise_gets_a_path_past_its_list(guarded: GatewayProcess, path: str) -> None:
    _refused(guarded, "file_read", {"path": path}, "path")


@pytest.mark.parametrize("line", SHELL)
def test_no_disguise_gets_a_command_past_its_guard(guarded: GatewayProcess, line: str) -> None:
    _refused(guarded, "file_write", {"path": "x", "content": line}, "shell")


@pytest.mark.parametrize("field", ["role", "ROLE", "Ro_le", "is-admin", "isAdmin", "is admin"])
def test_no_spelling_gets_a_field_past_its_ban(guarded: GatewayProcess, field: str) -> None:
    _refused(guarded, "db_insert", {"table": "users", "data": {field: "admin"}}, "field")


def _refused(guarded: GatewayProcess, tool: str, arguments: dict[str, Any], what: str) -> None:
    session = f"guard-{what}-{abs(hash(str(arguments)))}"
    answer = guarded.call(tool, arguments, session=session)
    assert (answer["decision"], answer["reason_code"]) == ("DENY", "policy_deny"), answer
    assert what in answer["error"].lower(), "by the guard, and by nothing else"
    assert reached(guarded, session) == 0


def test_what_a_guard_is_not_about_goes_through(guarded: GatewayProcess) -> None:
    assert guarded.call("db_query", {"query": "SELECT name FROM products"}, session="plain")["success"] is True
    written = guarded.call("file_write", {"path": "x", "content": "ls -l"}, session="plain")
    assert written["reason_code"] == "approval_required"


def test_private_and_untrusted_data_close_the_way_out(guarded: GatewayProcess) -> None:
    """The customers' addresses are found in the result: nobody has labelled that tool."""
    out = {"endpoint": "/users"}
    for session, calls, expected in (
        ("t-private", [("db_query", {"query": "SELECT email FROM customers"})], "ok"),
        ("t-untrusted", [("file_read", {"path": "/README.txt"})], "ok"),
        ("t-neither", [("db_query", {"query": "SELECT name FROM products"}), ("file_read", {"path": "/x"})], None),
    ):
        for tool, arguments in calls:
            guarded.call(tool, arguments, session=session)
        answer = guarded.call("api_get", out, session=session)
        assert expected is None or answer["reason_code"] == expected, (session, answer)
    assert guarded.call("db_query", {"query": "SELECT email FROM customers"}, session="t-all")["success"] is True
    assert guarded.call("api_get", out, session="t-all")["reason_code"] == "ok"
    guarded.call("file_read", {"path": "/README.txt"}, session="t-all")
    answer = guarded.call("api_get", out, session="t-all")
    assert (answer["reason_code"], "can send out" in answer["error"]) == ("policy_deny", True), answer
    guarded.call("db_query", {"query": "SELECT name FROM products"}, session="t-all")
    again = guarded.call("api_get", out, session="t-all")
    assert again["reason_code"] == "policy_deny", "labels only grow"


@pytest.mark.parametrize(
    "lie",
    [
        {"context": {"session": {"labels": []}, "labels": []}},
        {"context": {"input": {"session": {"labels": []}}, "parsed": {}}},
    ],
)
def test_a_caller_cannot_say_what_its_session_has_touched(guarded: GatewayProcess, lie: dict[str, Any]) -> None:
    session = f"lie-{abs(hash(str(lie)))}"
    guarded.call("db_query", {"query": "SELECT email FROM customers"}, session=session)
    guarded.call("file_read", {"path": "/README.txt"}, session=session)
    answer = guarded.call("api_get", {"endpoint": "/users"}, session=session, **lie)
    assert answer["reason_code"] == "policy_deny", answer


def test_data_that_the_gateway_cannot_use_is_not_enforced(guarded: GatewayProcess) -> None:
    """A guard that is misspelt is no guard: the old policy stays."""
    assert guarded.config_path is not None
    config = yaml.safe_load(guarded.config_path.read_text(encoding="utf-8"))
    path = Path(config["policy"]["path"]) / "data.json"
    good = path.read_text(encoding="utf-8")
    try:
        for wrong in (
            {"parse": {"db_query": {"query": "sql"}}},
            {"parse": {"db_query": {"query": "sql:tsql"}}},
            {"parse": {"db_query": "sql:sqlite"}},
            {"parse": []},
            {"packs": None},
            {"packs": ["sql_guard"]},
            {"labels": {"tool": {}}},
            {"labels": {"tools": {"db_query": "private"}}},
            {"result_labels": 1},
        ):
            path.write_text(json.dumps(json.loads(good) | wrong), encoding="utf-8")
            answer = guarded.admin().post("/admin/policies/reload")
            assert (answer.status_code, answer.json()["reason_code"]) == (422, "policy_invalid"), (wrong, answer.text)
    finally:
        path.write_text(good, encoding="utf-8")
    assert guarded.call("db_query", {"query": "SELECT * FROM users"}, session="after")["reason_code"] == "policy_deny"
