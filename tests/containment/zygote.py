"""Forks replicas from a process that has imported everything: a start takes a fraction of a fresh interpreter's.

Orders come as JSON lines on standard input, answers go to standard output: `{"start": Orders}` -> `{"pid": …}`, and
`{"ended": true}` -> `{"ended": [[pid, exit code, at], …]}` of those that ended since. It ends with its input, and
everybody it has forked ends with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1


class Zygote:
    """The parent's end of it. Any thread may use it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.containment.zygote"]
        self._lock = threading.Lock()
        self._over: dict[int, tuple[int, int]] = {}
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith("AGENTGATE_") or k == "AGENTGATE_OPA_BIN"
        }
        self._process = subprocess.Popen(
            command, cwd=_ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, orders: dict[str, Any]) -> int:
        with self._lock:
            pid: int = self._ask({"start": orders})["pid"]
            return pid

    def wait(self, pid: int) -> tuple[int, int]:
        """Wait for the end of `pid`: its exit code (a signal's number below 0), and when it was seen to be over."""
        while (end := self.end_of(pid)) is None:
            time.sleep(0.001)
        return end

    def end_of(self, pid: int) -> tuple[int, int] | None:
        """The same, if it has ended; told once."""
        with self._lock:
            self._over |= {pid: (code, at) for pid, code, at in self._ask({"ended": True})["ended"]}
            return self._over.pop(pid, None)

    def _ask(self, question: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


def _fork(orders: dict[str, Any]) -> int:
    from tests.containment.replica import Orders, serve

    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        serve(Orders(**orders))
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - nothing of the child may run on in the parent's code
        traceback.print_exc()
    finally:
        os._exit(status)


def _ended() -> list[tuple[int, int, int]]:
    found = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        found.append((pid, os.waitstatus_to_exitcode(status), time.monotonic_ns()))


def main() -> None:
    import tests.containment.replica  # noqa: F401 - everything that a replica needs, once

    for line in sys.stdin:
        match json.loads(line):
            case {"start": dict(orders)}:
                answer: dict[str, Any] = {"pid": _fork(orders)}
            case _:
                answer = {"ended": _ended()}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
