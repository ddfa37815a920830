"""Every write, truncate and sync of the log fails once, and then all from there on: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.log.sqlite import SqliteLog, verify
from agentgate.core.note import NoteKey
from tests.adapters.log.crash_child import SIGNER, ChanceAuthor
from tests.contracts.log import ORIGIN
from tests.faults.disk import compiled, needs_compiler

KEY = NoteKey(ORIGIN, SIGNER.public_key)

pytestmark = needs_compiler


class BadDisk:
    """A process whose disk can be made to fail."""

    def __init__(self, shim: Path) -> None:
        environment = {**os.environ, "LD_PRELOAD": str(shim)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.disk.bad_disk"],
            env=environment, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, folder: Path, at: int, error: int, *, keeps: bool) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"folder": str(folder), "at": at, "error": error, "keeps": keeps}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "fault" not in answer, answer.get("fault")
        return answer

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BadDisk]:
    disk = BadDisk(compiled("fault.c", tmp_path_factory.mktemp("shim")))
    yield disk
    disk.close()


@pytest.fixture(scope="module")
def log_of_yesterday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a log that has events and checkpoints."""

    async def make() -> None:
        log = await SqliteLog.open(folder / "log.db", SIGNER, ORIGIN, checkpoint_every_s=3600)
        author = ChanceAuthor("m-0")
        for number in range(20):
            await log.append(author.decided(f"old-{number % 3}"))
        await log.aclose()

    folder = tmp_path_factory.mktemp("yesterday")
    asyncio.run(make())
    return folder


def stored_ids(folder: Path) -> dict[str, int]:
    async def read() -> dict[str, int]:
        log = await SqliteLog.open(folder / "log.db", SIGNER, ORIGIN, checkpoint_every_s=3600)
        try:
            return {record.fields["id"]: record.index async for record in log.records()}
        finally:
            await log.aclose()

    return asyncio.run(read())


def fail_at(disk: BadDisk, yesterday: Path, place: Path, start: str, error: int, *, keeps: bool, every: int) -> None:
    """Fail the first write or sync, then the second one, …, until a run has met no fault: then every point was hit
    (or every so many). What was refused was refused in words, and the log holds."""
    at, met = random.randrange(every) + 1 - every, 0
    while True:
        at += every
        if at < 1:
            continue
        folder = place / f"at-{at}"
        if start == "old":
            shutil.copytree(yesterday, folder)
        else:
            folder.mkdir()
        answer = disk.run(folder, at, error, keeps=keeps)
        if answer["counted"] < at:
            break
        met += bool(answer["refused"])
        stored = stored_ids(folder)
        lost = {event: index for event, index in answer["acknowledged"].items() if stored.get(event) != index}
        assert not lost, f"fault {at}"
        report = asyncio.run(verify(folder / "log.db", ORIGIN, [KEY]))
        assert report.ok, f"fault {at}: {report.findings[0]}"
        shutil.rmtree(folder)
    assert at > 20, "the log's writes were not seen"
    assert met * every > 10, "hardly a fault was noticed"


STARTS = pytest.mark.parametrize("start", ["new", "old"])
ERRORS = pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
KEEPS = pytest.mark.parametrize("keeps", [False, True], ids=["once", "from then on"])


@STARTS
def test_every_third_write_or_sync_that_fails_once_loses_nothing_acknowledged(
    disk: BadDisk, log_of_yesterday: Path, tmp_path: Path, start: str
) -> None:
    fail_at(disk, log_of_yesterday, tmp_path, start, errno.EIO, keeps=False, every=3)


@STARTS
@ERRORS
@KEEPS
def test_sampled_writes_and_syncs_that_fail_in_any_way_lose_nothing(
    disk: BadDisk, log_of_yesterday: Path, tmp_path: Path, start: str, error: int, *, keeps: bool
) -> None:
    fail_at(disk, log_of_yesterday, tmp_path, start, error, keeps=keeps, every=15)


@pytest.mark.torture
@STARTS
@ERRORS
@KEEPS
def test_all_writes_and_syncs_that_fail_in_any_way_lose_nothing(
    disk: BadDisk, log_of_yesterday: Path, tmp_path: Path, start: str, error: int, *, keeps: bool
) -> None:
    fail_at(disk, log_of_yesterday, tmp_path, start, error, keeps=keeps, every=1)
