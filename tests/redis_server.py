"""A real redis-server for tests, that can be stopped, killed, frozen and woken.

    with RedisServer("--appendonly", "yes") as server:
        admission = RedisAdmission(server.url, …)
        server.pause()

It listens on a unix socket in a directory of its own; `RedisServer(tcp=True)` on a free loopback port as well. With
that it can have standbys (`standby.follow(primary)`, `standby.promote()`) and be watched by a `Sentinel`.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable

import hiredis

from tests import scratch

READY = "ready to accept connections"
AT_ONCE = ("--repl-diskless-sync-delay", "0", "--hz", "100")
"""No standby waits for others that want to be synchronised too, and a server that is told to stop hears it soon."""


def is_installed() -> bool:
    return shutil.which("redis-server") is not None


def free_port() -> int:
    """Below 55,536, because a cluster wants the port 10,000 higher as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_536:
            return port


class RedisServer:
    """One server process after another on the same address and directory."""

    def __init__(self, *flags: str, tcp: bool = False, tls: bool = False) -> None:
        """`flags` go to redis-server after our own and win over them. `tls`: the port speaks TLS only."""
        self.directory = scratch.directory("agentgate-redis-")
        self.socket = self.directory / "redis.sock"
        self.port = free_port() if tcp else 0
        self._port_flags = ("--port", "0", "--tls-port", str(self.port)) if tls else ("--port", str(self.port))
        self.flags = flags
        self.password = flags[flags.index("--requirepass") + 1] if "--requirepass" in flags else ""
        self.output: list[str] = []
        self._process: subprocess.Popen[str] | None = None

    @property
    def url(self) -> str:
        login = f":{self.password}@" if self.password else ""
        return f"unix://{login}{self.socket}"

    @property
    def tcp_url(self) -> str:
        assert self.port, "ask for RedisServer(tcp=True)"
        login = f":{self.password}@" if self.password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- the process ---

    def start(self) -> None:
        """Start it and return when it answers. Its files are those that the last one left."""
        assert self._process is None, "it runs already"
        command = ["redis-server", *self._port_flags, "--unixsocket", str(self.socket), "--dir", str(self.directory)]
        command += ["--bind", "127.0.0.1", "--save", "", "--enable-debug-command", "yes", *AT_ONCE, *self.flags]
        self.output = []
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        is_ready = threading.Event()
        threading.Thread(target=self._listen, args=(self._process, is_ready), daemon=True).start()
        is_ready.wait(20)
        if not any(READY in line.lower() for line in self.output):
            self.kill9()
            raise RuntimeError("redis-server did not start: " + "".join(self.output))

    def stop(self) -> None:
        """End it in order (SIGTERM), frozen or not. Stopping twice is stopping once."""
        self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """What a power cut would leave: nothing that was not on disk."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: it keeps its sockets, takes connections (the kernel does) and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        self._process.wait(20)
        self._process = None

    def _signal(self, what: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(what)

    def _listen(self, process: subprocess.Popen[str], is_ready: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                self.output.append(line)
                if READY in line.lower():
                    is_ready.set()
        is_ready.set()

    # --- standbys ---

    def follow(self, primary: RedisServer) -> None:
        """Become a standby of `primary`, and return when all that it holds has arrived."""
        assert primary.port, "ask for RedisServer(tcp=True)"
        if primary.password:
            self.command("CONFIG", "SET", "masterauth", primary.password)
        self.command("REPLICAOF", "127.0.0.1", primary.port)
        _wait_until(lambda: self.info("replication").get("master_link_status") == "up", "it did not synchronise")

    def promote(self) -> None:
        """Become a primary with what has arrived until now. The old one is not told."""
        self.command("REPLICAOF", "NO", "ONE")

    def info(self, section: str = "default") -> dict[str, str]:
        answer = str(self.command("INFO", section))
        return dict(line.split(":", 1) for line in answer.splitlines() if ":" in line)

    # --- talking to it ---

    def connect(self) -> socket.socket:
        """A connection of one's own, logged in; blocking."""
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.settimeout(20)
        client.connect(str(self.socket))
        if self.password:
            _ask(client, "AUTH", self.password)
        return client

    def command(self, *words: str | int) -> object:
        """One command over a connection of its own. An error is raised as hiredis.ReplyError."""
        with self.connect() as client:
            return _ask(client, *words)


class Sentinel:
    """A real Sentinel on a free loopback port, that watches one service.

    A service is failed over as soon as `quorum` of its Sentinels miss the primary for `down_after_ms`.
    """

    def __init__(
        self,
        primary: RedisServer,
        service: str = "gate",
        *,
        quorum: int = 1,
        down_after_ms: int = 300,
        password: str = "",
    ) -> None:
        self.service = service
        self.password = password
        self.port = free_port()
        self.directory = scratch.directory("agentgate-sentinel-")
        self._config = self.directory / "sentinel.conf"  # Sentinel writes into it what it learns
        lines = [
            f"port {self.port}",
            "bind 127.0.0.1",
            f"dir {self.directory}",
            f"sentinel monitor {service} 127.0.0.1 {primary.port} {quorum}",
            f"sentinel down-after-milliseconds {service} {down_after_ms}",
            f"sentinel failover-timeout {service} 2000",
        ]
        if primary.password:
            lines.append(f"sentinel auth-pass {service} {primary.password}")
        if password:
            lines.append(f"requirepass {password}")
        self._config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Sentinel:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def start(self) -> None:
        """Start it and return when it answers."""
        assert self._process is None, "it runs already"
        command = ["redis-server", str(self._config), "--sentinel", "--logfile", str(self.directory / "log")]
        self._process = subprocess.Popen(command)
        _wait_until(self._answers, "the Sentinel did not start")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def knows_standbys(self, count: int = 1) -> None:
        """Wait until it has found that many: without one there is nothing to fail over to."""
        _wait_until(
            lambda: f"slaves={count}" in str(self.command("INFO", "sentinel")), "the Sentinel finds no standby", 15
        )

    def command(self, *words: str | int) -> object:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            if self.password:
                _ask(client, "AUTH", self.password)
            return _ask(client, *words)

    def _answers(self) -> bool:
        try:
            return self.command("PING") == "PONG"
        except OSError:
            return False


def _ask(client: socket.socket, *words: str | int) -> object:
    """One command over a connection. An error is raised as hiredis.ReplyError."""
    client.sendall(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub wants a tuple of one
    more = object()
    reader = hiredis.Reader(notEnoughData=more, encoding="utf-8")
    while (answer := reader.gets()) is more:
        data = client.recv(65536)
        if not data:
            raise ConnectionError("the server closed the connection")
        reader.feed(data)
    if isinstance(answer, hiredis.ReplyError):
        raise answer
    return answer


def _wait_until(claim: Callable[[], bool], otherwise: str, within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not claim():
        if time.monotonic() > until:
            raise RuntimeError(otherwise)
        time.sleep(0.02)
