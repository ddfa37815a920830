"""A stream of the log that fails: before its first byte it is a refusal, afterwards it breaks off."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from agentgate.adapters.exports.jsonl import JsonLines
from agentgate.core.call import MemberId, Principal
from agentgate.core.errors import LogUnavailable
from agentgate.core.event import Kind, Record, make
from agentgate.core.query import Query
from agentgate.edges.framework import make_framework
from agentgate.pipeline.records.audit import AuditDesk
from agentgate.pipeline.records.record import Recorder
from tests.fakes import ADMIN, REDACTOR, FakeClock, FakeEntropy, MemoryLog, NullMeter


class FailingLog(MemoryLog):
    """Reads so many records and no more."""

    readable = 1_000

    async def search(self, query: Query, **more: Any) -> AsyncIterator[Record]:
        number = 0
        async for record in super().search(query, **more):
            if number == self.readable:
                raise LogUnavailable("told to fail")
            number += 1
            yield record


@pytest.fixture
def log() -> FailingLog:
    return FailingLog()


async def _admin(*_: object) -> Principal:
    return ADMIN


@pytest.fixture
def client(log: FailingLog) -> httpx.AsyncClient:
    recorder = Recorder(log, FakeClock(), FakeEntropy(), member=MemberId("m-1"), version="test", redactor=REDACTOR)
    for _ in range(200):
        log.append_now(make(recorder.origin(), Kind.REFUSALS, {"count": 1}))
    app = make_framework("0")
    desk = AuditDesk(reader=log, recorder=recorder, meter=NullMeter(), forms={"jsonl": lambda _: JsonLines()})
    app.state.desks = SimpleNamespace(callers=SimpleNamespace(person=_admin), audit=desk)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize("form", ["json", "jsonl"])
async def test_a_log_that_cannot_be_read_is_503(client: httpx.AsyncClient, log: FailingLog, form: str) -> None:
    log.readable = 0
    answer = await client.get("/audit", params={"format": form})
    assert (answer.status_code, answer.json()["reason_code"]) == (503, "log_unavailable")


async def test_an_export_that_cannot_be_recorded_is_503(client: httpx.AsyncClient, log: FailingLog) -> None:
    log.fail_next("append")
    assert (await client.get("/audit", params={"format": "jsonl"})).status_code == 503


async def test_a_stream_that_fails_on_its_way_does_not_end_as_if_it_were_whole(
    client: httpx.AsyncClient, log: FailingLog
) -> None:
    log.readable = 100
    with pytest.raises(RuntimeError, match="already started"):  # which the outermost layer turns into a cut connection
        await client.get("/audit", params={"format": "jsonl"})
    log.readable = 1_000
    assert len((await client.get("/audit", params={"format": "jsonl"})).text.splitlines()) == 201
