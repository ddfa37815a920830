"""A real PostgreSQL for tests, that can be stopped, killed, frozen, woken, copied to a standby.

    with PostgresServer() as server:
        server.sql("CREATE DATABASE agentgate")
        log = await PostgresLog.open(server.url("agentgate"), …)
        server.pause()

It listens on a unix socket in a directory of its own and on a free loopback port, with fsync on as in life. postgres
refuses to run as root: a test run as root starts it as another user.
"""

from __future__ import annotations

import atexit
import os
import pwd
import re
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import quote

from tests import scratch
from tests.gateway import is_alive
from tests.redis_server import free_port

READY = re.compile(r"ready to accept (read-only )?connections")
SUPERUSER = "postgres"
_SETTINGS = (
    "max_connections=60",
    "shared_buffers=16MB",
    "min_wal_size=8MB",
    "max_wal_size=256MB",
    "autovacuum_naptime=5s",
    "dynamic_shared_memory_type=mmap",  # in the data directory, so that a killed server leaves nothing elsewhere
    "log_min_messages=warning",
    "log_min_error_statement=panic",
)


def find_bin() -> Path | None:
    """The newest PostgreSQL's programs: Debian keeps them off PATH."""
    named = os.environ.get("AGENTGATE_POSTGRES_BIN")
    if named:
        return Path(named)
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    on_path = shutil.which("postgres")
    found = [*debian, *([Path(on_path).resolve().parent] if on_path else [])]
    return next((path for path in found if (path / "initdb").exists()), None)


def is_installed() -> bool:
    return find_bin() is not None


def _program(name: str) -> str:
    directory = find_bin()
    assert directory is not None, "there is no PostgreSQL: scripts/services installs it"
    return str(directory / name)


@cache
def _user() -> str | None:
    """Whom to run as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _own(path: Path) -> None:
    """Give a directory and all in it to the user that postgres runs as."""
    user = _user()
    if user is None:
        return
    found = pwd.getpwnam(user)
    for directory, _, files in os.walk(path):
        os.chown(directory, found.pw_uid, found.pw_gid)
        for file in files:
            os.chown(Path(directory, file), found.pw_uid, found.pw_gid)


def _run(*command: str) -> str:
    group = pwd.getpwnam(user).pw_gid if (user := _user()) else None
    ran = subprocess.run(
        command, capture_output=True, text=True, check=False, user=user, group=group, cwd="/", timeout=60
    )
    if ran.returncode:
        raise RuntimeError(f"{Path(command[0]).name}: {ran.stderr.strip()}")
    return ran.stdout


def _directory(*, on_disk: bool = False) -> Path:
    directory = scratch.directory("agentgate-pg-", on_disk=on_disk)
    _own(directory)
    return directory


@cache
def _template() -> Path:
    """A fresh cluster, made once; each server starts on a copy."""
    directory = _directory()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    data = directory / "data"
    options = ("--username", SUPERUSER, "--auth", "trust", "--no-sync", "--encoding", "UTF8", "--locale", "C")
    options += ("--wal-segsize", "1")  # MiB: less to copy
    _run(_program("initdb"), "--pgdata", str(data), *options)
    return data


class PostgresServer:
    """One server after another on the same address and directory."""

    def __init__(self, *settings: str, standby_of: PostgresServer | None = None, on_disk: bool = False) -> None:
        """`settings` are `name=value` and win over our own. `standby_of`: a copy that follows, read-only. `on_disk` is
        for who measures."""
        self.directory = _directory(on_disk=on_disk)
        self.data = self.directory / "data"
        self.port = free_port()
        self.settings = settings
        self.output: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        if standby_of is None:
            shutil.copytree(_template(), self.data)
            _own(self.data)
        else:
            source = f"host={standby_of.directory} port={standby_of.port} user={SUPERUSER}"
            how = ("--write-recovery-conf", "--checkpoint=fast", "--no-sync")
            _run(_program("pg_basebackup"), "--dbname", source, "--pgdata", str(self.data), *how)

    def url(self, database: str = SUPERUSER, user: str = SUPERUSER, *, tcp: bool = False, port: int = 0) -> str:
        """`port`: of something in between, such as a proxy."""
        if tcp or port:
            return f"postgresql://{user}@127.0.0.1:{port or self.port}/{database}"
        return f"postgresql://{user}@/{database}?host={quote(str(self.directory), safe='')}&port={self.port}"

    def __enter__(self) -> PostgresServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill9()
        self._free_memory()
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- the process ---

    @property
    def is_running(self) -> bool:
        """Frozen is running."""
        return self._process is not None

    def start(self) -> None:
        """Start it and return when it answers. Its files are those that the last one left."""
        assert self._process is None, "it runs already"
        self._free_memory()
        (self.data / "postmaster.pid").unlink(missing_ok=True)  # a killed one leaves it, and a pid may be somebody's
        places = (f"unix_socket_directories={self.directory}", "listen_addresses=127.0.0.1", f"port={self.port}")
        flags = [part for setting in (*_SETTINGS, *places, *self.settings) for part in ("-c", setting)]
        self.output = []
        user = _user()
        self._process = subprocess.Popen(
            [_program("postgres"), "-D", str(self.data), *flags],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd="/",
            user=user,
            group=pwd.getpwnam(user).pw_gid if user else None,
            extra_groups=[] if user else None,
            start_new_session=True,  # Ctrl-C is for pytest
        )
        is_ready = threading.Event()
        threading.Thread(target=self._listen, args=(self._process, is_ready), daemon=True).start()
        is_ready.wait(30)
        if not any(READY.search(line) for line in self.output):
            self.kill9()
            raise RuntimeError("postgres did not start: " + "".join(self.output))

    def stop(self) -> None:
        """End it in order (a fast shutdown), frozen or not. Stopping twice is stopping once."""
        if self._process is None:
            return
        self.resume()
        self._process.send_signal(signal.SIGINT)
        self._process.wait(30)
        self._process = None

    def kill9(self) -> None:
        """What a power cut would leave: nothing that was not on disk."""
        if self._process is None:
            return
        self._signal_all(signal.SIGSTOP)  # so that nobody is born meanwhile
        children = self._children()
        self._signal_all(signal.SIGKILL)
        self._process.wait(30)
        self._process = None
        deadline = time.monotonic() + 10
        while any(map(is_alive, children)):  # they hold on to the shared memory until they are dead
            assert time.monotonic() < deadline, "a killed postgres does not die"
            time.sleep(0.001)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze it: it keeps its sockets, takes connections (the kernel does) and answers nothing."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def promote(self) -> None:
        """A standby becomes a primary."""
        _run(_program("pg_ctl"), "promote", "--pgdata", str(self.data), "--wait")

    def _children(self) -> list[int]:
        assert self._process is not None, "it does not run"
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def keep(self, name: str) -> None:
        """Copy the files of a stopped server, as a backup would."""
        assert self._process is None, "it runs"
        shutil.copytree(self.data, self.directory / name)

    def put_back(self, name: str) -> None:
        """Make a copy that was kept the server's files again."""
        assert self._process is None, "it runs"
        shutil.rmtree(self.data)
        shutil.copytree(self.directory / name, self.data)
        _own(self.data)

    def _signal_all(self, what: signal.Signals) -> None:
        """The postmaster first: its children are each a process group of their own. (Killed, it would have none.)"""
        children = self._children()
        assert self._process is not None
        self._process.send_signal(what)
        for child in children:
            with suppress(ProcessLookupError):
                os.kill(child, what)

    def _free_memory(self) -> None:
        """Remove the few bytes of System V memory that a killed server leaves to the next one on its files."""
        try:
            key_and_id = (self.data / "postmaster.pid").read_text(encoding="ascii").splitlines()[6].split()
        except (FileNotFoundError, IndexError):
            return
        subprocess.run(["ipcrm", "-m", key_and_id[1]], capture_output=True, check=False)

    def _listen(self, process: subprocess.Popen[str], is_ready: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.output.append(line)
                if READY.search(line):
                    is_ready.set()
        is_ready.set()

    # --- talking to it ---

    def sql(self, *statements: str, database: str = SUPERUSER, user: str = SUPERUSER) -> str:
        """Run statements, each by itself; rows as `a|b` lines. RuntimeError with the server's text."""
        command = [_program("psql"), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1"]
        for statement in statements:
            command += ["--command", statement]
        return _run(*command, self.url(database, user)).strip()
