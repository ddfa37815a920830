"""What callers and proxies send: bodies, headers, names, arguments, certificates."""

from __future__ import annotations

import base64
import json
from functools import cache
from typing import Any, Final

from agentgate.adapters.certificates._headers import READERS
from agentgate.adapters.certificates._names import NoCertificate
from agentgate.adapters.detectors.known import KnownData
from agentgate.adapters.parsers.arguments import SQL_DIALECTS, ArgumentParsers
from agentgate.core.call import Call, KnownKey, Role, is_id, is_tool_name, key_sha256
from agentgate.core.errors import ReasonCode
from agentgate.core.query import Query
from agentgate.core.redaction.redactor import FAILED, Redactor
from agentgate.core.strict_json import NotStrictJson, canonical, parse
from agentgate.edges import idempotency, prefer
from agentgate.edges._mcp.message import Reader, Unserved, request_id_of
from agentgate.edges.caller import ADMIN, Caller, Callers, Keyring
from agentgate.edges.envelope import EnvelopeDoor, Rules
from agentgate.edges.intake import Intake
from agentgate.edges.problem import Problem
from agentgate.edges.tools import ToolsDoor
from agentgate.edges.wire import Receive, Request, is_traceparent
from agentgate.pipeline.records.audit import Span, _cursor, _place
from tests.fakes import AtOnce, FakeClock, FakeEntropy, principal
from tests.fuzz.target import finish, target, text_of

_NAME_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:@-")
_MAX_BYTES: Final = 1 << 20
_TAKEN: Final = "taken"


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len({name for name, _ in pairs}) == len(pairs), "a name twice"
    return dict(pairs)


@target(
    b'{"a":[1,-0.5,"\\ud83d\\ude00",null,true,{}],"b":1e21}',
    b'{"a":1,"\\u0061":2}',
    b"[[[[1e400]]]]",
    b'"\xed\xa0\x80"',
    b"\xef\xbb\xbf{}",
)
def strict_json(raw: bytes) -> None:
    try:
        value = parse(raw)
    except NotStrictJson:
        return
    written = canonical(value)
    assert parse(written) == value
    assert canonical(parse(written)) == written
    assert json.loads(raw, object_pairs_hook=_once) == value, "two readers, two values"


@target("agent-1", "a.b:c@d", "..", "a..b", "\u212aelvin", "a\n", "\u0661", "00-" + "1" * 32 + "-" + "2" * 16 + "-00")
def names(raw: bytes) -> None:
    text = text_of(raw)
    if is_id(text):
        assert set(raw) <= _NAME_BYTES and raw[:1].isalnum() and len(raw) <= 256
    if is_tool_name(text):
        assert set(raw) <= _NAME_BYTES - set(b":@") and b".." not in raw and len(raw) <= 128
    if is_traceparent(text):
        assert raw.isascii() and len(raw) == 55


# --- doors ---


class _Gate:
    """Takes every call whose names are names."""

    async def pass_through(self, call: Call, _foreign: Any = None) -> Any:
        assert is_id(call.session) and is_tool_name(call.tool_name)
        canonical({"arguments": call.arguments, "context": call.context})
        raise Problem(422, ReasonCode.INVALID_REQUEST, _TAKEN)


class _Nobody:
    """Refuses nobody for having been refused often."""

    def is_over(self, _: Any) -> bool:
        return False

    def refused(self, _: Any) -> None: ...


def _request(body: bytes, headers: dict[bytes, bytes] | None = None) -> tuple[Request, Receive]:
    told = {b"content-type": b"application/json", **(headers or {})}
    scope = {"type": "http", "method": "POST", "path": "/", "headers": list(told.items()), "client": ("127.0.0.1", 1)}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, told, b"c"), receive


@cache
def _callers() -> Callers:
    return Callers(_keyring())


@cache
def _keyring() -> Keyring:
    """`secret-1` is the agent bot's; `secret-ä` is, too."""
    bot = principal("bot", Role.AGENT)
    known = [KnownKey(key_sha256(secret), bot) for secret in ("secret-1", "secret-ä")]
    return Keyring(known, admin_key="the-admin-key", now=FakeClock().now)


@cache
def _doors() -> tuple[ToolsDoor, EnvelopeDoor]:
    gate: Any = _Gate()
    nobody: Any = _Nobody()
    unused: Any = None
    callers = Callers(Keyring((), admin_key="the-admin-key", now=FakeClock().now))
    intake = Intake(FakeEntropy(), AtOnce(), b"", _MAX_BYTES)
    tools = ToolsDoor(
        gate=gate, tools={}, callers=callers, policy=unused, approvals=unused, refusals=nobody, intake=intake
    )
    envelopes = EnvelopeDoor(
        gate=gate,
        tools={},
        callers=callers,
        keyring=_keyring(),
        verifier=None,
        refusals=nobody,
        intake=intake,
        meter=unused,
        rules=Rules(mode="optional"),
    )
    return tools, envelopes


@target('{"session_id":"s","tool_name":"t","arguments":{"a":[1]},"context":{},"approval_token":"x"}', "[]", '{"x":1}')
def tools_call(raw: bytes) -> None:
    try:
        finish(_doors()[0].call(*_request(raw)))
    except Problem as problem:
        problem.body()


@target(
    '{"agent_id":"local","agent_version":"1","request_id":"r-1","tool":"t","arguments":{},"session_id":"s",'
    '"context":{"a":1}}',
    '{"agent_id":"local"}',
)
def envelope_call(raw: bytes) -> None:
    try:
        finish(_doors()[1].call(*_request(raw)))
    except Problem as problem:
        problem.body()


@target('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"t","arguments":{}}}', "[{}]", '{"id":[1]}')
def mcp_message(raw: bytes) -> None:
    try:
        _, message = finish(Reader(AtOnce(), _MAX_BYTES).read(*_request(raw)))
        request_id_of(message)
    except Unserved as unserved:
        unserved.body()


@target("Bearer secret-1\nsecret-1", "bearer  the-admin-key", "\nsecret-1", "Basic x", "Bearer secret-ä", "Bearer a\nb")
def credentials(raw: bytes) -> None:
    """`Authorization` and `X-API-Key`, in two lines."""
    bearer, _, named = raw.partition(b"\n")
    given = {b"authorization": bearer, b"x-api-key": named}
    headers = {name: value for name, value in given.items() if value}
    for role in (Role.AGENT, Role.ADMIN):
        try:
            found = _found(headers, role)
        except Problem as problem:
            problem.body()
            continue
        secrets = ["the-admin-key"] if found.principal == ADMIN else ["secret-1", "secret-ä"]
        said = {value.split(None, 1)[-1].strip() for value in headers.values()}
        known = {secret.encode(code) for secret in secrets for code in ("utf-8", "latin-1")}
        assert len(said) == 1 and said <= known, "somebody without a key"
        assert role is Role.AGENT or found.principal == ADMIN


def _found(headers: dict[bytes, bytes], role: Role) -> Caller:
    if role is Role.AGENT:
        return finish(_callers().caller(headers, "127.0.0.1"))
    return Caller(finish(_callers().person(headers, "127.0.0.1", role)))


@target("wait=20, respond-async", 'WAIT="9";x=1,wait=3', "k-1\n", 'wait=0\n"k \\" 1"', "a\n'", '\n"', "wait=999999999")
def preferences(raw: bytes) -> None:
    """`Prefer` and `Idempotency-Key`, in two lines."""
    said, _, key = raw.partition(b"\n")
    found = prefer.read({b"prefer": said})
    assert found.wait_s is None or 0 < found.wait_s <= prefer.MOST_WAITED_S
    try:
        name = idempotency.of_header({b"idempotency-key": key})
    except Problem as problem:
        assert problem.status == 400
        return
    assert name is not None and name.isascii() and name.isprintable() and 0 < len(name) <= 255


# --- certificates ---

_CLIENT_CERT: Final = (
    ":MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVk"
    "aWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8Y"
    "nXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNV"
    "HSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYm"
    "RjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5Xa"
    "rmPk0wmuydBVoU4hBVZ1yhk=:"
)
"""RFC 9440, appendix A."""


def _certificate(header: str, raw: bytes) -> None:
    try:
        found = READERS[header](raw.decode("latin-1"))
    except NoCertificate as why:
        assert str(why)
        return
    assert found.common_name is None or isinstance(found.common_name, str)


_OF_NO_VERSION: Final = base64.b64encode(base64.b64decode(_CLIENT_CERT[1:-1]).replace(b"\2\1\2", b"\2\1\x6a", 1))


@target(_CLIENT_CERT, b":%b:" % _OF_NO_VERSION, "::", ":AAAA:")
def client_cert(raw: bytes) -> None:
    _certificate("Client-Cert", raw)


@target("CN=bot,O=Example", "CN=a+OU=b,DC=x", "2.5.4.3=#0c0161", "CN=\\2c\\ ", "emailAddress=a@b")
def subject_dn(raw: bytes) -> None:
    _certificate("X-SSL-Client-S-DN", raw)


@target(
    'By=spiffe://x;Hash=ab;Subject="CN=bot,O=\\"x\\"";URI=spiffe://x/bot;DNS=bot.example',
    "URI=a,URI=b",
    'Subject="CN=a\\\\"',
    "Cert=-----BEGIN%20CERTIFICATE-----%0A-----END%20CERTIFICATE-----",
)
def xfcc(raw: bytes) -> None:
    _certificate("X-Forwarded-Client-Cert", raw)


# --- arguments ---


@cache
def _parsers() -> ArgumentParsers:
    found = ArgumentParsers()
    found.prepare(["shell", "path", "url", "domain", *(f"sql:{dialect}" for dialect in SQL_DIALECTS)])
    return found


def _argument(kind: str, raw: bytes) -> None:
    text = raw.decode("utf-8", errors="replace")  # arguments are strict JSON, which has no lone surrogates
    canonical(dict(_parsers().parse(kind, text)))


_SQL: Final = (
    "SELECT a, count(*) FROM t JOIN u USING (id) WHERE x = 'y''z' -- c\n",
    "WITH q AS (SELECT 1) INSERT INTO t SELECT * FROM q; DROP TABLE t",
    "select /*! 1 */ 1 into outfile '/x'",
    "UPDATE t SET a=E'\\'' WHERE $$x$$ = $q$y$q$",
)


@target(*_SQL)
def sql_mysql(raw: bytes) -> None:
    _argument("sql:mysql", raw)


@target(*_SQL)
def sql_postgres(raw: bytes) -> None:
    _argument("sql:postgres", raw)


@target(*_SQL)
def sql_sqlite(raw: bytes) -> None:
    _argument("sql:sqlite", raw)


@target("ls -l | grep 'a b' > /tmp/x && rm -rf $(cat y) `z`", "a=1 env b <<EOF\nx\nEOF\n", "$'\\x41' ${a:-b} <(c)")
def shell(raw: bytes) -> None:
    _argument("shell", raw)


@target(
    "https://user:p@example.org:8443/a?b#c", "http://[::1]/", "http://xn--nxasmq6b/", "../a/./b", "/etc/passwd", "ß.de"
)
def addresses(raw: bytes) -> None:
    """URLs, host names and paths."""
    for kind in ("url", "domain", "path"):
        _argument(kind, raw)


# --- cursors ---

_QUERY: Final = Query(tenant="default", session="s-1")
_SPAN: Final = Span(limit=10)


@target(_cursor(7, _QUERY, _SPAN), _cursor(7, Query(tenant="b"), _SPAN), "=", "é", "A" * 64)
def cursor(raw: bytes) -> None:
    text = text_of(raw)
    place = _place(text, _QUERY, _SPAN)
    assert place is None or _cursor(place, _QUERY, _SPAN) == text


# --- redaction ---

_SECRET: Final = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"


@cache
def _redactor() -> Redactor:
    return Redactor(detectors=[KnownData()])


@target(
    json.dumps({"password": _SECRET, "note": "ann@example.org 4111 1111 1111 1111"}),
    json.dumps({"a": json.dumps({"token": _SECRET})}),
    json.dumps(["aHR0cHM6Ly91c2VyOnBhc3NAZXhhbXBsZS5vcmc=", "%70assword=x", "\\u0070"]),
)
def redaction(raw: bytes) -> None:
    try:
        value = parse(raw)
    except NotStrictJson:
        return
    clean = _redactor().json(canonical({"password": _SECRET, "value": value}))
    parse(clean)
    assert clean != FAILED, "a detector failed"
    assert json.dumps(_SECRET).encode() not in clean
    _redactor().classes(canonical(value))
