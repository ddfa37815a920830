"""Everything that waits on Redis is tested on both event loops: the gateway runs on uvloop, and what differs there
(transports that subclass nothing, timers that run before reading) is what a connection is made of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping

import pytest
import uvloop

from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.ports.containment import Admitted
from tests.adapters.containment.asking import connected
from tests.contracts.admission import a_call, state
from tests.redis_server import RedisServer

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    if item.path.stem == "test_local":
        return {"asyncio": asyncio.new_event_loop}
    if item.path.stem in ("test_sentinel", "test_standby"):  # slow servers, and no more of loops in them
        return {"uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def shared_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server that the test may harm."""
    with RedisServer() as server:
        yield server


@pytest.fixture
async def admission(server: RedisServer) -> AsyncIterator[RedisAdmission]:
    """On a server that the test may harm, with position 1 and nothing killed."""
    async with connected(server.url) as admission:
        await admission.apply(state(1))
        assert await admission.admit(a_call(), None, 1) == Admitted(1)
        yield admission
