"""A real browser for pages that we make: headless Chromium, without a profile, shown pages from loopback.

look = look_at({"/pack.html": page}, at="/pack.html")
look.dom        the document as the browser understood it
look.asked_for  every path that it fetched
look.console    what it complained of
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from html.parser import HTMLParser

import pytest

from tests.web import Handler, serving

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


def look_at(pages: Mapping[str, bytes], *, at: str) -> Look:
    """What Chromium makes of the page `at`, and what it fetched meanwhile. `{origin}` in pages is the server's own."""
    program = _program()
    assert program is not None
    asked_for: list[str] = []

    class Pages(Handler):
        def do_GET(self) -> None:
            asked_for.append(self.path)
            page = served.get(self.path.partition("?")[0])
            self.say(404 if page is None else 200, page or b"", "text/html; charset=utf-8")

        do_POST = do_GET  # noqa: N815 - a form or a beacon that gets out is told of all the same

    with serving(Pages) as origin, tempfile.TemporaryDirectory() as profile:
        served = {path: page.replace(b"{origin}", origin.encode()) for path, page in pages.items()}
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
        done = subprocess.run([*command, origin + at], capture_output=True, check=False, timeout=90)
        said = done.stderr.decode(errors="replace")
        assert done.returncode == 0, said[-2000:]
        console = tuple(line for line in said.splitlines() if "CONSOLE" in line)
        return Look(done.stdout.decode(), tuple(asked_for), console)


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
