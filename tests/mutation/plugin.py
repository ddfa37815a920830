"""Of pytest: collects once, learns which test calls which function, then forks for each mutant until a test fails.

Tests that fail without a mutant (they bound the time, and functions that may be mutated are slower) or that take longer
than `LONGEST_S` kill nothing here.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import pytest
from hypothesis import Phase, settings

from tests.mutation import switch

ORDER: Final = "AGENTGATE_MUTANTS"
"""Names the file with what is to be done: `mutants` by module, `sources`' digests, `jobs`, where `verdicts` go."""
LONGEST_S: Final = 5.0
ALL_S: Final = 20.0
"""Of all that one mutant is shown to."""
_MEMORY: Final = 2 << 30
_QUIET_S: Final = 6.5
"""Without using the processor for so long, a mutant waits for what never comes."""


class Learnt(NamedTuple):
    """A test, what it takes, and the functions that it calls."""

    name: str
    cpu_s: float
    calls: list[str]


def pytest_configure() -> None:
    settings.register_profile(
        "mutants", deadline=None, derandomize=True, database=None, phases=(Phase.explicit, Phase.generate)
    )  # to shrink what fails is for people
    settings.load_profile("mutants")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    order = json.loads(Path(os.environ[ORDER]).read_text(encoding="utf-8"))
    verdicts, sources = Path(order["verdicts"]), order["sources"]
    learnt = _learn(session, Path(os.environ[ORDER]).with_suffix(".learnt"))
    mutants = [(module, name) for module, names in order["mutants"].items() for name in names]
    jobs = order["jobs"]
    for job in range(jobs):
        if os.fork() == 0:
            with verdicts.open("a", buffering=1, encoding="utf-8") as out:
                for module, name, verdict in _judged(session, mutants[job::jobs], learnt):
                    out.write(json.dumps([module, name, verdict, sources[module]]) + "\n")
            os._exit(0)
    for _ in range(jobs):
        os.wait()
    return True


def _learn(session: pytest.Session, path: Path) -> list[Learnt]:
    """In a process of its own, so that those for the mutants begin as tests begin."""

    def run() -> None:
        found = []
        for item, following in _pairs(session.items):
            switch.called = set()
            before, failed = time.process_time(), session.testsfailed
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            took_s = time.process_time() - before
            if session.testsfailed == failed and took_s <= LONGEST_S:
                found.append(Learnt(item.nodeid, took_s, sorted(switch.called)))
        path.write_text(json.dumps(found), encoding="utf-8")

    pid = os.fork()
    if pid == 0:
        _quietly(run)
    os.waitpid(pid, 0)
    return [Learnt(*one) for one in json.loads(path.read_text(encoding="utf-8"))]


def _judged(
    session: pytest.Session, mutants: Sequence[tuple[str, str]], learnt: Sequence[Learnt]
) -> Iterator[tuple[str, str, str]]:
    """Each mutant as module, name and what became of it."""
    items = {item.nodeid: item for item in session.items}
    reach: dict[str, list[Learnt]] = {}
    for test in learnt:
        for function in test.calls:
            reach.setdefault(function, []).append(test)
    killers: list[str] = []
    told_read, told_write = os.pipe()
    os.set_blocking(told_read, False)
    for module, name in mutants:
        tests = _quickest(reach.get(f"{module}.{switch.of(name)}", []))
        if not tests:
            yield module, name, "no test"
            continue
        tests.sort(key=lambda test: killers.index(test.name) if test.name in killers else len(killers))
        switch.on = (module, name)
        chosen = [items[test.name] for test in tests]
        verdict = _verdict(lambda: _run(session, chosen, told_write), sum(test.cpu_s for test in tests))  # noqa: B023
        yield module, name, verdict
        if verdict == "killed" and (killer := _read(told_read)):  # what kills one often kills the next
            killers = [killer, *(one for one in killers if one != killer)][:6]


def _quickest(tests: Sequence[Learnt]) -> list[Learnt]:
    """As many as fit into `ALL_S`, the quickest first."""
    ordered = sorted(tests, key=lambda test: test.cpu_s)
    ends = itertools.accumulate(test.cpu_s for test in ordered)
    return [test for test, end in zip(ordered, ends, strict=True) if end <= ALL_S]


def _run(session: pytest.Session, items: Sequence[pytest.Item], told: int) -> None:
    for item, following in _pairs(items):
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.testsfailed:
            os.write(told, item.nodeid.encode())
            os._exit(1)


def _verdict(run: Callable[[], None], cpu_s: float) -> str:
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
        resource.setrlimit(resource.RLIMIT_CPU, (int(5 * cpu_s + 8),) * 2)
        _quietly(run)
    status = _status(pid)
    if status in (None, -signal.SIGXCPU):
        return "timeout"
    return "killed" if status else "survived"


def _status(pid: int) -> int | None:
    """How the process ended; None if it waited for what never comes."""
    used_s, since, pause_s = 0.0, time.monotonic(), 0.002
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0):
        now, now_used_s = time.monotonic(), _cpu_s(pid)
        if now_used_s - used_s > 0.03:
            used_s, since = now_used_s, now
        if now - since > _QUIET_S:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.3, 0.05)
    return os.waitstatus_to_exitcode(ended[1])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _quietly(run: Callable[[], None]) -> NoReturn:
    """In a forked process: it ends here, with status 1 if `run` raises."""
    status = 1
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        run()
        status = 0
    finally:
        os._exit(status)


def _pairs(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    """Each with the one that follows, which pytest wants to know."""
    return zip(items, [*items[1:], None], strict=True)


def _read(told: int) -> str:
    with contextlib.suppress(BlockingIOError):
        return os.read(told, 4096).decode()
    return ""
