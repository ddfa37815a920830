"""The thread in which packs are made."""

from __future__ import annotations

import threading

from agentgate.adapters.ambient.worker import ThreadWorker
from tests.contracts.ambient import WorkerContract


class TestThreadWorker(WorkerContract):
    worker = ThreadWorker()


async def test_it_is_a_thread_of_its_own() -> None:
    worker = ThreadWorker()
    assert await worker.run(threading.get_ident) != threading.get_ident()
    await worker.aclose()
