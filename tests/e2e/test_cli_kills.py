"""Kills from a terminal, against a real gateway."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import selectors
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import postgres_server, redis_server
from tests.e2e.conftest import MANY_REFUSALS
from tests.forked import AGENTGATE
from tests.gateway import GatewayProcess, call, clean_environment, key_entry, run_cli, until
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

pytestmark = pytest.mark.usefixtures("released")

OLGA, ANN, BOB, EVE, BOT = "key-olga", "key-ann", "key-bob", "key-eve", "key-bot"
KEYS = [
    key_entry(OLGA, person="olga", roles=["operator"], all_tenants=True),
    key_entry(ANN, person="ann", roles=["admin"], all_tenants=True),
    key_entry(BOB, person="bob", roles=["admin"], all_tenants=True),
    key_entry(EVE, person="eve", roles=["admin"], tenant="b"),
    key_entry(BOT, agent="bot"),
]
QUERY = {"query": "SELECT 1"}


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    with GatewayProcess(config={**MANY_REFUSALS, "auth": {"keys": KEYS}}) as process:
        yield process


@pytest.fixture(scope="module")
def strict() -> Iterator[GatewayProcess]:
    """Two persons release."""
    config = {**MANY_REFUSALS, "auth": {"keys": KEYS}, "containment": {"release_quorum": 2}}
    with GatewayProcess(config=config) as process:
        yield process


def at(gateway: GatewayProcess, *words: str, key: str = ANN) -> subprocess.CompletedProcess[str]:
    """`agentgate …` as a person with `key` types it on another machine."""
    return run_cli(*words, env={"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": key})


def is_dead(gateway: GatewayProcess, session: str) -> bool:
    answer = call(gateway.agent(BOT), "db_query", QUERY, session=session).json()
    return bool(answer["reason_code"] == "killed")


@contextlib.contextmanager
def slow_call(gateway: GatewayProcess, session: str) -> Iterator[Future[Any]]:
    """A call of 30 s that is in flight; its answer to come."""
    admin = gateway.admin()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(lambda: call(gateway.agent(BOT), "slow", {"seconds": 30}, session=session).json())
        until(lambda: session in admin.get("/calls").text or answer.done())
        yield answer


# --- kill -----------------------------------------------------------------------------------------------------


def test_a_kill_from_the_terminal_cuts_the_running_call_and_says_so(gateway: GatewayProcess, session: str) -> None:
    with slow_call(gateway, session) as answer:
        done = at(gateway, "kill", "session", session, "--reason", "loops on the order table", key=OLGA)
        assert answer.result(timeout=10)["reason_code"] == "killed"
    assert done.returncode == 0, done.stderr
    assert "1 cancelled" in done.stdout
    assert "drained on 1 replica" in done.stdout
    assert is_dead(gateway, session)


@pytest.mark.parametrize(
    "words", [["agent", "bot"], ["tool", "db_query"], ["server", "demo"], ["tenant", "default"], ["all"]]
)
def test_every_scope_can_be_killed_and_released(gateway: GatewayProcess, session: str, words: list[str]) -> None:
    killed = json.loads(at(gateway, "kill", *words, "--json", key=OLGA).stdout)
    assert (killed["drained"], is_dead(gateway, session)) == (True, True)
    assert at(gateway, "release", killed["id"]).returncode == 0
    assert not is_dead(gateway, session)


def test_a_session_that_does_not_exist_yet_can_be_killed(gateway: GatewayProcess, session: str) -> None:
    assert at(gateway, "kill", "session", session).returncode == 0
    assert is_dead(gateway, session)


def test_a_kill_expires(gateway: GatewayProcess, session: str) -> None:
    done = at(gateway, "kill", "session", session, "--expires", "1s")
    assert "until it expires or is released" in done.stdout
    until(lambda: not is_dead(gateway, session))
    assert at(gateway, "kills").stdout == "no kill is in force\n"


def test_the_same_id_twice_is_one_kill_and_another_order_under_it_is_refused(
    gateway: GatewayProcess, session: str
) -> None:
    order = ["kill", "session", session, "--reason", "leak", "--expires", "1h", "--id", f"incident-{session}", "--json"]
    first, second = (json.loads(at(gateway, *order).stdout) for _ in range(2))
    assert (first["id"], first["since"]) == (second["id"], second["since"])
    assert len(json.loads(at(gateway, "kills", "--json").stdout)["kills"]) == 1
    other = at(gateway, "kill", "session", session, "--id", f"incident-{session}")
    assert (other.returncode, "409 conflict" in other.stderr) == (1, True)


@pytest.mark.parametrize("char", ["x", "ä", "😀", "\x1b", '"'])
def test_a_reason_of_500_characters_is_kept_and_one_of_501_refused(
    gateway: GatewayProcess, session: str, char: str
) -> None:
    done = at(gateway, "kill", "session", session, "--reason", char * 500)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    [kept] = gateway.admin().get("/kills").json()["kills"]
    assert kept["reason"] == char * 500
    assert at(gateway, "kill", "session", session, "--reason", char * 501).returncode == 2
    refused = gateway.admin().post(f"/sessions/{session}/kill", json={"reason": char * 501})
    assert (refused.status_code, refused.headers["content-type"]) == (422, "application/problem+json")


def test_what_is_in_force_is_listed_with_since_when_and_why(gateway: GatewayProcess, session: str) -> None:
    at(gateway, "kill", "session", session, "--reason", "loops", "--id", f"incident-{session}", key=OLGA)
    listed = at(gateway, "kills").stdout.splitlines()
    assert len(listed) == 2
    for words in (f"incident-{session}", f"session {session}", "drained", "ago", "person:olga", "loops"):
        assert words in listed[1].replace("just now", "1 s ago")


# --- release --------------------------------------------------------------------------------------------------


def test_an_operator_kills_and_an_admin_releases(gateway: GatewayProcess, session: str) -> None:
    kill_id = f"incident-{session}"
    at(gateway, "kill", "session", session, "--id", kill_id, key=OLGA)
    refused = at(gateway, "release", kill_id, key=OLGA)
    assert (refused.returncode, "this needs admin" in refused.stderr) == (1, True)
    assert is_dead(gateway, session)
    assert at(gateway, "release", kill_id).returncode == 0
    assert not is_dead(gateway, session)
    again = at(gateway, "release", kill_id)
    assert (again.returncode, "no such kill is in force" in again.stderr) == (1, True)


@pytest.mark.parametrize("words", [["release", "all"], ["resume"]])
def test_resume_ends_a_pause_and_leaves_other_kills(gateway: GatewayProcess, session: str, words: list[str]) -> None:
    at(gateway, "kill", "session", session)
    at(gateway, "kill", "all")
    assert is_dead(gateway, f"{session}-other")
    done = at(gateway, *words)
    assert (done.returncode, "1 other kill in force" in done.stdout) == (0, True)
    assert (is_dead(gateway, session), is_dead(gateway, f"{session}-other")) == (True, False)


def test_two_persons_release_what_needs_two(strict: GatewayProcess, session: str) -> None:
    at(strict, "kill", "session", session, "--id", f"incident-{session}", key=OLGA)
    for _ in range(2):  # asking twice is asking once
        asked = at(strict, "release", f"incident-{session}", key=ANN)
        assert (asked.returncode, "needs 2 persons, and 1 asked so far (person:ann)" in asked.stdout) == (4, True)
    assert is_dead(strict, session)
    assert at(strict, "release", f"incident-{session}", key=OLGA).returncode == 1
    assert at(strict, "release", f"incident-{session}", key=BOB).returncode == 0
    assert not is_dead(strict, session)


def test_two_persons_resume_what_was_paused(strict: GatewayProcess, session: str) -> None:
    at(strict, "kill", "all", key=OLGA)
    assert at(strict, "resume", key=BOB).returncode == 4
    assert is_dead(strict, session)
    assert at(strict, "resume", key=ANN).returncode == 0
    assert not is_dead(strict, session)


# --- members and the live view --------------------------------------------------------------------------------


def test_the_member_that_answers_is_listed_and_cannot_be_given_up(gateway: GatewayProcess) -> None:
    [me] = json.loads(at(gateway, "members", "--json").stdout)["members"]
    assert (me["presence"], me["is_me"]) == ("here", True)
    alive = at(gateway, "members", "gone", me["member"], "--yes")
    assert (alive.returncode, "409 conflict" in alive.stderr) == (1, True)
    assert "404 not_found" in at(gateway, "members", "gone", "nobody", "--yes").stderr
    one_tenant = at(gateway, "members", "gone", me["member"], "--yes", key=EVE)
    assert (one_tenant.returncode, "all tenants" in one_tenant.stderr) == (1, True)


def test_a_snapshot_shows_the_call_that_runs(gateway: GatewayProcess, session: str) -> None:
    with slow_call(gateway, session):
        said = at(gateway, "watch", key=OLGA)
        snapshot = json.loads(at(gateway, "watch", "--json", key=OLGA).stdout)
        theirs = json.loads(at(gateway, "watch", "--json", key=EVE).stdout)
        at(gateway, "kill", "session", session)
    assert session in said.stdout
    assert [(running["session"], running["tool"]) for running in snapshot["calls"]] == [(session, "slow")]
    assert theirs["calls"] == [], "another tenant's calls are nobody's business"


@pytest.mark.skipif(not postgres_server.is_installed(), reason="PostgreSQL is not installed")
@pytest.mark.skipif(not redis_server.is_installed(), reason="redis-server is not installed")
def test_a_replica_that_hangs_is_named_then_left_out_then_attested(tmp_path: Path) -> None:
    """Two replicas: the operator sees which one did not stop, and says that its host is destroyed."""
    with PostgresServer() as database, RedisServer() as redis, contextlib.ExitStack() as stack:
        database.sql("CREATE DATABASE agentgate")
        url = database.url("agentgate")
        assert run_cli("log", "migrate", "--database-url", url).returncode == 0
        env = {"AGENTGATE_DATABASE_URL": url, "AGENTGATE_REDIS_URL": redis.url}
        config = {"auth": {"keys": KEYS}, "containment": {"presumed_gone_after_s": 5, "drain_timeout_s": 0.5}}
        one, other = (
            stack.enter_context(GatewayProcess(env=env, config=config, data_dir=tmp_path / "data")) for _ in range(2)
        )
        whole = at(one, "kill", "session", "s-1", key=OLGA)
        assert (whole.returncode, "drained on 2 replicas" in whole.stdout) == (0, True)
        other.pause()
        waiting = json.loads(at(one, "kill", "session", "s-2", "--no-wait", "--json").stdout)
        [silent] = [ack["member"] for ack in waiting["replicas"] if not ack["acked"]]
        followed = at(one, "kill", "session", "s-3", "--id", "s-3")
        assert followed.returncode == 4
        assert f"{silent}  was declared gone" in followed.stdout
        refused = at(one, "release", "s-3")
        assert (refused.returncode, "not drained" in refused.stderr) == (1, True)
        assert at(one, "members", "gone", silent, "--yes").returncode == 0
        until(lambda: one.admin().get("/kills/s-3").json()["drained"], timeout_s=20)
        assert f"drained, attested {silent[:8]}" in at(one, "kills").stdout
        assert at(one, "release", "s-3").returncode == 0
        other.kill9()


class Terminal:
    """A command on a terminal of its own, and everything that it has drawn."""

    def __init__(self, *words: str, env: dict[str, str]) -> None:
        ours, theirs = pty.openpty()
        environment = {**clean_environment(env), "TERM": "xterm", "LINES": "40", "COLUMNS": "120"}
        self.process = subprocess.Popen(
            [*AGENTGATE, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._ours = ours
        self.drawn = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:  # select() itself knows no descriptor above 1,023
            selector.register(self._ours, selectors.EVENT_READ)
            self._read_all(selector)

    def _read_all(self, selector: selectors.BaseSelector) -> None:
        while selector.select(20):
            try:
                piece = os.read(self._ours, 65_536)
            except OSError:  # the other end is closed
                return
            self.drawn += piece.decode(errors="replace")

    def shows(self, words: str) -> None:
        """Wait until something that is drawn from now on contains `words`."""
        before = len(self.drawn)
        until(lambda: words in self.drawn[before:], timeout_s=20)

    def end(self, how: signal.Signals) -> int:
        self.process.send_signal(how)
        status = self.process.wait(20)
        self._reader.join(20)
        os.close(self._ours)
        return status


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_watch_draws_what_happens_and_gives_the_terminal_back(
    gateway: GatewayProcess, session: str, how: signal.Signals
) -> None:
    terminal = Terminal("watch", env={"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": OLGA})
    try:
        terminal.shows("CALLS IN FLIGHT 0")
        with slow_call(gateway, session):
            terminal.shows(session)
            at(gateway, "kill", "session", session, "--id", f"incident-{session}")
        terminal.shows(f"incident-{session}")
        terminal.shows("CALLS IN FLIGHT 0")
        gateway.pause()
        try:
            terminal.shows("DOES NOT ANSWER")
        finally:
            gateway.resume()
        terminal.shows("KILLS IN FORCE 1")
        started = len(terminal.drawn)
    finally:
        status = terminal.end(how)
    assert status == (0 if how == signal.SIGINT else 143)
    assert "\x1b[?1049h" in terminal.drawn[:started], "it has a screen of its own"
    assert "\x1b[?1049l" in terminal.drawn[started:], "and leaves it"
    assert "\x1b[?25h" in terminal.drawn[started:], "with the cursor"
    assert "Traceback" not in terminal.drawn


def test_an_order_whose_answer_was_not_waited_for_can_be_repeated_and_is_one_kill(
    gateway: GatewayProcess, session: str
) -> None:
    order = ["kill", "session", session, "--id", f"incident-{session}"]
    gateway.pause()
    try:
        process = subprocess.Popen(
            [*AGENTGATE, *order],
            env=clean_environment({"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": ANN}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGINT)
        _, complaint = process.communicate(timeout=20)
    finally:
        gateway.resume()
    assert process.returncode == 1
    assert f"not known; say it again with --id incident-{session}" in complaint
    assert at(gateway, *order).returncode == 0
    assert len(gateway.admin().get("/kills").json()["kills"]) == 1
