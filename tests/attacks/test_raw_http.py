"""A corpus of raw requests against a real gateway: never two interpretations, never a worker that hangs.

What ran is what the log says; what was answered is what came back on the socket. h11, a second reader, must not find
other calls in the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import h11
import pytest

from tests.attacks.raw_http import CASES, Raw
from tests.gateway import GatewayProcess, statuses

PATIENCE_S = 2.0
SESSIONS = ("main", "next", "hide")
NUMBERS = {case.name: number for number, case in enumerate(CASES, 1)}


@dataclass(frozen=True, slots=True)
class Heard:
    """What came back, and whether the gateway has closed the connection."""

    said: bytes
    is_closed: bool

    @property
    def told(self) -> tuple[int, ...]:
        return answers(self.said)


def answers(said: bytes) -> tuple[int, ...]:
    """The status of each, without interim ones."""
    return tuple(status for status in statuses(said) if status >= 200)


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    config = {
        "server": {"refusals_per_second": 1_000_000, "request_timeout_s": PATIENCE_S},
        "containment": {"rate_window_s": 0.001},
    }
    with GatewayProcess(config=config) as process:
        yield process


@pytest.fixture(scope="module")
def heard(gateway: GatewayProcess) -> dict[str, Heard]:
    """Every case sent once, all that wait at the same time, while somebody else is served in between."""
    stop = threading.Event()
    served: list[int] = []

    def another() -> None:
        client = gateway.agent()
        while not stop.is_set():
            served.append(client.get("/health").status_code)

    bystander = threading.Thread(target=another)
    bystander.start()
    try:
        with ThreadPoolExecutor(16) as pool:
            found = dict(zip(NUMBERS, pool.map(lambda case: send(gateway.port, case), CASES), strict=True))
    finally:
        stop.set()
        bystander.join()
    assert set(served) == {200}
    return found


@pytest.fixture(scope="module")
def ran(gateway: GatewayProcess, heard: dict[str, Heard]) -> Counter[str]:
    """How many calls of each session have an end in the log: those that were sent to a tool."""
    assert heard
    lines = gateway.admin().get("/audit", params={"format": "jsonl", "kind": "finished"}).raise_for_status().text
    return Counter(json.loads(line)["event"]["session"] for line in lines.splitlines())


def numbered(raw: bytes, case: Raw) -> bytes:
    return re.sub(rb"(main|next|hide)-000", rb"\1-%03d" % NUMBERS[case.name], raw)


def send(port: int, case: Raw) -> Heard:
    """Send it as it says, and listen until the gateway closes or has been silent for as long as a request may take."""
    said = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S + 3) as connection:
        with contextlib.suppress(OSError):  # it has answered and closed
            for number, piece in enumerate(case.sent):
                if number:
                    time.sleep(case.pause_s)  # being slow is what the case is about
                connection.sendall(numbered(piece, case))
            if case.half_close:
                connection.shutdown(socket.SHUT_WR)
        try:
            while data := connection.recv(65_536):
                said += data
                if case.open and len(answers(bytes(said))) >= len(case.told):
                    connection.settimeout(0.2)
        except TimeoutError:
            return Heard(bytes(said), is_closed=False)
        except ConnectionResetError:
            pass
    return Heard(bytes(said), is_closed=True)


def test_the_corpus_has_its_size_and_every_name_is_its_own() -> None:
    assert len(NUMBERS) == len(CASES) >= 60
    assert len(CASES) <= 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_interpretation(heard: dict[str, Heard], ran: Counter[str], case: Raw) -> None:
    found = heard[case.name]
    assert found.told == case.told, found.said[:500]
    assert found.is_closed or case.open, "the connection goes on after what was refused"
    sessions = {session: numbered(b"%b-000" % session.encode(), case).decode() for session in SESSIONS}
    assert {session: ran[name] for session, name in sessions.items()} == {
        session: int(session in case.runs) for session in SESSIONS
    }
    assert found.said.count(b'"success":true') == len(case.runs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_second_reader_finds_no_other_calls(case: Raw) -> None:
    read = second_reading(b"".join(case.sent))
    assert read is None or not case.runs or read == case.runs


def second_reading(raw: bytes) -> frozenset[str] | None:
    """The sessions of the calls that h11 finds in it; None where it refuses."""
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    reader.receive_data(raw)
    found: set[str] = set()
    body, target = bytearray(), b""
    for _ in itertools.repeat(None, 10_000):
        try:
            event = reader.next_event()
        except h11.RemoteProtocolError:
            return None
        match event:
            case h11.Request():
                body, target = bytearray(), event.target
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                if b"/tools/call" in target:
                    found.add(_session(bytes(body)))
                reader.send(h11.Response(status_code=404, headers=[("Content-Length", "0")]))
                reader.send(h11.EndOfMessage())
                if reader.our_state is not h11.DONE:
                    break
                reader.start_next_cycle()
            case _:
                break
    return frozenset(found)


def _session(body: bytes) -> str:
    try:
        return str(json.loads(body)["session_id"]).partition("-")[0]
    except (ValueError, KeyError, TypeError):
        return "nonsense"


def test_a_worker_that_was_attacked_by_all_of_them_serves(gateway: GatewayProcess, heard: dict[str, Heard]) -> None:
    assert heard
    answer = gateway.call("rate_limited_tool", session="after-all")
    assert answer["success"]
    assert gateway.metric("agentgate_faults_total") == 0
