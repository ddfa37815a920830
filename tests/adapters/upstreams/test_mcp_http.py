"""The `mcp` upstream over Streamable HTTP against a scripted server: what it sends, and what it takes."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from aiohttp import web

from agentgate.adapters.upstreams._mcp.http import LEAST_RESUME_S, Guard, open_client
from agentgate.adapters.upstreams._mcp.network import Transport
from agentgate.adapters.upstreams.mcp import McpUpstream
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from tests.adapters.upstreams.mcp_world import FakePeer, down, until, world
from tests.certificates import self_signed
from tests.faults.conftest import deaf_port
from tests.redis_server import free_port

Answer = Callable[[web.Request, dict[str, Any]], Awaitable[web.StreamResponse]]

INFO = {"name": "scripted", "version": "1"}
SCHEMA = {"type": "object", "properties": {"region": {"type": "string", "x-mcp-header": "Region"}}}


async def _gone(_: web.Request) -> web.StreamResponse:
    return web.Response(status=410)


class Service:
    """A server on loopback that answers each tool as a test says, and keeps what reached it."""

    def __init__(self, *, modern: bool, bad_header: bool = False) -> None:
        self.url = ""
        self.modern = modern
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.tools: dict[str, Answer] = {}
        self.list: Answer | None = None
        """What it answers instead of its list."""
        self.listening = asyncio.Event()
        self.closed = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.refuse = False
        self.resumes: Callable[[web.Request], bool] = lambda request: "Last-Event-ID" in request.headers
        self.resume: Callable[[web.Request], Awaitable[web.StreamResponse]] = _gone
        self._bad_header = bad_header
        app = web.Application(client_max_size=4 << 20)
        app.router.add_route("*", "/mcp", self._any)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    async def start(self, tls: ssl.SSLContext | None = None) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls).start()
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._runner.addresses[0][1]}/mcp"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _any(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and self.resumes(request):
            return await self.resume(request)
        if request.method != "POST":
            return web.Response(status=405)
        body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((body.get("method", ""), headers, body))
        if body.get("method") == "notifications/cancelled":
            self.cancelled.set()
        if "id" not in body:
            return web.Response(status=202)
        if self.refuse:
            return web.Response(status=404)
        return await self._answer(request, body)

    async def _answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        method, offers = body["method"], {"tools": {"listChanged": True}}
        if method == "server/discover" and self.modern:
            found = {"supportedVersions": ["2026-07-28"], "capabilities": offers, "ttlMs": 0, "cacheScope": "private"}
            stamp = {"_meta": {"io.modelcontextprotocol/serverInfo": INFO}}
            return reply(body, found | {"resultType": "complete"} | stamp)
        if method == "initialize" and not self.modern:
            found = {"protocolVersion": "2025-11-25", "capabilities": offers, "serverInfo": INFO}
            return reply(body, found, {"Mcp-Session-Id": "sid", "Set-Cookie": "who=you"})
        if method == "tools/list" and self.list is not None:
            return await self.list(request, body)
        if method == "tools/list":
            schema = {"type": "object", "properties": {"a": {"type": "number", "x-mcp-header": "A"}}}
            odd = [{"name": "odd", "inputSchema": schema}] if self._bad_header else []
            return reply(body, {"tools": [{"name": name, "inputSchema": SCHEMA} for name in self.tools] + odd})
        if method == "tools/call":
            return await self.tools[body["params"]["name"]](request, body)
        if method == "subscriptions/listen":
            return await self._listen(request, body)
        return web.json_response(
            {"jsonrpc": "2.0", "id": body["id"], "error": {"code": -32601, "message": "no"}}, status=404
        )

    async def _listen(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await sse(request)
        meta = {"io.modelcontextprotocol/subscriptionId": body["id"]}
        params = {"_meta": meta, "notifications": body["params"]["notifications"]}
        await event(stream, {"method": "notifications/subscriptions/acknowledged", "params": params})
        self.listening.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    def sent(self, method: str) -> list[tuple[dict[str, str], dict[str, Any]]]:
        return [(headers, body) for name, headers, body in self.requests if name == method]


def reply(body: dict[str, Any], result: Any, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"jsonrpc": "2.0", "id": body["id"], "result": result}, headers=headers)


async def sse(request: web.Request) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await stream.prepare(request)
    return stream


async def event(stream: web.StreamResponse, message: dict[str, Any]) -> None:
    await stream.write(f"event: message\ndata: {json.dumps({'jsonrpc': '2.0'} | message)}\n\n".encode())


async def echo(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return reply(body, {"structuredContent": body["params"], "resultType": "complete"})


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    found = Service(modern=True)
    found.tools["echo"] = echo
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def old() -> AsyncIterator[Service]:
    found = Service(modern=False)
    found.tools["echo"] = echo
    await found.start()
    yield found
    await found.stop()


def upstream_of(service: Service, **settings: Any) -> McpUpstream:
    return McpUpstream("s", url=service.url, max_response_bytes=10_000, **settings)


async def test_the_credential_goes_as_a_header_on_every_request(service: Service) -> None:
    async def credential() -> Credential:
        return Credential("a", "for-listing")

    async with world(upstream_of(service, credential=credential)) as w:
        grant = w.grant("echo", {"region": "eu"}, FakePeer())
        assert isinstance(await w.upstream.send(grant, Credential("a", "for-the-call")), Delivered)
    assert {headers["authorization"] for headers, _ in service.sent("tools/list")} == {"Bearer for-listing"}
    ((sent, _),) = service.sent("tools/call")
    assert sent["authorization"] == "Bearer for-the-call"
    assert sent["mcp-name"] == "echo"
    assert sent["mcp-param-region"] == "eu"
    assert sent["accept-encoding"] == "identity"


async def test_the_parameter_headers_of_a_caller_without_any_are_made_from_its_arguments(service: Service) -> None:
    async with world(upstream_of(service)) as w:
        await w.call("echo", {"region": "münchen"})
    ((sent, _),) = service.sent("tools/call")
    assert sent["mcp-param-region"] == "=?base64?bcO8bmNoZW4=?="


async def test_a_tool_with_a_wrong_header_annotation_is_not_offered_to_the_modern_era() -> None:
    for modern, names in ((True, ["echo"]), (False, ["echo", "odd"])):
        service = Service(modern=modern, bad_header=True)
        service.tools["echo"] = echo
        await service.start()
        async with world(upstream_of(service)) as w:
            assert [tool["name"] for tool in w.hearing.listings[0].tools] == names
        await service.stop()


async def test_a_server_whose_certificate_nobody_vouches_for_is_told_nothing(tmp_path: Path) -> None:
    service = Service(modern=True)
    await service.start(self_signed(tmp_path / "server.pem"))
    upstream = McpUpstream("s", url=service.url)
    async with world(upstream, lists=0):
        await down(upstream)
        assert cause_of(upstream) == "the server cannot be reached: its certificate is not trusted"
    assert service.requests == []
    await service.stop()


async def test_a_server_that_cannot_be_reached_is_told_with_why_and_without_where() -> None:
    plain = Service(modern=True)
    await plain.start()
    said = {
        f"http://127.0.0.1:{free_port()}/mcp?token=s3cret": "the server cannot be reached: connection refused",
        "https://nobody.invalid/mcp": "the server cannot be reached: its name is not known",
        plain.url.replace("http:", "https:"): "the server cannot be reached: it speaks no TLS there",
        plain.url.replace("/mcp", "/nowhere"): "the server answered with error -32601",
    }
    for url, why in said.items():
        upstream = McpUpstream("s", url=url)
        async with world(upstream, lists=0):
            await down(upstream)
            assert cause_of(upstream) == why
    with deaf_port() as port:
        upstream = McpUpstream("s", url=f"http://127.0.0.1:{port}/mcp", connect_timeout_s=0.2)
        async with world(upstream, lists=0):
            await down(upstream)
            assert cause_of(upstream) == "it timed out: no session within 0.2 s"
    await plain.stop()


def cause_of(upstream: McpUpstream) -> str:
    """Why it is down, as operators hear it."""
    return upstream.state().detail.partition("; next try")[0]


async def test_neither_proxies_nor_netrc_nor_cookies_come_into_it(
    old: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with world(upstream_of(old)) as w:
        assert isinstance(await w.call("echo"), Delivered)
    for _, headers, _ in old.requests:
        assert "cookie" not in headers
        assert "authorization" not in headers


async def test_a_legacy_server_gets_no_parameter_headers(old: Service) -> None:
    async with world(upstream_of(old)) as w:
        await w.call("echo", {"region": "eu"}, FakePeer())
    ((sent, _),) = old.sent("tools/call")
    assert "mcp-param-region" not in sent
    assert sent["mcp-session-id"] == "sid"


async def test_words_on_a_calls_own_stream_reach_that_caller_and_no_other(service: Service) -> None:
    both = asyncio.Barrier(2)

    async def chat(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await sse(request)
        await both.wait()
        note = {"level": "info", "data": body["params"]["arguments"]["who"]}
        await event(stream, {"method": "notifications/message", "params": note})
        await both.wait()
        await event(stream, {"id": body["id"], "result": {"content": []}})
        return stream

    service.tools["chat"] = chat
    async with world(upstream_of(service)) as w:
        peers = {who: FakePeer() for who in ("ann", "bob")}
        await asyncio.gather(*(w.call("chat", {"who": who}, peer) for who, peer in peers.items()))
    for who, peer in peers.items():
        assert [params["data"] for _, params in peer.notes] == [who]


async def test_a_cancelled_call_closes_its_stream(service: Service) -> None:
    async def hang(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        stream = await sse(request)
        token = body["params"]["_meta"]["progressToken"]
        await event(stream, {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}})
        try:
            await asyncio.Event().wait()
        finally:
            service.closed.set()
        raise AssertionError("unreachable")

    service.tools["hang"] = hang
    async with world(upstream_of(service)) as w:
        call = asyncio.create_task(w.call("hang", {}, peer := FakePeer()))
        await asyncio.wait_for(peer.heard.wait(), 5)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.wait_for(service.closed.wait(), 5)
        assert service.sent("notifications/cancelled") == []


@pytest.mark.parametrize("begins", [True, False])
async def test_an_old_server_that_does_not_end_a_cancelled_call_is_hung_up_on(old: Service, begins: bool) -> None:
    started = asyncio.Event()

    async def hang(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        try:
            if begins:
                await sse(request)
            started.set()
            await asyncio.Event().wait()
        finally:
            old.closed.set()
        raise AssertionError("unreachable")

    old.tools["hang"] = hang
    async with world(upstream_of(old)) as w:
        call = asyncio.create_task(w.call("hang"))
        await asyncio.wait_for(started.wait(), 5)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await asyncio.wait_for(old.closed.wait(), 5)
        await asyncio.wait_for(old.cancelled.wait(), 5)
        assert len(old.sent("notifications/cancelled")) == 1
        assert isinstance(await w.call("echo"), Delivered)
        assert len(w.hearing.listings) == 1


def _plain(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> Answer:
    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return web.Response(status=status, body=body, headers={"Content-Type": content_type} | headers)

    return answer


async def _big_json(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    return reply(body, {"text": "x" * 200_000})


async def _big_event(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    stream = await sse(request)
    await event(stream, {"id": body["id"], "result": {"text": "x" * 200_000}})
    return stream


async def _inflated(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    packed = gzip.compress(json.dumps({"jsonrpc": "2.0", "id": body["id"], "result": {"t": "x" * 200_000}}).encode())
    return web.Response(body=packed, headers={"Content-Type": "application/json", "Content-Encoding": "gzip"})


async def _cut_json(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "100"})
    await stream.prepare(request)
    await stream.write(b'{"jsonrpc"')
    assert request.transport is not None
    request.transport.close()
    return stream


async def _cut_event(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    return await sse(request)


async def _elsewhere(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
    raise web.HTTPTemporaryRedirect("http://localhost:1/mcp")


@pytest.mark.parametrize(
    ("answer", "reason", "status"),
    [
        (_big_json, ReasonCode.UPSTREAM_TOO_LARGE, None),
        (_big_event, ReasonCode.UPSTREAM_TOO_LARGE, None),
        (_inflated, ReasonCode.UPSTREAM_ERROR, None),
        (_cut_json, ReasonCode.UPSTREAM_UNAVAILABLE, None),
        (_cut_event, ReasonCode.UPSTREAM_UNAVAILABLE, None),
        (_elsewhere, ReasonCode.UPSTREAM_ERROR, None),
        (_plain(500, b"<html>", "text/html"), ReasonCode.UPSTREAM_ERROR, 500),
        (_plain(401, b"", "text/plain"), ReasonCode.UPSTREAM_ERROR, 401),
        (_plain(200, b"{", "application/json"), ReasonCode.UPSTREAM_ERROR, None),
        (_plain(200, b"[]", "application/json"), ReasonCode.UPSTREAM_ERROR, None),
        (_plain(200, b"", "text/html"), ReasonCode.UPSTREAM_ERROR, None),
        (_plain(200, b'{"jsonrpc": "2.0", "id": 99, "result": {}}'), ReasonCode.UPSTREAM_ERROR, None),
        (_plain(200, b'{"jsonrpc": "2.0", "method": "notifications/message"}'), ReasonCode.UPSTREAM_ERROR, None),
        (_plain(200, b"data: {\n\n", "text/event-stream"), ReasonCode.UPSTREAM_ERROR, None),
        (_plain(500, b"[]"), ReasonCode.UPSTREAM_ERROR, 500),
        (_plain(500, b'"' + b"x" * 200_000 + b'"'), ReasonCode.UPSTREAM_TOO_LARGE, None),
        (_plain(202, b""), ReasonCode.UPSTREAM_ERROR, None),
    ],
)
async def test_an_answer_that_is_none_costs_only_its_call(
    service: Service, answer: Answer, reason: ReasonCode, status: int | None
) -> None:
    service.tools["odd"] = answer
    async with world(upstream_of(service)) as w:
        found = await w.call("odd")
        assert isinstance(found, Undelivered)
        assert (found.reason, found.status, found.reached) == (reason, status, True)
        assert isinstance(await w.call("echo"), Delivered)
        assert len({headers["host"] for _, headers, _ in service.requests}) == 1


@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize(
    "answer",
    [
        _plain(200, b'{"canary": 1}'),
        _plain(200, b'data: {"canary": 1}\n\n', "text/event-stream"),
        _plain(200, b"canary", "application/canary"),
    ],
)
async def test_what_the_sdks_client_does_not_understand_is_not_written_down(
    modern: bool, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    """It would be, at ERROR and with a traceback, whatever secrets are in it."""
    service = Service(modern=modern)
    service.list = answer
    await service.start()
    upstream = upstream_of(service)
    with caplog.at_level(logging.DEBUG):
        async with world(upstream, lists=0):
            await down(upstream)
    await service.stop()
    assert "s is down" in caplog.text
    assert "canary" not in caplog.text


async def test_a_server_that_is_not_there_was_not_reached(service: Service) -> None:
    async with world(upstream_of(service)) as w:
        grant = w.grant("echo")
        await service.stop()
        await asyncio.sleep(0)  # the ends of the kept connections are there, and not yet seen
        answer = await w.upstream.send(grant, None)
        assert isinstance(answer, Undelivered)
        assert (answer.reason, answer.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, False)


async def test_a_server_cannot_claim_that_it_was_not_reached(service: Service) -> None:
    async def liar(_: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        error = {"code": -32000, "message": "0123456789abcdef0123456789abcdef:unreached;"}
        return web.json_response({"jsonrpc": "2.0", "id": body["id"], "error": error})

    service.tools["liar"] = liar
    async with world(upstream_of(service)) as w:
        answer = await w.call("liar")
        assert isinstance(answer, Undelivered)
        assert answer.reached


async def test_a_client_with_a_session_shares_where_the_server_has_none(service: Service) -> None:
    async with world(upstream_of(service)) as w:
        assert isinstance(await w.call("echo", {}, FakePeer(session_key="k")), Delivered)
        assert isinstance(await w.call("echo", {}, FakePeer(session_key="l")), Delivered)
    assert len(service.sent("initialize")) == 1  # it said no once


async def test_a_credential_that_makes_no_header_is_not_sent(service: Service) -> None:
    async with world(upstream_of(service)) as w:
        answer = await w.upstream.send(w.grant("echo"), Credential("a", "x\r\nx-evil: 1"))
        assert isinstance(answer, Undelivered)
        assert answer.reached is False
    assert service.sent("tools/call") == []


async def test_a_client_whose_words_cannot_be_sent_harms_nobody(service: Service) -> None:
    async with world(upstream_of(service)) as w:
        await w.call("echo", {}, FakePeer(extra={"requestState": "\ud800"}))
        assert isinstance(await w.call("echo"), Delivered)
        assert len(service.sent("server/discover")) == 1


async def test_a_list_is_read_again_when_the_stream_of_changes_breaks(service: Service) -> None:
    async with world(upstream_of(service), lists=2) as w:
        await service.stop()
        await down(w.upstream)
        assert not w.upstream.state().is_up


@pytest.mark.parametrize(
    ("message", "is_bounded"),
    [
        ({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {}}, False),
        ({"jsonrpc": "2.0", "id": "listen-1", "method": "subscriptions/listen"}, False),
        ({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"id": 7, "method": "x"}}, True),
        ({"jsonrpc": "2.0", "id": 7, "result": {"method": "x"}}, True),
        ({"jsonrpc": "2.0", "id": "a", "error": {"code": 1, "message": "method"}}, True),
    ],
)
async def test_nobody_waits_long_for_the_answer_to_what_has_none(message: dict[str, Any], is_bounded: bool) -> None:
    seen: list[Any] = []

    class Inner(httpx2.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
            seen.append(request.extensions["timeout"]["read"])
            return httpx2.Response(202, stream=httpx2.ByteStream(b""))

    guard = Guard(Inner(), credential=None, most=10, say=str, on_lost=lambda: None)
    async with open_client(guard, connect_timeout_s=1) as client:
        await client.post("http://127.0.0.1/mcp", json=message)
    assert [read is not None for read in seen] == [is_bounded]


async def test_an_answers_end_after_its_last_event_leaves_the_connection_to_later_calls(old: Service) -> None:
    ports: list[int] = []

    async def late_end(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        assert request.transport is not None
        ports.append(request.transport.get_extra_info("peername")[1])
        stream = await sse(request)
        await event(stream, {"id": body["id"], "result": {"content": []}})
        for _ in range(5):
            await asyncio.sleep(0)
        return stream

    old.tools["say"] = late_end
    async with world(upstream_of(old)) as w:
        for _ in range(8):
            assert isinstance(await w.call("say"), Delivered)
    assert len(set(ports)) < len(ports)  # a call that comes before that end takes another one


async def test_a_request_that_is_given_up_before_its_answer_closes_its_connection(old: Service) -> None:
    begun = asyncio.Event()

    async def never(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        begun.set()
        try:
            return await asyncio.Future()
        finally:
            old.closed.set()

    old.tools["never"] = never
    transport = Transport()
    async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "never"}}
        asking = asyncio.create_task(client.post(old.url, json=call))
        await begun.wait()
        asking.cancel()
        async with asyncio.timeout(10):
            await old.closed.wait()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_the_words_of_the_transport_are_those_of_the_client(service: Service) -> None:
    async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop())
        writer.close()

    answers = [b"", b"what?\r\n\r\n"]
    server = await asyncio.start_server(garbage, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with httpx2.AsyncClient(transport=Transport()) as client:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.post(url, json={})
        with pytest.raises(httpx2.ReadError):
            await client.post(url, json={})
        with pytest.raises(httpx2.LocalProtocolError):
            await client.post(url, headers={"x": "a\r\nb"}, json={})
        server.close()
        await server.wait_closed()
        with pytest.raises(httpx2.ConnectError):
            await client.post(url, json={})


@pytest.mark.parametrize("number", [None, 99])
async def test_an_error_of_the_server_arrives_whole_whatever_its_status(service: Service, number: int | None) -> None:
    fault = {"code": -32602, "message": "no such region", "data": {"region": "eu"}}
    body = json.dumps({"jsonrpc": "2.0", "id": number, "error": fault}).encode()
    service.tools["odd"] = _plain(400, body)
    async with world(upstream_of(service)) as w:
        answer = await w.call("odd")
    assert (answer.fault, answer.reached) == (fault, True)


async def test_what_is_said_before_an_answer_is_heard_before_it(old: Service) -> None:
    async def chat(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        token = body["params"]["_meta"]["progressToken"]
        said = [
            {"method": "notifications/progress", "params": {"progressToken": token, "progress": 1}},
            {"method": "notifications/message", "params": {"level": "info", "data": "a word"}},
            {"id": body["id"], "result": {"content": []}},
        ]
        events = "".join(f"data: {json.dumps({'jsonrpc': '2.0'} | one)}\n\n" for one in said)  # in one piece
        return web.Response(text=events, content_type="text/event-stream")

    old.tools["chat"] = chat
    async with world(upstream_of(old)) as w:
        assert isinstance(await w.call("chat", {}, peer := FakePeer(session_key="k")), Delivered)
        assert peer.reports == [(1, None, None)]
        assert [params["data"] for _, params in peer.notes] == ["a word"]


async def test_a_stream_that_broke_is_taken_up_again_from_its_last_event(old: Service) -> None:
    seen: list[str] = []

    async def breaks(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        old.resume = lambda request: rest(request, body)
        return web.Response(text='id: 7\nretry: 10\ndata:\n\ndata: {"half', content_type="text/event-stream")

    async def rest(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        seen.extend((request.headers["Last-Event-ID"], request.headers["Mcp-Session-Id"]))
        if len(seen) == 2:
            return web.Response(text="id: 8\n\n", content_type="text/event-stream")
        stream = await sse(request)
        await event(stream, {"id": body["id"], "result": {"content": []}})
        return stream

    old.tools["breaks"] = breaks
    async with world(upstream_of(old)) as w:
        assert isinstance(await w.call("breaks"), Delivered)
    assert seen == ["7", "sid", "8", "sid"]
    assert len(old.sent("tools/call")) == 1


async def test_a_server_cannot_have_its_stream_of_announcements_taken_up_at_once_and_for_ever(old: Service) -> None:
    """The SDK waits for as long as the server says, which may be no time."""
    asked: list[float] = []

    async def break_off(_: web.Request) -> web.StreamResponse:
        asked.append(time.monotonic())
        return web.Response(body=b"id: 1\nretry: 0\ndata:\n\n", content_type="text/event-stream")

    old.resumes, old.resume = lambda _: True, break_off
    async with world(upstream_of(old)):
        await until(lambda: len(asked) >= 4)
    assert asked[-1] - asked[0] >= 0.9 * LEAST_RESUME_S * (len(asked) - 1)


async def test_a_stream_that_cannot_be_taken_up_again_is_lost(old: Service) -> None:
    old.tools["breaks"] = _plain(200, b"id: 7\nretry: 1\ndata:\n\n", "text/event-stream")
    async with world(upstream_of(old)) as w:
        answer = await w.call("breaks")
        assert (answer.reason, answer.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, True)
        assert isinstance(await w.call("echo"), Delivered)


async def test_a_server_that_has_moved_within_its_address_is_followed(service: Service) -> None:
    moves = [True]

    async def moved(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if moves and moves.pop():
            moves.append(False)
            raise web.HTTPTemporaryRedirect(service.url)
        return await echo(request, body)

    service.tools["moved"] = moved
    async with world(upstream_of(service)) as w:
        assert isinstance(await w.call("moved"), Delivered)
        assert isinstance(await w.call("moved"), Delivered)
    assert len(service.sent("tools/call")) == 3


@pytest.mark.parametrize("begins", [True, False])
async def test_closing_the_upstream_ends_its_calls(service: Service, begins: bool) -> None:
    started = asyncio.Event()

    async def hang(request: web.Request, _: dict[str, Any]) -> web.StreamResponse:
        if begins:
            stream = await sse(request)
            await stream.write(b"id: 7\nretry: 60000\ndata:\n\n")
        started.set()
        return await asyncio.Future()

    service.tools["hang"] = hang
    async with world(upstream_of(service)) as w:
        call = asyncio.create_task(w.call("hang"))
        await asyncio.wait_for(started.wait(), 5)
        await w.upstream.aclose()
        answer = await asyncio.wait_for(call, 5)
    assert (answer.reason, answer.reached) == (ReasonCode.UPSTREAM_UNAVAILABLE, True)


async def test_a_session_that_its_server_forgot_is_begun_anew(old: Service) -> None:
    async with world(upstream_of(old)) as w:
        old.refuse = True
        answer = await w.call("echo")
        assert isinstance(answer, Undelivered)
        assert answer.status == 404
        old.refuse = False
        await w.up_again()
        assert isinstance(await w.call("echo"), Delivered)
    assert len(old.sent("initialize")) == 2


@pytest.mark.parametrize("is_modern", [True, False])
async def test_a_flood_of_questions_is_not_kept(is_modern: bool) -> None:
    """Each was a task, whose answer waited for those before it to be sent: two thousand a second, for as long as a call
    took, and long after."""
    server = Service(modern=is_modern)
    question = b'data: {"jsonrpc": "2.0", "id": %d, "method": "ping"}\n\n'
    most = 0

    async def flood(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal most
        stream = await sse(request)
        for first in range(0, 3_000, 100):
            await stream.write(b"".join(question % number for number in range(first, first + 100)))
            await asyncio.sleep(0)
            most = max(most, len(asyncio.all_tasks()))
        await event(stream, {"id": body["id"], "result": {"content": [], "resultType": "complete"}})
        return stream

    server.tools["flood"] = flood
    await server.start()
    try:
        async with world(upstream_of(server)) as w:
            before = len(asyncio.all_tasks())
            assert isinstance(await w.call("flood"), Delivered)
            assert max(most, len(asyncio.all_tasks())) < before + 200
            assert len([None for method, _, _ in server.requests if not method]) > 10, "some are answered"
    finally:
        await server.stop()
