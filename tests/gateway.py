"""A real `agentgate serve` in a process of its own, for tests that speak HTTP to it.

    with GatewayProcess(env={"AGENTGATE_SIGNING_KEY": KEY}, config={"server": {"refusals_per_second": 5}}) as gateway:
        answer = gateway.call("db_query", {"query": "SELECT 1"})
        gateway.admin().post("/sessions/s-1/kill")
        gateway.kill9()
        gateway.start()        # the same data directory, another port

It inherits no AGENTGATE_* variable. A start that must fail raises GatewayFailed with its exit status and words.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import httpx
import yaml

from tests import forked, scratch

_READY = re.compile(r"is ready on (http://\S+)")
_T = TypeVar("_T")

JSON = {"Content-Type": "application/json"}
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Given to clients that never speak TLS: loading the machine's certificates costs 20 ms each time."""

_NOTHING_KEPT = httpx.Limits(max_keepalive_connections=0)
"""Loops that wait make a client for each question; kept connections would add up to thousands of descriptors."""


class GatewayFailed(AssertionError):
    """The process ended instead of getting ready. `status` is its exit status, `stderr` its words."""

    def __init__(self, status: int, stderr: str) -> None:
        super().__init__(f"agentgate serve ended with {status}:\n{stderr}")
        self.status = status
        self.stderr = stderr


class GatewayProcess:
    """One gateway process after another on the same data directory."""

    def __init__(
        self,
        *flags: str,
        env: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        data_dir: Path | None = None,
        command: tuple[str, ...] = ("serve",),
        prefix: tuple[str, ...] = (),
        fresh: bool = False,
    ) -> None:
        """`flags` follow `agentgate serve --port 0`; `config` becomes agentgate.yaml; a given `data_dir` is kept.

        `prefix` is a command that the gateway's own follows, and that execs it (`unshare`, `prlimit`). A `fresh`
        one has an interpreter that has loaded nothing yet, and a data directory on the disk.
        """
        self._own = scratch.directory("agentgate-test-", on_disk=fresh)
        self.data_dir = data_dir or self._own / "data"
        self.flags = flags
        self.env = dict(env or {})
        self.command = command
        self.prefix = prefix
        self.fresh = fresh
        self.config_path: Path | None = None
        if config is not None:
            self.config_path = self._own / "agentgate.yaml"
            self.config_path.write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
        self.url = ""
        self.stdout: list[str] = []
        self._stderr: list[str] = []
        self._process: forked.Process | None = None
        self._readers: list[threading.Thread] = []
        self._clients: WeakSet[httpx.Client] = WeakSet()
        self._agent: httpx.Client | None = None

    def __enter__(self) -> GatewayProcess:
        try:
            self.start()
        except BaseException:
            self._clean()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._clean()

    def _clean(self) -> None:
        for client in list(self._clients):
            client.close()
        shutil.rmtree(self._own, ignore_errors=True)

    # --- the process ---

    def start(self, *, wait: bool = True) -> None:
        """Start it and return when it is ready.

        Raises:
            GatewayFailed: it ended instead.
        """
        assert self._process is None, "it runs already"
        config = ["--config", str(self.config_path)] if self.config_path else []
        self.stdout, self._stderr = [], []
        (out, its_out), (err, its_err) = os.pipe(), os.pipe()
        try:
            process = forked.start(
                [*self.command, "--port", "0", "--data-dir", str(self.data_dir), *config, *self.flags],
                env=clean_environment(self.env),
                cwd=forked.ROOT,
                stdout=its_out,
                stderr=its_err,
                prefix=self.prefix,
                fresh=self.fresh,
            )
        finally:
            os.close(its_out)
            os.close(its_err)
        self._process = process
        self._ready = threading.Event()
        self._readers = [
            threading.Thread(target=self._read_stdout, args=(out,), daemon=True),
            threading.Thread(target=self._read_stderr, args=(err,), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        if wait:
            self.wait_ready()

    def wait_ready(self, timeout_s: float = 60) -> None:
        assert self._process is not None
        self._ready.wait(timeout_s)
        if not self.url:
            if self._process.poll() is None and self.stdout_is_open:
                self.kill9()
                raise TimeoutError(f"not ready within {timeout_s} s:\n{self.stderr}")
            status = self.wait_exit()
            raise GatewayFailed(status, self.stderr)
        self._agent = None

    @property
    def stdout_is_open(self) -> bool:
        return self._readers[0].is_alive()

    def wait_exit(self, timeout_s: float = 20) -> int:
        """Its exit status, once it has ended by itself."""
        assert self._process is not None
        status = self._process.wait(timeout_s)
        self._ended()
        return status

    def stop(self) -> int:
        """End it in order (SIGTERM), frozen or not; its exit status. Stopping twice is stopping once."""
        return self._end(signal.SIGTERM)

    def kill9(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Freeze it: it keeps its sockets and answers nothing."""
        self.send(signal.SIGSTOP)

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def send(self, what: signal.Signals) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(what)

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def pid(self) -> int:
        assert self._process is not None, "it does not run"
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _end(self, how: signal.Signals) -> int:
        if self._process is None:
            return 0
        self._process.send_signal(how)
        self._process.send_signal(signal.SIGCONT)
        try:
            status = self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
            self._ended()
            raise AssertionError(f"it did not end within 20 s:\n{self.stderr}") from None
        self._ended()
        return status

    def _ended(self) -> None:
        for reader in self._readers:
            reader.join(10)
        self._process = None
        self.url = ""

    def _read_stdout(self, handle: int) -> None:
        with open(handle, encoding="utf-8") as lines:
            for line in lines:
                self.stdout.append(line)
                if found := _READY.search(line):
                    self.url = found[1]
                    self._ready.set()
        self._ready.set()

    def _read_stderr(self, handle: int) -> None:
        with open(handle, encoding="utf-8") as lines:
            for line in lines:
                self._stderr.append(line)

    @property
    def stderr(self) -> str:
        """What it said so far, with its log."""
        return "".join(self._stderr)

    # --- talking to it ---

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def admin_key(self) -> str:
        """The key that it was given, or that its first start made."""
        given = self.env.get("AGENTGATE_ADMIN_API_KEY")
        return given or (self.data_dir / "admin.key").read_text(encoding="utf-8")

    def client(self, key: str | None = None, **headers: str) -> httpx.Client:
        """A client of this run of the process; closed when nobody holds it any more, or with the gateway."""
        if key is not None:
            headers["X-API-Key"] = key
        return self._open(headers, httpx.Limits())

    def _open(self, headers: dict[str, str], limits: httpx.Limits) -> httpx.Client:
        connections = httpx.HTTPTransport(verify=_NO_TLS, trust_env=False, limits=limits)
        client = httpx.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, transport=connections)
        self._clients.add(client)
        weakref.finalize(client, connections.close)  # a whole run's would be a thousand descriptors in one process
        return client

    def agent(self, key: str | None = None) -> httpx.Client:
        """A client with an agent's key, or without any."""
        return self.client(key)

    def admin(self) -> httpx.Client:
        """A client with the admin key, each of whose questions has a connection of its own."""
        return self._open({"X-API-Key": self.admin_key}, _NOTHING_KEPT)

    def call(
        self, tool: str, arguments: Mapping[str, Any] | None = None, *, session: str = "s-1", **more: Any
    ) -> dict[str, Any]:
        """One keyless tool call; the answer's members."""
        if self._agent is None:
            self._agent = self.agent()
        return call(self._agent, tool, arguments, session=session, **more).json()  # type: ignore[no-any-return]

    def create_key(self, *flags: str) -> str:
        """A key made by `agentgate keys create`; a running gateway takes it within a second."""
        return run_cli("keys", "create", "--data-dir", str(self.data_dir), *flags, env=self.env).stdout.strip()

    def metric(self, name: str) -> float:
        """The value of a metric line, by its name with labels; 0 if it is not there."""
        for line in self._open({}, _NOTHING_KEPT).get("/metrics").text.splitlines():
            if line.startswith(name + " "):
                return float(line.rpartition(" ")[2])
        return 0.0


def call(
    client: httpx.Client, tool: str, arguments: Mapping[str, Any] | None = None, *, session: str = "s-1", **more: Any
) -> httpx.Response:
    """One tool call with a client of one's own."""
    body = {"session_id": session, "tool_name": tool, "arguments": dict(arguments or {}), **more}
    return client.post("/tools/call", json=body)


def clean_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without any of the gateway's variables, and with `more`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("AGENTGATE_") or k == "AGENTGATE_OPA_BIN"}
    return {**kept, **(more or {})}


def run_cli(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = 60,
    fresh: bool = False,
) -> subprocess.CompletedProcess[str]:
    """`agentgate …` to its end. A `fresh` one has an interpreter that has loaded nothing yet.

    Raises:
        subprocess.TimeoutExpired: it did not end, and was killed.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = forked.start(
            arguments,
            env=clean_environment(env),
            cwd=cwd or Path.cwd(),
            stdout=stdout.fileno(),
            stderr=stderr.fileno(),
            fresh=fresh,
        )
        try:
            status = process.wait(timeout_s)
        finally:
            process.kill()
            process.wait()
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read())
    return subprocess.CompletedProcess(arguments, status, *said)


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * 4096


def is_alive(pid: int) -> bool:
    """Whether it runs: a process that has ended and that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(probe: Callable[[], _T], *, timeout_s: float = 10, every_s: float = 0.02) -> _T:
    """What `probe` answers, as soon as that is true.

    Raises:
        AssertionError: it was not within `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := probe()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(every_s)
    return found


def key_entry(secret: str, **more: Any) -> dict[str, Any]:
    """A key for `auth: {keys: […]}` of agentgate.yaml: `agent=` or `person=`, `roles=`, `tenant=`, …"""
    return {"id": f"k-{secret}", "sha256": hashlib.sha256(secret.encode()).hexdigest(), **more}


def exchange(port: int, raw: bytes | Iterable[bytes], *, timeout_s: float = 5) -> bytes:
    """Everything that comes back for bytes on a connection of their own, until the gateway closes or is silent.

    An iterable is sent piece by piece; what the gateway says meanwhile does not stop it, a closed connection does.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        try:
            for piece in [raw] if isinstance(raw, bytes) else raw:
                connection.sendall(piece)
        except OSError:
            pass  # it has answered and closed
        said = bytearray()
        try:
            while data := connection.recv(65_536):
                said += data
        except OSError:
            pass
    return bytes(said)


def statuses(said: bytes) -> list[int]:
    """The status of each answer in what `exchange` returned."""
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


def post(path: str, body: bytes, *headers: str, host: str = "127.0.0.1") -> bytes:
    """The bytes of a POST of JSON that asks for the connection to be closed. A header of ours can be given anew."""
    given = {header.partition(":")[0].lower() for header in headers}
    ours = [f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    head = [header for header in ours if header.partition(":")[0].lower() not in given]
    lines = [f"POST {path} HTTP/1.1", *head, *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body
