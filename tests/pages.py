"""The shell commands of a page, as a reader types them: in order, in an empty directory, against what the page shows.

    for command in commands(page):
        done = reader.run(command)
        command.compare(done.stdout)

A command of ours is run by `tests/command_line.py`; what needs a shell is run by one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from tests.command_line import CommandLine, Done
from tests.gateway import clean_environment

_T = TypeVar("_T")
SHELLS: Final = ("sh", "bash", "console")
_FENCE: Final = re.compile(r"^```(\S*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_OURS: Final = ("agentgate", ".venv/bin/agentgate")
_READY: Final = re.compile(r"is ready on (http://\S+)")


@dataclass(frozen=True)
class Command:
    """`text` as it is typed, and what the page shows of its output: lines, or JSON."""

    page: str
    text: str
    lines: tuple[str, ...] = ()
    answer: str | None = None

    @property
    def name(self) -> str:
        """Its first line without the comment behind it."""
        return re.sub(r"\s+#\s.*$", "", self.text.split("\n", 1)[0]).strip()

    def compare(self, said: str) -> None:
        """Numbers are any, and … is anything; of a list the page may show the beginning."""
        if self.answer is not None:
            _compare(json.loads(self.answer), json.loads(said), self.name)
        rest = iter(said.splitlines())
        for line in self.lines:
            assert any(_shape(line).search(one) for one in rest), f"{self.name} does not say {line!r}, but {said}"


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and text of each."""
    return [(found[1], found[2]) for found in _FENCE.finditer(page.read_text(encoding="utf-8"))]


def commands(page: Path, name: str) -> list[Command]:
    """Every command of a page. JSON right behind a fence is what its last command answers."""
    text = page.read_text(encoding="utf-8")
    found: list[Command] = []
    for fence in _FENCE.finditer(text):
        if fence[1] in SHELLS:
            found += _typed(name, fence[2].splitlines(), prompts=fence[1] == "console")
            behind = re.match(r"\n\n```json\n(.*?)```", text[fence.end() :], re.DOTALL)
            if behind is not None:
                found[-1] = Command(name, found[-1].text, answer=behind[1])
    return found


def _typed(page: str, lines: list[str], *, prompts: bool) -> Iterator[Command]:
    if any(re.match(r"\w+=", line) for line in lines):  # a script: its lines mean something only together
        yield Command(page, "\n".join(lines))
        return
    while lines:
        text, lines = lines[0], lines[1:]
        while not _is_complete(text):
            text, lines = f"{text}\n{lines[0]}", lines[1:]
        shown = []
        while prompts and lines and not lines[0].startswith("$ "):
            shown.append(lines.pop(0))
        if text.strip():
            yield Command(page, text.removeprefix("$ "), tuple(shown))


def _is_complete(text: str) -> bool:
    if text.endswith("\\"):
        return False
    return subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False).returncode == 0


def _shape(line: str) -> re.Pattern[str]:
    words = []
    for word in line.split():
        if "…" in word:
            words.append(re.escape(re.split(r"\d|…", word)[0]) + r"\S*")
        else:
            words.append(re.sub(r"\d+", r"\\d+", re.escape(word)))
    return re.compile(r"\s+".join(words).replace(r"\d+\s+s\s+ago", r"(?:just\s+now|\d+\s+s\s+ago)"))


def _compare(shown: Any, said: Any, name: str) -> None:
    if isinstance(shown, dict):
        assert isinstance(said, dict), name
        assert list(shown) == list(said), name
        for member, value in shown.items():
            _compare(value, said[member], name)
    elif isinstance(shown, list):
        assert isinstance(said, list), name
        assert len(said) >= len(shown), name
        for one, another in zip(shown, said, strict=False):
            _compare(one, another, name)
    elif not (isinstance(shown, str) and "…" in shown):
        assert shown == said, name


@dataclass
class Reader:
    """Somebody who reads a page at a keyboard, in `home`."""

    command_line: CommandLine
    home: Path
    env: dict[str, str] = field(default_factory=dict)
    instead: Callable[[str], str] = lambda text: text
    """What a reader puts in the place of an example: ids, hosts, files of their own."""
    _ends: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Reader:
        (self.home / ".venv").symlink_to(sys.prefix)
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def enter(self, started: AbstractContextManager[_T]) -> _T:
        """What runs until the page is read."""
        return self._ends.enter_context(started)

    def run(self, command: Command) -> Done:
        """To its end; a gateway until the page is read."""
        text = self.instead(command.text)
        words = shlex.split(text, comments=True)
        if words[:2] == [".venv/bin/agentgate", "serve"]:
            return self._serve(words)
        if words[0] in _OURS and not re.search(r"[|<>$&;`]", text.partition(" # ")[0]):
            return self.command_line(*words[1:], env=self.env, cwd=self.home)
        path = f"{self.home / '.venv' / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text], cwd=self.home, env=self._all({"PATH": path}), timeout=60,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr)

    def _serve(self, words: list[str]) -> Done:
        server = self.enter(
            subprocess.Popen(words, cwd=self.home, env=self._all({}), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                             text=True)
        )  # fmt: skip
        self._ends.callback(server.terminate)
        assert server.stdout is not None
        line = server.stdout.readline()
        assert _READY.search(line), line
        return Done(0, line, "")

    def _all(self, more: Mapping[str, str]) -> dict[str, str]:
        return clean_environment({**self.env, **more})
