from __future__ import annotations

import asyncio
import fcntl
import os
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agentgate.adapters.policy._bundle import SharedShelf, render
from agentgate.adapters.policy._compile import OpaCompiler
from agentgate.adapters.policy._http import MAX_BODY_BYTES, parse_url
from agentgate.adapters.policy.opa import OpaPolicyEngine, Waits
from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.errors import PolicyExternal, PolicyInvalid, PolicyNotEnforced, PolicyOvertaken, ReasonCode
from agentgate.core.policy import PolicyBundle
from tests.certificates import self_signed
from tests.contracts.policy_engine import BROKEN, ECHO, PolicyEngineContract, in_policy, needs_opa, question, shipped
from tests.opa_server import OPA, OpaServer, Shelf
from tests.vectors import builtins, decisions

READ = question(decisions.ask("db_query"))
PATIENT = Waits(query_s=5.0)
"""For tests of what is answered, not when: the machine that runs them may be busy."""


@pytest.fixture(scope="module")
def shelf() -> Iterator[Shelf]:
    shelf = Shelf()
    yield shelf
    shelf.close()


@pytest.fixture(scope="module")
def server(shelf: Shelf) -> Iterator[OpaServer]:
    with OpaServer(shelf=shelf) as server:
        yield server


@pytest.fixture
async def bare(server: OpaServer, shelf: Shelf) -> AsyncIterator[OpaPolicyEngine]:
    """An engine that has published nothing yet, on an OPA that may still have another test's bundle."""
    engine = OpaPolicyEngine(server.url, waits=PATIENT, on_publish=shelf.announce)
    shelf.show(lambda: engine.published)
    yield engine
    await engine.aclose()


@pytest.fixture
async def engine(bare: OpaPolicyEngine) -> OpaPolicyEngine:
    await bare.enforce(await shipped())
    return bare


@pytest.fixture
async def echo(bare: OpaPolicyEngine) -> OpaPolicyEngine:
    await bare.enforce(PolicyBundle({"echo.rego": ECHO.encode()}, {}, None))
    return bare


@pytest.fixture
async def builtin_engine(bare: OpaPolicyEngine) -> OpaPolicyEngine:
    await bare.enforce(PolicyBundle({"builtins.rego": builtins.POLICY.encode()}, {}, None))
    return bare


@needs_opa
class TestOpa(PolicyEngineContract):
    """The contract, against a real OPA server over its unix socket."""


# --- a real OPA, in trouble ---------------------------------------------------------------------------------


def _reason(answer: Ruling | NoRuling) -> ReasonCode:
    assert isinstance(answer, NoRuling), answer
    return answer.reason


@needs_opa
async def test_stopped_hung_and_restarted_without_a_new_client() -> None:
    shelf = Shelf()
    with OpaServer(shelf=shelf) as server:
        engine = OpaPolicyEngine(server.url, on_publish=shelf.announce)
        shelf.show(lambda: engine.published)
        await engine.enforce(await shipped())
        assert isinstance(await engine.query("decision", READ), Ruling)
        server.pause()
        assert _reason(await engine.query("decision", READ)) is ReasonCode.POLICY_TIMEOUT
        server.resume()
        assert isinstance(await _until_ruling(engine), Ruling)
        server.stop()
        assert _reason(await engine.query("decision", READ)) is ReasonCode.POLICY_UNAVAILABLE
        assert await engine.revision() is None
        server.start()
        assert await _until_ruling(engine) == Ruling(decisions.READ, (await shipped()).revision)
        await engine.aclose()
    shelf.close()


async def _until_ruling(engine: OpaPolicyEngine) -> Ruling:
    async with asyncio.timeout(10):
        while True:
            answer = await engine.query("decision", READ)
            if isinstance(answer, Ruling):
                return answer
            await asyncio.sleep(0.05)  # OPA loads its bundle when it likes


@needs_opa
async def test_what_one_worker_publishes_opa_gets_from_any(server: OpaServer, shelf: Shelf, tmp_path: Path) -> None:
    one, other = (
        OpaPolicyEngine(server.url, waits=PATIENT, shelf=tmp_path / "bundle", on_publish=shelf.announce)
        for _ in range(2)
    )
    shelf.show(lambda: other.published)
    bundle = await shipped()
    for data in (decisions.DATA, {**decisions.DATA, "rate_limits": {}}):
        bundle = await shipped(data)
        await one.enforce(bundle)
        assert other.published == one.published
        assert await other.revision() == bundle.revision
    with pytest.raises(PolicyInvalid, match="broken"):
        await one.enforce(BROKEN)
    assert other.published == render(bundle)
    await one.aclose()
    await other.aclose()


@needs_opa
async def test_an_old_policy_gives_way_to_what_another_worker_published_meanwhile(
    server: OpaServer, shelf: Shelf, tmp_path: Path
) -> None:
    one, other = (
        OpaPolicyEngine(server.url, waits=PATIENT, shelf=tmp_path / "bundle", on_publish=shelf.announce)
        for _ in range(2)
    )
    shelf.show(lambda: other.published)
    old, new = await shipped(), await shipped({**decisions.DATA, "rate_limits": {}})
    await one.enforce(old)
    seen = other.published_revision
    await other.enforce(old, instead_of=seen)
    await one.enforce(new)
    with pytest.raises(PolicyOvertaken, match=re.escape(f"{old.revision} gives way to {new.revision}")):
        await other.enforce(old, instead_of=seen)
    await other.enforce(new, instead_of=seen)
    assert (one.published, await other.revision()) == (render(new), new.revision)
    await other.enforce(old, instead_of=other.published_revision)
    assert await one.revision() == old.revision
    await one.aclose()
    await other.aclose()


@needs_opa
async def test_taking_back_a_broken_policy_takes_back_no_other(server: OpaServer, shelf: Shelf, tmp_path: Path) -> None:
    path, new = tmp_path / "bundle", render(await shipped({**decisions.DATA, "rate_limits": {}}))

    def another_worker_publishes() -> None:
        SharedShelf(path).put(new)
        shelf.announce()

    engine = OpaPolicyEngine(server.url, waits=PATIENT, shelf=path, on_publish=another_worker_publishes)
    shelf.show(lambda: render(BROKEN))  # OPA came between the two
    with pytest.raises(PolicyInvalid, match="broken"):
        await engine.enforce(BROKEN)
    assert engine.published == new
    await engine.aclose()


async def test_a_worker_that_stands_still_while_it_publishes_holds_up_no_other_for_long(tmp_path: Path) -> None:
    path, bundle = tmp_path / "bundle", render(BROKEN)
    engine = OpaPolicyEngine("http://127.0.0.1:1", waits=Waits(enforce_s=0.2), shelf=path)
    stands_still = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(stands_still, fcntl.LOCK_EX)
    with pytest.raises(PolicyNotEnforced):
        await engine.enforce(BROKEN)
    assert engine.published is None
    asyncio.get_running_loop().call_later(0.05, os.close, stands_still)
    with pytest.raises(PolicyNotEnforced):  # published now, but there is no OPA
        await engine.enforce(BROKEN)
    assert engine.published == bundle
    await engine.aclose()


@needs_opa
@pytest.mark.parametrize("where", ["nowhere/bundle", "."], ids=["no folder", "a folder"])
async def test_a_bundle_that_cannot_be_shared_is_not_enforced(server: OpaServer, tmp_path: Path, where: str) -> None:
    engine = OpaPolicyEngine(server.url, waits=PATIENT, shelf=tmp_path / where)
    with pytest.raises(PolicyNotEnforced):
        await engine.enforce(await shipped({**decisions.DATA, "rate_limits": {"slow": 1}}))
    await engine.aclose()


@needs_opa
async def test_a_bundle_that_does_not_compile_is_refused_in_opas_words_and_taken_back(engine: OpaPolicyEngine) -> None:
    before = engine.published
    with pytest.raises(PolicyInvalid, match=r"broken\.rego:\d+: unexpected eof"):
        await engine.enforce(BROKEN)
    assert engine.published == before
    assert isinstance(await engine.query("decision", READ), Ruling)
    with pytest.raises(PolicyInvalid, match=r"^[^/]*broken\.rego:\d+: unexpected eof"):
        await engine.enforce(BROKEN)
    after = await shipped({**decisions.DATA, "rate_limits": {}})
    await engine.enforce(after)
    assert await engine.revision() == after.revision


@needs_opa
async def test_a_module_outside_of_our_roots_is_refused_in_opas_words(engine: OpaPolicyEngine) -> None:
    bundle = await shipped()
    with pytest.raises(PolicyInvalid, match="elsewhere"):
        await engine.enforce(replace(bundle, modules={**bundle.modules, "more.rego": b"package elsewhere\n\nx := 1\n"}))
    assert await engine.revision() == bundle.revision


@needs_opa
async def test_a_module_may_have_a_long_name(engine: OpaPolicyEngine) -> None:
    bundle = await shipped()
    long = f"rules/{'é' * 120}/{'x' * 200}.rego"
    bundle = replace(bundle, modules={**bundle.modules, long: b"package agentgate.more\n\nx := 1\n"})
    await engine.enforce(bundle)
    assert await engine.revision() == bundle.revision


@needs_opa
async def test_a_compiler_at_hand_refuses_before_anything_is_published(server: OpaServer, shelf: Shelf) -> None:
    assert OPA is not None
    seen: list[object] = []
    engine = OpaPolicyEngine(server.url, compiler=OpaCompiler(OPA), on_publish=lambda: seen.append(1))
    with pytest.raises(PolicyInvalid, match="rego_parse_error"):
        await engine.enforce(BROKEN)
    assert engine.published is None
    assert not seen
    await engine.aclose()


@needs_opa
async def test_a_bundle_that_nobody_takes_is_not_enforced(server: OpaServer) -> None:
    engine = OpaPolicyEngine(server.url, waits=Waits(enforce_s=0.3))
    bundle = await shipped({**decisions.DATA, "rate_limits": {"nobody": 1}})
    with pytest.raises(PolicyNotEnforced) as late:
        await engine.enforce(bundle)
    assert late.value.wanted == bundle.revision
    assert late.value.enforced != bundle.revision
    await engine.aclose()


async def test_an_opa_that_is_away_does_not_enforce(tmp_path: Path) -> None:
    engine = OpaPolicyEngine(f"unix://{tmp_path}/none.sock", waits=Waits(enforce_s=0.2))
    with pytest.raises(PolicyNotEnforced) as late:
        await engine.enforce(await shipped())
    assert late.value.enforced is None


@needs_opa
@pytest.mark.parametrize("configured", [True, False])
async def test_an_opa_with_policies_of_its_own(configured: bool) -> None:
    source = in_policy('decision := {"action": "DENY", "reason": "own"}')
    with OpaServer(policies={"own.rego": source}) as server:
        engine = OpaPolicyEngine(server.url, waits=PATIENT, external=configured)
        answer = await engine.query("decision", READ)
        assert isinstance(answer, Ruling)
        assert answer.value == {"action": "DENY", "reason": "own"}
        assert answer.revision.startswith("external:")
        assert await engine.revision() == answer.revision
        with pytest.raises(PolicyExternal):
            await engine.enforce(await shipped())
        assert engine.published is None
        await engine.aclose()
    with OpaServer(policies={"own.rego": source + "\n# another\n"}) as server:
        engine = OpaPolicyEngine(server.url, waits=PATIENT)
        assert await engine.revision() != answer.revision
        await engine.aclose()


@needs_opa
async def test_an_opa_without_any_policy_decides_nothing() -> None:
    with OpaServer() as server:
        engine = OpaPolicyEngine(server.url, waits=PATIENT)
        assert _reason(await engine.query("decision", READ)) is ReasonCode.POLICY_UNDEFINED
        assert await engine.revision() is None
        await engine.aclose()


# --- servers that are not OPA, or no longer themselves ------------------------------------------------------


Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
GOOD = b'{"result":{"action":"ALLOW","reason":"x"},"provenance":{"bundles":{"agentgate":{"revision":"r1"}}}}'


def http_answer(body: bytes, *, status: str = "200 OK", headers: str = "Content-Type: application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\n{headers}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def _read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    return head + await reader.readexactly(length)


class FakeOpa:
    """Behaves, for each connection in turn, as told; the last way is kept."""

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behaviours = behaviours
        self._tls = tls
        self.connections = 0

    async def __aenter__(self) -> FakeOpa:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.url = f"http{'s' if self._tls else ''}://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behaviour = self._behaviours[min(self.connections, len(self._behaviours) - 1)]
        self.connections += 1
        try:
            await behaviour(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def says(raw: bytes, *, times: int = 1_000_000, then_close: bool = True) -> Behaviour:
    """Answers each of `times` requests with these bytes."""

    async def behave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(times):
            await _read_request(reader)
            writer.write(raw)
            await writer.drain()
        if not then_close:
            await reader.read()

    return behave


async def hangs(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


async def drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await _read_request(reader)
    for byte in http_answer(GOOD):
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(0.02)  # slowness is what is tested


async def _ask(*behaviours: Behaviour, waits: Waits = PATIENT) -> Ruling | NoRuling:
    async with FakeOpa(*behaviours) as fake:
        engine = OpaPolicyEngine(fake.url, waits=waits)
        try:
            return await engine.query("decision", READ)
        finally:
            await engine.aclose()


async def test_a_good_answer_is_a_ruling() -> None:
    assert await _ask(says(http_answer(GOOD))) == Ruling({"action": "ALLOW", "reason": "x"}, "r1")


DEEP = b"[" * 1000 + b"]" * 1000


@pytest.mark.parametrize(
    "policies",
    [b'{"id":"x","raw":%s}' % DEEP, b'{"id":%s,"raw":"package x"}' % DEEP, b'{"id":"x"}', b"1", DEEP],
    ids=["raw", "id", "no raw", "a number", "a list"],
)
async def test_what_no_opa_says_of_its_policies_names_no_revision(policies: bytes) -> None:
    async with FakeOpa(says(http_answer(b'{"result":[%s]}' % policies))) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT)
        assert await engine.revision() is None
        await engine.aclose()


async def test_an_error_that_is_none_of_opas_is_told_as_one() -> None:
    bundle = await shipped()
    message = b"in " + bundle.revision.removeprefix("sha256:").encode()
    error = b'{"code":"bundle_error","message":"%s","errors":[%s]}' % (message, DEEP)
    status = http_answer(b'{"result":{"bundles":{"agentgate":%s}}}' % error)
    async with FakeOpa(says(status)) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT)
        with pytest.raises(PolicyInvalid, match="an error without a message"):
            await engine.enforce(bundle)
        await engine.aclose()


async def test_a_chunked_answer_is_a_ruling() -> None:
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(GOOD[n : n + 7]), GOOD[n : n + 7]) for n in range(0, len(GOOD), 7))
    raw = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        + chunks
        + b"0\r\n\r\n"
    )
    assert await _ask(says(raw)) == Ruling({"action": "ALLOW", "reason": "x"}, "r1")


ERROR, MALFORMED = ReasonCode.POLICY_ERROR, ReasonCode.POLICY_MALFORMED
UNDEFINED, UNAVAILABLE = ReasonCode.POLICY_UNDEFINED, ReasonCode.POLICY_UNAVAILABLE


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (http_answer(b"{}"), UNDEFINED),
        (http_answer(b'{"decision_id":"x"}'), UNDEFINED),
        (http_answer(GOOD[:-1] + b',"warning":{"code":"api_usage_warning","message":"x"}}'), ERROR),
        (http_answer(GOOD, status="500 Internal Server Error"), ERROR),
        (http_answer(GOOD, status="201 Created"), ERROR),
        (http_answer(GOOD, status="302 Found"), ERROR),
        (http_answer(GOOD, status="401 Unauthorized"), ERROR),
        (http_answer(GOOD, headers="Content-Type: text/html"), MALFORMED),
        (http_answer(GOOD, headers="X: y"), MALFORMED),
        (http_answer(b""), MALFORMED),
        (http_answer(b"ALLOW"), MALFORMED),
        (http_answer(b"[]"), MALFORMED),
        (http_answer(b'"ALLOW"'), MALFORMED),
        (http_answer(b"null"), MALFORMED),
        (http_answer(GOOD[:-1]), MALFORMED),
        (http_answer(GOOD + b"x"), MALFORMED),
        (http_answer(b'{"result":NaN}'), MALFORMED),
        (http_answer(b'{"result":"\xff"}'), MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + GOOD, MALFORMED),
        (b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}", MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n", MALFORMED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", MALFORMED),
        (b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), MALFORMED),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Filler: " + b"x" * 100_000 + b"\r\n\r\n", MALFORMED),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", MALFORMED),
        (b"\x16\x03\x01\x02\x00\x01\x00", MALFORMED),
        (b"SSH-2.0-OpenSSH_9.2\r\n", MALFORMED),
        (b"\x00" * 100, MALFORMED),
    ],
)
async def test_what_is_not_a_decision_has_its_reason(raw: bytes, reason: ReasonCode) -> None:
    assert _reason(await _ask(says(raw, times=1, then_close=False))) is reason


@pytest.mark.parametrize("sent", [0, 1, 20, 60, len(http_answer(GOOD)) - 1])
async def test_a_connection_that_ends_in_the_answer_is_unavailable(sent: int) -> None:
    assert _reason(await _ask(says(http_answer(GOOD)[:sent], times=1))) is UNAVAILABLE


async def test_an_answer_beyond_the_cap_in_chunks_is_cut_off() -> None:
    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(10_000):
            writer.write(b"10000\r\n" + b" " * 65_536 + b"\r\n")
            await writer.drain()

    assert _reason(await _ask(floods)) is MALFORMED


@pytest.mark.parametrize("behaviour", [hangs, drips])
async def test_hung_and_slow_servers_time_out(behaviour: Behaviour) -> None:
    started = asyncio.get_running_loop().time()
    answer = await _ask(behaviour, waits=Waits(query_s=0.15))
    assert _reason(answer) is ReasonCode.POLICY_TIMEOUT
    assert asyncio.get_running_loop().time() - started < 1.0


async def test_a_server_that_does_not_accept_times_out_or_refuses() -> None:
    async with FakeOpa(hangs) as fake:
        url = fake.url
    assert _reason(await OpaPolicyEngine(url).query("decision", READ)) is UNAVAILABLE


async def test_a_revision_that_is_not_told_is_none() -> None:
    raw = http_answer(b'{"result":{"action":"ALLOW","reason":"x"},"provenance":{"bundles":{"other":{"revision":"r"}}}}')
    answer = await _ask(says(raw))
    assert isinstance(answer, Ruling)
    assert answer.revision == ""


async def test_connections_are_kept() -> None:
    async with FakeOpa(says(http_answer(GOOD))) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT)
        for _ in range(5):
            await engine.query("decision", READ)
        assert fake.connections == 1
        await engine.aclose()


async def test_no_more_connections_than_configured() -> None:
    async with FakeOpa(says(http_answer(GOOD))) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT, connections=3)
        answers = await asyncio.gather(*(engine.query("decision", READ) for _ in range(40)))
        assert all(isinstance(answer, Ruling) for answer in answers)
        assert fake.connections <= 3
        await engine.aclose()


async def test_a_kept_connection_that_was_closed_is_tried_once_anew() -> None:
    async with FakeOpa(says(http_answer(GOOD), times=1), says(http_answer(GOOD))) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT)
        for _ in range(2):
            assert isinstance(await engine.query("decision", READ), Ruling)
        assert fake.connections == 2
        await engine.aclose()


async def test_a_server_that_always_closes_is_not_tried_for_ever() -> None:
    async def slams(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await _read_request(reader)

    async with FakeOpa(says(http_answer(GOOD), times=1), slams) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT)
        assert isinstance(await engine.query("decision", READ), Ruling)
        assert _reason(await engine.query("decision", READ)) is UNAVAILABLE
        assert fake.connections == 2
        await engine.aclose()


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next() -> None:
    forged = http_answer(GOOD.replace(b"ALLOW", b"FORGE"))
    async with FakeOpa(says(http_answer(GOOD) + forged), says(http_answer(GOOD))) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT)
        for _ in range(4):
            answer = await engine.query("decision", READ)
            assert isinstance(answer, Ruling)
            assert answer.value["action"] == "ALLOW"
        await engine.aclose()


async def test_a_late_answer_is_not_taken_for_the_next() -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        await asyncio.sleep(0.2)  # past the deadline is what is tested
        writer.write(http_answer(GOOD.replace(b"ALLOW", b"FORGE")))
        await reader.read()

    async with FakeOpa(late, says(http_answer(GOOD))) as fake:
        engine = OpaPolicyEngine(fake.url, waits=Waits(query_s=0.1))
        assert _reason(await engine.query("decision", READ)) is ReasonCode.POLICY_TIMEOUT
        answer = await engine.query("decision", READ)
        assert isinstance(answer, Ruling)
        assert answer.value["action"] == "ALLOW"
        await engine.aclose()


async def test_a_cancelled_question_leaves_no_connection_behind() -> None:
    heard = asyncio.Event()

    async def hears(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        heard.set()
        await reader.read()

    async with FakeOpa(hears, says(http_answer(GOOD))) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT, connections=1)
        asked = asyncio.ensure_future(engine.query("decision", READ))
        await heard.wait()
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert isinstance(await engine.query("decision", READ), Ruling)
        await engine.aclose()


async def test_the_request_is_what_opa_expects() -> None:
    seen: list[bytes] = []

    async def records(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await _read_request(reader))
            writer.write(http_answer(GOOD))

    async with FakeOpa(records) as fake:
        engine = OpaPolicyEngine(fake.url, waits=PATIENT, token="s3cret")
        await engine.query("tools", READ)
        await engine.aclose()
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0] == "POST /v1/data/agentgate/tools?strict-builtin-errors=true&provenance=true HTTP/1.1"
    assert "Authorization: Bearer s3cret" in lines
    assert "Content-Type: application/json" in lines
    assert body == READ


@pytest.mark.parametrize(
    "url",
    [
        "",
        "opa:8181",
        "ftp://x",
        "http://",
        "http://u:p@x",
        "http://x/v1",
        "http://x?a",
        "unix://relative",
        "unix:x",
        "http://x:99999",
        "http://a..b:1",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError):
        parse_url(url)


async def test_tls_wants_the_configured_authority(tmp_path: Path) -> None:
    certificate = tmp_path / "opa.pem"
    async with FakeOpa(says(http_answer(GOOD)), tls=self_signed(certificate)) as fake:
        trusting = OpaPolicyEngine(fake.url, waits=PATIENT, ca_file=certificate)
        assert isinstance(await trusting.query("decision", READ), Ruling)
        await trusting.aclose()
        assert _reason(await OpaPolicyEngine(fake.url, waits=PATIENT).query("decision", READ)) is UNAVAILABLE
        elsewhere = OpaPolicyEngine(fake.url.replace("127.0.0.1", "localhost"), waits=PATIENT, ca_file=certificate)
        assert _reason(await elsewhere.query("decision", READ)) is UNAVAILABLE


def test_addresses() -> None:
    assert parse_url("unix:///run/opa.sock").unix_path == "/run/opa.sock"
    assert (parse_url("http://opa:8181/").host, parse_url("http://opa:8181").port) == ("opa", 8181)
    tls = parse_url("https://opa").tls
    assert parse_url("https://opa").port == 443
    assert tls is not None
    assert tls.verify_mode is ssl.CERT_REQUIRED


async def test_a_token_cannot_bring_headers_of_its_own() -> None:
    with pytest.raises(ValueError):
        OpaPolicyEngine("http://x", token="a\r\nX: y")
