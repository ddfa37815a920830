"""Threads in which packs are made, and large calls read."""

from __future__ import annotations

import threading

import pytest

from agentgate.adapters.ambient.worker import ThreadWorker
from tests.contracts.ambient import WorkerContract


class TestThreadWorker(WorkerContract):
    worker = ThreadWorker("test")


async def test_its_thread_is_there_before_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that may have no more threads goes on with what it has."""
    worker = ThreadWorker("test")

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert await worker.run(lambda: 7) == 7
    await worker.aclose()


async def test_it_is_a_thread_of_its_own() -> None:
    worker = ThreadWorker("test")
    assert await worker.run(threading.get_ident) != threading.get_ident()
    await worker.aclose()
