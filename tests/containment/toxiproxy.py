"""A real toxiproxy: TCP proxies that can be cut, delayed, muted and led elsewhere while connections run through them.

with Toxiproxy() as proxies:
    link = proxies.link("r1-redis", ("127.0.0.1", redis.port))
    connect("127.0.0.1", link.port)
    link.cut()
    link.heal()
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from tests.redis_server import free_port

LOOPBACK = "127.0.0.1"


def find() -> str | None:
    """The program: named, in the cache of scripts/services, or on PATH."""
    named = os.environ.get("AGENTGATE_TOXIPROXY_BIN")
    cache = os.environ.get("AGENTGATE_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = Path(cache, *([] if os.environ.get("AGENTGATE_CACHE") else ["agentgate"]), "bin", "toxiproxy-server")
    return named or (str(cached) if cached.exists() else shutil.which("toxiproxy-server"))


class Link:
    """One proxy. Every change is complete when its method returns."""

    def __init__(self, proxies: Toxiproxy, name: str, port: int) -> None:
        self._proxies = proxies
        self.name = name
        self.port = port

    def cut(self) -> None:
        """Close every connection and refuse new ones."""
        self._set(enabled=False)

    def heal(self) -> None:
        """Undo `cut`, `delay` and `mute`."""
        for toxic in self._proxies.ask("GET", f"/proxies/{self.name}/toxics"):
            self._proxies.ask("DELETE", f"/proxies/{self.name}/toxics/{toxic['name']}")
        self._set(enabled=True)

    def delay(self, milliseconds: int) -> None:
        """Each answer comes so much later."""
        self._poison("latency", latency=milliseconds)

    def mute(self) -> None:
        """Connections stay open, and nothing comes through in either direction."""
        self._poison("timeout", "upstream", timeout=0)
        self._poison("timeout", "downstream", timeout=0)

    def lead_to(self, port: int) -> None:
        """To another server from now on; the connections to the last one are closed."""
        self._set(upstream=f"{LOOPBACK}:{port}")

    def _poison(self, kind: str, stream: str = "downstream", **attributes: int) -> None:
        toxic = {"name": f"{kind}-{stream}", "type": kind, "stream": stream, "attributes": attributes}
        self._proxies.ask("POST", f"/proxies/{self.name}/toxics", toxic)

    def _set(self, **fields: Any) -> None:
        self._proxies.ask("POST", f"/proxies/{self.name}", fields)


class Toxiproxy:
    """The server, and the proxies in it."""

    def __init__(self) -> None:
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Toxiproxy:
        program = find()
        assert program is not None, "there is no toxiproxy-server: scripts/services builds it"
        command = [program, "-host", LOOPBACK, "-port", str(self._port), "-seed", "0"]
        quiet = {**os.environ, "LOG_LEVEL": "error"}
        self._process = subprocess.Popen(command, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        while True:
            try:
                self.ask("GET", "/version")
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.01)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def link(self, name: str, port: int) -> Link:
        """A new proxy on a free port that leads to a port of this machine."""
        listen = free_port()
        proxy = {"name": name, "listen": f"{LOOPBACK}:{listen}", "upstream": f"{LOOPBACK}:{port}", "enabled": True}
        self.ask("POST", "/proxies", proxy)
        return Link(self, name, listen)

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """One request to its API. Raises OSError when it does not answer, AssertionError when it says no."""
        client = http.client.HTTPConnection(LOOPBACK, self._port, timeout=10)
        try:
            client.request(method, path, None if body is None else json.dumps(body))
            answer = client.getresponse()
            raw = answer.read()
        finally:
            client.close()
        assert answer.status < 300, f"toxiproxy: {method} {path}: {answer.status} {raw!r}"
        return json.loads(raw) if raw.startswith((b"{", b"[")) else None
