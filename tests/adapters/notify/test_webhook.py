from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator

import orjson
import pytest
from aiohttp import web

from agentgate.adapters.notify.webhook import MAX_WAITING, WebhookNotifier
from agentgate.ports.notices import Notifier
from tests.contracts.notifier import NotifierContract
from tests.fakes import FakeClock

SECRET = "a-webhook-secret-of-the-test"
NOWHERE = "http://127.0.0.1:9/"


class TestWebhook(NotifierContract):
    def make(self) -> Notifier:
        return WebhookNotifier(NOWHERE, SECRET, FakeClock())


class Receiver:
    """A real receiver, which can be told to refuse first."""

    def __init__(self) -> None:
        self.got: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()
        self.refuse = 0
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.refuse:
            self.refuse -= 1
            return web.Response(status=503)
        await self.got.put((body, request.headers.get("X-AgentGate-Signature", "")))
        return web.Response()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/hook", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield found
    await runner.cleanup()


async def test_signature_is_over_the_bytes_that_were_sent(receiver: Receiver) -> None:
    notifier = WebhookNotifier(receiver.url, SECRET, FakeClock())
    notifier.notify("kill_switch.activated", {"level": "session", "target": "s-1", "reason": "ü"})
    body, signature = await asyncio.wait_for(receiver.got.get(), 5)
    assert signature == "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    assert orjson.loads(body) == {
        "event_type": "kill_switch.activated",
        "timestamp": "2026-11-21T00:00:00.000000Z",
        "source": "agentgate",
        "version": "1.0.0",
        "payload": {"level": "session", "target": "s-1", "reason": "ü"},
    }
    await notifier.aclose()


async def test_a_notice_is_sent_again_until_it_is_taken(receiver: Receiver) -> None:
    receiver.refuse = 2
    notifier = WebhookNotifier(receiver.url, SECRET, FakeClock(), pauses_s=(0, 0, 0))
    notifier.notify("policy.denied", {"n": 1})
    notifier.notify("policy.denied", {"n": 2})
    for number in (1, 2):
        body, _ = await asyncio.wait_for(receiver.got.get(), 5)
        assert orjson.loads(body)["payload"] == {"n": number}
    await notifier.aclose()


async def test_what_does_not_fit_is_counted() -> None:
    notifier = WebhookNotifier(NOWHERE, None, FakeClock())
    for _ in range(MAX_WAITING + 5):
        notifier.notify("policy.denied", {})
    assert notifier.lost == 5
    await notifier.aclose()


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="https"):
        WebhookNotifier("file:///etc/passwd", None, FakeClock())
