"""Auditing a real gateway of 2,000 events: each filter, every form, pages while others append, and offline."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from agentgate.adapters.exports._compliance import frameworks
from tests.forked import AGENTGATE
from tests.gateway import GatewayProcess, call, clean_environment, key_entry, run_cli

AGENTS = ("ada", "bob", "cy")
SESSIONS = 10
CALLS = 1_000
AUDITOR = "key-of-the-auditor"


@pytest.fixture(scope="module")
def audited() -> Iterator[GatewayProcess]:
    keys = [key_entry(name, agent=name, tenant="acme") for name in AGENTS]
    keys += [key_entry(AUDITOR, person="eve", roles=["auditor"], all_tenants=True)]
    config = {
        "auth": {"keys": keys},
        "server": {"refusals_per_second": 1_000_000},
        "containment": {"rate_window_s": 0.001},
    }
    with GatewayProcess(config=config) as process:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda agent: work(process, agent), range(len(AGENTS))))
        process.admin().post("/sessions/stopped/kill", json={"reason": "Größe =1+1"})
        yield process


def work(gateway: GatewayProcess, number: int) -> None:
    agent = gateway.client(AGENTS[number])
    for n in range(number, CALLS, len(AGENTS)):
        session = f"{AGENTS[number]}-{n % SESSIONS}"
        if n % 10 == 0:
            call(agent, "no_such_tool", {}, session=session)
        else:
            call(agent, "db_query", {"query": f"SELECT {n} AS number"}, session=session)


@pytest.fixture
def auditor(audited: GatewayProcess) -> httpx.Client:
    return audited.client(AUDITOR)


def everything(auditor: httpx.Client) -> list[dict[str, Any]]:
    return [json.loads(line) for line in auditor.get("/audit", params={"format": "jsonl"}).text.splitlines()]


def pages(auditor: httpx.Client, **asked: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        page = auditor.get("/audit", params=asked).raise_for_status().json()
        found += page["events"]
        if page["next"] is None:
            return found
        asked["cursor"] = page["next"]


def test_the_log_is_as_long_as_it_should_be(auditor: httpx.Client) -> None:
    assert len(everything(auditor)) > 1_900


def test_each_filter_finds_what_fits_and_nothing_else(auditor: httpx.Client) -> None:
    events = everything(auditor)
    middle = events[len(events) // 2]["event"]
    early, late = events[300]["event"]["at"], events[1500]["event"]["at"]

    def leaf(name: str, value: object) -> list[int]:
        return [one["index"] for one in events if one["event"].get(name) == value]

    expected: dict[tuple[tuple[str, str], ...], list[int]] = {
        (("session", "bob-3"),): leaf("session", "bob-3"),
        (("agent", "cy"),): leaf("principal", "agent:cy"),
        (("tool", "no_such_tool"),): leaf("tool", "no_such_tool"),
        (("decision", "DENY"),): leaf("decision", "DENY"),
        (("reason", "unknown_tool"),): leaf("reason_code", "unknown_tool"),
        (("outcome", "ok"),): leaf("outcome", "ok"),
        (("kind", "killed"),): leaf("kind", "killed"),
        (("tenant", "acme"),): leaf("tenant", "acme"),
        (("trace_id", middle.get("trace_id", "")),): leaf("trace_id", middle.get("trace_id")),
        (("since", early), ("until", late)): [one["index"] for one in events if early <= one["event"]["at"] < late],
        (("text", "select 77 "),): [one["index"] for one in events if "SELECT 77 " in json.dumps(one["body"])],
        (("agent", "bob"), ("decision", "DENY"), ("since", early)): [
            one["index"]
            for one in events
            if one["event"].get("principal") == "agent:bob"
            and one["event"].get("decision") == "DENY"
            and one["event"]["at"] >= early
        ],
    }
    for asked, indexes in expected.items():
        assert indexes, asked
        for order in ("asc", "desc"):
            found = [one["index"] for one in pages(auditor, limit=37, order=order, **dict(asked))]
            before = [index for index in found if index < len(events)]  # exports have come since
            assert before == (indexes if order == "asc" else indexes[::-1]), asked


def test_pages_give_each_event_exactly_once_while_others_append(audited: GatewayProcess, auditor: httpx.Client) -> None:
    before = auditor.get("/audit", params={"limit": 1}).json()["size"]
    stop = threading.Event()

    def append() -> int:
        agent, number = audited.client("ada"), 0
        while not stop.is_set():
            call(agent, "db_query", {"query": "SELECT 1"}, session="meanwhile")
            number += 1
        return number

    with ThreadPoolExecutor(1) as pool:
        appended = pool.submit(append)
        try:
            forward = Counter(one["index"] for one in pages(auditor, limit=100))
            backward = Counter(one["index"] for one in pages(auditor, limit=100, order="desc"))
        finally:
            stop.set()
        assert appended.result() > 0
    for found in (forward, backward):
        assert set(found.values()) == {1}
        assert set(range(before)) <= set(found)
        assert set(found) == set(range(max(found) + 1))


@pytest.mark.parametrize("form", ["jsonl", "csv", "otlp"])
def test_a_stream_has_every_event_once(auditor: httpx.Client, form: str) -> None:
    asked = {"agent": "bob", "kind": "decided"}
    expected = [one["index"] for one in pages(auditor, limit=1000, **asked)]
    with auditor.stream("GET", "/audit", params={**asked, "format": form}) as answer:
        pieces = list(answer.iter_bytes())
    assert len(pieces) > 1
    assert indexes(form, b"".join(pieces)) == expected


def indexes(form: str, raw: bytes) -> list[int]:
    if form == "jsonl":
        return [json.loads(line)["index"] for line in raw.splitlines()]
    if form == "csv":
        return [int(row["index"]) for row in csv.DictReader(io.StringIO(raw.decode(), newline=""))]
    records = [
        record
        for line in raw.splitlines()
        for resource in json.loads(line)["resourceLogs"]
        for scope in resource["scopeLogs"]
        for record in scope["logRecords"]
    ]
    values = [{pair["key"]: pair["value"] for pair in record["attributes"]} for record in records]
    return [int(value["agentgate.index"]["intValue"]) for value in values]


def test_the_command_reads_the_same_from_the_gateway_and_from_the_log(audited: GatewayProcess) -> None:
    words = ["audit", "--agent", "bob", "--decision", "DENY", "--format", "jsonl"]
    env = {"AGENTGATE_KEY": AUDITOR, "AGENTGATE_URL": audited.url}
    asked = run_cli(*words, env=env)
    read = run_cli(*words, "--data-dir", str(audited.data_dir))
    assert asked.returncode == read.returncode == 0, asked.stderr + read.stderr
    assert asked.stdout == read.stdout
    assert len(asked.stdout.splitlines()) > 20


def test_a_table_shows_the_newest_hundred_and_says_so(audited: GatewayProcess) -> None:
    env = {"AGENTGATE_KEY": AUDITOR, "AGENTGATE_URL": audited.url}
    ran = run_cli("audit", "--kind", "decided", env=env)
    assert ran.returncode == 0, ran.stderr
    head, *rows = ran.stdout.splitlines()
    assert head.split()[:2] == ["INDEX", "TIME"]
    assert len(rows) == 100
    shown = [int(row.split()[0]) for row in rows]
    assert shown == sorted(shown)
    assert "--all" in ran.stderr
    assert len(run_cli("audit", "--kind", "decided", "--all", env=env).stdout.splitlines()) > 1_000


def test_head_ends_it_quietly(audited: GatewayProcess) -> None:
    for words in (["--format", "jsonl"], ["--all"]):
        with subprocess.Popen(
            [*AGENTGATE, "audit", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment({"AGENTGATE_KEY": AUDITOR, "AGENTGATE_URL": audited.url}),
        ) as command:
            assert command.stdout is not None
            assert command.stderr is not None
            assert command.stdout.readline()
            command.stdout.close()
            assert command.stderr.read() == b""
            assert command.wait(20) == 1


def test_every_field_that_compliance_names_is_in_an_event_of_its_kind(auditor: httpx.Client) -> None:
    """Of the kinds that this log has."""
    seen: dict[str, set[str]] = {}
    for one in everything(auditor):
        names = {*one["event"], *(f"body.{name}" for name in one["body"] or ())}
        seen.setdefault(one["event"]["kind"], set()).update(names)
    assert {"decided", "finished", "killed", "acked", "drained", "joined", "policy", "exported"} <= set(seen)
    for framework in frameworks():
        for item in framework["items"]:
            for kind, names in item["events"].items():
                always = set(names) - {"upstream_status"}  # the demo's tools have none
                assert kind not in seen or always <= seen[kind], (item["id"], kind)
