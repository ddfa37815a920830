"""Time stamps of a real authority, OpenSSL's, and what becomes of an authority that lies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificates
from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

from agentgate.adapters.timestamps.rfc3161 import MAX_REPLY_BYTES, Rfc3161Authority
from agentgate.core.errors import TimestampUnavailable
from tests.contracts.timestamp_authority import TimestampAuthorityContract
from tests.timestamp_server import TimestampServer

MESSAGE = b"a signature"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> TimestampServer:
    return TimestampServer(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def server(keys: TimestampServer) -> Iterator[TimestampServer]:
    keys.answer, keys.status, keys.asked = None, 200, 0
    with keys.serving():
        yield keys


@pytest.fixture
def ca(server: TimestampServer) -> Path:
    return server.ca


@pytest.fixture
async def authority(server: TimestampServer) -> AsyncIterator[Rfc3161Authority]:
    made = Rfc3161Authority(server.url, timeout_s=5, roots=load_pem_x509_certificates(server.ca.read_bytes()))
    yield made
    await made.aclose()


@pytest.fixture
async def careless(server: TimestampServer) -> AsyncIterator[Rfc3161Authority]:
    """One that is not told whom to believe."""
    made = Rfc3161Authority(server.url, timeout_s=5)
    yield made
    await made.aclose()


@pytest.fixture
def down() -> Rfc3161Authority:
    return Rfc3161Authority("http://127.0.0.1:1/", timeout_s=1)


class TestRfc3161Authority(TimestampAuthorityContract):
    pass


async def test_each_stamp_is_asked_for_anew(authority: Rfc3161Authority, server: TimestampServer) -> None:
    assert await authority.stamp(MESSAGE) != await authority.stamp(MESSAGE)
    assert server.asked == 2


def query(message: bytes) -> bytes:
    return TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build().as_bytes()


async def test_a_stamp_of_something_else_is_refused(careless: Rfc3161Authority, server: TimestampServer) -> None:
    server.answer = server.reply(query(b"another"))
    with pytest.raises(TimestampUnavailable, match="something else"):
        await careless.stamp(MESSAGE)


async def test_an_earlier_stamp_of_the_same_is_refused(careless: Rfc3161Authority, server: TimestampServer) -> None:
    server.answer = server.reply(query(MESSAGE))
    with pytest.raises(TimestampUnavailable, match="another request"):
        await careless.stamp(MESSAGE)


async def test_an_authority_that_nobody_named_is_refused(server: TimestampServer, tmp_path: Path) -> None:
    other = TimestampServer(tmp_path)
    mistaken = Rfc3161Authority(server.url, timeout_s=5, roots=load_pem_x509_certificates(other.ca.read_bytes()))
    with pytest.raises(TimestampUnavailable, match="does not hold"):
        await mistaken.stamp(MESSAGE)
    await mistaken.aclose()


REJECTED = bytes.fromhex("30053003020102")
"""A TimeStampResp with PKIStatus rejection and nothing else."""


@pytest.mark.parametrize(
    ("answer", "status", "why"),
    [
        (b"", 200, "no time stamp"),
        (b"<html>busy</html>", 200, "no time stamp"),
        (REJECTED, 200, "refused"),
        (bytes(MAX_REPLY_BYTES + 1), 200, "too long"),
        (b"no", 500, "HTTP 500"),
        (b"", 302, "HTTP 302"),
    ],
)
async def test_another_answer_is_refused(
    careless: Rfc3161Authority, server: TimestampServer, answer: bytes, status: int, why: str
) -> None:
    server.answer, server.status = answer, status
    with pytest.raises(TimestampUnavailable, match=why):
        await careless.stamp(MESSAGE)


async def test_an_authority_at_a_name_that_cannot_be_asked_for_gives_none() -> None:
    with pytest.raises(TimestampUnavailable, match="does not answer"):
        await Rfc3161Authority("http://xn--a/").stamp(b"x")


async def test_an_authority_that_hangs_is_not_waited_for(server: TimestampServer) -> None:
    server.go_on.clear()
    impatient = Rfc3161Authority(server.url, timeout_s=0.2)
    with pytest.raises(TimestampUnavailable, match="does not answer"):
        await impatient.stamp(MESSAGE)
    await impatient.aclose()


@pytest.mark.parametrize("url", ["", "tsa.example.org", "ftp://tsa.example.org", "file:///etc/passwd"])
def test_another_url_is_no_authority(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        Rfc3161Authority(url)
