"""A real browser for pages that we make: headless Chromium, without a profile, shown pages from loopback.

look = look_at({"/pack.html": page}, at="/pack.html")
look.dom        the document as the browser understood it
look.asked_for  every path that it fetched
look.console    what it complained of
"""

from __future__ import annotations

import http.server
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@cache
def _program() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


needs_browser = pytest.mark.skipif(_program() is None, reason="no chromium on PATH: run scripts/services")


@dataclass(frozen=True)
class Look:
    dom: str
    asked_for: tuple[str, ...]
    console: tuple[str, ...]


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, pages: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages = pages
        self.asked_for: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        self.server.asked_for.append(self.path)
        page = self.server.pages.get(self.path.partition("?")[0])
        self.send_response(404 if page is None else 200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(page or b"")

    def do_POST(self) -> None:
        """A form or a beacon that gets out is told of all the same."""
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing on the tests' standard error."""


def look_at(pages: Mapping[str, bytes], *, at: str) -> Look:
    """What Chromium makes of the page `at`, and what it fetched meanwhile. `{origin}` in pages is the server's own."""
    program = _program()
    assert program is not None
    with _Server({}) as server, tempfile.TemporaryDirectory() as profile:
        origin = f"http://127.0.0.1:{server.server_address[1]}"
        server.pages = {path: page.replace(b"{origin}", origin.encode()) for path, page in pages.items()}
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        told = ("--enable-logging=stderr", "--v=0")
        quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync")
        # Time that the page believes has passed: timers of half a minute fire, and nobody waits for them.
        command = [
            program,
            *flags,
            *told,
            *quiet,
            f"--user-data-dir={profile}",
            "--virtual-time-budget=30000",
            "--dump-dom",
        ]
        try:
            done = subprocess.run([*command, origin + at], capture_output=True, check=False, timeout=90)
        finally:
            server.shutdown()
            thread.join()
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, said[-2000:]
        console = tuple(line for line in said.splitlines() if "CONSOLE" in line)
        return Look(done.stdout.decode(), tuple(server.asked_for), console)


class Elements(HTMLParser):
    """Every element of a page and its attributes, as the standard library's parser reads them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def named(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]
