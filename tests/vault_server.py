"""The part of Vault's HTTP API that the gateway uses, on loopback, after HashiCorp's and OpenBao's documentation.

Neither server can be had from the package registries, so this one stands in for them: paths, members, status codes and
the rules of tokens and leases are the documented ones (/docs/api-docs: secret/kv, auth/approle, auth/kubernetes,
auth/token, system/leases). It keeps what reached it in `requests`.

async with VaultServer() as vault:
    vault.kv2["app/db"] = {"value": "s3cret"}
    vault.url, vault.root_token
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from aiohttp import web


class VaultServer:
    def __init__(self, *, lease_s: int = 3600, token_s: int = 3600, renewable: bool = True) -> None:
        self.url = ""
        self.root_token = "hvs.root-token-of-the-test"
        self.role_id, self.secret_id = "role-of-the-test", "secret-id-of-the-test"
        self.jwt = "jwt.of.a-service-account"
        self.kv1: dict[str, dict[str, Any]] = {}
        self.kv2: dict[str, dict[str, Any]] = {}
        self.lease_s, self.token_s, self.renewable = lease_s, token_s, renewable
        self.tokens = {self.root_token}
        self.leases: dict[str, str] = {}
        """Those in force, with their users."""
        self.requests: list[tuple[str, str, Any]] = []
        self.is_sealed = False
        self.answers: dict[str, web.Response] = {}
        self.free = asyncio.Event()
        self.free.set()
        self._numbers = itertools.count(1)
        app = web.Application()
        app.router.add_route("*", "/v1/{path:.*}", self._any)
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)

    async def __aenter__(self) -> VaultServer:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _ in self.requests]

    async def _any(self, request: web.Request) -> web.Response:  # noqa: PLR0911 - one for each path
        path = request.match_info["path"]
        body = await request.json() if request.can_read_body else None
        self.requests.append((request.method, path, body))
        await self.free.wait()
        if self.is_sealed:
            return _errors(503, "Vault is sealed")
        if path in self.answers:
            return self.answers[path]
        if path.startswith("auth/") and path.endswith("/login"):
            return self._login(path, body)
        if request.headers.get("X-Vault-Token") not in self.tokens:
            return _errors(403, "permission denied")
        if path == "auth/token/renew-self":
            return self._auth(request.headers["X-Vault-Token"])
        if path == "sys/leases/renew":
            if body["lease_id"] not in self.leases or not self.renewable:
                return _errors(400, "lease is not renewable")
            lasts_s = min(body.get("increment", self.lease_s), self.lease_s)
            return web.json_response({"lease_id": body["lease_id"], "lease_duration": lasts_s, "renewable": True})
        if path == "sys/leases/revoke":
            self.leases.pop(body["lease_id"], None)
            return web.Response(status=204)
        return self._read(path)

    def _login(self, path: str, body: Any) -> web.Response:
        known = {
            "auth/approle/login": {"role_id": self.role_id, "secret_id": self.secret_id},
            "auth/kubernetes/login": {"role": "gateway", "jwt": self.jwt},
        }
        if known.get(path) != body:
            return _errors(400, "invalid role or secret ID")
        token = f"hvs.token-{next(self._numbers)}-of-a-login"
        self.tokens.add(token)
        return self._auth(token)

    def _auth(self, token: str) -> web.Response:
        auth = {"client_token": token, "accessor": "a", "lease_duration": self.token_s, "renewable": True}
        return web.json_response({"auth": auth, "lease_id": "", "lease_duration": 0, "data": None})

    def _read(self, path: str) -> web.Response:
        whole = {"request_id": "r", "lease_id": "", "renewable": False, "lease_duration": 0, "auth": None}
        if path.startswith("secret/data/") and (found := self.kv2.get(path.removeprefix("secret/data/"))) is not None:
            data: Any = {"data": found, "metadata": {"version": 1, "destroyed": False}}
        elif path.startswith("kv/") and (found := self.kv1.get(path.removeprefix("kv/"))) is not None:
            data = found
            whole["lease_duration"] = 2_764_800
        elif path.startswith("database/creds/") and path != "database/creds/none":
            number, role = next(self._numbers), path.rpartition("/")[2]
            lease = f"{path}/lease{number}"
            self.leases[lease] = f"v-approle-{role}-{number}"
            data = {"username": self.leases[lease], "password": f"A1a-generated-password-{number}"}
            whole |= {"lease_id": lease, "renewable": self.renewable, "lease_duration": self.lease_s}
        else:
            return _errors(404)
        return web.json_response(whole | {"data": data})


def _errors(status: int, *texts: str) -> web.Response:
    return web.json_response({"errors": list(texts)}, status=status)
