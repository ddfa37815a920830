"""A56: connections that are opened and then say nothing, or not all of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from tests.attacks.conftest import BOT
from tests.gateway import GatewayProcess, call

QUERY = {"query": "SELECT 1"}
MANY = 400
HEAD = f"POST /tools/call HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {BOT}\r\nContent-Type: application/json\r\n"
BEGUN = {
    "nothing": b"",
    "half a line": b"POST /tools",
    "half a head": HEAD.encode(),
    "half a body": f'{HEAD}Content-Length: 100\r\n\r\n{{"session_id":'.encode(),
    "half a chunk": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n40\r\n{{".encode(),
}


@contextmanager
def opened(port: int, begun: bytes) -> Iterator[None]:
    with ExitStack() as stack:
        for _ in range(MANY):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            connection.sendall(begun)
        yield


@pytest.mark.parametrize("how", BEGUN)
def test_hundreds_who_never_finish_leave_others_served(gateway: GatewayProcess, session: str, how: str) -> None:
    with opened(gateway.port, BEGUN[how]):
        answers = [call(gateway.client(BOT), "db_query", QUERY, session=session).json() for _ in range(20)]
    assert [answer["success"] for answer in answers] == [True] * 20
