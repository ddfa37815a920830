"""Webhooks with v0.2's body and signature, sent beside the calls and never in their way.

The signature covers the exact bytes that are sent (v0.2 signed other bytes than it sent, so no receiver could check
them). The queue is in memory and bounded: what does not fit or is not taken is counted and logged, and it is in the
log in any case.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
import orjson

from agentgate.core.event import rfc3339
from agentgate.ports.ambient import Clock
from agentgate.ports.notices import Notifier

logger = logging.getLogger("agentgate.webhook")

MAX_WAITING: Final = 1_000
_TIMEOUT_S: Final = 5.0
_PAUSES_S: Final = (0.5, 2.0, 8.0)


class WebhookNotifier:
    """Posts `{event_type, timestamp, source, version, payload}` to one URL, in order, each up to four times."""

    def __init__(self, url: str, secret: str | None, clock: Clock, *, pauses_s: tuple[float, ...] = _PAUSES_S) -> None:
        """Raises ValueError when `url` is not an http(s) URL."""
        if not url.startswith(("https://", "http://")):
            raise ValueError("the webhook URL must start with https:// or http://")
        self._url = url
        self._secret = secret.encode() if secret is not None else None
        self._clock = clock
        self._pauses_s = pauses_s
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self._sender: asyncio.Task[None] | None = None
        self.lost = 0
        """Notices that were not delivered."""

    def notify(self, kind: str, payload: Mapping[str, Any]) -> None:
        body = orjson.dumps(
            {
                "event_type": kind,
                "timestamp": rfc3339(self._clock.now()),
                "source": "agentgate",
                "version": "1.0.0",
                "payload": dict(payload),
            }
        )
        try:
            self._waiting.put_nowait(body)
        except asyncio.QueueFull:
            self._lose("the queue is full")
            return
        if self._sender is None:
            self._sender = asyncio.create_task(self._send_all())

    async def aclose(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)

    async def _send_all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as client:
            while True:
                body = await self._waiting.get()
                if not await self._deliver(client, body):
                    self._lose("the receiver did not take it")

    async def _deliver(self, client: aiohttp.ClientSession, body: bytes) -> bool:
        headers = {"Content-Type": "application/json"}
        if self._secret is not None:
            headers["X-AgentGate-Signature"] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        for pause_s in (0.0, *self._pauses_s):
            await asyncio.sleep(pause_s)
            try:
                async with client.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                    if 200 <= answer.status < 300:
                        return True
            except (aiohttp.ClientError, TimeoutError, OSError):
                continue
        return False

    def _lose(self, why: str) -> None:
        self.lost += 1
        logger.warning("a webhook notice was lost: %s", why)


_: type[Notifier] = WebhookNotifier
