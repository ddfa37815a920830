"""schemathesis sends what the OpenAPI document allows, and what it forbids: nothing is answered with 5xx, or otherwise
than the document says.

The document that it reads is stricter than the gateway's: every object that names its members has no others, so that an
answer with a member that nobody wrote down is found.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from agentgate.core.call import Role
from tests.gateway import GatewayProcess, call, clean_environment, key_entry

ROLES: Final = tuple(role.value for role in Role)
NOBODY, STRANGER, EVERYBODY = "nobody", "stranger", "everybody"
"""Who comes without a key, with a wrong one, and with the key that each operation asks for."""
TENANT = "of-a-tenant"
"""And the same roles without a view of other tenants."""
CONFIG: Final[dict[str, Any]] = {
    "auth": {
        "keys": [
            *(key_entry(f"key-{role}", person=f"{role}-1", roles=[role], all_tenants=True) for role in ROLES[1:]),
            *(key_entry(f"{TENANT}-{role}", person=f"{role}-2", roles=[role], tenant="acme") for role in ROLES[1:]),
            key_entry("key-agent", agent="bot"),
            key_entry(f"{TENANT}-agent", agent="bot", tenant="acme"),
        ]
    },
    "server": {"refusals_per_second": 1_000_000},
    "containment": {"rate_window_s": 0.001},
    "webhooks": [{"name": "deaf", "url": "https://127.0.0.1:9/", "secret": {"env": "DEAF_SECRET"}}],
}
SETTINGS: Final = """\
[cache]
enabled = false
[generation]
database = "none"
no-shrink = true
with-security-parameters = false
[output.sanitization]
enabled = false
# What a schema cannot say (one member without another, a key that is used for another call) is refused with 422.
[checks.positive_data_acceptance]
enabled = false
"""
CALLS: Final[Mapping[str, dict[str, Any]]] = {
    "db_query": {"query": "SELECT id, name FROM products LIMIT 5"},
    "db_insert": {"table": "products", "data": {"name": "Gadget"}},
    "api_post": {"endpoint": "/orders", "payload": {"n": 1}},
    "file_read": {"path": "/etc/passwd"},
}
SESSIONS: Final = ["fuzz-1", "fuzz-2", "fuzz-3"]
NARROWED_PARAMETERS: Final = {"Prefer": ["respond-async", "wait=1"], "level": ["0"], "index": ["000"]}
SIGNED: Final = {"Signature-Input", "Signature", "Content-Digest"}
"""Nobody here has a key to sign with."""
NARROWED: Final = {
    "POST /tools/call",
    "POST /api/tools/call",
    "POST /approvals/{approval_id}/edit",
    "GET /log/tile/entries/{index}",
    "GET /log/tile/{level}/{index}",
}
"""What `EVERYBODY` asks for only as it is there: what is not is taken all the same, and asked for by all others."""
KILLS: Final = ("create_kill", "kill_session", "kill_agent", "kill_tool", "kill_server", "kill_tenant", "pause")
IN_PEACE: Final = (
    *("--phases", "fuzzing,stateful", "--mode", "positive", "--max-examples", "100"),
    *(flag for kill in KILLS for flag in ("--exclude-operation-id", kill)),
)
"""Without kills approvals live long enough to be answered, edited and used."""
ALL_OF_IT: Final = ("--phases", "coverage,fuzzing,stateful", "--max-examples", "30")
ENOUGH: Final = 10
"""Approvals that wait at once."""


@dataclass(frozen=True)
class Outcome:
    """What one run has found."""

    report: dict[str, Any]
    statuses: Counter[int]
    said: str

    @property
    def cases(self) -> int:
        return int(self.report["test_cases"]["generated"])


def strict(document: dict[str, Any]) -> dict[str, Any]:
    """The document with closed objects."""
    close(document["components"]["schemas"])
    return document


def narrow(document: dict[str, Any]) -> dict[str, Any]:
    """The document with requests that get somewhere here, and no others, for the operations of `NARROWED`."""
    schemas = document["components"]["schemas"]
    for name, tool in (("ToolCallRequest", "tool_name"), ("EnvelopeRequest", "tool")):
        members = schemas[name]["properties"]
        ours = {"session_id": {"enum": SESSIONS}, "agent_id": {"const": "bot"}}
        ours = {member: schema for member, schema in ours.items() if member in members}
        calls = [
            schemas[name] | {"properties": members | ours | {tool: {"const": its}, "arguments": {"const": arguments}}}
            for its, arguments in CALLS.items()
        ]
        schemas[name] = {"anyOf": calls}
    edits = [CALLS["db_insert"] | {"table": table} for table in ("products", "users")]
    schemas["EditBody"]["properties"]["arguments"] = {"enum": edits}
    for item in document["paths"].values():
        for operation in item.values():
            parameters = [one for one in operation.get("parameters", ()) if one["name"] not in SIGNED]
            operation["parameters"] = parameters
            for parameter in parameters:
                if parameter["name"] in NARROWED_PARAMETERS:
                    parameter["schema"] = {"enum": NARROWED_PARAMETERS[parameter["name"]]}
    return document


def close(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") == "object" and "properties" in node:
            node.setdefault("additionalProperties", False)
        for inner in list(node.values()):
            close(inner)
    elif isinstance(node, list):
        for inner in node:
            close(inner)


def settings(document: dict[str, Any], who: str) -> str:
    """schemathesis.toml with the keys that they come with."""
    if who == NOBODY:
        return SETTINGS
    if who in ROLES or who == STRANGER:
        return f'{SETTINGS}[auth.openapi.ApiKey]\napi_key = "key-{who}"\n'
    prefix = TENANT if who == TENANT else "key"
    lines = [SETTINGS]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if (role := operation["x-agentgate-role"]) is not None:
                key = f'headers = {{"X-API-Key" = "{prefix}-{role}"}}'
                name = f"{method.upper()} {path}"
                lines += ["[[operations]]", f'include-name = "{name}"', key]
                if who == EVERYBODY and name in NARROWED:
                    lines.append("checks.negative_data_rejection.enabled = false")
    return "\n".join(lines)


@contextmanager
def life(gateway: GatewayProcess) -> Iterator[None]:
    """Meanwhile calls come that wait for approvals, and kills are released: else all is soon dead and empty."""
    is_over = threading.Event()

    def live() -> None:
        admin, agents = gateway.admin(), [gateway.client("key-agent"), gateway.client(f"{TENANT}-agent")]
        for number in itertools.count():
            if is_over.wait(0.25):
                return
            waiting = admin.get("/approvals", params={"state": "pending", "limit": ENOUGH}).json()["approvals"]
            for agent in agents if len(waiting) < ENOUGH else ():
                arguments = {"table": "products", "data": {"name": f"Gadget {number}"}}
                call(agent, "db_insert", arguments, session=SESSIONS[number % len(SESSIONS)])
                call_later(agent, arguments)
            for kill in admin.get("/kills").json()["kills"] if number % 8 == 7 else ():
                admin.post(f"/kills/{kill['id']}/release", json={"force": True})

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def call_later(agent: httpx.Client, arguments: Mapping[str, Any]) -> None:
    """A call that the gateway makes once it is approved."""
    body = {"session_id": SESSIONS[0], "tool_name": "db_update", "arguments": dict(arguments)}
    agent.post("/tools/call", json=body, headers={"Prefer": "respond-async"})


def attack(gateway: GatewayProcess, folder: Path, who: str, *flags: str) -> Outcome:
    """One run of `schemathesis run` by somebody."""
    document = strict(gateway.client().get("/openapi.json").json())
    if who == EVERYBODY:
        document = narrow(document)
    (folder / "schemathesis.toml").write_text(settings(document, who), encoding="utf-8")
    (folder / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    command = ["--config-file", "schemathesis.toml", "run", "openapi.json", "--url", gateway.url, "--no-color"]
    command += ["--report-json-path", "report.json", "--report-ndjson-path", "events.ndjson", "--warnings", "off"]
    with life(gateway):
        done = subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", *command, "--continue-on-failure", *flags],
            cwd=folder,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=3_000,
            check=False,
        )
    said = done.stdout + done.stderr
    assert (folder / "report.json").exists(), said
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return Outcome(report, statuses(folder / "events.ndjson"), said)


def statuses(events: Path) -> Counter[int]:
    """How often each status was answered."""
    found: Counter[int] = Counter()
    with events.open(encoding="utf-8") as lines:
        for line in lines:
            scenario = json.loads(line).get("ScenarioFinished", {})
            for interaction in scenario.get("recorder", {}).get("interactions", {}).values():
                found[(interaction.get("response") or {}).get("status_code", 0)] += 1
    events.unlink()  # a hundred megabytes
    return found


def check(outcome: Outcome) -> None:
    """Nothing was found, and nothing was left out."""
    assert outcome.report["failures"] == [], outcome.said
    assert outcome.report["errors"] == [], outcome.said
    assert outcome.report["complete"], outcome.said
    assert outcome.report["operations"]["tested"] == outcome.report["operations"]["selected"]
    assert not [status for status in outcome.statuses if status >= 500], outcome.statuses


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with GatewayProcess(env={"DEAF_SECRET": "whsec_" + "c2VjcmV0" * 4}, config=CONFIG) as process:
        yield process


def test_a_sample_of_requests_is_answered_as_the_document_says(gateway: GatewayProcess, tmp_path: Path) -> None:
    outcome = attack(gateway, tmp_path, EVERYBODY, "--phases", "fuzzing,stateful", "--max-examples", "8", "--seed", "8")
    check(outcome)
    assert outcome.cases >= 300
    assert {200, 201, 400, 404, 409, 422} <= set(outcome.statuses)


@pytest.mark.torture
def test_20_000_requests_of_every_role_and_none_are_answered_as_the_document_says(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    answered: Counter[int] = Counter()
    cases = 0
    runs = [(who, ALL_OF_IT) for who in (EVERYBODY, TENANT, *ROLES, NOBODY, STRANGER)]
    for number, (who, flags) in enumerate([(EVERYBODY, IN_PEACE), *runs]):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = attack(gateway, folder, who, *flags)
        check(outcome)
        cases += outcome.cases
        answered += outcome.statuses
        print(f"{who}: {outcome.cases} cases, {dict(sorted(outcome.statuses.items()))}", flush=True)
    print(f"all: {cases} cases, {dict(sorted(answered.items()))}", flush=True)
    assert cases >= 20_000
    assert {200, 201, 400, 401, 403, 404, 405, 409, 415, 422} <= set(answered)
