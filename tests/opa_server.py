"""A real OPA for tests, and the shelf it takes its bundles from. The shelf answers long polls, so nothing sleeps."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from agentgate.adapters.policy._bundle import PublishedBundle
from agentgate.adapters.policy._compile import find_opa
from tests.web import Handler, serving

OPA = find_opa(os.environ)
NO_OPA = "opa is not installed (AGENTGATE_OPA_BIN, PATH or the cache)"


class Shelf:
    """GET /bundles/agentgate.tar.gz of a gateway that publishes what `show` was given last."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._published: Callable[[], PublishedBundle | None] = lambda: None
        self._open = True
        shelf = self

        class Published(Handler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                wait = re.search(r"wait=(\d+)", self.headers.get("Prefer", ""))
                found = shelf._new_since(self.headers.get("If-None-Match"), int(wait[1]) if wait else 0)
                kind = "application/vnd.openpolicyagent.bundles"
                if found:
                    self.say(200, found.content, kind, ETag=found.etag)
                else:
                    self.say(304, kind=kind)

        self._ends = ExitStack()
        self.url = self._ends.enter_context(serving(Published))

    def show(self, published: Callable[[], PublishedBundle | None]) -> None:
        self._published = published
        self.announce()

    def announce(self) -> None:
        """An engine's `on_publish`."""
        with self._changed:
            self._changed.notify_all()

    def _new_since(self, etag: str | None, wait_s: float) -> PublishedBundle | None:
        def is_new() -> bool:
            found = self._published()
            return not self._open or (found is not None and found.etag != etag)

        with self._changed:
            self._changed.wait_for(is_new, timeout=wait_s)
            found = self._published()
        return found if found is not None and found.etag != etag else None

    def close(self) -> None:
        self._open = False
        self.announce()
        self._ends.close()


class OpaServer:
    """One OPA process after another on the same unix socket."""

    def __init__(self, *, shelf: Shelf | None = None, policies: dict[str, str] | None = None) -> None:
        assert OPA is not None, NO_OPA
        self.directory = Path(tempfile.mkdtemp(prefix="agentgate-opa-"))
        self.socket = self.directory / "opa.sock"
        self.url = f"unix://{self.socket}"
        self._arguments = [str(OPA), "run", "--server", "--skip-version-check", "--addr", self.url, "--log-level=error"]
        if shelf is not None:
            config = self.directory / "config.json"
            config.write_text(json.dumps(self._config(shelf)))
            self._arguments += ["--config-file", str(config)]
        for name, source in (policies or {}).items():
            (self.directory / name).write_text(source)
            self._arguments.append(str(self.directory / name))
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def _config(shelf: Shelf) -> dict[str, object]:
        polling = {"long_polling_timeout_seconds": 10, "min_delay_seconds": 1, "max_delay_seconds": 1}
        return {
            "services": {"gateway": {"url": shelf.url}},
            "bundles": {
                "agentgate": {"service": "gateway", "resource": "/bundles/agentgate.tar.gz", "polling": polling}
            },
            "status": {"prometheus": True},
        }

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(self._arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 15
        while not self._is_up():
            assert self._process.poll() is None, "opa did not start"
            assert time.monotonic() < deadline, "opa was not ready in time"
            time.sleep(0.02)  # a process that starts has no event to wait for

    def _is_up(self) -> bool:
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        try:
            connection.sock.connect(str(self.socket))
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        if self._process is not None:
            self.resume()
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Returns when it has stopped: the signal alone takes a moment."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitpid(self._process.pid, os.WUNTRACED)

    def resume(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def __enter__(self) -> OpaServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
