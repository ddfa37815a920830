"""A writer process that is killed in the middle of its work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext

from tests.adapters.log.crash_child import ACK


def one_crash(
    writer: Callable[[str, Connection], None], place: str, processes: ForkServerContext, after_acks: int
) -> list[tuple[int, bytes]]:
    """Start a writer, kill it after so many receipts, and return all that it had acknowledged."""
    ours, theirs = processes.Pipe(duplex=False)
    child = processes.Process(target=writer, args=(place, theirs))
    child.start()
    theirs.close()
    acks = [ours.recv_bytes() for _ in range(after_acks)]
    child.kill()
    child.join()
    with contextlib.suppress(EOFError):
        while True:
            acks.append(ours.recv_bytes())
    ours.close()
    return [ACK.unpack(ack) for ack in acks]
