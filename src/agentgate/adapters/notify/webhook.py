"""Webhooks with v0.2's body and signature, and with those of Standard Webhooks.

Both signatures are over the exact bytes that are sent (v0.2 signed other bytes than it sent, so no receiver could
check them). The second one covers id and time of sending as well: a receiver can drop what is old or known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

import orjson

from agentgate.adapters.notify._post import Post
from agentgate.core.notice import Notice
from agentgate.ports.ambient import Clock
from agentgate.ports.notices import Failure

_PREFIX: Final = "whsec_"


class WebhookCourier:
    """Posts `{event_type, timestamp, source, version, payload}` to one URL."""

    kind = "webhook"

    def __init__(self, post: Post, secret: str | None, clock: Clock) -> None:
        """Raises ValueError when `secret` says that it is one of Standard Webhooks, and is not."""
        self._post = post
        self._secret = secret.encode() if secret is not None else None
        self._key = _key(secret) if secret is not None else None
        self._clock = clock

    @property
    def shown(self) -> str:
        return self._post.shown

    async def deliver(self, notice: Notice) -> Failure | None:
        body = body_of(notice)
        return await self._post.send(body, self._headers(notice.id, body))

    async def aclose(self) -> None:
        await self._post.aclose()

    def _headers(self, notice_id: str, body: bytes) -> dict[str, str]:
        sent = str(int(self._clock.now().timestamp()))
        headers = {"webhook-id": notice_id, "webhook-timestamp": sent}
        if self._secret is not None and self._key is not None:
            headers["X-AgentGate-Signature"] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
            signed = b"%s.%s.%s" % (notice_id.encode(), sent.encode(), body)
            digest = hmac.new(self._key, signed, hashlib.sha256).digest()
            headers["webhook-signature"] = f"v1,{base64.b64encode(digest).decode()}"
        return headers


def body_of(notice: Notice) -> bytes:
    """The same bytes however often it is sent."""
    return orjson.dumps(
        {
            "event_type": notice.kind,
            "timestamp": notice.at,
            "source": "agentgate",
            "version": "1.0.0",
            "payload": notice.payload,
        }
    )


def _key(secret: str) -> bytes:
    """The key of Standard Webhooks: what is base64 behind `whsec_`, or the text of any other secret."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        raise ValueError(f"a secret that begins with {_PREFIX} goes on in base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError(f"a secret that begins with {_PREFIX} has 24 to 64 bytes, in base64")
    return key
