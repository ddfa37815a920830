"""The gateway on a disk that is full, locked, missing or somebody else's: nothing runs without a record."""

from __future__ import annotations

import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agentgate.keyfile import change_keys, key_file, read_keys
from tests.adapters.log.test_sqlite import tamper
from tests.faults.conftest import Gate
from tests.faults.disk import compiled, needs_compiler
from tests.gateway import GatewayFailed, call, run_cli, until

UNAVAILABLE = (503, "log_unavailable")


@dataclass(slots=True)
class Disk:
    """A gateway whose disk can be filled and emptied."""

    gateway: Gate
    fill: Callable[[], None]
    empty: Callable[[], None]


def can_mount() -> bool:
    """Whether a tmpfs may be mounted in a mount namespace of one's own (root, or user namespaces)."""
    tried = subprocess.run(
        ["unshare", *_NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False
    )
    return tried.returncode == 0


_NAMESPACE = ("--mount",) if sys.platform == "linux" else ()


@contextmanager
def small_tmpfs(folder: Path) -> Iterator[Disk]:
    """A real full disk: a tmpfs of four megabytes that only the gateway sees; we fill it through /proc."""
    if shutil.which("unshare") is None or not can_mount():
        pytest.skip("a tmpfs in a mount namespace of one's own needs `unshare` and root")
    data = folder / "data"
    data.mkdir(mode=0o700)
    mount = 'mount -t tmpfs -o size=4m,mode=700 none "$0" && exec "$@"'
    prefix = ("unshare", *_NAMESPACE, "sh", "-c", mount, str(data))
    with Gate(data_dir=data, prefix=prefix) as gateway:
        inside = Path(f"/proc/{gateway.pid}/root{data}")
        ballast = inside / "ballast"

        def fill() -> None:
            with ballast.open("ab", buffering=0) as file:
                for size in (65_536, 4_096, 1):
                    try:
                        while True:
                            file.write(b"x" * size)
                    except OSError:
                        continue

        yield Disk(gateway, fill, lambda: ballast.unlink(missing_ok=True))


@contextmanager
def file_size_limit(folder: Path) -> Iterator[Disk]:
    """No privilege needed: no file of the gateway may grow beyond what it is; the kernel answers EFBIG."""
    if not hasattr(resource, "prlimit"):
        pytest.skip("limiting another process's files needs prlimit(2), which is Linux's")
    with Gate(data_dir=folder / "data") as gateway:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)

        def fill() -> None:
            resource.prlimit(gateway.pid, resource.RLIMIT_FSIZE, (4_096, resource.RLIM_INFINITY))

        yield Disk(gateway, fill, lambda: _unlimit(gateway.pid, unlimited))


def _unlimit(pid: int, limits: tuple[int, int]) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


@pytest.fixture(params=[small_tmpfs, file_size_limit], ids=["tmpfs", "rlimit"], scope="module")
def started_disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    with request.param(tmp_path_factory.mktemp("disk")) as disk:
        yield disk


@pytest.fixture
def disk(started_disk: Disk) -> Disk:
    """The module's, with room on it, whatever the last test did: nothing here is healed by a restart."""
    started_disk.empty()
    started_disk.gateway.until_works(session="healed")
    return started_disk


# --- full -----------------------------------------------------------------------------------------------------


def assert_nothing_runs(gateway: Gate) -> None:
    """503 without a record, because there can be none; the metric counts it."""
    before, done = gateway.sum("agentgate_log_unavailable_total"), written(gateway)
    said = gateway.write("unrecorded")
    assert (said.status, said.reason, said.body["decision"]) == (*UNAVAILABLE, "DENY")
    assert written(gateway) == done
    assert gateway.sum("agentgate_log_unavailable_total") > before


def written(gateway: Gate) -> int:
    """Rows of the demo's database: of a copy, because SQLite finds no way through another process's mounts."""
    demo = Path(f"/proc/{gateway.pid}/root{gateway.data_dir}/demo")
    with tempfile.TemporaryDirectory() as folder:
        for path in demo.glob("sample.db*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(f"{folder}/sample.db")) as database:
            (count,) = database.execute("SELECT count(*) FROM items WHERE name = 'fault'").fetchone()
            return int(count)


def test_a_full_disk_refuses_every_call_and_space_lets_them_run_again(disk: Disk) -> None:
    gateway = disk.gateway
    assert gateway.works("before")
    disk.fill()
    until(lambda: gateway.say(session="filling").reason == "log_unavailable")
    assert_nothing_runs(gateway)
    assert gateway.client().get("/readyz").status_code == 503
    disk.empty()
    gateway.until_works()
    assert gateway.write("after").ok
    assert gateway.client().get("/readyz").status_code == 200
    assert {entry["outcome"] for entry in gateway.timeline("before")} == {"ok"}


def test_a_call_whose_outcome_cannot_be_recorded_is_unknown_and_recorded_when_it_can_be(disk: Disk) -> None:
    """The disk fills up while the tool runs: its answer is not released, and evidence catches up (promise 2)."""
    gateway = disk.gateway
    running = gateway.begin("slow", "late", seconds=2)
    gateway.until_running("late")
    disk.fill()
    said = running.result()
    assert (said.status, said.reason, said.body["success"]) == (503, "outcome_unrecorded", False)
    assert said.body["decision"] == "ALLOW"
    assert "unknown" in said.body["error"]
    disk.empty()
    gateway.until_works()
    until(lambda: gateway.entry(said, "late")["outcome"] == "ok")


def test_a_kill_on_a_full_disk_cuts_what_runs_and_says_503(disk: Disk) -> None:
    gateway = disk.gateway
    running = gateway.begin("slow", "victim", seconds=30)
    gateway.until_running("victim")
    disk.fill()
    until(lambda: gateway.say(session="filling").reason == "log_unavailable")
    assert not running.done()
    started = time.monotonic()
    killed = gateway.kill_session("victim")
    assert (killed.status_code, killed.json()["reason_code"]) == UNAVAILABLE
    said = running.result()
    assert time.monotonic() - started < 3
    assert said.status == 503
    assert said.reason == "outcome_unrecorded"
    disk.empty()
    gateway.until_works()
    until(lambda: gateway.entry(said, "victim")["outcome"] == "cancelled")
    assert gateway.admin().get("/kills").json()["kills"] == []
    assert gateway.works("victim"), "it is not in force"


def test_evidence_is_not_given_out_unrecorded(disk: Disk) -> None:
    gateway = disk.gateway
    assert gateway.works("before")
    disk.fill()
    until(lambda: gateway.say(session="filling").reason == "log_unavailable")
    pack = gateway.admin().get("/sessions/before/evidence")
    assert (pack.status_code, pack.json()["reason_code"]) == UNAVAILABLE
    disk.empty()
    gateway.until_works()
    assert gateway.admin().get("/sessions/before/evidence").status_code == 200


def test_a_disk_that_is_full_again_and_again_leaves_a_log_that_holds(disk: Disk) -> None:
    gateway = disk.gateway
    for _ in range(5):
        disk.fill()
        until(lambda: gateway.say(session="filling").reason == "log_unavailable")
        disk.empty()
        gateway.until_works()
    with tempfile.TemporaryDirectory() as copy:
        inside = Path(f"/proc/{gateway.pid}/root{gateway.data_dir}")
        gateway.pause()
        for path in inside.glob("log*"):
            shutil.copy(path, copy)
        gateway.resume()
        verified = run_cli("log", "verify", "--data-dir", copy, env=gateway.env)
        assert verified.returncode == 0, verified.stdout


# --- stalled --------------------------------------------------------------------------------------------------


@contextmanager
def on_a_stalling_disk(folder: Path, *, from_the_start: bool = False, **more: Any) -> Iterator[tuple[Gate, Path]]:
    """A gateway, and the file in which one writes for how many milliseconds each of its commits is to stall."""
    stall = folder / "stall"
    env = {"LD_PRELOAD": str(compiled("stall.c", folder)), "STALL_MS_FILE": str(stall)}
    if from_the_start:
        stall.write_text("1300")
    with Gate(env=env, **more) as gateway:
        yield gateway, stall


@needs_compiler
def test_a_disk_that_stalls_for_longer_than_a_call_waits_refuses_calls_and_only_slows_a_start(tmp_path: Path) -> None:
    with on_a_stalling_disk(tmp_path, from_the_start=True) as (gateway, stall):
        started = time.monotonic()
        refused = gateway.write("stalled")
        assert (refused.status, refused.reason) == UNAVAILABLE
        assert time.monotonic() - started < 2
        stall.unlink()
        gateway.until_works()
        assert gateway.written == 0
        assert gateway.write("after").ok


@needs_compiler
def test_a_call_that_is_recorded_long_after_it_was_refused_is_closed_as_not_sent(tmp_path: Path) -> None:
    """The disk hangs for longer than until upkeep looks for what got into the log all the same."""
    with on_a_stalling_disk(tmp_path) as (gateway, stall):
        assert gateway.works("before")
        stall.write_text("3000")
        refused = gateway.write("stalled")
        assert (refused.status, refused.reason) == UNAVAILABLE
        stall.unlink()
        gateway.until_works()
        until(lambda: gateway.entry(refused, "stalled")["outcome"] == "not_sent")
        assert gateway.written == 0


@needs_compiler
def test_a_disk_that_stalls_under_calls_that_run_keeps_their_answers_back_and_a_kill_still_cuts(tmp_path: Path) -> None:
    """What runs goes on for longer than the lease. The kill may be in the log after all: its id makes sure."""
    with on_a_stalling_disk(tmp_path) as (gateway, stall):
        running, ending = gateway.begin("slow", "victim", seconds=30), gateway.begin("slow", "ending", seconds=4)
        gateway.until_running("victim")
        gateway.until_running("ending")
        stall.write_text("3500")
        kept_back = ending.result()
        assert (kept_back.status, kept_back.reason) == (503, "outcome_unrecorded")
        assert not running.done()
        order = {"reason": "a test", "id": "kill-stalled"}
        killed = gateway.admin().post("/sessions/victim/kill", json=order)
        assert (killed.status_code, killed.json()["reason_code"]) == UNAVAILABLE
        cut = running.result()
        assert (cut.status, cut.reason) == (503, "outcome_unrecorded")
        stall.unlink()
        gateway.until_works()
        until(lambda: gateway.entry(kept_back, "ending")["outcome"] == "ok")
        until(lambda: gateway.entry(cut, "victim")["outcome"] == "cancelled")
        again = gateway.admin().post("/sessions/victim/kill", json=order)
        assert (again.status_code, again.json()["drained"]) == (200, True)
        assert [kill["id"] for kill in gateway.admin().get("/kills").json()["kills"]] == ["kill-stalled"]
        assert gateway.say(session="victim").reason == "killed"


@needs_compiler
def test_a_disk_that_is_slow_within_the_deadline_makes_answers_and_kills_wait_for_it(tmp_path: Path) -> None:
    """Neither comes before what it rests on is durable: of a call the decision and the outcome, of a kill its event."""
    with on_a_stalling_disk(tmp_path) as (gateway, stall):
        running = gateway.begin("slow", "victim", seconds=30)
        gateway.until_running("victim")
        stall.write_text("300")
        started = time.monotonic()
        assert gateway.write("slow").ok
        assert time.monotonic() - started > 0.6
        assert not running.done()
        started = time.monotonic()
        assert gateway.kill_session("victim").json()["drained"] is True
        assert time.monotonic() - started > 0.3
        assert running.result().reason == "killed"


# --- locked ---------------------------------------------------------------------------------------------------


@contextmanager
def locked(gateway: Gate) -> Iterator[None]:
    """Another program holds the write lock of the log's database."""
    stranger = sqlite3.connect(gateway.data_dir / "log.db", isolation_level=None, check_same_thread=False)
    stranger.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        stranger.execute("ROLLBACK")
        stranger.close()


@pytest.fixture(scope="module")
def steady() -> Iterator[Gate]:
    """For what leaves no trace on it."""
    with Gate() as gateway:
        yield gateway


@pytest.fixture
def gateway() -> Iterator[Gate]:
    with Gate() as gateway:
        yield gateway


def test_a_database_locked_for_two_seconds_refuses_and_then_goes_on(steady: Gate) -> None:
    assert steady.works("before")
    with locked(steady):
        started = time.monotonic()
        first = steady.write("locked")
        took = time.monotonic() - started
        assert (first.status, first.reason) == UNAVAILABLE
        assert took < 1.5
        assert_nothing_runs(steady)
        until(lambda: time.monotonic() - started > 2)
    steady.until_works()
    assert steady.written == 0
    assert steady.write("after").ok


def test_a_stranger_that_closes_the_database_after_a_fault_takes_nothing_with_it(gateway: Gate) -> None:
    """SQLite's last user tidies the write-ahead log away: a stranger must never take itself for that one."""
    assert gateway.works("before")
    with locked(gateway):
        assert not gateway.works("locked")
    gateway.until_works()
    said = gateway.say(session="acknowledged")
    assert said.ok
    assert "0 calls without an outcome" in gateway.assert_log_holds()  # which opens and closes it, too
    gateway.kill9()
    gateway.start()
    assert gateway.entry(said, "acknowledged")["outcome"] == "ok"


def test_a_kill_on_a_locked_database_cuts_what_runs_and_says_503(steady: Gate, victim: str) -> None:
    running = steady.begin("slow", victim, seconds=30)
    steady.until_running(victim)
    with locked(steady):
        killed = steady.kill_session(victim)
        assert (killed.status_code, killed.json()["reason_code"]) == UNAVAILABLE
        said = running.result()
        assert (said.status, said.reason) == (503, "outcome_unrecorded")
    steady.until_works()
    until(lambda: steady.entry(said, victim)["outcome"] == "cancelled")
    assert victim not in [kill["target"] for kill in steady.admin().get("/kills").json()["kills"]]


def test_an_outcome_on_a_locked_database_is_not_released_and_written_later(steady: Gate, victim: str) -> None:
    running = steady.begin("slow", victim, seconds=1)
    steady.until_running(victim)
    with locked(steady):
        said = running.result()
        assert (said.status, said.reason, said.body["success"]) == (503, "outcome_unrecorded", False)
        assert "unknown" in said.body["error"]
    steady.until_works()
    until(lambda: steady.entry(said, victim)["outcome"] == "ok")


def test_a_key_disabled_while_nothing_can_be_recorded_counts_no_more_and_is_told_later(gateway: Gate) -> None:
    key = gateway.create_key("--agent", "bot")
    key_id = read_keys(key_file(gateway.data_dir))[0].id
    told = {"kind": "keys_changed"}

    def steps() -> list[list[str]]:
        found = gateway.admin().get("/audit", params=told).json()["events"]
        return [one["event"]["disabled"] for one in found]

    def status() -> int:
        return call(gateway.agent(key), "db_query", {"query": "SELECT 1"}).status_code

    until(lambda: steps() == [[]], timeout_s=5)
    with locked(gateway):
        until(lambda: status() == 503, timeout_s=5)
        change_keys(
            key_file(gateway.data_dir), lambda all_: [one.model_copy(update={"disabled": True}) for one in all_]
        )
        until(lambda: status() == 401, timeout_s=5)
    until(lambda: steps() == [[], [key_id]], timeout_s=5)
    assert status() == 401


def test_a_lock_shorter_than_the_deadline_refuses_nobody(steady: Gate) -> None:
    before = steady.sum("agentgate_step_duration_seconds_count", step="policy")
    with locked(steady):
        waiting = [steady.begin("db_query", f"waiting-{n}", query="SELECT 1") for n in range(20)]
        until(lambda: steady.sum("agentgate_step_duration_seconds_count", step="policy") >= before + 20)
    assert {said.result().reason for said in waiting} == {"ok"}


def test_a_log_that_somebody_else_wrote_to_is_refused_with_its_reason(gateway: Gate) -> None:
    """A stranger's event in the middle: the log contradicts what was acknowledged. Nothing runs on it any more."""
    assert gateway.works("before")
    running = gateway.begin("slow", "victim", seconds=30)
    gateway.until_running("victim")
    forge(gateway.data_dir / "log.db")
    until(lambda: not gateway.works("after"))
    said = gateway.write("broken")
    assert (said.status, said.reason) == UNAVAILABLE
    assert not running.done()
    assert gateway.client().get("/readyz").status_code == 503
    assert gateway.health()["status"] == "degraded"
    killed = gateway.kill_session("victim")
    assert (killed.status_code, killed.json()["reason_code"]) == UNAVAILABLE
    assert running.result().reason == "outcome_unrecorded", "cut, and nobody can say so in the log"
    assert gateway.client().get("/healthz").status_code == 200
    assert gateway.written == 0


def forge(path: Path) -> None:
    """Append an event as a program that knows nothing of the gateway's lock would."""
    database = sqlite3.connect(path, isolation_level=None)
    columns = [row[1] for row in database.execute("PRAGMA table_info(events)")]
    chosen = {"idx": "idx + 1", "event_id": "'forged'", "session_number": "session_number + 1"}
    values = ", ".join(chosen.get(name, name) for name in columns)
    database.execute(f"INSERT INTO events ({', '.join(columns)}) SELECT {values} FROM events ORDER BY idx DESC LIMIT 1")
    database.close()


# --- not the log that it was ----------------------------------------------------------------------------------


def refused_start(gateway: Gate) -> str:
    """The sentence of a start that must be refused."""
    with pytest.raises(GatewayFailed) as failed:
        gateway.start()
    assert failed.value.status == 3
    assert "Traceback" not in failed.value.stderr
    return failed.value.stderr.splitlines()[-1]


def files_of_the_log(folder: Path) -> list[Path]:
    return [path for path in folder.glob("log.db*") if path.suffix in (".db", ".db-wal", ".db-shm")]


def test_a_start_without_the_log_that_was_there_is_refused(gateway: Gate) -> None:
    assert gateway.works("before")
    gateway.stop()
    for path in files_of_the_log(gateway.data_dir):
        path.unlink()
    assert "is gone" in refused_start(gateway)


def test_a_start_on_an_older_copy_of_the_log_is_refused(gateway: Gate, tmp_path: Path) -> None:
    assert gateway.works("before")
    gateway.stop()
    for path in files_of_the_log(gateway.data_dir):
        shutil.copy(path, tmp_path)
    gateway.start()
    assert gateway.kill_session("victim").status_code == 200
    gateway.stop()
    for path in files_of_the_log(gateway.data_dir):
        path.unlink()
    for path in files_of_the_log(tmp_path):
        shutil.copy(path, gateway.data_dir)
    assert "rolled back or replaced" in refused_start(gateway)


def test_a_start_on_a_log_without_its_checkpoints_is_refused_until_somebody_signs_it(gateway: Gate) -> None:
    assert gateway.works("before")
    gateway.kill9()
    tamper(gateway.data_dir / "log.db", "DELETE FROM checkpoints")
    (gateway.data_dir / "log.db.checkpoint").unlink()
    said = refused_start(gateway)
    assert "no checkpoint is over any of the" in said
    assert "`agentgate log sign`" in said
    where = ("--data-dir", str(gateway.data_dir))
    verified = run_cli("log", "verify", *where, env=gateway.env)
    assert (verified.returncode, "the log is BROKEN" in verified.stdout) == (1, True)
    signed = run_cli("log", "sign", *where, env=gateway.env)
    assert (signed.returncode, "events are signed" in signed.stdout) == (0, True)
    gateway.start()
    assert gateway.works("after")
    gateway.assert_log_holds()


def test_what_a_killed_gateway_left_is_signed_before_more_is_added(gateway: Gate) -> None:
    """Or one that is killed at once, again and again, would leave ever more."""
    assert gateway.works("before")
    gateway.kill9()
    (left,) = numbers(gateway, "SELECT count(*) FROM events")
    gateway.start()
    assert left in numbers(gateway, "SELECT size FROM checkpoints")


def numbers(gateway: Gate, query: str) -> list[int]:
    with closing(sqlite3.connect(f"file:{gateway.data_dir}/log.db?mode=ro", uri=True)) as db:
        return [number for (number,) in db.execute(query)]


def test_a_log_that_cannot_be_signed_is_not_begun_and_one_that_was_goes_on(tmp_path: Path) -> None:
    """Whoever is served is under a checkpoint, from the first call on; what was signed once may wait for the next."""
    kept = tmp_path / "another disk" / "checkpoint"
    with Gate(env={"AGENTGATE_CHECKPOINT_FILE": str(tmp_path / "here")}) as gateway:
        gateway.stop()
        data_dir = gateway.data_dir
        for path in (*files_of_the_log(data_dir), data_dir / "log.db.checkpoint"):
            path.unlink(missing_ok=True)
        (tmp_path / "here").unlink()
        gateway.env["AGENTGATE_CHECKPOINT_FILE"] = str(kept)
        assert "the checkpoint cannot be kept" in refused_start(gateway)
        kept.parent.mkdir()
        gateway.start()
        assert kept.is_file()
        gateway.stop()
        shutil.rmtree(kept.parent)
        gateway.start()
        assert gateway.works("after")


def test_a_start_on_something_that_is_no_database_is_refused(gateway: Gate) -> None:
    assert gateway.works("before")
    gateway.stop()
    for path in files_of_the_log(gateway.data_dir):
        path.unlink()
    (gateway.data_dir / "log.db").write_bytes(b"not a database " * 1_000)
    assert "agentgate: " in refused_start(gateway)


def test_a_log_that_is_deleted_under_a_running_gateway_stops_calls(gateway: Gate) -> None:
    """What is written to a file without a name is gone with the process: that is no record."""
    assert gateway.works("before")
    for path in files_of_the_log(gateway.data_dir):
        path.unlink()
    until(lambda: not gateway.works("after"), timeout_s=3)
    assert_nothing_runs(gateway)
    assert gateway.client().get("/readyz").status_code == 503


def test_a_second_gateway_on_the_same_data_is_refused_and_the_first_goes_on(steady: Gate) -> None:
    assert steady.works("before")
    with pytest.raises(GatewayFailed) as failed, Gate(data_dir=steady.data_dir):
        pass
    assert failed.value.status == 3
    assert "another process has" in failed.value.stderr
    assert "AGENTGATE_DATABASE_URL" in failed.value.stderr
    assert "Traceback" not in failed.value.stderr
    assert steady.works("after")
    steady.assert_log_holds()
