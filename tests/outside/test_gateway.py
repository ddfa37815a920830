"""What a real gateway gives out, read by programs that we did not write, and by `agentgate verify`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentgate.core.verification.seals import Trust, read_trust
from agentgate.core.verification.verify import verify, verify_view
from tests.gateway import GatewayProcess, key_entry
from tests.outside import tools
from tests.outside.test_verify_md import parts, paste, stock
from tests.outside.tools import unpacked

__all__ = ["stock"]

SIGNING_KEY = "a-signing-key-for-tests-3f8c-0123456789ab"
BOT, OTHER, OPERATOR = "key-bot", "key-other", "key-operator"


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """Two agents' sessions, calls of every ending, kills, a write that asks for approval, a call in a foreign one."""
    keys = [
        key_entry(BOT, agent="bot"),
        key_entry(OTHER, agent="other"),
        key_entry(OPERATOR, person="olga", roles=["operator"], all_tenants=True),
    ]
    with GatewayProcess(env={"AGENTGATE_SIGNING_KEY": SIGNING_KEY}, config={"auth": {"keys": keys}}) as process:
        for key, session in ((BOT, "s-1"), (OTHER, "s-2"), (BOT, "s-3"), (OTHER, "s-1")):
            client = process.client(key)
            for tool, arguments in (
                ("db_query", {"query": "SELECT 1"}),
                ("db_query", {"query": "SELEC"}),
                ("no_such_tool", {}),
                ("db_insert", {"table": "products", "data": {"name": "tea"}}),
            ):
                client.post("/tools/call", json={"session_id": session, "tool_name": tool, "arguments": arguments})
        operator = process.client(OPERATOR)
        assert operator.post("/sessions/s-3/kill", json={"reason": "enough"}).status_code == 200
        assert operator.post("/tools/db_query/kill", json={"reason": "all of them"}).status_code == 200
        yield process


def fetch(gateway: GatewayProcess, query: str) -> bytes:
    answer = gateway.client(gateway.admin_key).get(f"/evidence?{query}")
    assert answer.status_code == 200, answer.text
    return answer.content


def trust_of(folder: Path) -> Trust:
    public = read_trust((folder / "keys/log.vkey").read_bytes())
    return Trust((SIGNING_KEY.encode(),)) | public | read_trust((folder / "keys/envelope.pub.pem").read_bytes())


SCOPES = {
    "session": "session=s-1",
    "killed session": "session=s-3",
    "session of nobody": "session=s-9",
    "agent": "agent=bot",
    "agent who tried": "agent=other",
    "tenant": "",
    "time": "since=2026-01-01&until=2100-01-01",
}


@pytest.mark.parametrize("scope", SCOPES.values(), ids=SCOPES.keys())
def test_every_kind_of_pack_holds_for_everybody(
    gateway: GatewayProcess, scope: str, stock: str, tmp_path: Path
) -> None:
    raw = fetch(gateway, f"{scope}&format=zip")
    folder = unpacked(raw, tmp_path / "pack")
    report = verify(raw, trust_of(folder))
    assert (report.exit_status, report.faults) == (0, ()), report.findings
    vkey = (folder / "keys/log.vkey").read_text(encoding="utf-8")
    status, said = tools.run([tools.go(), "pack", folder, vkey])
    assert status == 0, said
    status, said = tools.run([*tools.sigstore(), folder / "pack.sigstore.json", folder / "keys/envelope.pub.pem"])
    assert status == 0, said
    for number, commands in parts(folder).items():
        status, said = paste(commands, folder, stock)
        assert (status, said.rstrip()[-2:]) == (0, "OK"), (number, said)


def test_the_json_pack_and_the_pages_hold_under_the_hmac(gateway: GatewayProcess) -> None:
    trust = Trust((SIGNING_KEY.encode(),))
    assert verify(fetch(gateway, "session=s-1"), trust).exit_status == 0
    for form in ("html", "pdf"):
        answer = gateway.client(gateway.admin_key).get(f"/evidence?session=s-1&format={form}")
        signature = answer.headers["X-Evidence-HMAC"].encode()
        assert verify_view(answer.content, signature, trust).exit_status == 0
        assert verify_view(answer.content + b"\n", signature, trust).exit_status == 1


def test_a_later_pack_shows_that_the_log_continues_an_earlier_one(gateway: GatewayProcess, tmp_path: Path) -> None:
    first = unpacked(fetch(gateway, "session=s-1&format=zip"), tmp_path / "first")
    earlier = (first / "checkpoint").read_bytes()
    size = int(earlier.split(b"\n")[1])
    gateway.client(BOT).post("/tools/call", json={"session_id": "s-1", "tool_name": "file_read", "arguments": {}})
    raw = fetch(gateway, f"session=s-1&format=zip&checkpoint_size={size}")
    second = unpacked(raw, tmp_path / "second")
    assert verify(raw, trust_of(first), earlier).exit_status == 0
    vkey = (first / "keys/log.vkey").read_text(encoding="utf-8")
    status, said = tools.run([tools.go(), "pack", second, vkey, first / "checkpoint"])
    assert (status, "continues" in said) == (0, True), said


def test_go_reads_the_whole_log_over_http(gateway: GatewayProcess) -> None:
    """As a monitor does that an auditor of all tenants runs."""
    fetch(gateway, "session=s-1&format=zip")
    vkey = gateway.client().get("/log/keys").text.split("\n", maxsplit=1)[0]
    environment = {"OUTSIDE_API_KEY": gateway.admin_key}
    status, said = tools.run([tools.go(), "tiles", f"{gateway.url}/log", vkey], env=environment)
    assert status == 0, said
    assert int(said.split(" ")[1]) > 20
    status, said = tools.run([tools.go(), "tiles", f"{gateway.url}/log", vkey], env={"OUTSIDE_API_KEY": OPERATOR})
    assert (status, "403" in said) == (1, True), "entries name tenants and agents"
