"""The `http` upstream against a real server: what it sends, what it takes, and how it ends."""

from __future__ import annotations

import asyncio
import gzip
import sys
import tracemalloc
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
import uvloop
from aiohttp import web

from agentgate.adapters.upstreams.http import HttpUpstream
from agentgate.core.call import Access
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Credential, Delivered, Undelivered
from tests.contracts.upstream import UpstreamContract, granted, make_tool

SECRET = "tok-3f9a-secret"
TOKEN = Credential("helpdesk-token", SECRET)


class Service:
    """A server on loopback that records what reaches it."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self.waiting = asyncio.Event()
        self.disconnected = asyncio.Event()
        self.answers: dict[str, Callable[[], web.StreamResponse]] = {}
        self._runner = web.AppRunner(self._app(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    def _app(self) -> web.Application:
        app = web.Application(client_max_size=4 << 20)
        app.router.add_route("*", "/hang", self._hang)
        app.router.add_get("/flood", self._flood)
        app.router.add_route("*", "/{path:.*}", self._any)
        return app

    async def start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _any(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        make = self.answers.get(request.path)
        return make() if make else web.json_response({"ok": True, "raw_path": request.raw_path})

    async def _hang(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.waiting.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.disconnected.set()
        raise AssertionError("unreachable")

    async def _flood(self, request: web.Request) -> web.StreamResponse:
        """50 MB without saying so beforehand."""
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            for _ in range(800):
                await response.write(b"x" * 65_536)
        except (ConnectionError, asyncio.CancelledError):  # which of the two depends on the loop
            self.disconnected.set()
            raise
        return response


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    await service.start()
    yield service
    await service.stop()


@pytest.fixture
async def upstream(service: Service) -> AsyncIterator[HttpUpstream]:
    upstream = HttpUpstream(service.url, timeout_s=5.0)
    yield upstream
    await upstream.aclose()


async def send(
    upstream: HttpUpstream,
    arguments: Mapping[str, Any] | None = None,
    credential: Credential | None = None,
    access: Access = Access.READ,
    **options: Any,
) -> Delivered | Undelivered:
    tool = make_tool("tool", access=access, options={"method": "GET", "path": "/x", **options})
    return await upstream.send(granted(tool, arguments or {}), credential)


def delivered(answer: Delivered | Undelivered) -> Any:
    assert isinstance(answer, Delivered), answer
    return answer.value


def refused(answer: Delivered | Undelivered, reason: ReasonCode, *, reached: bool = True) -> Undelivered:
    assert isinstance(answer, Undelivered), answer
    assert (answer.reason, answer.reached) == (reason, reached), answer
    assert SECRET not in answer.detail
    return answer


class TestHttpUpstream(UpstreamContract):
    @pytest.fixture
    def good(self) -> Grant:
        return granted(make_tool("good", options={"method": "GET", "path": "/x"}), {})

    @pytest.fixture
    def bad(self, service: Service) -> Grant:
        service.answers["/bad"] = lambda: web.Response(status=500)
        return granted(make_tool("bad", options={"method": "GET", "path": "/bad"}), {})

    @pytest.fixture
    def endless(self) -> Grant:
        return granted(make_tool("endless", options={"method": "GET", "path": "/hang"}), {})

    def is_of_the_service(self, task: asyncio.Task[Any]) -> bool:
        return "RequestHandler" in repr(task)


class TestRequest:
    async def test_arguments_go_where_the_declaration_says(self, service: Service, upstream: HttpUpstream) -> None:
        answer = await send(
            upstream,
            {"id": 7, "verbose": True, "tags": ["a", "b c"], "who": "ada", "title": "héllo", "n": 1.5},
            method="POST",
            path="/tickets/{id}/notes",
            query=["verbose", "tags", "absent"],
            headers={"X-Team": "support", "X-Who": "user {who}"},
        )
        delivered(answer)
        request = service.requests[0]
        assert request.raw_path == "/tickets/7/notes?verbose=true&tags=a&tags=b%20c"
        assert (request.headers["X-Team"], request.headers["X-Who"]) == ("support", "user ada")
        assert request.headers["Content-Type"] == "application/json"
        assert service.bodies[0] == '{"n":1.5,"title":"héllo"}'.encode()

    @pytest.mark.parametrize(
        ("value", "raw"),
        [("a/b", "a%2Fb"), ("a?b=c#d", "a%3Fb%3Dc%23d"), ("%2e%2e", "%252e%252e"), ("ü @:", "%C3%BC%20%40%3A"),
         ("...", "..."), ("//evil.example", "%2F%2Fevil.example")],
    )  # fmt: skip
    async def test_an_argument_stays_in_its_segment(
        self, service: Service, upstream: HttpUpstream, value: str, raw: str
    ) -> None:
        delivered(await send(upstream, {"id": value}, path="/t/{id}/end"))
        assert service.requests[0].raw_path == f"/t/{raw}/end"

    @pytest.mark.parametrize(
        "value", [".", "..", "", "../admin", "a/../b", "..\\x", "a\r\nX: y", "a\x00", None, ["a"], {"a": 1}]
    )
    async def test_an_argument_that_makes_no_segment_is_not_sent(
        self, service: Service, upstream: HttpUpstream, value: Any
    ) -> None:
        refused(await send(upstream, {"id": value}, path="/t/{id}"), ReasonCode.ARGUMENTS_INVALID, reached=False)
        assert service.requests == []

    async def test_two_arguments_do_not_make_dots_together(self, service: Service, upstream: HttpUpstream) -> None:
        answer = await send(upstream, {"a": ".", "b": "."}, path="/t/{a}{b}")
        refused(answer, ReasonCode.ARGUMENTS_INVALID, reached=False)
        refused(await send(upstream, {"a": "."}, path="/t/.{a}"), ReasonCode.ARGUMENTS_INVALID, reached=False)
        assert service.requests == []

    @pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\x00b", "ü", None])
    async def test_an_argument_cannot_break_out_of_a_header(
        self, service: Service, upstream: HttpUpstream, value: Any
    ) -> None:
        answer = await send(upstream, {"h": value}, headers={"X-H": "{h}"})
        refused(answer, ReasonCode.ARGUMENTS_INVALID, reached=False)
        assert service.requests == []

    async def test_an_argument_without_a_place_is_not_dropped_silently(self, upstream: HttpUpstream) -> None:
        refused(await send(upstream, {"extra": 1}), ReasonCode.ARGUMENTS_INVALID, reached=False)

    async def test_a_form_and_no_body(self, service: Service, upstream: HttpUpstream) -> None:
        delivered(await send(upstream, {"a": "x&y=z", "b": 2}, method="POST", body="form"))
        delivered(await send(upstream, {}, method="POST", body="none"))
        assert service.bodies == [b"a=x%26y%3Dz&b=2", b""]
        answer = await send(upstream, {"a": {"b": 1}}, method="POST", body="form")
        refused(answer, ReasonCode.ARGUMENTS_INVALID, reached=False)

    async def test_the_base_path_is_kept(self, service: Service) -> None:
        upstream = HttpUpstream(service.url + "/api/v2/")
        delivered(await send(upstream, {"id": "1"}, path="/t/{id}"))
        assert service.requests[0].raw_path == "/api/v2/t/1"
        await upstream.aclose()

    async def test_cookies_are_not_kept_and_connections_are(self, service: Service, upstream: HttpUpstream) -> None:
        def with_cookie() -> web.Response:
            response = web.json_response({})
            response.set_cookie("session", "abc")
            return response

        service.answers["/x"] = with_cookie
        delivered(await send(upstream))
        delivered(await send(upstream))
        first, second = service.requests
        assert "Cookie" not in second.headers
        assert first.transport is second.transport


class TestCredential:
    @pytest.mark.parametrize(
        ("inject", "secret", "header", "value"),
        [
            (None, SECRET, "Authorization", f"Bearer {SECRET}"),
            ({"kind": "header", "name": "X-Api-Key"}, SECRET, "X-Api-Key", SECRET),
            ({"kind": "header", "name": "Authorization", "prefix": "Token "}, "t", "Authorization", "Token t"),
            ({"kind": "basic", "username": "ada"}, "pw", "Authorization", "Basic YWRhOnB3"),
            ({"kind": "basic"}, "ada:pw", "Authorization", "Basic YWRhOnB3"),
        ],
    )
    async def test_it_is_sent_as_configured(
        self, service: Service, inject: dict[str, str] | None, secret: str, header: str, value: str
    ) -> None:
        upstream = HttpUpstream(service.url, inject=inject)
        delivered(await send(upstream, {}, Credential("a", secret)))
        delivered(await send(upstream))
        assert service.requests[0].headers[header] == value
        assert header not in service.requests[1].headers
        await upstream.aclose()

    @pytest.mark.parametrize("password", [{}, {"password": "pw"}])
    async def test_one_with_a_user_name_of_its_own_is_basic_authentication(
        self, service: Service, password: dict[str, str]
    ) -> None:
        upstream = HttpUpstream(service.url, inject={"kind": "basic"})
        delivered(await send(upstream, {}, Credential("a", "pw", {"username": "ada", **password})))
        assert service.requests[0].headers["Authorization"] == "Basic YWRhOnB3"
        refused(
            await send(upstream, {}, Credential("a", "pw", {"username": "a:b"})),
            ReasonCode.CREDENTIAL_UNAVAILABLE,
            reached=False,
        )
        await upstream.aclose()

    @pytest.mark.parametrize("aws", ["s3", "execute-api"])
    async def test_it_signs_a_request_as_aws_own_client_does(self, service: Service, aws: str) -> None:
        from botocore.auth import S3SigV4Auth, SigV4Auth  # heavy, and for these tests alone
        from botocore.awsrequest import AWSRequest  # as above
        from botocore.credentials import Credentials  # as above

        keys = {"access_key_id": "ASIAEXAMPLE", "secret_access_key": SECRET, "session_token": "tok/en+of=session"}
        inject = {"kind": "sigv4", "region": "eu-west-1", "service": aws}
        upstream = HttpUpstream(f"{service.url}/base", inject=inject)
        options = {"method": "POST", "path": "/t/{a}", "query": ["q"]}
        delivered(await send(upstream, {"a": "x y/ü", "q": "1&2", "n": 3}, Credential("a", SECRET, keys), **options))
        (got,) = service.requests
        names = ("content-type", "x-amz-content-sha256", "x-amz-security-token", "accept", "host")
        url = f"{service.url}{got.raw_path}"
        headers = {name: got.headers[name] for name in names if name in got.headers}
        theirs = AWSRequest(got.method, url, headers, service.bodies[0])
        theirs.context["timestamp"] = got.headers["X-Amz-Date"]
        theirs.headers["X-Amz-Date"] = got.headers["X-Amz-Date"]
        auth = (S3SigV4Auth if aws == "s3" else SigV4Auth)(Credentials(*keys.values()), aws, "eu-west-1")
        signature = auth.signature(auth.string_to_sign(theirs, auth.canonical_request(theirs)), theirs)
        assert got.headers["Authorization"].endswith(f"Signature={signature}")
        assert SECRET not in str(got.headers)
        await upstream.aclose()

    async def test_a_request_that_cannot_be_signed_is_not_sent(self, service: Service) -> None:
        upstream = HttpUpstream(service.url, inject={"kind": "sigv4", "region": "eu-west-1", "service": "s3"})
        keys = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}
        answer = await send(upstream, {}, Credential("a", SECRET, keys), headers={"X-Amz-Date": "20261121T000000Z"})
        refused(answer, ReasonCode.CREDENTIAL_UNAVAILABLE, reached=False)
        assert service.requests == []
        await upstream.aclose()

    async def test_the_first_call_loads_nothing_to_sign_with(
        self, service: Service, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upstream = HttpUpstream(service.url, inject={"kind": "sigv4", "region": "eu-west-1", "service": "s3"})
        monkeypatch.setitem(sys.modules, "agentgate.adapters.upstreams._http_sigv4", None)
        keys = {"access_key_id": "AKIAEXAMPLE", "secret_access_key": SECRET}
        delivered(await send(upstream, {}, Credential("a", SECRET, keys)))
        await upstream.aclose()

    async def test_what_has_no_keys_signs_nothing(self, service: Service) -> None:
        upstream = HttpUpstream(service.url, inject={"kind": "sigv4", "region": "eu-west-1", "service": "s3"})
        refused(await send(upstream, {}, TOKEN), ReasonCode.CREDENTIAL_UNAVAILABLE, reached=False)
        assert service.requests == []
        await upstream.aclose()

    async def test_in_the_query_it_is_in_no_error(self, service: Service) -> None:
        upstream = HttpUpstream(service.url, inject={"kind": "query", "name": "key"})
        service.answers["/x"] = lambda: web.Response(status=500)
        answer = refused(await send(upstream, {}, TOKEN), ReasonCode.UPSTREAM_ERROR)
        assert service.requests[0].query["key"] == SECRET
        assert service.url not in answer.detail
        refused(await send(upstream, {}, TOKEN, path="/hang", timeout_ms=50), ReasonCode.UPSTREAM_TIMEOUT)
        await upstream.aclose()

    async def test_a_secret_with_a_line_break_is_not_sent(self, service: Service, upstream: HttpUpstream) -> None:
        answer = await send(upstream, {}, Credential("a", f"{SECRET}\r\nX: y"))
        refused(answer, ReasonCode.CREDENTIAL_UNAVAILABLE, reached=False)
        assert service.requests == []


class TestAnswer:
    async def answer(self, service: Service, upstream: HttpUpstream, body: bytes, **options: Any) -> Any:
        service.answers["/x"] = lambda: web.Response(body=body)
        return await send(upstream, **options)

    async def test_json_is_the_value(self, service: Service, upstream: HttpUpstream) -> None:
        answer = await self.answer(service, upstream, b'{"a": [1, 2.5, null]}')
        assert answer == Delivered({"a": [1, 2.5, None]}, 200)

    @pytest.mark.parametrize("body", [b"hello", b"", b'{"a":1,"a":2}', b"NaN", b"12345678901234567890", b"[" * 99])
    async def test_what_is_not_strict_json_is_text(self, service: Service, upstream: HttpUpstream, body: bytes) -> None:
        assert delivered(await self.answer(service, upstream, body)) == {"status": 200, "text": body.decode()}

    async def test_text_may_be_any_bytes(self, service: Service, upstream: HttpUpstream) -> None:
        assert delivered(await self.answer(service, upstream, b"\xff\xfe"))["text"] == "\ufffd\ufffd"
        assert delivered(await self.answer(service, upstream, b'{"a":1}', result="text"))["text"] == '{"a":1}'

    @pytest.mark.parametrize(
        ("pointer", "value"), [("/data/items", [1, 2]), ("/data/items/1", 2), ("/a~1b/~0", 3), ("", None)]
    )
    async def test_a_pointer_takes_a_part(
        self, service: Service, upstream: HttpUpstream, pointer: str, value: Any
    ) -> None:
        body = b'{"data":{"items":[1,2]},"a/b":{"~":3}}'
        found = delivered(await self.answer(service, upstream, body, result={"path": pointer}))
        assert found == (value if pointer else {"data": {"items": [1, 2]}, "a/b": {"~": 3}})

    @pytest.mark.parametrize("pointer", ["/no", "/data/9", "/data/01", "/data/-", "/data/0/x"])
    async def test_a_missing_part_is_an_error(self, service: Service, upstream: HttpUpstream, pointer: str) -> None:
        answer = await self.answer(service, upstream, b'{"data":[1]}', result={"path": pointer})
        assert refused(answer, ReasonCode.UPSTREAM_ERROR).status == 200

    @pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 404, 429, 500, 503])
    async def test_other_statuses_are_errors_and_redirects_are_not_followed(
        self, service: Service, upstream: HttpUpstream, status: int
    ) -> None:
        service.answers["/x"] = lambda: web.Response(status=status, headers={"Location": "/elsewhere"}, text=SECRET)
        answer = refused(await send(upstream, {}, TOKEN), ReasonCode.UPSTREAM_ERROR)
        assert answer.status == status
        assert str(status) in answer.detail
        assert len(service.requests) == 1

    async def test_no_content_is_delivered(self, service: Service, upstream: HttpUpstream) -> None:
        service.answers["/x"] = lambda: web.Response(status=204)
        assert await send(upstream, method="DELETE") == Delivered({"status": 204, "text": ""}, 204)


class TestTooMuch:
    async def test_50_mb_are_cut_early_with_memory_flat(self, service: Service, upstream: HttpUpstream) -> None:
        delivered(await send(upstream))
        tracemalloc.start()
        answer = await send(upstream, path="/flood")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        refused(answer, ReasonCode.UPSTREAM_TOO_LARGE)
        assert peak < 8 << 20
        await asyncio.wait_for(service.disconnected.wait(), 2)

    async def test_an_announced_size_is_not_read_at_all(self, service: Service, upstream: HttpUpstream) -> None:
        service.answers["/x"] = lambda: web.Response(body=b"x" * 5000)
        refused(await send(upstream, max_response_bytes=4999), ReasonCode.UPSTREAM_TOO_LARGE)
        assert delivered(await send(upstream, max_response_bytes=5000))["text"] == "x" * 5000

    async def test_a_decompression_bomb_is_counted_decoded(self, service: Service, upstream: HttpUpstream) -> None:
        bomb = gzip.compress(b"\0" * (100 << 20))
        service.answers["/x"] = lambda: web.Response(body=bomb, headers={"Content-Encoding": "gzip"})
        tracemalloc.start()
        answer = await send(upstream)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        refused(answer, ReasonCode.UPSTREAM_TOO_LARGE)
        assert peak < 24 << 20

    async def test_late_is_a_timeout_and_the_connection_is_closed(
        self, service: Service, upstream: HttpUpstream
    ) -> None:
        refused(await send(upstream, path="/hang", timeout_ms=50), ReasonCode.UPSTREAM_TIMEOUT)
        await asyncio.wait_for(service.disconnected.wait(), 2)


class TestEnding:
    async def test_the_server_sees_a_cancelled_call_leave(self, service: Service, upstream: HttpUpstream) -> None:
        call = asyncio.create_task(send(upstream, path="/hang"))
        await service.waiting.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.wait_for(service.disconnected.wait(), 0.25)

    @pytest.mark.filterwarnings("ignore:Sending a large body")
    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
    def test_a_cancelled_write_does_not_flush_what_it_had_not_sent(self, run: Callable[[Any], int]) -> None:
        """A server that reads nothing until the call was cut must never get the whole request.

        On both loops: uvloop's transports are no asyncio.Transport to isinstance.
        """
        assert 0 < run(_cancel_a_half_sent_write()) < 32 << 20

    async def test_nobody_listening_is_known_to_have_had_no_effect(self, service: Service) -> None:
        await service.stop()
        upstream = HttpUpstream(service.url)
        refused(await send(upstream, {}, TOKEN), ReasonCode.UPSTREAM_UNAVAILABLE, reached=False)
        await upstream.aclose()

    @pytest.mark.parametrize("reply", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"])
    async def test_a_broken_answer_may_have_had_an_effect(self, reply: bytes) -> None:
        async with _Once(reply) as server:
            upstream = HttpUpstream(server.url)
            answer = await send(upstream, {}, method="PUT", access=Access.WRITE)
            assert isinstance(answer, Undelivered)
            assert answer.reached is True
            assert server.connections == 1
            await upstream.aclose()

    @pytest.mark.parametrize(("access", "method", "times"), [(Access.WRITE, "PUT", 2), (Access.READ, "GET", 3)])
    async def test_a_write_is_never_sent_twice(self, access: Access, method: str, times: int) -> None:
        """On a kept connection that dies, aiohttp repeats idempotent methods by itself; we let it for reads only."""
        async with _Once(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", then_drop=True) as server:
            upstream = HttpUpstream(server.url)
            delivered(await send(upstream, {}, method=method, access=access))
            answer = await send(upstream, {}, method=method, access=access)
            assert server.requests == times
            assert isinstance(answer, Undelivered) == (access is Access.WRITE)
            await upstream.aclose()


async def _cancel_a_half_sent_write() -> int:
    """How many bytes of a 32 MB request reach a server that starts reading after the call was cancelled."""
    connected, release, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
    received = 0

    async def stubborn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        connected.set()
        await release.wait()
        try:
            while part := await reader.read(1 << 20):
                received += len(part)
        except ConnectionError:
            pass
        writer.close()
        ended.set()

    server = await asyncio.start_server(stubborn, "127.0.0.1", 0, limit=1024)
    upstream = HttpUpstream(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", timeout_s=30)
    body = {"blob": "x" * (32 << 20)}
    call = asyncio.create_task(send(upstream, body, method="POST", access=Access.WRITE))
    await connected.wait()
    await asyncio.sleep(0.1)  # the socket's buffers fill; nothing tells when they are full
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert call.cancelled()
    release.set()
    await asyncio.wait_for(ended.wait(), 10)
    await upstream.aclose()
    server.close()
    await server.wait_closed()
    return received


class _Once:
    """A raw server: answers the first request of a connection with given bytes, and drops the connection at the next
    (or, without `then_drop`, at once)."""

    def __init__(self, reply: bytes, *, then_drop: bool = False) -> None:
        self.reply, self.then_drop = reply, then_drop
        self.connections = self.requests = 0

    async def __aenter__(self) -> _Once:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        await self.server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            self.requests += 1
            writer.write(self.reply)
            await writer.drain()
            if self.then_drop:
                await reader.readuntil(b"\r\n\r\n")
                self.requests += 1
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


class TestConfiguration:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"path": "/x"}, "method"),
            ({"method": "TRACE", "path": "/x"}, "method"),
            ({"method": "GET"}, "path"),
            ({"method": "GET", "path": "x"}, "path"),
            ({"method": "GET", "path": "/a/../b"}, "path"),
            ({"method": "GET", "path": "/a/%2e%2E/b"}, "path"),
            ({"method": "GET", "path": "/a//b"}, "path"),
            ({"method": "GET", "path": "/{a"}, "path"),
            ({"method": "GET", "path": "/{}"}, "path"),
            ({"method": "GET", "path": "/a?b=c"}, "path"),
            ({"method": "GET", "path": "/a b"}, "path"),
            ({"method": "GET", "path": "/a\r\n"}, "path"),
            ({"method": "GET", "path": "/x", "query": "a"}, "query"),
            ({"method": "GET", "path": "/x", "headers": {"Host": "evil"}}, "Host"),
            ({"method": "GET", "path": "/x", "headers": {"content-length": "1"}}, "content-length"),
            ({"method": "GET", "path": "/x", "headers": {"authorization": "x"}}, "authorization"),
            ({"method": "GET", "path": "/x", "headers": {"X-A": "1", "x-a": "2"}}, "twice"),
            ({"method": "GET", "path": "/x", "headers": {"X A": "1"}}, "headers"),
            ({"method": "GET", "path": "/x", "headers": {"X-A": "a\r\nb"}}, "X-A"),
            ({"method": "GET", "path": "/x", "headers": {"X-A": 1}}, "headers"),
            ({"method": "GET", "path": "/x", "body": "json"}, "body"),
            ({"method": "POST", "path": "/x", "body": "xml"}, "body"),
            ({"method": "GET", "path": "/x", "result": "html"}, "result"),
            ({"method": "GET", "path": "/x", "result": {"path": "data"}}, "result"),
            ({"method": "GET", "path": "/x", "result": {"path": "/a~2"}}, "result"),
            ({"method": "GET", "path": "/x", "timeout_ms": 0}, "timeout_ms"),
            ({"method": "GET", "path": "/x", "timeout_ms": True}, "timeout_ms"),
            ({"method": "GET", "path": "/x", "max_response_bytes": "1"}, "max_response_bytes"),
            ({"method": "GET", "path": "/x", "url": "http://evil"}, "url"),
        ],
    )
    def test_bad_options_are_refused_at_start(self, options: dict[str, Any], named: str) -> None:
        with pytest.raises(ValueError, match=named):
            HttpUpstream("https://api.example.com").validate_options(options)

    async def test_bad_options_that_were_not_validated_are_a_value(self, upstream: HttpUpstream) -> None:
        refused(await send(upstream, path="no-slash"), ReasonCode.UPSTREAM_ERROR, reached=False)

    def test_the_credentials_query_parameter_is_taken(self) -> None:
        upstream = HttpUpstream("https://api.example.com", inject={"kind": "query", "name": "key"})
        with pytest.raises(ValueError, match="credential"):
            upstream.validate_options({"method": "GET", "path": "/x", "query": ["key"]})

    @pytest.mark.parametrize(
        "url",
        ["http://api.example.com", "http://10.0.0.1", "http://localhost.evil.example", "ftp://x", "api.example.com", "https://",
         "https://u:p@x", "https://x?a=b", "https://x#f", "https://x/a/../b", "https://x:port", "https://x/{id}", "https://x\\y",
         "https://a..b"],
    )  # fmt: skip
    def test_bad_base_urls_are_refused_at_start(self, url: str) -> None:
        with pytest.raises(ValueError, match="base_url"):
            HttpUpstream(url)

    def test_plain_http_is_for_loopback_or_on_request(self) -> None:
        for url in ("http://127.0.0.1:1", "http://localhost", "http://[::1]:8080", "https://api.example.com/v1"):
            HttpUpstream(url)
        HttpUpstream("http://api.example.com", insecure=True)

    @pytest.mark.parametrize(
        "inject",
        [{}, {"kind": "cookie"}, {"kind": "header"}, {"kind": "header", "name": "X: y"}, {"kind": "query"},
         {"kind": "bearer", "name": "x"}, {"kind": "basic", "username": "a:b"},
         {"kind": "header", "name": "X", "prefix": "\r\n"}, {"kind": "header", "name": "Host"},
         {"kind": "header", "name": "transfer-encoding"}, {"kind": "header", "name": "Content-Length"}],
    )  # fmt: skip
    def test_bad_injections_are_refused_at_start(self, inject: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="inject"):
            HttpUpstream("https://api.example.com", inject=inject)
