"""Credentials of MCP servers over HTTP: one with each call, and one of the gateway's own for the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from agentgate.adapters.upstreams.mcp import McpUpstream
from agentgate.ports.upstreams import Credential, Delivered
from tests.adapters.upstreams.mcp_world import FakePeer, world
from tests.adapters.upstreams.test_mcp_http import Service, echo


@pytest.fixture(params=[True, False], ids=["modern", "legacy"])
async def service(request: pytest.FixtureRequest) -> AsyncIterator[Service]:
    found = Service(modern=request.param)
    found.tools["echo"] = echo
    await found.start()
    yield found
    await found.stop()


def headers(service: Service, method: str) -> list[str | None]:
    return [sent.get("authorization") for sent, _ in service.sent(method)]


async def test_each_call_bears_its_own_and_no_other_request_does(service: Service) -> None:
    async def credential() -> Credential:
        return Credential("a", "for-sessions")

    upstream = McpUpstream("s", url=service.url, credential=credential)
    async with world(upstream) as w:
        for secret in ("of-alice", "of-bob"):
            sent = await w.upstream.send(w.grant("echo", {}, FakePeer()), Credential("a", secret))
            assert isinstance(sent, Delivered), sent
    assert headers(service, "tools/call") == ["Bearer of-alice", "Bearer of-bob"]
    assert set(headers(service, "tools/list")) == {"Bearer for-sessions"}


async def test_a_session_that_outlives_its_credential_reads_its_list_with_the_next(service: Service) -> None:
    numbers = iter(range(1, 1000))

    async def credential() -> Credential:
        return Credential("a", f"number-{next(numbers)}")

    upstream = McpUpstream("s", url=service.url, credential=credential, recheck_s=0.001)
    async with world(upstream) as w:
        for _ in range(2):
            sent = await w.upstream.send(w.grant("echo", {}, FakePeer()), Credential("a", "of-the-call"))
            assert isinstance(sent, Delivered), sent
    lists = headers(service, "tools/list")
    assert len(lists) >= 2
    assert len(set(lists)) == len(lists), "each was read with what was good then"


async def test_one_with_a_user_name_is_basic_authentication(service: Service) -> None:
    async def credential() -> Credential:
        return Credential("a", "pw", {"username": "ada", "password": "pw"})

    upstream = McpUpstream("s", url=service.url, credential=credential, inject={"kind": "basic"})
    async with world(upstream) as w:
        sent = await w.upstream.send(w.grant("echo", {}, FakePeer()), await credential())
        assert isinstance(sent, Delivered), sent
    assert set(headers(service, "tools/list") + headers(service, "tools/call")) == {"Basic YWRhOnB3"}
