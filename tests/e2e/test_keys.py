"""Keys: made by `agentgate keys create`, kept as digests, taken over by a running gateway."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from agentgate.cli import cli
from tests.e2e.conftest import MANY_REFUSALS
from tests.gateway import GatewayProcess, call, key_entry, until

QUERY = {"query": "SELECT 1"}


def keys_create(data_dir: Path, *flags: str) -> tuple[int, str]:
    """Exit status and what standard output says: the key alone."""
    done = CliRunner().invoke(cli, ["keys", "create", "--data-dir", str(data_dir), *flags])
    return done.exit_code, done.stdout.strip()


def test_a_running_gateway_takes_a_new_key_within_a_second_and_wants_keys_from_then_on() -> None:
    with GatewayProcess() as gateway:
        assert gateway.call("db_query", QUERY)["success"] is True
        status, key = keys_create(gateway.data_dir, "--agent", "research-bot")
        assert status == 0
        assert key.startswith("agk_")
        assert "\n" not in key
        until(lambda: call(gateway.agent(key), "db_query", QUERY, session="s-2").status_code == 200, timeout_s=3)
        keyless = call(gateway.agent(), "db_query", QUERY)
        assert (keyless.status_code, keyless.json()["reason_code"]) == (401, "unauthenticated")
        assert keyless.headers["WWW-Authenticate"].startswith("Bearer")
        pack = gateway.admin().get("/sessions/s-2/evidence").json()
        assert pack["metadata"]["agent_id"] == "agent:research-bot"


def test_a_key_is_kept_as_its_digest_for_the_owner_alone(tmp_path: Path) -> None:
    _, key = keys_create(tmp_path, "--person", "alice", "--role", "approver", "--role", "auditor")
    path = tmp_path / "keys.yaml"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert key not in path.read_text(encoding="utf-8")
    assert "alice" in path.read_text(encoding="utf-8")


def test_two_keys_differ_and_both_stay(tmp_path: Path) -> None:
    keys = {keys_create(tmp_path, "--agent", name)[1] for name in ("a", "b")}
    assert len(keys) == 2
    assert (tmp_path / "keys.yaml").read_text(encoding="utf-8").count("sha256") == 2


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--agent", "a", "--person", "b"),
        ("--person", "alice"),
        ("--agent", "a b"),
        ("--agent", "é"),
        ("--agent", ""),
        ("--agent", "a", "--tenant", "../x"),
        ("--agent", "a", "--role", "emperor"),
        ("--agent", "a", "--expires-in-days", "-1"),
    ],
)
def test_a_key_for_nobody_in_particular_is_not_made(tmp_path: Path, flags: tuple[str, ...]) -> None:
    assert keys_create(tmp_path, *flags)[0] == 2
    assert not (tmp_path / "keys.yaml").exists()


def test_an_expired_key_opens_nothing(tmp_path: Path) -> None:
    dead = key_entry("key-dead", agent="bot", expires="2020-01-01T00:00:00Z")
    operator = key_entry("key-gone", person="olga", roles=["operator"], expires="2020-01-01T00:00:00Z")
    with GatewayProcess(config={"auth": {"keys": [dead, operator]}}) as gateway:
        answer = call(gateway.agent("key-dead"), "db_query", QUERY)
        assert (answer.status_code, answer.json()["reason_code"]) == (401, "invalid_key")
        assert call(gateway.agent(), "db_query", QUERY).status_code == 401
        assert gateway.client("key-gone").get("/kills").status_code == 403


def test_a_role_is_not_more_than_it_says() -> None:
    entries = [
        key_entry(f"key-{role}", person=role, roles=[role], all_tenants=True)
        for role in ("operator", "approver", "auditor", "opa", "admin")
    ]
    with GatewayProcess(config={**MANY_REFUSALS, "auth": {"keys": entries}}) as gateway:
        doors = {
            "operator": ("GET", "/kills"),
            "approver": ("GET", "/approvals"),
            "auditor": ("GET", "/sessions/s/evidence"),
            "admin": ("POST", "/admin/policies/reload"),
        }
        for holder in ("operator", "approver", "auditor", "opa", "admin"):
            client = gateway.client(f"key-{holder}")
            for role, (method, path) in doors.items():
                expected = 200 if holder in (role, "admin") else 403
                assert client.request(method, path).status_code == expected, (holder, path)
            assert call(client, "db_query", QUERY, session=holder).status_code == (200 if holder == "admin" else 403)


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Basic a2V5"},
        {"Authorization": "Bearer"},
        {"Authorization": "key-bot"},
        {"X-API-Key": "key-bot", "Authorization": "Bearer other"},
        {"X-API-Key": "other", "Authorization": "Bearer key-bot"},
        {"X-API-Key": ""},
        {"X-API-Key": "key-bo"},
        {"X-API-Key": "KEY-BOT"},
    ],
)
def test_what_is_not_one_whole_key_is_401(keyed: GatewayProcess, headers: dict[str, str]) -> None:
    answer = call(keyed.client(**headers), "db_query", QUERY)
    assert answer.status_code == 401
    assert answer.headers["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("key", ["é", "schlüssel", "\u20ac", "日本"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_a_non_ascii_key_is_wrong_and_no_fault(keyed: GatewayProcess, key: str, encoding: str) -> None:
    raw = key.encode(encoding, errors="replace")
    client = keyed.client()
    body = {"session_id": "s", "tool_name": "db_query", "arguments": QUERY}
    for headers in ([(b"X-API-Key", raw)], [(b"Authorization", b"Bearer " + raw)]):
        assert client.post("/tools/call", json=body, headers=httpx.Headers(headers)).status_code == 401
        assert client.get("/kills", headers=httpx.Headers(headers)).status_code == 403


@pytest.fixture(scope="module")
def keyed() -> Iterator[GatewayProcess]:
    with GatewayProcess(config={**MANY_REFUSALS, "auth": {"keys": [key_entry("key-bot", agent="bot")]}}) as process:
        yield process
