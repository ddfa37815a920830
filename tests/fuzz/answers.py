"""What the gateway is answered: by tool servers, policy engines, stores and other services."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final, cast

import hiredis

from agentgate.adapters.containment._answers import verdict
from agentgate.adapters.containment._common import read_facts, shown
from agentgate.adapters.credentials import aws_sts
from agentgate.adapters.credentials._client import json_object, seconds
from agentgate.adapters.policy._http import Answer, Nonsense, Unreachable, _Connection
from agentgate.adapters.policy.opa import read_answer
from agentgate.adapters.timestamps.rfc3161 import Rfc3161Authority
from agentgate.adapters.upstreams._mcp.listing import EndlessList, read_list
from agentgate.adapters.upstreams._mcp.stdio import Lines, _message
from agentgate.core.amounts import Amounts
from agentgate.core.budget import Budget, Period
from agentgate.core.call import is_tool_name
from agentgate.core.decision import Decision, read_ruling
from agentgate.core.errors import TimestampUnavailable
from agentgate.core.pin import changes, pin_sha256
from agentgate.pipeline.tools.offers import Listing, read_listing
from agentgate.ports.containment import Admitted, Counted, Quota, RateLimit
from agentgate.ports.credentials import CredentialRefused
from tests.fuzz.target import finish, target

_LINE: Final = 4_096


# --- tool servers ---


@target(
    '{"jsonrpc":"2.0","id":1,"result":{"content":[]}}\n{"jsonrpc":"2.0","method":"notifications/x"}\n',
    '{"jsonrpc":"2.0","id":"7","error":{"code":-1,"message":"x"}}\n\n{"id":8,',
    '{"id":5,"jsonrpc":"2.0","id":6}\n[1]\n',
    b'{"a":"\xff"}\n' + b"x" * 5_000 + b'"id":9}\n',
)
def mcp_lines(raw: bytes) -> None:
    """What a server on stdio writes, in chunks of any size."""
    whole, split = Lines(_LINE), Lines(_LINE)
    try:
        found = list(whole.feed(raw))
        again = [line for at in range(0, len(raw), 7) for line in split.feed(raw[at : at + 7])]
    except OverflowError:
        return
    for one, other in zip(found, again, strict=True):
        assert type(one) is type(other) and (not isinstance(one, bytes) or one == other), "chunks change a line"
        _message(one, lambda kind: f"mark:{kind};")


@target(
    json.dumps([{"tools": [{"name": "a", "inputSchema": {"type": "object"}, "description": "x"}], "nextCursor": "2"}]),
    json.dumps([{"tools": [{"name": "a"}, {"name": "a"}, {"name": "\u202e"}, 1, {"name": 7}], "nextCursor": 5}]),
    json.dumps([{"tools": [{"name": "a", "inputSchema": {}, "_meta": {"x": 1e300}}], "nextCursor": ""}, {}]),
    '[{"tools":[{"name":"a","inputSchema":{},"x":"\\ud800"},{"name":"b","inputSchema":{},"y":99999999999999999999}]}]',
)
def mcp_listing(raw: bytes) -> None:
    """A server's list of tools, page by page, as the SDK's parser leaves it."""
    try:
        pages = json.loads(raw)
    except (ValueError, RecursionError):
        return
    given = iter([page for page in pages if isinstance(page, dict)] if isinstance(pages, list) else [])

    async def ask(_: Mapping[str, Any]) -> dict[str, Any]:
        return next(given, {})

    try:
        tools = finish(read_list("server", ask, lambda _: True))
    except EndlessList:
        return
    identity = {"name": "server"}
    for tool in tools:
        assert len(pin_sha256(identity, tool)) in (0, 64)
        changes(tool, {"name": "other"})
    for found in read_listing(Listing("server", identity, tools, {}), "server__").values():
        assert found.flaw or found.unpinned or is_tool_name(f"server__{found.tool}")


# --- policy engines ---

_JSON: Final = "application/json"


@target(
    '{"result":{"action":"ALLOW","reason":"x"},"provenance":{"bundles":{"agentgate":{"revision":"r"}}}}',
    '{"result":{"action":"REQUIRE_APPROVAL","reason":"x","approval":{"quorum":2,"expires_in_s":5},"obligations":[{"type":'
    '"redact"}],"credential_ttl":5,"est_cost":"1"},"provenance":{"bundles":{"agentgate":{"revision":"r"}}}}',
    '{"warning":{}}',
    '{"code":"x","message":"y"}',
    '{"result":[]}',
)
def opa_answer(raw: bytes) -> None:
    """A body from OPA: whatever is not a whole ruling refuses."""
    read_answer(Answer(500, _JSON, raw))
    decision = read_ruling(read_answer(Answer(200, _JSON, raw)))
    assert isinstance(decision, Decision)
    assert not decision.allowed or b"allow" in raw.replace(b"\\u00", b"").lower() or b"\\u" in raw, (
        "allowed without a word"
    )


class _Wire:
    """A transport that goes nowhere."""

    def write(self, _: bytes) -> None: ...

    def abort(self) -> None: ...


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


@target(
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n0\r\nA: b\r\n\r\n",
    b"HTTP/1.0 200 OK\r\n\r\nx",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
)
def opa_http(raw: bytes) -> None:
    """The bytes of OPA's connection, in two reads."""

    async def heard() -> None:
        connection = _Connection()
        connection.connection_made(cast("asyncio.BaseTransport", _Wire()))
        waiter = connection.ask(b"", 1_000)
        middle = len(raw) // 2
        connection.data_received(raw[:middle])
        connection.data_received(raw[middle:])
        connection.connection_lost(None)
        assert waiter.done()
        try:
            answer = await waiter
        except (Nonsense, Unreachable):
            return
        assert len(answer.body) <= 1_000

    _loop().run_until_complete(heard())


# --- the kill store ---

_LIMITS: Final = (RateLimit(5, 60), RateLimit(9, 60, Counted.AGENT))
_BUDGETS: Final = (Budget(Period.SESSION, Amounts(5, -1, -1), Amounts(3, -1, -1)), Budget(Period.DAY))
_QUOTAS: Final = (None, Quota(_LIMITS), Quota((), _BUDGETS[:1]), Quota(_LIMITS, _BUDGETS, wants_facts=True))


def _resp(value: Any) -> bytes:
    match value:
        case int():
            return b":%d\r\n" % value
        case str():
            return b"$%d\r\n%s\r\n" % (len(value), value.encode())
        case None:
            return b"$-1\r\n"
    return b"*%d\r\n" % len(value) + b"".join(map(_resp, value))


@target(
    _resp([0, 7, None, 0, 0]),
    _resp([0, 7, None, 2, 60_000_000, 2]),
    _resp([0, 7, None, 2, 60_000_000, 1, [1, 1, 3, 0], ["calls", "1", "bytes", "2", "cost", "3", "l/x", "1"]]),
    _resp([1, 7, "kill-1", 0, 0]),
    _resp([5, 7, None, 0, 0, [2, 19_000, "epoch"]]),
    _resp([4, 7, None, 0, 0, [1, 1, 5, 0]]),
    _resp([5, 7, None, 0, 0, [2, 19_000, 6]]),
    _resp(["calls", "1", "bytes", "2", "cost", "3", "n/t", "1", "a/t", "5"]),
    _resp([0, 7, None, 2, 60_000_000, 1, [1, 1, 3, 0], ["calls", 1, "bytes", 2, "cost", 3]]),
    b"-ERR x\r\n",
)
def redis_answer(raw: bytes) -> None:
    """Any bytes from Redis as what its script says of a call. But for arrays of millions: hiredis makes room for all
    that are announced, which takes seconds and is no finding of ours."""
    if re.search(rb"[*%~>|][0-9]{6}", raw):
        return
    reader = hiredis.Reader()
    try:
        reader.feed(raw)
        answer = reader.gets()
    except (hiredis.ProtocolError, TypeError):
        return
    for quota in _QUOTAS:
        found = verdict(answer, quota, 7)
        assert not isinstance(found, Admitted) or (isinstance(answer, list) and answer[0] == 0), "admitted by nothing"
    words = answer if isinstance(answer, list) and all(isinstance(one, bytes) for one in answer) else []
    fields = {
        name.decode("latin-1"): value.decode("latin-1") for name, value in zip(words[::2], words[1::2], strict=False)
    }
    for read in (lambda: read_facts(fields), lambda: shown("t-1", fields)):
        try:
            read()
        except (KeyError, TypeError, ValueError):
            continue


# --- other services ---

_KEYS: Final = (
    "<AssumeRoleResponse><AccessKeyId>A</AccessKeyId><SecretAccessKey>B</SecretAccessKey>"
    "<SessionToken>C</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></AssumeRoleResponse>"
)


@target(
    _KEYS,
    "<E><Code>AccessDenied</Code></E>",
    '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>',
    ('<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE x [<!ENTITY a "b">]>' + _KEYS.replace("A<", "&a;<")).encode(
        "utf-16"
    ),
    '{"expires_in":"60","access_token":"x"}',
    '{"expires_in":1e300}',
)
def credential_answer(raw: bytes) -> None:
    """What a token endpoint, Vault or AWS answers."""
    for status in (200, 403):
        try:
            issued = aws_sts._read("alias", status, raw)
        except CredentialRefused as why:
            assert str(why)
            continue
        assert all(issued.credential.values.values())
        assert b"!DOCTYPE" not in raw.replace(b"\0", b""), "declarations of its own"
    try:
        seconds(json_object(raw).get("expires_in"))
    except CredentialRefused as why:
        assert str(why)


class _Stamps(Rfc3161Authority):
    """Answers what it is given."""

    def __init__(self, reply: bytes) -> None:
        super().__init__("https://stamps.example")
        self._reply = reply

    async def _ask(self, request: bytes) -> bytes:
        return self._reply


@target(b"0\x05\x30\x03\x02\x01\x02", b"\x30\x80", hashlib.sha256(b"").digest())
def time_stamp(raw: bytes) -> None:
    """What a time stamp authority answers."""
    try:
        finish(_Stamps(raw).stamp(b"message"))
    except TimestampUnavailable as why:
        assert str(why)
        return
    raise AssertionError("a time stamp of nobody")
