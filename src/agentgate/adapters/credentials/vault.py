"""Credential kind `vault`: HashiCorp Vault or OpenBao, its KV engines and its dynamic secrets with their leases."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from agentgate.adapters.credentials._client import Client, json_object, seconds
from agentgate.adapters.credentials._options import Options, read_public, scoped
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Serves
from agentgate.ports.upstreams import Credential

_ACCOUNT_TOKEN: Final = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path
_RENEW_AT: Final = 1 / 3
"""Of its lifetime that is left: then our own token is renewed, or we log in again."""
_INFINITE: Final = float("inf")


class _Login:
    """How the gateway gets its token, and the token."""

    def __init__(self, options: Options) -> None:
        """`{method: token | approle | kubernetes, …}`. Raises ValueError."""
        method = options.one_of("method", ("token", "approle", "kubernetes"))
        self.path = f"auth/{options.text('mount', method).strip('/')}/login"
        self.given = options.secret("token") if method == "token" else None
        """The token that was configured, where we do not log in."""
        self._role_id = options.text("role_id") if method == "approle" else ""
        self._secret_id = options.secret("secret_id") if method == "approle" else None
        self._role = options.text("role") if method == "kubernetes" else ""
        self._jwt = Path(options.text("jwt_file", _ACCOUNT_TOKEN)) if method == "kubernetes" else None
        options.end()

    def proof(self) -> dict[str, str]:
        """The body of the login. Raises CredentialRefused."""
        if self._secret_id is not None:
            return {"role_id": self._role_id, "secret_id": self._secret_id.read()}
        assert self._jwt is not None
        return {"role": self._role, "jwt": read_public(self._jwt)}


class Vault:
    """Implements `Issuer`. What an engine leases is prolonged while it is in use and within policy's lifetime, and
    taken back by its lease. A KV secret is read again after `cache_s`, and cannot be taken back.

    The secret is `field`; every text that comes along is one of `values`, and is kept out of answers as well.
    """

    serves = Serves.TENANT

    def __init__(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """`url`, `auth`, `engine` (kv2, kv1 or dynamic), `mount` (of KV: secret), `path` or `paths` by `allowed_scope`,
        `field`, `namespace`, `cache_s` (30), `ca_file`.

        Raises:
            ValueError: with a sentence.
        """
        read = Options(options, environ)
        self._url = read.url("url")
        self._login = _Login(read.part("auth"))
        self._engine = read.one_of("engine", ("kv2", "kv1", "dynamic"))
        self._mount = read.text("mount", "secret").strip("/") if self._engine != "dynamic" else ""
        self._paths = read.texts("paths")
        self._path = read.maybe_text("path")
        self._field = read.text("field", "password" if self._engine == "dynamic" else "value")
        self._namespace = read.maybe_text("namespace")
        self._cache_s = read.seconds("cache_s", 30.0)
        self._client = Client(read.maybe_text("ca_file"))
        read.end()
        if self._path is None and self._paths is None:
            raise ValueError("path is missing")
        self._token = ""
        self._logging_in = asyncio.Lock()
        """One login at a time: leases end with the token that they were got with."""
        self._token_ends = 0.0
        self._token_lasts = 0.0

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        if before is not None and (renewed := await self._renewed(ask, before)) is not None:
            return renewed
        path = scoped(self._paths, self._path, ask.scope)
        assert path is not None
        path = quote(path.strip("/"))
        match self._engine:
            case "kv2":
                path = f"{self._mount}/data/{path}"
            case "kv1":
                path = f"{self._mount}/{path}"
        whole = await self._as_us("GET", path)
        data = whole.get("data")
        if self._engine == "kv2":
            data = data.get("data") if isinstance(data, dict) else None
        if not isinstance(data, dict) or not isinstance(secret := data.get(self._field), str):
            raise CredentialRefused(f"there is no text {self._field} at its path")
        values = {str(name): value for name, value in data.items() if isinstance(value, str)}
        credential = Credential(ask.alias, secret, values)
        if self._engine != "dynamic":
            return Issued(credential, self._cache_s)
        lease = whole.get("lease_id")
        lasts_s = seconds(whole.get("lease_duration"))
        if not isinstance(lease, str) or not lease or lasts_s is None:
            raise CredentialRefused("its engine leased nothing: it could not be taken back")
        return Issued(credential, self._within_ours(lasts_s), lease)

    async def _renewed(self, ask: Ask, before: Issued) -> Issued | None:
        """The same lease for longer; None where that cannot be, and a new one is asked for."""
        body = {"lease_id": before.revocation} | ({"increment": ask.ttl_s} if ask.ttl_s is not None else {})
        try:
            whole = await self._as_us("POST", "sys/leases/renew", body)
            lasts_s = seconds(whole.get("lease_duration"))
        except CredentialRefused:
            return None
        if lasts_s is None or whole.get("lease_id") != before.revocation or lasts_s < before.expires_in_s / 2:
            return None  # at the end of its longest life a lease is renewed for the little that is left
        return Issued(before.credential, self._within_ours(lasts_s), before.revocation)

    def _within_ours(self, lasts_s: float) -> float:
        """A lease ends with the token that it was got with."""
        return min(lasts_s, self._token_ends - time.monotonic())

    async def revoke(self, issued: Issued) -> None:
        if issued.revocation is None:
            raise CredentialRefused("a KV secret has no lease")
        await self._as_us("POST", "sys/leases/revoke", {"lease_id": issued.revocation})

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _as_us(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """With our token, and once more with a new one where Vault no longer takes it. Raises CredentialRefused."""
        token = await self._our_token()
        status, answer = await self._send(method, path, body, token)
        if status == 403 and self._login.given is None:
            if self._token is token:  # nobody has logged in meanwhile
                self._token_ends = 0.0
            token = await self._our_token()
            status, answer = await self._send(method, path, body, token)
        if status not in (200, 204):
            raise CredentialRefused(f"its source answered {status}")
        return answer

    async def _our_token(self) -> str:
        async with self._logging_in:
            await self._ensure_token()
            return self._token

    async def _ensure_token(self) -> None:
        if self._login.given is not None:
            self._token, self._token_ends = self._login.given.read(), _INFINITE
            return
        left_s = self._token_ends - time.monotonic()
        if left_s > self._token_lasts * _RENEW_AT and left_s > 0:
            return
        if left_s > 1:  # leases end with their token: prolong it rather than take another
            status, answer = await self._send("POST", "auth/token/renew-self", {}, self._token)
            if status == 200 and self._take(answer, at_least=left_s + 1):
                return
        status, answer = await self._send("POST", self._login.path, self._login.proof(), "")
        if status != 200 or not self._take(answer, at_least=0.0):
            raise CredentialRefused(f"its source answered {status} to the login")

    def _take(self, answer: Mapping[str, Any], *, at_least: float) -> bool:
        """Take over the token of a login or a renewal; whether there is one that lasts."""
        auth = answer.get("auth")
        token = auth.get("client_token") if isinstance(auth, dict) else None
        if not isinstance(auth, dict) or not isinstance(token, str) or not token or not token.isprintable():
            return False
        duration = auth.get("lease_duration")
        lasts_s = _INFINITE if duration == 0 else seconds(duration)
        if lasts_s is None or lasts_s < at_least:
            return False
        self._token, self._token_ends = token, time.monotonic() + lasts_s
        self._token_lasts = lasts_s if lasts_s != _INFINITE else 0.0
        return True

    async def _send(
        self, method: str, path: str, body: Mapping[str, Any] | None, token: str
    ) -> tuple[int, dict[str, Any]]:
        headers = {"X-Vault-Request": "true", "Accept": "application/json"}
        if token:
            headers["X-Vault-Token"] = token
        if self._namespace is not None:
            headers["X-Vault-Namespace"] = self._namespace
        content = None
        if body is not None:
            content, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        status, raw = await self._client.send(method, f"{self._url}/v1/{path}", headers=headers, body=content)
        return status, json_object(raw) if status == 200 and raw else {}
