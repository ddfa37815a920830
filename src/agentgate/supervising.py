"""The parent of several workers: it binds the port, starts them, starts those anew that die, and ends them in order.

uvicorn brings such a parent (`uvicorn.supervisors.Multiprocess`). It was not taken because it starts a worker that
dies at once anew twice a second for ever, keeps no word of why one could not start, kills one that was only frozen
(and with it calls whose outcome would have been known), starts all anew on SIGHUP, and leaves its workers behind when
it is killed. Each worker still runs uvicorn's own server, on the socket that is bound here.

Workers are fresh interpreters (`agentgate.worker`), never forks: nothing random is shared. Each has a socket to its
parent. It gets its settings from it, says `ready` or why not on it, and ends when it closes; the parent knows by
the same end-of-file that a worker is dead.
"""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from agentgate.settings import Settings

logger = logging.getLogger("agentgate.supervising")

COMMAND: Final = (sys.executable, "-P", "-m", "agentgate.worker")
BACKLOG: Final = 2048
LENGTH: Final = struct.Struct("!I")
"""Goes before the pickled settings."""
STEADY_S: Final = 30.0
"""A worker that was ready for so long is started anew at once; one that was not waits longer each time."""
MAX_WAIT_S: Final = 30.0
KILL_AFTER_S: Final = 18.0
"""When a worker that was told to end is killed: its calls have had their grace, and it some time to leave the log."""


@dataclass(slots=True)
class _Worker:
    """One place for a worker, and the process that fills it now."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    said: bytearray = field(default_factory=bytearray)
    failure: str | None = None
    """Why it could not start, in its own words."""
    is_final: bool = False
    """Whether it would fail again for the same reason."""
    ready_at_s: float | None = None
    deaths_in_a_row: int = 0
    due_at_s: float | None = None
    """When it is to be started anew."""


class Supervisor:
    """N workers on shared sockets, from the first start to the last end."""

    def __init__(
        self,
        settings: Settings,
        listeners: Sequence[socket.socket],
        *,
        on_ready: Callable[[], None],
        command: Sequence[str] = COMMAND,
        kill_after_s: float = KILL_AFTER_S,
    ) -> None:
        """`on_ready` is called once, when all are ready; `command` is followed by the numbers of handles."""
        self._payload = pickle.dumps(settings)
        self._listeners = list(listeners)
        self._on_ready = on_ready
        self._command = command
        self._kill_after_s = kill_after_s
        self._workers = [_Worker(number) for number in range(settings.server.workers)]
        self._selector = selectors.DefaultSelector()
        self._is_serving = False
        self._ends_at_s: float | None = None
        """When those that were told to end are killed; None as long as nobody is to end."""
        self._was_interrupted = False
        self._failure: str | None = None

    def run(self) -> str | None:
        """Until told to stop (SIGTERM, SIGINT) and all have ended; a sentence when they could not start.

        Raises:
            KeyboardInterrupt: a second SIGINT, and everything was killed.
        """
        with self._signals(), self._selector:
            try:
                # the first alone: what a first start makes is made once, and what is wrong is said once
                self._start(self._workers[0])
                while self._ends_at_s is None or self._running():
                    self._look()
            finally:
                self._kill()
                for worker in self._workers:
                    if worker.process is not None:
                        worker.process.wait()
        if self._was_interrupted:
            raise KeyboardInterrupt
        return self._failure

    def _look(self) -> None:
        """Wait for the next thing to happen, and see to it."""
        now = time.monotonic()
        times = [worker.due_at_s for worker in self._workers] + [self._ends_at_s]
        waits = [max(0.0, at - now) for at in times if at is not None]
        for key, _ in self._selector.select(min(waits, default=None)):
            key.data()
        now = time.monotonic()
        if self._ends_at_s is not None and now >= self._ends_at_s:
            logger.error("workers did not end within %.0f s and are killed", self._kill_after_s)
            self._ends_at_s = now + self._kill_after_s
            self._kill()
        for worker in self._workers:
            if worker.due_at_s is not None and now >= worker.due_at_s:
                self._start(worker)

    def _running(self) -> list[subprocess.Popen[bytes]]:
        return [worker.process for worker in self._workers if worker.process is not None]

    # --- a worker's life ---

    def _start(self, worker: _Worker) -> None:
        worker.due_at_s = worker.ready_at_s = worker.failure = None
        worker.is_final = False
        worker.said.clear()
        ours, theirs = socket.socketpair()
        handles = [theirs.fileno(), *(listener.fileno() for listener in self._listeners)]
        with theirs:
            try:
                worker.process = subprocess.Popen(  # noqa: S603 - our own interpreter, and numbers
                    [*self._command, *map(str, handles)],
                    pass_fds=handles,
                    stdin=subprocess.DEVNULL,
                    process_group=0,  # Ctrl-C is for the parent, which then tells everybody once
                )
            except OSError as error:
                ours.close()
                worker.failure = f"a worker cannot be started: {error.strerror}"
                self._lost(worker, "was not started")
                return
        worker.channel = ours
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(worker, ours))
        with contextlib.suppress(OSError):  # it died already: that is heard next
            ours.sendall(LENGTH.pack(len(self._payload)) + self._payload)

    def _hear(self, worker: _Worker, channel: socket.socket) -> None:
        try:
            said = channel.recv(65_536)
        except ConnectionError:
            said = b""
        if not said:
            self._bury(worker, channel)
            return
        worker.said += said
        *lines, rest = worker.said.split(b"\n")
        worker.said = rest
        for line in lines:
            self._take(worker, json.loads(line))

    def _take(self, worker: _Worker, message: dict[str, Any]) -> None:
        match message:
            case {"ready": True}:
                worker.ready_at_s = time.monotonic()
                self._ready(worker)
            case {"failed": str(sentence), "final": bool(is_final)}:
                worker.failure, worker.is_final = sentence, is_final

    def _ready(self, worker: _Worker) -> None:
        if self._is_serving:
            logger.info("worker %d is ready again", worker.number)
        elif self._ends_at_s is None:
            for other in self._workers:
                if other.process is None:
                    self._start(other)
            if all(other.ready_at_s is not None for other in self._workers):
                self._is_serving = True
                self._on_ready()

    def _bury(self, worker: _Worker, channel: socket.socket) -> None:
        self._selector.unregister(channel)
        channel.close()
        worker.channel = None
        assert worker.process is not None
        process, worker.process = worker.process, None
        try:
            status = process.wait(5)
        except subprocess.TimeoutExpired:  # it let go of its parent, which none of ours does
            process.kill()
            status = process.wait()
        self._lost(worker, f"ended by signal {-status}" if status < 0 else f"ended with status {status}")

    def _lost(self, worker: _Worker, how: str) -> None:
        """A worker is no more: start it anew, unless that is hopeless or everybody is to end."""
        if self._ends_at_s is not None:
            return
        if not self._is_serving or worker.is_final:
            self._failure = worker.failure or f"a worker {how} before it was ready"
            self._end()
            return
        now = time.monotonic()
        if worker.ready_at_s is not None and now - worker.ready_at_s >= STEADY_S:
            worker.deaths_in_a_row = 0
        wait_s = min(MAX_WAIT_S, 2.0 ** (worker.deaths_in_a_row - 1)) if worker.deaths_in_a_row else 0.0
        worker.deaths_in_a_row += 1
        worker.due_at_s = now + wait_s
        said = f" ({worker.failure})" if worker.failure else ""
        logger.error("worker %d %s%s; it is started anew in %.0f s", worker.number, how, said, wait_s)

    # --- the end ---

    def _end(self) -> None:
        """Tell everybody to end; nobody is started any more, and nobody can connect."""
        self._ends_at_s = time.monotonic() + self._kill_after_s
        for worker in self._workers:
            worker.due_at_s = None
        for listener in self._listeners:
            listener.close()
        for process in self._running():
            process.terminate()

    def _kill(self) -> None:
        for process in self._running():
            process.kill()

    # --- signals ---

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT wake the selector, SIGHUP does nothing. As they were, afterwards."""
        heard, told = socket.socketpair()
        with heard, told:
            heard.setblocking(False)
            told.setblocking(False)
            before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
            handlers = {sig: signal.signal(sig, lambda *_: None) for sig in (signal.SIGTERM, signal.SIGINT)}
            handlers[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_IGN)
            self._selector.register(heard, selectors.EVENT_READ, lambda: self._signalled(heard.recv(64)))
            try:
                yield
            finally:
                for sig, handler in handlers.items():
                    signal.signal(sig, handler)
                signal.set_wakeup_fd(before)

    def _signalled(self, signals: bytes) -> None:
        for number in signals:
            if self._ends_at_s is None:
                logger.info("ending on %s", signal.Signals(number).name)
                self._end()
            elif number == signal.SIGINT:
                self._was_interrupted = True
                self._kill()


def set_up_logging(level: str, who: str = "") -> None:
    """To stderr; `who` tells the processes of one service apart.

    DEBUG is for our own loggers: libraries at that level quote statements with their values, and what is sent.
    """
    of_others = "INFO" if level == "DEBUG" else level
    form = f"%(asctime)s %(levelname)s %(name)s{who}: %(message)s"
    logging.basicConfig(level=of_others, format=form, stream=sys.stderr)
    logging.getLogger("agentgate").setLevel(level)
    # what uvicorn says of a failed start is said by `run`, once
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL if level != "DEBUG" else logging.DEBUG)


def bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets on every address of `host`, all on one port. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    listeners: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            listener = socket.socket(family, kind, protocol)
            listeners.append(listener)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((address[0], listeners[0].getsockname()[1] or port, *address[2:]))
            listener.listen(BACKLOG)
    except OSError:
        for listener in listeners:
            listener.close()
        raise
    return listeners
