"""Where a notice may go: attack A54, each way round the guard that was thought of."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from agentgate.adapters.notify._post import Post
from tests.certificates import self_signed
from tests.receiver import Receiver, receiving


class Names(AbstractResolver):
    """Answers each question with the next of `answers`, the last one for good."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.append(host)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in found
        ]

    async def close(self) -> None: ...


async def sent(post: Post) -> str:
    failure = await post.send(b"{}", {})
    await post.aclose()
    return failure.detail if failure is not None else "taken"


def port_of(receiver: Receiver) -> str:
    return receiver.url.split(":")[2].removesuffix("/hook")


@pytest.mark.parametrize(
    "host",
    [
        *[
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
        ],
        *["224.0.0.1", "255.255.255.255", "168.63.129.16", "192.0.0.192", "198.18.0.1", "[::1]", "[::]", "[fe80::1]"],
        *[
            "[fd00:ec2::254]",
            "[ff02::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:8.8.8.8]",
            "[2002:7f00:1::]",
            "[64:ff9b::7f00:1]",
        ],
        *[
            "[64:ff9b:1::1]",
            "[2001:0:1::1]",
            "[::127.0.0.1]",
            "[2001:db8::1]",
            "2130706433",
            "0x7f000001",
            "127.1",
            "017700000001",
        ],
    ],
)
async def test_no_private_address_is_spoken_to_however_it_is_written(receiver: Receiver, host: str) -> None:
    detail = await sent(Post(f"https://{host}:{port_of(receiver)}/", within_s=5))
    assert detail != "taken"
    assert receiver.connections == 0


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "169.254.169.254", "10.0.0.7", "::1", "::ffff:127.0.0.1", "64:ff9b::a9fe:a9fe", "100.100.100.200"],
)
async def test_a_name_that_leads_to_a_private_address_is_refused(receiver: Receiver, address: str) -> None:
    names = Names([address])
    detail = await sent(Post(f"https://hooks.example:{port_of(receiver)}/", resolver=names))
    assert "not public" in detail
    assert names.asked == ["hooks.example"]
    assert receiver.connections == 0


async def test_a_name_that_changes_its_mind_is_checked_each_time(receiver: Receiver) -> None:
    """DNS rebinding: what counts is the address that is connected to, not the one that was looked at before."""
    names = Names(["192.0.2.1"], ["127.0.0.1"])
    post = Post(f"https://hooks.example:{port_of(receiver)}/", resolver=names, within_s=0.5)
    assert await post.send(b"{}", {}) is not None
    failure = await post.send(b"{}", {})
    await post.aclose()
    assert failure is not None
    assert "not public" in failure.detail
    assert len(names.asked) == 2
    assert receiver.connections == 0


async def test_a_private_address_is_spoken_to_where_that_is_allowed(receiver: Receiver) -> None:
    post = Post(f"http://hooks.example:{port_of(receiver)}/", resolver=Names(["127.0.0.1"]), allow_private=True)
    assert await sent(post) == "taken"
    assert receiver.connections == 1


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    async with receiving() as other:
        receiver.status, receiver.answer_headers = 307, {"Location": other.url}
        assert "redirects are not followed" in await sent(Post(receiver.url, allow_private=True))
        assert other.connections == 0


async def test_a_proxy_of_the_environment_is_not_used(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert await sent(Post(receiver.url, allow_private=True)) == "taken"
        assert proxy.connections == 0


async def test_nobody_is_waited_for_longer_than_said(receiver: Receiver) -> None:
    receiver.hangs = True
    assert await sent(Post(receiver.url, allow_private=True, within_s=0.2)) == "no answer within 0.2 s"


async def test_an_endless_answer_is_not_read(receiver: Receiver) -> None:
    receiver.body = b"x" * 50_000_000
    assert await sent(Post(receiver.url, allow_private=True, within_s=5)) == "taken"


async def test_a_wish_to_be_left_alone_is_heard_and_bounded(receiver: Receiver) -> None:
    receiver.status = 429
    for said, wanted in (("120", 120.0), ("999999999", 3600.0), ("tomorrow", 0.0), ("-1", 0.0)):
        receiver.answer_headers = {"Retry-After": said}
        post = Post(receiver.url, allow_private=True)
        failure = await post.send(b"{}", {})
        await post.aclose()
        assert failure is not None
        assert failure.retry_after_s == wanted


async def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path: Path) -> None:
    async with receiving(self_signed(tmp_path / "receiver.pem")) as receiver:
        assert await sent(Post(receiver.url, allow_private=True)) == "its certificate does not verify"
        assert receiver.got == []


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "http://example.org/",
        "https://",
        "https://a:b@example.org/",
        "https://example.org:x/",
        "https://a..b/",
        "",
    ],
)
def test_a_url_that_cannot_be_used_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Post(url)


async def test_names_are_not_looked_up_where_calls_wait(receiver: Receiver) -> None:
    """Lookups that hang (a name server that is silent, or hostile) held the loop's few threads, which read the files
    of credentials and look up the names of tools."""
    free = threading.Event()
    only = ThreadPoolExecutor(1)
    asyncio.get_running_loop().set_default_executor(only)
    only.submit(free.wait)
    try:
        url = receiver.url.replace("127.0.0.1", "localhost")
        assert await sent(Post(url, allow_private=True, within_s=3)) == "taken"
    finally:
        free.set()
