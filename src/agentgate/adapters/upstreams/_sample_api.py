"""The demo's HTTP service: a few JSON endpoints on 127.0.0.1, and the client that reaches nothing else."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import aiohttp
from aiohttp import web
from yarl import URL

from agentgate.adapters.upstreams._answers import ToolError
from agentgate.adapters.upstreams._http_exchange import Incoming, Outgoing, exchange, open_session
from agentgate.core.strict_json import canonical, parse
from agentgate.ports.upstreams import Undelivered

_TIMEOUT_S: Final = 5.0
_MAX_BODY_BYTES: Final = 2 << 20
_USERS: Final = (
    {"id": 1, "name": "ada", "role": "admin"},
    {"id": 2, "name": "grace", "role": "editor"},
    {"id": 3, "name": "alan", "role": "viewer"},
)


class SampleApi:
    """Starts its service with the first call, on a port that the system chooses."""

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._runner: web.AppRunner | None = None
        self._session: aiohttp.ClientSession | None = None
        self._port = 0

    async def get(self, endpoint: str) -> dict[str, Any] | Undelivered:
        """`{endpoint, status: 200, data}`."""
        return await self._request("GET", endpoint, None)

    async def post(self, endpoint: str, payload: Any) -> dict[str, Any] | Undelivered:
        """`{endpoint, status: 201, data}`."""
        return await self._request("POST", endpoint, canonical(payload))

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _request(self, method: str, endpoint: str, body: bytes | None) -> dict[str, Any] | Undelivered:
        path = _path(endpoint)
        session = await self._started()
        answer = await exchange(
            session,
            Outgoing(
                method=method,
                url=URL(f"http://127.0.0.1:{self._port}{path}", encoded=True),
                headers={"Content-Type": "application/json"} if body is not None else {},
                body=body,
                timeout_s=_TIMEOUT_S,
                max_response_bytes=_MAX_BODY_BYTES,
                repeatable=method == "GET",
            ),
        )
        if not isinstance(answer, Incoming):
            return answer
        if answer.status >= 400:
            raise ToolError(f"the service answered {answer.status}")
        return {"endpoint": endpoint, "status": answer.status, "data": parse(answer.body)}

    async def _started(self) -> aiohttp.ClientSession:
        async with self._starting:
            if self._session is None:
                runner = web.AppRunner(_application(), access_log=None, shutdown_timeout=0.2)
                try:
                    await runner.setup()
                    await web.TCPSite(runner, "127.0.0.1", 0).start()
                except BaseException:  # also when the call is cancelled: no half-started service stays
                    await runner.cleanup()
                    raise
                self._port = runner.addresses[0][1]
                self._runner = runner
                self._session = open_session(max_connections=20)
            return self._session


def _path(endpoint: str) -> str:
    """The path alone: whatever host an endpoint names, the call goes to the local service."""
    try:
        path = urlsplit(endpoint).path
    except ValueError:
        raise ToolError("the endpoint is not a path or a URL") from None
    return quote("/" + unquote(path).lstrip("/"), safe="/~:@!$&'()*+,;=-._")


def _application() -> web.Application:
    app = web.Application(client_max_size=_MAX_BODY_BYTES)
    app.router.add_get("/users", _users)
    app.router.add_get("/users/{id}", _user)
    app.router.add_get("/status", _status)
    app.router.add_get("/errors/{status:[45][0-9][0-9]}", _error)
    app.router.add_get("/{path:.*}", _anything)
    app.router.add_post("/{path:.*}", _created)
    return app


async def _users(_: web.Request) -> web.Response:
    return web.json_response({"ok": True, "users": list(_USERS)})


async def _user(request: web.Request) -> web.Response:
    found = [user for user in _USERS if str(user["id"]) == request.match_info["id"]]
    return web.json_response({"ok": True, "user": found[0]} if found else {"ok": False}, status=200 if found else 404)


async def _status(_: web.Request) -> web.Response:
    return web.json_response({"ok": True, "service": "agentgate demo"})


async def _error(request: web.Request) -> web.Response:
    return web.json_response({"ok": False}, status=int(request.match_info["status"]))


async def _anything(_: web.Request) -> web.Response:
    return web.json_response({"ok": True})


async def _created(request: web.Request) -> web.Response:
    return web.json_response({"ok": True, "received": parse(await request.read())}, status=201)
