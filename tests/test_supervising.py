"""The parent of workers, with workers that are told how to behave: what it promises whatever they do."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentgate.supervising import bind
from tests.gateway import is_alive, until

_PARENT = """
import json, logging, sys
from agentgate.settings import load
from agentgate.supervising import Supervisor, bind
logging.basicConfig(level="INFO")
count, command = int(sys.argv[1]), json.loads(sys.argv[2])
urls = {"log.url": "postgresql://a/b", "containment.url": "redis://c"}
settings = load({}, overrides={"server.workers": count, **urls})
listeners = bind("127.0.0.1", 0)
say = lambda: print("ready", listeners[0].getsockname()[1], flush=True)
failure = Supervisor(settings, listeners, on_ready=say, command=command, kill_after_s=2).run()
print("ended", failure, flush=True)
"""
_WORKER = """
import json, os, select, signal, socket, sys
from pathlib import Path
folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
channel, listener = (socket.socket(fileno=int(handle)) for handle in sys.argv[3:])
listener.setblocking(False)
stream = channel.makefile("rb")
settings = stream.read(int.from_bytes(stream.read(4), "big"))
number = 0
while True:
    try:
        os.mkdir(folder / str(number))
        break
    except FileExistsError:
        number += 1
def leave(*_):
    (folder / str(number) / "left").touch()
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
(folder / str(number) / "pid.new").write_text(str(os.getpid()))
(folder / str(number) / "pid.new").rename(folder / str(number) / "pid")
say = lambda **message: channel.sendall(json.dumps(message).encode() + b"\\n")
how = plan[min(number, len(plan) - 1)]
if how == "dies":
    sys.exit(7)
if how.startswith("fails"):
    say(failed=how, final=how.endswith("for good"))
    sys.exit(1)
if how == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
say(ready=True)
if how == "dies soon":
    sys.exit(1)
while True:
    try:
        select.select([listener], [], [])  # which wakes all, as an event loop does: accept alone would wake one
        connection, _ = listener.accept()
        connection.sendall(str(os.getpid()).encode())
        connection.close()
    except BlockingIOError:
        pass
"""


class Service:
    """A parent and its workers. `plan` says how the first that is born behaves, the second, … and all later ones."""

    def __init__(self, folder: Path, count: int, *plan: str) -> None:
        self.folder = folder
        command = [sys.executable, "-c", _WORKER, str(folder), json.dumps(plan)]
        self.parent = subprocess.Popen(
            [sys.executable, "-c", _PARENT, str(count), json.dumps(command)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.port = 0

    def line(self) -> str:
        assert self.parent.stdout is not None
        return self.parent.stdout.readline().strip()

    def until_ready(self) -> None:
        self.port = int(self.line().removeprefix("ready "))

    def born(self) -> list[int]:
        """The process ids, in the order of birth."""
        folders = sorted(self.folder.glob("*/pid"), key=lambda path: int(path.parent.name))
        return [int(path.read_text()) for path in folders]

    def left(self) -> int:
        return len(list(self.folder.glob("*/left")))

    def answered_by(self) -> int:
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            return int(connection.recv(64))

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Its exit status and its words on stderr."""
        self.parent.send_signal(how)
        _, said = self.parent.communicate(timeout=20)
        return self.parent.returncode, said


Start = Callable[..., Service]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    made: list[Service] = []

    def make(count: int, *plan: str) -> Service:
        made.append(Service(tmp_path, count, *plan))
        return made[-1]

    yield make
    for service in made:
        service.parent.kill()
        for pid in service.born():  # they would keep its pipes open
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        service.parent.communicate()


def test_ready_is_said_once_when_all_are_ready_and_all_leave_in_order(start: Start) -> None:
    service = start(3, "ready")
    service.until_ready()
    pids = service.born()
    assert len(set(pids)) == 3
    assert service.answered_by() in pids
    status, _ = service.end()
    assert (status, service.left()) == (0, 3)
    assert not any(map(is_alive, pids))


@pytest.mark.parametrize("plan", [("fails for good",), ("ready", "fails for good"), ("ready", "fails", "ready")])
def test_a_worker_that_cannot_start_ends_the_start_with_its_own_sentence(start: Start, plan: tuple[str, ...]) -> None:
    service = start(3, *plan)
    failed = next(word for word in plan if word.startswith("fails"))
    assert service.line() == f"ended {failed}"
    assert service.parent.wait(5) == 0
    assert not any(map(is_alive, service.born()))


def test_of_a_start_that_must_fail_only_one_worker_says_so(start: Start) -> None:
    service = start(4, "fails for good")
    assert service.line() == "ended fails for good"
    assert len(service.born()) == 1


def test_a_worker_that_dies_wordlessly_before_it_was_ready_ends_the_start(start: Start) -> None:
    assert start(2, "dies").line() == "ended a worker ended with status 7 before it was ready"


def test_a_killed_worker_is_started_anew_and_the_others_go_on(start: Start) -> None:
    service = start(3, "ready")
    service.until_ready()
    first, *others = service.born()
    os.kill(first, signal.SIGKILL)
    until(lambda: len(service.born()) == 4)
    assert all(map(is_alive, others))
    until(lambda: is_alive(service.born()[3]))
    status, said = service.end()
    assert status == 0
    assert "ended by signal 9; it is started anew in 0 s" in said


def test_a_worker_that_dies_again_and_again_is_started_ever_more_slowly(start: Start) -> None:
    service = start(2, "ready", "ready", "dies soon")
    service.until_ready()
    os.kill(service.born()[0], signal.SIGKILL)
    until(lambda: len(service.born()) == 5)
    status, said = service.end()
    assert status == 0
    waits = [line.rpartition("in ")[2] for line in said.splitlines() if "anew" in line]
    assert waits[:3] == ["0 s", "1 s", "2 s"]


def test_what_a_restarted_worker_lacks_for_now_is_waited_for(start: Start) -> None:
    service = start(2, "ready", "ready", "fails for now", "ready")
    service.until_ready()
    os.kill(service.born()[0], signal.SIGKILL)
    until(lambda: len(service.born()) == 4)
    _, said = service.end()
    assert "ended with status 1 (fails for now); it is started anew" in said


def test_a_restarted_worker_that_can_never_start_ends_everything(start: Start) -> None:
    service = start(2, "ready", "ready", "fails for good")
    service.until_ready()
    os.kill(service.born()[0], signal.SIGKILL)
    assert service.line() == "ended fails for good"
    assert service.parent.wait(5) == 0
    assert not any(map(is_alive, service.born()))


def test_a_frozen_worker_is_left_alone(start: Start) -> None:
    """It may come back with an outcome: a kill waits for its word, and nobody kills it for its silence."""
    service = start(2, "ready")
    service.until_ready()
    frozen, other = service.born()
    os.kill(frozen, signal.SIGSTOP)
    assert {service.answered_by() for _ in range(10)} <= {frozen, other}
    assert service.born() == [frozen, other]
    os.kill(frozen, signal.SIGCONT)
    assert service.end()[0] == 0


def test_a_worker_that_does_not_end_is_killed_in_the_end(start: Start) -> None:
    service = start(2, "deaf")
    service.until_ready()
    status, said = service.end()
    assert status == 0
    assert "did not end within 2 s and are killed" in said
    assert not any(map(is_alive, service.born()))


def test_a_second_ctrl_c_kills_at_once(start: Start) -> None:
    service = start(2, "deaf")
    service.until_ready()
    service.parent.send_signal(signal.SIGINT)
    assert service.parent.stderr is not None
    until(lambda: "ending on SIGINT" in service.parent.stderr.readline())  # type: ignore[union-attr]
    status, _ = service.end(signal.SIGINT)
    assert status != 0
    assert not any(map(is_alive, service.born()))


def test_ctrl_c_in_a_terminal_reaches_the_parent_alone(start: Start) -> None:
    service = start(2, "ready")
    service.until_ready()
    assert {os.getpgid(pid) for pid in service.born()} == set(service.born())


def test_sighup_does_nothing(start: Start) -> None:
    service = start(2, "ready")
    service.until_ready()
    for pid in (service.parent.pid, *service.born()):
        os.kill(pid, signal.SIGHUP)
    assert service.answered_by() in service.born()
    assert (service.end()[0], service.left(), len(service.born())) == (0, 2, 2)


def test_one_told_to_end_while_it_starts_ends(start: Start) -> None:
    service = start(2, "ready")
    until(service.born)
    status, _ = service.end()
    assert status == 0
    assert not any(map(is_alive, service.born()))


# --- the sockets ----------------------------------------------------------------------------------------------------


def test_every_address_of_a_name_gets_one_port() -> None:
    listeners = bind("localhost", 0)
    assert len({listener.getsockname()[1] for listener in listeners}) == 1
    for listener in listeners:
        listener.close()


def test_a_port_that_is_taken_is_refused() -> None:
    (listener,) = bind("127.0.0.1", 0)
    with listener, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", listener.getsockname()[1])
