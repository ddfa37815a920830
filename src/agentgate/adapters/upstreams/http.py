"""Upstream kind `http`: tools that are requests to one HTTP service.

The upstream fixes scheme, host and base path, the tool's options say which argument goes where
(`_http_route.py`), and nothing that an agent sends changes more than the value at such a place.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

import aiohttp
from yarl import URL

from agentgate.adapters.upstreams._answers import CLOSED, NO_GRANT, Misfit
from agentgate.adapters.upstreams._http_exchange import Incoming, Outgoing, exchange, open_session
from agentgate.adapters.upstreams._http_inject import read_injection, read_url
from agentgate.adapters.upstreams._http_route import Route, read_route
from agentgate.core.call import Access, Call, Digest, Tool
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.ports.upstreams import Credential, Delivered, Undelivered

_MISSING: Final = object()
_INDEX: Final = re.compile("0|[1-9][0-9]{0,8}")
"""An array index in a JSON pointer (RFC 6901 §4)."""


class HttpUpstream:
    """Implements `Upstream`. A tool's options are refused by `validate_options` before the first call.

    Args:
        base_url: `https://host[:port][/path]`; plain http only to loopback, unless `insecure`.
        timeout_s: deadline of one request, from connecting to the answer's last byte.
        max_response_bytes: of the decoded answer; reading stops there and the connection is closed.
        insecure: allow plain http to any host. Credentials then travel readable.
        inject: how a credential is sent: `{kind: bearer}` (default), `{kind: header, name, prefix?}`,
            `{kind: basic, username?}` (without one the credential has both, or is `user:password`), `{kind: query,
            name}`, or as AWS's signature: `{kind: sigv4, region, service}`.
        max_connections: of the keep-alive pool; further calls wait within their deadline.
        tls: trust other certificates than the system's.

    Raises:
        ValueError: with a sentence that names the setting.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout_s: float = 10.0,
        max_response_bytes: int = 1 << 20,
        insecure: bool = False,
        inject: Mapping[str, Any] | None = None,
        max_connections: int = 100,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._base = _read_base_url(base_url, insecure=insecure)
        if timeout_s <= 0 or max_response_bytes < 1 or max_connections < 1:
            raise ValueError("timeout_s, max_response_bytes and max_connections must be above zero")
        self._timeout_s = timeout_s
        self._max_response_bytes = max_response_bytes
        self._injection = read_injection(inject)
        self._sign = _load_signer() if self._injection.into == "signature" else None
        self._max_connections = max_connections
        self._tls = tls
        self._routes: dict[Digest, Route] = {}
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    def validate_options(self, options: Mapping[str, Any]) -> None:
        """Refuse a tool's options that make no request.

        Raises:
            ValueError: with a sentence that names the option.
        """
        self._compile(options)

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        """See `Upstream.send`. 2xx is delivered; any other status is UPSTREAM_ERROR with that status."""
        if type(grant) is not Grant:
            return NO_GRANT
        tool = grant.call.tool
        if tool is None or self._closed:
            return CLOSED
        try:
            route = self._route(tool)
            request = self._request(grant.call, tool, route, credential)
        except Misfit as misfit:
            return Undelivered(ReasonCode.ARGUMENTS_INVALID, str(misfit), reached=False)
        except ValueError as error:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the tool's options are wrong: {error}", reached=False)
        if isinstance(request, Undelivered):
            return request
        answer = await exchange(self._open(), request)
        return _read_answer(route, answer) if isinstance(answer, Incoming) else answer

    async def aclose(self) -> None:
        self._closed = True
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:  # not in __init__: a session belongs to the running loop
            self._session = open_session(max_connections=self._max_connections, tls=self._tls)
        return self._session

    def _compile(self, options: Mapping[str, Any]) -> Route:
        injection = self._injection
        return read_route(
            options,
            taken_header=injection.name if injection.into != "query" else "",
            taken_query=injection.name if injection.into == "query" else "",
        )

    def _route(self, tool: Tool) -> Route:
        route = self._routes.get(tool.definition_sha256)
        if route is None:
            route = self._routes[tool.definition_sha256] = self._compile(tool.options)
        return route

    def _request(self, call: Call, tool: Tool, route: Route, credential: Credential | None) -> Outgoing | Undelivered:
        headers = {"Accept": "application/json", **route.header_values(call.arguments)}
        pairs = route.query_pairs(call.arguments)
        if credential is not None and self._sign is None:
            secret = self._injection.of(credential)
            if secret is None:
                detail = f"the credential {credential.alias} has characters that cannot be sent"
                return Undelivered(ReasonCode.CREDENTIAL_UNAVAILABLE, detail, reached=False)
            if self._injection.into == "header":
                headers[self._injection.name] = secret
            else:
                pairs.append((self._injection.name, secret))
        content = route.body_bytes(call.arguments)
        if content is not None:
            headers.setdefault("Content-Type", content[0])
        query = "?" + urlencode(pairs, quote_via=quote) if pairs else ""
        url, body = URL(self._base + route.path(call.arguments) + query, encoded=True), content and content[1]
        if credential is not None and self._sign is not None:
            with_signature = self._sign(route.method, url, headers, body, credential, self._injection)
            if with_signature is None:
                detail = f"the credential {credential.alias} cannot sign a request"
                return Undelivered(ReasonCode.CREDENTIAL_UNAVAILABLE, detail, reached=False)
            headers = with_signature
        return Outgoing(
            method=route.method,
            url=url,
            headers=headers,
            body=body,
            timeout_s=route.timeout_s or self._timeout_s,
            max_response_bytes=route.max_response_bytes or self._max_response_bytes,
            repeatable=tool.access is Access.READ and route.method in ("GET", "HEAD"),
        )


def _load_signer() -> Callable[..., dict[str, str] | None]:
    """Before the first call: one that finds no file descriptor left for a library would be cut by that."""
    from agentgate.adapters.upstreams._http_sigv4 import signed  # AWS's library is for who has such an upstream

    return signed


def _read_base_url(base_url: str, *, insecure: bool) -> str:
    """`base_url` without its trailing slash."""
    parts = read_url("base_url", base_url, insecure=insecure)
    if "?" in base_url:
        raise ValueError("base_url must not have a query; name a credential instead")
    if any(segment in (".", "..") for segment in unquote(parts.path).split("/")):
        raise ValueError("base_url must not have . or .. in its path")
    return base_url.rstrip("/")


def _read_answer(route: Route, answer: Incoming) -> Delivered | Undelivered:
    status = answer.status
    if not 200 <= status < 300:
        note = " (redirects are not followed)" if 300 <= status < 400 else ""
        return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the upstream answered {status}{note}", status=status)
    value = _json_or_missing(answer.body) if route.result != "text" else _MISSING
    if isinstance(route.result, tuple):
        value = _pointed(value, route.result)
        if value is _MISSING:
            detail = "the answer has nothing at the declared result path"
            return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, status=status)
    elif value is _MISSING:
        value = {"status": status, "text": answer.body.decode(errors="replace")}
    return Delivered(value, status)


def _json_or_missing(body: bytes) -> Any:
    """Strictly parsed; what is JSON to one reader only (a duplicate name, NaN) is text to us."""
    try:
        return parse(body)
    except NotStrictJson:
        return _MISSING


def _pointed(value: Any, tokens: tuple[str, ...]) -> Any:
    """What a JSON pointer (RFC 6901) names in `value`, or `_MISSING`."""
    for token in tokens:
        if isinstance(value, dict):
            value = value.get(token, _MISSING)
        elif isinstance(value, list) and _INDEX.fullmatch(token) and int(token) < len(value):
            value = value[int(token)]
        else:
            return _MISSING
    return value
