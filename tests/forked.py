"""`agentgate …` as a process of its own whose modules were loaded once: one process loads them and forks for each.

Loading them takes a second of a processor, which hundreds of starts would spend each. What is forked runs `python -m
agentgate` from its first line on, with a pid, streams, an environment, a directory and signals of its own, and it ends
as an interpreter ends. The shipped policy was compiled before, too. Tests of starting itself have a new interpreter
(`GatewayProcess(fresh=True)`), and so has everybody whose environment matters while modules are loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

AGENTGATE: Final = (sys.executable, "-m", "agentgate")
ROOT: Final = Path(__file__).parents[1]
_LARGEST_ORDER: Final = 1 << 17
_PR_SET_PDEATHSIG: Final = 1
_MATTERS_WHILE_LOADING: Final = (
    "COLUMNS", "LANG", "LC_", "LD_", "LINES", "MALLOC_", "NO_COLOR", "OPENSSL_", "PYTHON", "SSL_", "TERM", "TZ",
)  # fmt: skip


class Forked:
    """One such process, with what `subprocess.Popen` has of it. Any thread may use it."""

    def __init__(self, loaded: _Loaded, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._loaded = loaded
        self._handle = os.pidfd_open(pid)
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        with self._lock:
            return self._status(0)

    def wait(self, timeout: float | None = None) -> int:
        """Raises subprocess.TimeoutExpired."""
        with self._lock:
            status = self._status(timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"the forked process {self.pid}", timeout)
        return status

    def _status(self, timeout_s: float | None) -> int | None:
        if self.returncode is None:
            end = select.poll()
            end.register(self._handle, select.POLLIN)
            if end.poll(None if timeout_s is None else timeout_s * 1000):
                self.returncode = self._loaded.bury(self.pid)
                os.close(self._handle)
        return self.returncode

    def send_signal(self, what: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, what)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    stdout: int,
    stderr: int,
    prefix: Sequence[str] = (),
    fresh: bool = False,
) -> Process:
    """Start `agentgate *arguments` on these descriptors; `fresh`, or with a `prefix`, in a new interpreter."""
    if fresh or prefix or sys.platform != "linux" or _loading(env) != _loading(os.environ):
        command = [*prefix, *AGENTGATE, *arguments]
        return subprocess.Popen(command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
    loaded = _loaded(os.getpid())
    return Forked(loaded, loaded.fork({"arguments": arguments, "env": dict(env), "cwd": str(cwd)}, (stdout, stderr)))


def _loading(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith(_MATTERS_WHILE_LOADING)}


Process = Forked | subprocess.Popen[bytes]


@functools.cache
def _loaded(of: int) -> _Loaded:
    """The one of the process `of`, which is the caller's: what it forks itself gets one of its own."""
    return _Loaded()


class _Loaded:
    """The parent's end of the process that forks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self._close)

    def _close(self) -> None:
        """With its socket it ends."""
        self._orders.close()
        self._process.wait()

    def fork(self, order: Mapping[str, Any], handles: Sequence[int]) -> int:
        return self._ask(order, handles)

    def bury(self, pid: int) -> int:
        """The status of a process that has ended, negative when a signal ended it."""
        return self._ask({"bury": pid})

    def _ask(self, order: Mapping[str, Any], handles: Sequence[int] = ()) -> int:
        with self._lock:
            try:
                socket.send_fds(self._orders, [json.dumps(order).encode()], handles)
                said = self._orders.recv(_LARGEST_ORDER)
            except ConnectionError:
                said = b""
        assert said, "the process that forks has ended: `python -m tests.forked 0` says why"
        return int(said)


# --- in the process that forks -----------------------------------------------------------------------------


def _load() -> None:
    """Everything of ours and what it needs, and no thread: a fork would have it in no state that anybody knows."""
    import agentgate

    gc.disable()
    for module in pkgutil.walk_packages(agentgate.__path__, "agentgate."):
        if not module.name.endswith("__main__") and ".migrations." not in module.name:  # which run when imported
            importlib.import_module(module.name)
    for module_name in ("uvicorn.lifespan.on", "uvicorn.loops.uvloop"):
        importlib.import_module(module_name)
    _compile_policy()
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "loading has started a thread"
    gc.freeze()
    gc.enable()


def _compile_policy() -> None:
    """Have those that are forked take the shipped policy's machine code as it was compiled here."""
    import wasmtime

    config = wasmtime.Config()
    config.consume_fuel = True
    config.parallel_compilation = False  # its threads would be lost in a fork
    shipped = (ROOT / "policies" / "policy.wasm").read_bytes()
    compiled = wasmtime.Module(wasmtime.Engine(config), shipped).serialize()
    compile_ = wasmtime.Module

    def module(engine: wasmtime.Engine, wasm: bytes) -> wasmtime.Module:
        return compile_.deserialize(engine, compiled) if wasm == shipped else compile_(engine, wasm)

    wasmtime.Module = module  # type: ignore[assignment,misc]


def _orders(orders: socket.socket) -> Sequence[str]:
    """Fork as told. Returns the arguments of a command, in the process that is to run it."""
    while True:
        said, handles, _, _ = socket.recv_fds(orders, _LARGEST_ORDER, 2)
        if not said:
            sys.exit()
        order = json.loads(said)
        if "bury" in order:
            answer = os.waitstatus_to_exitcode(os.waitpid(order["bury"], 0)[1])
        elif (answer := os.fork()) == 0:
            orders.close()
            _become(order, handles)
            return list(order["arguments"])
        for handle in handles:
            os.close(handle)
        orders.send(str(answer).encode())


def _become(order: Mapping[str, Any], handles: Sequence[int]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # also where pytest is killed, nobody stays behind
    for stream, handle in enumerate(handles, start=1):
        os.dup2(handle, stream)
    for handle in handles:
        os.close(handle)
    for name, handle, buffering in (("stdout", 1, -1), ("stderr", 2, 1)):  # they remember what they were opened on
        ours = getattr(sys, name)
        setattr(sys, name, open(handle, "w", buffering, ours.encoding, ours.errors, closefd=False))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.path[0] = order["cwd"]
    signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    _load()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest, which ends us
    sys.argv[1:] = _orders(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("agentgate", run_name="__main__", alter_sys=True)
