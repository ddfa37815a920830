"""A process whose disk fails when it is told to: `fault.c` is preloaded, and each order is carried out in a fork.

It is spoken to in lines of JSON: `{"folder": …, "at": n, "error": errno, "keeps": bool}` in, what came of it out.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from agentgate.adapters.log.sqlite import SqliteLog
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Event
from tests.adapters.log.crash_child import SIGNER, ChanceAuthor
from tests.contracts.log import ORIGIN, a_kill

ROUNDS = 4


async def work(folder: Path, at: int, error: int, *, keeps: bool) -> dict[str, Any]:
    """Open a log, append and sign while its disk fails, and go on when it is well again."""
    fault = ctypes.CDLL(None)
    author, told = ChanceAuthor(f"m-{os.getpid()}"), Told()
    fault.fault_arm(str(folder).encode(), ctypes.c_long(at), error, keeps)
    log = None
    try:
        log = await _open(folder)
        for number in range(ROUNDS):
            await told.append(log, author.decided(f"s-{number}"), author.kill(a_kill(f"{os.getpid()}-{number}")))
            try:
                await log.integrate()
            except LogUnavailable as trouble:
                told.refused.append(str(trouble))
    except LogUnavailable as trouble:
        told.refused.append(str(trouble))
    finally:
        counted = int(fault.fault_disarm())
    if log is None:
        log = await _open(folder)
    async with asyncio.timeout(20):  # it reopens what failed by itself
        while not await told.append(log, author.decided("after")):  # noqa: ASYNC110 - as a caller that tries again
            await asyncio.sleep(0.02)
    await log.aclose()
    return {"counted": counted, "acknowledged": told.acknowledged, "refused": told.refused}


class Told:
    """What the log said of each event."""

    def __init__(self) -> None:
        self.acknowledged: dict[str, int] = {}
        self.refused: list[str] = []

    async def append(self, log: SqliteLog, *events: Event) -> bool:
        """Append at the same time; whether all was acknowledged. Anything but a typed refusal is raised."""
        answers = await asyncio.gather(*(log.append(event) for event in events), return_exceptions=True)
        for event, answer in zip(events, answers, strict=True):
            if isinstance(answer, Receipt):
                self.acknowledged[event.id] = answer.index
            elif isinstance(answer, LogUnavailable):
                self.refused.append(str(answer))
            else:
                raise AssertionError(f"{event.kind}: {answer!r}")
        return all(isinstance(answer, Receipt) for answer in answers)


async def _open(folder: Path) -> SqliteLog:
    return await SqliteLog.open(folder / "log.db", SIGNER, ORIGIN, checkpoint_every_s=3600)


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if os.fork() == 0:
            answer: dict[str, Any]
            try:
                answer = asyncio.run(work(Path(order["folder"]), order["at"], order["error"], keeps=order["keeps"]))
            except BaseException:  # noqa: BLE001 - told to the test, which fails by it
                answer = {"fault": traceback.format_exc()}
            with contextlib.suppress(BrokenPipeError):
                os.write(1, json.dumps(answer).encode() + b"\n")
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main()
