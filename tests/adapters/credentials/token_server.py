"""A token endpoint that answers what a test says, as no good provider would, and its revocation endpoint."""

from __future__ import annotations

from typing import Any

from aiohttp import web


class TokenServer:
    def __init__(self) -> None:
        self.url = ""
        self.answer: Any = {"access_token": "s3cret-value", "token_type": "Bearer", "expires_in": 60}
        self.status = 200
        self.forms: list[dict[str, str]] = []
        self.authorizations: list[str | None] = []
        self.revoked: list[str] = []
        self.revocation_status = 200
        app = web.Application()
        app.router.add_post("/token", self._token)
        app.router.add_post("/revoke", self._revoke)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)

    async def __aenter__(self) -> TokenServer:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    def options(self, **more: Any) -> dict[str, Any]:
        secret = {"env": "SECRET"}
        return {"token_url": f"{self.url}/token", "client_id": "gate way", "client_secret": secret, **more}

    async def _token(self, request: web.Request) -> web.Response:
        self.forms.append({name: str(value) for name, value in (await request.post()).items()})
        self.authorizations.append(request.headers.get("Authorization"))
        if isinstance(self.answer, bytes):
            return web.Response(body=self.answer, status=self.status)
        return web.json_response(self.answer, status=self.status)

    async def _revoke(self, request: web.Request) -> web.Response:
        self.revoked.append(str((await request.post())["token"]))
        return web.Response(status=self.revocation_status)
