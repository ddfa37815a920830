"""The connection below RedisAdmission, against servers that no honest Redis would be."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentgate.adapters.containment._resp import Connection, NoAnswer, connect
from agentgate.adapters.containment._url import Address, Service, parse_url
from agentgate.adapters.containment.redis import RedisAdmission
from agentgate.core.errors import ReasonCode, UnsafeConfiguration
from agentgate.ports.containment import Admitted, NotAdmitted
from tests.adapters.containment.made_up import ADMITTED, CUT, Reply, honest, made_up_server
from tests.contracts.admission import MEMBER, a_call, state
from tests.redis_server import RedisServer, is_installed


@asynccontextmanager
async def connection_to(reply: Reply, lost: list[str] | None = None) -> AsyncIterator[Connection]:
    async with made_up_server(reply) as url:
        address = parse_url(url)
        assert isinstance(address, Address)
        connection = await connect(
            address, deadline_s=0.1, login_s=1.0, on_lost=lambda _, why: lost.append(why) if lost is not None else None
        )
        yield connection
        connection.close("the test is over")


async def test_commands_of_one_tick_are_one_write_and_answers_keep_their_order() -> None:
    async with connection_to(lambda command: b"$%d\r\n%s\r\n" % (len(command[1]), command[1])) as connection:
        waiting = [connection.command("ECHO", f"word {n}") for n in range(100)]
        assert await asyncio.gather(*waiting) == [b"word %d" % n for n in range(100)]


async def test_an_answer_that_comes_too_late_is_nobodys() -> None:
    held: list[bytes] = []

    def hold_the_first(command: list[bytes]) -> bytes:
        held.append(b"+%s\r\n" % command[0])
        if command[0] != b"RELEASE":
            return b""
        return b"".join(held)

    async with connection_to(hold_the_first) as connection:
        assert isinstance(await connection.command("LATE", deadline_s=0.02), NoAnswer)
        assert connection.is_stalled
        assert await connection.command("RELEASE") == b"RELEASE"
        assert not connection.is_stalled


async def test_a_command_nobody_waits_for_any_more_keeps_its_place() -> None:
    async with connection_to(lambda command: b"+%s\r\n" % command[0]) as connection:
        given_up = connection.command("FIRST")
        connection.fire("SECOND")
        third = connection.command("THIRD")
        given_up.cancel()
        assert await third == b"THIRD"


async def test_deadlines_differ_and_each_is_kept() -> None:
    loop = asyncio.get_running_loop()
    async with connection_to(lambda _: b"") as connection:
        before = loop.time()
        patient, hasty = connection.command("A", deadline_s=0.2), connection.command("B", deadline_s=0.05)
        assert isinstance(await hasty, NoAnswer)
        assert 0.05 <= loop.time() - before < 0.15
        assert not patient.done()
        assert isinstance(await patient, NoAnswer)
        assert 0.2 <= loop.time() - before < 0.4


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_pause_of_our_own_is_not_taken_for_the_servers(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Our loop was busy until after the deadline, and the answer lay in the socket all the while."""
    ours, theirs = socket.socketpair()

    def answer_and_be_busy() -> None:
        theirs.recv(64)
        theirs.sendall(b"+OK\r\n")
        time.sleep(0.05)  # as long as some other request's work may hold the loop up

    async def ask() -> object:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_unix_connection(lambda: Connection(0.02, lambda _, why: None), sock=ours)
        loop.add_reader(theirs, answer_and_be_busy)
        answer = await connection.command("PING")
        loop.remove_reader(theirs)
        connection.abort("the test is over")
        return answer

    with theirs, asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(ask()) == b"OK"


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_the_end_of_the_connection_is_known_in_the_turn_that_hears_of_it(
    new_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """The loop says one turn later that the connection is lost: what is asked between the two would be sent into it."""
    ours, theirs = socket.socketpair()

    async def ask() -> bool:
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        heard: asyncio.Future[bool] = loop.create_future()
        _, connection = await loop.create_unix_connection(lambda: Connection(5.0, lambda _, why: told.set()), sock=ours)
        answer = connection.command("PING")
        answer.add_done_callback(lambda _: heard.set_result(told.is_set() or connection.is_usable))
        theirs.shutdown(socket.SHUT_WR)
        is_late = await heard
        await told.wait()
        return is_late

    with theirs, asyncio.Runner(loop_factory=new_loop) as runner:
        assert not runner.run(ask())


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"*5\r\n:0\r\n:1\r\n" + CUT, "lost"),
        (CUT, "lost"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not RESP"),
        (b"\x00\x01\x02\r\n", "not RESP"),
        (b"%1\r\n*1\r\n:1\r\n:2\r\n", "not RESP"),
        (b"+OK\r\n+OK\r\n", "nobody had asked"),
    ],
    ids=["cut within an answer", "cut before it", "http", "binary", "a list for a key", "two answers"],
)
async def test_a_connection_that_speaks_nonsense_is_given_up_with_all_that_wait(answer: bytes, why: str) -> None:
    lost: list[str] = []
    async with connection_to(lambda command: answer if command[0] == b"LAST" else b"", lost) as connection:
        waiting = [connection.command("A"), connection.command("B")] if b"OK" not in answer else []
        answers = await asyncio.gather(*waiting, connection.command("LAST"))
        if waiting:
            assert {type(each) for each in answers} == {NoAnswer}
        assert not connection.is_usable or b"OK" in answer
        after = await connection.command("AFTER")
        assert isinstance(after, NoAnswer)
        assert why in after.detail
    assert len(lost) == 1
    assert why in lost[0]


@pytest.mark.parametrize(
    "answer",
    [
        b"*5\r\n:0\r\n:1\r\n" + CUT,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"+OK\r\n",
        b":0\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"*1\r\n:0\r\n",
        b"*5\r\n:9\r\n:1\r\n$-1\r\n:0\r\n:0\r\n",
        b"*5\r\n$1\r\n0\r\n:1\r\n$-1\r\n:0\r\n:0\r\n",
        b"*5\r\n:0\r\n$-1\r\n$-1\r\n:0\r\n:0\r\n",
        b"*5\r\n:0\r\n:1\r\n$3\r\nk-1\r\n:0\r\n:0\r\n",
        b"*5\r\n-ERR no\r\n:1\r\n$-1\r\n:0\r\n:0\r\n",
        b"-ERR unknown\r\n",
        b"-LOADING Redis is loading the dataset in memory\r\n",
        b"-NOSCRIPT\r\n",
        b"-MISCONF cannot persist\r\n",
    ],
)
async def test_whatever_is_not_an_answer_of_the_script_refuses(answer: bytes) -> None:
    async with made_up_server(honest(answer)) as url:
        admission = RedisAdmission(url, member=MEMBER)
        await admission.start()
        verdict = await admission.admit(a_call(), None, 0)
        assert isinstance(verdict, NotAdmitted)
        assert verdict.reason is ReasonCode.KILL_STATE_UNKNOWN
        assert verdict.detail
        await admission.aclose()


async def test_the_made_up_server_can_be_believed() -> None:
    """The refusals above are not for want of a working fake."""
    async with made_up_server(honest(ADMITTED)) as url:
        admission = RedisAdmission(url, member=MEMBER)
        await admission.start()
        await admission.apply(state(1))
        assert await admission.admit(a_call(), None, 0) == Admitted(1)
        await admission.aclose()


# --- URLs ---


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", Address(host="localhost")),
        ("redis://localhost:7000/2", Address(host="localhost", port=7000, db=2)),
        ("redis://h?db=3", Address(host="h", db=3)),
        ("redis://[::1]:7000", Address(host="::1", port=7000)),
        ("redis://:p%40ss@h", Address(host="h", password="p@ss")),
        ("redis://me:p@h", Address(host="h", username="me", password="p")),
        ("unix:///run/redis.sock?db=1", Address(path="/run/redis.sock", db=1)),
        ("unix://me:p@/run/redis.sock", Address(path="/run/redis.sock", username="me", password="p")),
    ],
)
def test_a_url_is_read(url: str, address: Address) -> None:
    assert parse_url(url) == address


@pytest.mark.parametrize(
    ("url", "service"),
    [
        ("redis+sentinel://h/gate", Service("gate", (Address(host="h", port=26379),), Address())),
        (
            "redis+sentinel://me:p%40%2Fss@h1:1,[::1]:2,h3/gate/4?sentinel_username=s&sentinel_password=q%26",
            Service(
                "gate",
                (
                    Address(host="h1", port=1, username="s", password="q&"),
                    Address(host="::1", port=2, username="s", password="q&"),
                    Address(host="h3", port=26379, username="s", password="q&"),
                ),
                Address(username="me", password="p@/ss", db=4),
            ),
        ),
        (
            "redis+sentinel://:p@[::1]/my%20gate",
            Service("my gate", (Address(host="::1", port=26379),), Address(password="p")),
        ),
    ],
)
def test_a_url_of_sentinels_is_read(url: str, service: Service) -> None:
    assert parse_url(url) == service


def test_tls_of_sentinels_is_also_that_of_the_redis() -> None:
    service = parse_url("rediss+sentinel://:p@h1,h2/gate")
    assert isinstance(service, Service)
    assert service.master.tls is not None
    assert {sentinel.tls for sentinel in service.sentinels} == {service.master.tls}
    assert str(service) == "rediss+sentinel://h1:26379,h2:26379/gate"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        "redis://h:s3cret@a..b:1",
        "redis+sentinel://h:s3cret@h1,a..b/gate",
        "http://h:s3cret@localhost",
        "redis://",
        "redis://:s3cret@",
        "redis://:s3cret@h:port",
        "redis://:s3cret@h/zero",
        "redis://:s3cret@h?ssl_cert_reqs=none",
        "rediss://:s3cret@h?ssl_cert_reqs=none",
        "rediss://:s3cret@h?ssl_ca_certs=/nowhere",
        "redis://:s3cret@h?ssl_ca_certs=/nowhere",
        "redis://:s3cret@h?db",
        "unix://:s3cret@relative",
        "unix://",
        "redis://me:s3cret/@h",
        "redis://:6379/s3cret@h",
        "redis://h?s3cret@h",
        "redis+sentinel://:s3cret@h",
        "redis+sentinel://:s3cret@h/",
        "redis+sentinel://:s3cret@/gate",
        "redis+sentinel://:s3cret@h,/gate",
        "redis+sentinel://:s3cret@h,,i/gate",
        "redis+sentinel://:s3cret@h:port/gate",
        "redis+sentinel://:s3cret@h/gate/zero",
        "redis+sentinel://:s3cret@h/gate/1/2",
        "redis+sentinel://:s3cret@h/gate?db=1",
        "redis+sentinel://:s3cret@h/gate?ssl_ca_certs=/nowhere",
        "redis+sentinel://:s3cret@h/gate?sentinel_pasword=s3cret",
        "rediss+sentinel://:s3cret@h/gate?ssl_ca_certs=/nowhere",
        "redis+sentinel://me:s3cret/s3cret@h/gate",
        "redis+sentinel://",
    ],
)
def test_a_url_that_cannot_be_followed_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(UnsafeConfiguration) as refused:
        parse_url(url)
    assert "s3cret" not in str(refused.value)


def test_an_address_never_shows_its_password() -> None:
    address = parse_url("rediss://me:s3cret@h:7000")
    assert "s3cret" not in f"{address} {address!r}"
    assert str(address) == "rediss://h:7000"


def test_tls_always_checks_the_certificate_and_the_name() -> None:
    address = parse_url("rediss://h")
    assert isinstance(address, Address)
    context = address.tls
    assert context is not None
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def _write_certificate(directory: Path, name: str) -> None:
    """A self-signed certificate for 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    (directory / f"{name}.key").write_bytes(pem)


@pytest.mark.skipif(not is_installed(), reason="redis-server is not installed")
async def test_tls_lets_in_the_known_server_and_no_other(tmp_path: Path) -> None:
    for name in ("known", "other"):
        _write_certificate(tmp_path, name)
    known, other = tmp_path / "known.crt", tmp_path / "other.crt"
    tls = ["--tls-cert-file", str(known), "--tls-key-file", str(tmp_path / "known.key"), "--tls-auth-clients", "no"]
    with RedisServer(*tls, tcp=True, tls=True) as server:
        url = f"rediss://127.0.0.1:{server.port}"
        right = RedisAdmission(f"{url}?ssl_ca_certs={known}", member=MEMBER)
        await right.start()
        await right.apply(state(1))
        assert await right.admit(a_call(), None, 1) == Admitted(1)
        await right.aclose()
        wrong = RedisAdmission(f"{url}?ssl_ca_certs={other}", member=MEMBER)
        await wrong.start()
        answer = await wrong.admit(a_call(), None, 1)
        assert isinstance(answer, NotAdmitted)
        assert "certificate" in answer.detail
        await wrong.aclose()
