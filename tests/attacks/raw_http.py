"""Requests that two readers may take for different things, byte by byte.

Each holds at most the calls of three sessions: `main-000`, which it is about, `next-000`, a whole request behind it on
the same connection, and `hide-000`, which is smuggled and must never run. Their digits are the case's own number.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final


def call(session: bytes) -> bytes:
    """The body of a call."""
    return b'{"session_id":"%b-000","tool_name":"rate_limited_tool","arguments":{}}' % session


MAIN: Final = call(b"main")
LINE: Final = b"POST /tools/call HTTP/1.1"
_LENGTH: Final = b"Content-Length: %d" % len(MAIN)
_CHUNKED: Final = b"Transfer-Encoding: chunked"


def request(line: bytes = LINE, *more: bytes, body: bytes = MAIN, host: bytes | None = b"localhost") -> bytes:
    """A request of JSON with exactly these lines besides `Host` and `Content-Type`."""
    given = [line, *([b"Host: " + host] if host is not None else []), b"Content-Type: application/json", *more]
    return b"\r\n".join([*given, b"", b""]) + body


def plain(session: bytes, line: bytes = LINE) -> bytes:
    """A request that everybody reads alike."""
    body = call(session)
    return request(line, b"Content-Length: %d" % len(body), body=body)


def chunks(*parts: bytes, extension: bytes = b"", last: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in parts) + last


NEXT: Final = plain(b"next")
HIDDEN: Final = plain(b"hide")
_HIDDEN_CHUNK: Final = chunks(MAIN) + HIDDEN


@dataclass(frozen=True, slots=True)
class Raw:
    """What is sent, which of its calls may run, and what is answered."""

    name: str
    sent: tuple[bytes, ...]
    """In pieces: there is a pause before each but the first."""
    runs: frozenset[str] = frozenset()
    told: tuple[int, ...] = (400,)
    pause_s: float = 0.0
    half_close: bool = False
    """Whether the client says at the end that nothing more comes."""
    open: bool = field(default=False)
    """Whether the connection may go on: the request was whole, and refused or run for what it says."""


_M: Final = frozenset({"main"})
_MN: Final = frozenset({"main", "next"})


def _one(name: str, sent: bytes, told: int = 200, *, open: bool = True) -> Raw:
    """Whole, and run once."""
    return Raw(name, (sent,), _M, (told,), open=open)


def _no(name: str, sent: bytes, *told: int, open: bool = False) -> Raw:
    """Refused, and over: 400 unless told otherwise."""
    return Raw(name, (sent,), told=told or (400,), open=open)


def _lengths() -> Iterator[Raw]:
    two = b"Content-Length: %d" % (len(MAIN) + len(HIDDEN))
    yield _no("CL.TE", request(LINE, b"Content-Length: %d" % len(_HIDDEN_CHUNK), _CHUNKED, body=_HIDDEN_CHUNK))
    yield _no("TE.CL", request(LINE, _CHUNKED, b"Content-Length: 4", body=_HIDDEN_CHUNK))
    yield _no("CL.CL the same", request(LINE, _LENGTH, _LENGTH) + NEXT)
    yield _no("CL.CL the longer last", request(LINE, _LENGTH, two) + HIDDEN)
    yield _no("CL.CL the shorter last", request(LINE, two, _LENGTH) + HIDDEN)
    yield _no("CL a list", request(LINE, b"Content-Length: %d, %d" % (len(MAIN), len(MAIN))))
    yield _no("CL with a plus", request(LINE, b"Content-Length: +%d" % len(MAIN)))
    yield _no("CL negative", request(LINE, b"Content-Length: -1") + HIDDEN)
    yield _no("CL in hexadecimals", request(LINE, b"Content-Length: 0x%x" % len(MAIN)))
    yield _no("CL around 2^64", request(LINE, b"Content-Length: %d" % (2**64 + len(MAIN))) + HIDDEN)
    yield _no("CL empty", request(LINE, b"Content-Length:") + HIDDEN)
    yield _no("CL with a space before the colon", request(LINE, b"Content-Length : 5", body=MAIN))
    yield _no("CL folded", request(LINE, b"Content-Length:\r\n %d" % len(MAIN)))
    yield _one("CL with a leading zero", request(LINE, b"Content-Length: 0%d" % len(MAIN)))
    yield _no("CL too short", request(LINE, b"Content-Length: 5") + NEXT)
    yield _no("no CL, a body", request(LINE))
    for name, value in {
        "identity": b"identity",
        "xchunked": b"xchunked",
        "chunked, identity": b"chunked, identity",
        "gzip, chunked": b"gzip, chunked",
        "quoted": b'"chunked"',
        "a vertical tab": b"\x0bchunked",
        "a semicolon": b"chunked;",
        "chunked twice": b"chunked, chunked",
    }.items():
        yield _no(f"TE {name}", request(LINE, b"Transfer-Encoding: " + value, body=_HIDDEN_CHUNK))
    yield _no("TE.TE", request(LINE, _CHUNKED, b"Transfer-Encoding: cow", body=_HIDDEN_CHUNK))
    yield _no("TE with a space before the colon", request(LINE, b"Transfer-Encoding : chunked", body=_HIDDEN_CHUNK))
    yield _no("TE folded", request(LINE, b"Transfer-Encoding:\r\n chunked", body=_HIDDEN_CHUNK))
    yield _no("TE in HTTP/1.0", request(b"POST /tools/call HTTP/1.0", _CHUNKED, body=_HIDDEN_CHUNK))
    yield _one("TE in capitals", request(LINE, b"Transfer-Encoding: CHUNKED", body=chunks(MAIN)))
    yield _one("TE with an underscore and CL", request(LINE, b"Transfer_Encoding: chunked", _LENGTH))


def _chunks() -> Iterator[Raw]:
    small = (*(bytes([one]) for one in MAIN[:15]), MAIN[15:23], *(bytes([one]) for one in MAIN[23:]))
    yield _one("chunks of one byte", request(LINE, _CHUNKED, body=chunks(*small)))
    yield _one("a chunk extension", request(LINE, _CHUNKED, body=chunks(MAIN, extension=b';a="b"')))
    yield _one("trailers", request(LINE, _CHUNKED, body=chunks(MAIN, last=b"0\r\nHost: evil\r\nX-API-Key: x\r\n\r\n")))
    for name, body in {
        "a line feed in an extension": chunks(MAIN, extension=b";a\n0\r\n\r\n"),
        "a line feed alone after the size": b"%x\n%b\r\n0\r\n\r\n" % (len(MAIN), MAIN),
        "a size in 0x": b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(MAIN), MAIN),
        "a size beyond 2^64": b"1%016x\r\n%b\r\n0\r\n\r\n" % (len(MAIN), MAIN),
        "a negative size": b"-1\r\n%b\r\n0\r\n\r\n" % MAIN,
        "a size with a space": b"%x \r\n%b\r\n0\r\n\r\n" % (len(MAIN), MAIN),
        "a chunk longer than it says": b"%x\r\n%bXX0\r\n\r\n" % (len(MAIN), MAIN),
        "no size at all": b"\r\n%b\r\n0\r\n\r\n" % MAIN,
        "a smuggled head in a trailer": chunks(MAIN, last=b"0\r\n" + HIDDEN),
    }.items():
        yield _no(name, request(LINE, _CHUNKED, body=body))


def _lines() -> Iterator[Raw]:
    yield _no("line feeds alone", plain(b"main").replace(b"\r\n", b"\n"))
    yield _no("a carriage return in a value", request(LINE, _LENGTH, b"X-A: a\rX-API-Key: b"))
    yield _no("a line feed in a value", request(LINE, _LENGTH, b"X-A: a\nX-API-Key: b"))
    yield _no("a folded field", request(LINE, _LENGTH, b"X-A: a\r\n b"))
    yield _no("a space before the first field", plain(b"main").replace(b"\r\nHost", b"\r\n Host", 1))
    yield _no("a NUL in a value", request(LINE, _LENGTH, b"X-A: a\0b"))
    yield _no("a NUL in a name", request(LINE, _LENGTH, b"X\0-A: b"))
    yield _no("a field without a colon", request(LINE, _LENGTH, b"Nonsense"))
    yield _no("a field without a name", request(LINE, _LENGTH, b": x"))
    yield _one("high bytes in a value", request(LINE, _LENGTH, b"X-A: \xff\xfe"))
    yield _one("empty lines first", b"\r\n\r\n" + plain(b"main"))
    yield _no("another protocol", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    yield _no("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN)
    for version, status in (
        (b"HTTP/0.9", 505),
        (b"HTTP/2.0", 505),
        (b"HTTP/1.2", 400),
        (b"HTTP/1", 400),
        (b"http/1.1", 400),
    ):
        yield _no(f"as {version.decode()}", plain(b"main", b"POST /tools/call " + version), status)
    yield _one("as HTTP/1.0", plain(b"main", b"POST /tools/call HTTP/1.0"), open=False)
    yield Raw("as HTTP/1.0, and one more", (plain(b"main", b"POST /tools/call HTTP/1.0") + NEXT,), _M, (200,))
    for method in (b"post", b"FOO", b"P\0ST", b"POST\t"):
        yield _no(f"method {method!r}", plain(b"main", method + b" /tools/call HTTP/1.1"))
    yield _no("method PURGE", plain(b"main", b"PURGE /tools/call HTTP/1.1"), 405, open=True)
    yield _no("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n" + HIDDEN)
    yield _no("a long line", b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431)
    yield _no("a long field", request(LINE, _LENGTH, b"X-A: " + b"a" * 200_000), 431)
    yield _no("many fields", request(LINE, _LENGTH, *(b"X-%d: a" % number for number in range(200))), 431)


def _targets() -> Iterator[Raw]:
    def to(target: bytes) -> bytes:
        return plain(b"main", b"POST " + target + b" HTTP/1.1")

    yield _one("a URL of the same host", to(b"http://localhost/tools/call"))
    for target in (b"http://evil.example/tools/call", b"http://localhost@evil.example/tools/call", b"localhost:80"):
        yield _no(f"target {target.decode()}", to(target))
    for target in (b"/tools/call#x", b"\\tools\\call", b"/tools/call\xff", b"ftp://localhost/tools/call"):
        yield _no(f"target {target!r}", to(target))
    hot = "/tools%2Fcall /tools/c%61ll /tools/%2e%2e/tools/call /tools/call%00 /tools/call% //tools/call /tools/call;x"
    hot += " /x/../tools/call /./tools/call /tools/call/. //evil.example/tools/call /tools//call /tools/call%zz"
    control = "/k%69lls //kills /system%2Fpause /system/./pause /sessions/x/../main-000/kill /sessions/main-000%2fkill"
    for target in f"{hot} {control} /sessions/main-000/kill/.. /approvals/..%5Cx/approve".encode().split():
        yield _no(f"path {target.decode()}", to(target), 404, open=True)
    yield _one("a line end in the query", to(b"/tools/call?a=%0d%0aX-API-Key:%20x"))
    yield _no("two hosts", request(LINE, _LENGTH, b"Host: evil.example"))
    yield _no("no host", request(LINE, _LENGTH, host=None), 421, open=True)


def _orders() -> Iterator[Raw]:
    close = request(LINE, _LENGTH, b"Connection: close")
    get = request(b"GET /tools/list HTTP/1.1", b"Content-Length: %d" % len(HIDDEN), body=HIDDEN)
    yield Raw("two in one", (plain(b"main") + NEXT,), _MN, (200, 200), open=True)
    yield Raw("one behind the last", (close + HIDDEN,), _M, (200,))
    yield Raw("rubbish behind one", (plain(b"main") + b"\0\0\0\0",), _M, (200,))
    yield Raw("a head that is broken behind one", (plain(b"main") + LINE + b"\r\nX\r\n\r\n",), _M, (200,))
    yield Raw("a request in the body of a GET", (get + NEXT,), frozenset({"next"}), (200, 200), open=True)
    yield _one("Expect", request(LINE, _LENGTH, b"Expect: 100-continue"))
    yield _no("Upgrade with a body", request(LINE, _LENGTH, b"Connection: upgrade", b"Upgrade: h2c") + HIDDEN)
    up = request(b"GET /tools/list HTTP/1.1", b"Connection: upgrade", b"Upgrade: websocket", body=b"")
    yield Raw("Upgrade without one", (up + HIDDEN,), told=(200,))


def _slow() -> Iterator[Raw]:
    late = 3.0
    yield Raw("nothing at all", (b"",), told=())
    yield Raw("a head that never ends", (LINE + b"\r\nHost: localhost\r\n", b"X-A: b\r\n"), told=(408,), pause_s=late)
    yield Raw("a line that never ends", (b"GET /health\r\n",), told=(408,))
    yield Raw("a body that never comes", (request(LINE, _LENGTH, body=b""), MAIN), told=(408,), pause_s=late)
    yield Raw(
        "a body that drips",
        (request(LINE, _LENGTH, body=b""), *(MAIN[at : at + 1] for at in range(40))),
        told=(408,),
        pause_s=0.05,
    )
    yield Raw("a chunk that never ends", (request(LINE, _CHUNKED, body=b"ff\r\n{"),), told=(408,))
    yield Raw("a call, then half of one", (plain(b"main") + HIDDEN[:60],), _M, (200, 408))
    yield Raw("in two pieces", (plain(b"main")[:40], plain(b"main")[40:]), _M, (200,), pause_s=0.1, open=True)
    large = request(LINE, b"Content-Length: 200000", body=b" " * (200_000 - len(MAIN)) + MAIN)
    yield Raw(
        "a large one, and the next in pieces", (large + NEXT[:40], NEXT[40:]), _MN, (200, 200), pause_s=0.1, open=True
    )
    yield Raw("half closed in the body", (HIDDEN[:-5],), told=(), half_close=True)
    yield Raw("half closed in the head", (HIDDEN[:30],), told=(), half_close=True)


CASES: Final = (*_lengths(), *_chunks(), *_lines(), *_targets(), *_orders(), *_slow())
