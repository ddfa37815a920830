from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks import WebhookVerificationError

from agentgate.adapters.notify._post import Post
from agentgate.adapters.notify.webhook import WebhookCourier
from agentgate.core.notice import Notice
from agentgate.ports.notices import Courier
from tests.contracts.courier import NOTICE, CourierContract
from tests.fakes import FakeClock
from tests.receiver import Receiver

SECRET = "a-webhook-secret-of-the-test"
KEY = bytes(range(32))
WHSEC = f"whsec_{base64.b64encode(KEY).decode()}"


def a_courier(url: str, secret: str | None = SECRET) -> WebhookCourier:
    clock = FakeClock()
    clock.moment = datetime.now(UTC)  # the verifier looks at the real one
    return WebhookCourier(Post(url, allow_private=True), secret, clock)


class TestWebhook(CourierContract):
    def make(self, url: str, *, allow_private: bool = True) -> Courier:
        return WebhookCourier(Post(url, allow_private=allow_private), SECRET, FakeClock())


async def test_v02s_signature_is_over_the_bytes_that_were_sent(receiver: Receiver) -> None:
    courier = a_courier(receiver.url)
    payload = {"level": "session", "target": "s-1", "reason": "ü <&> \u202e"}
    await courier.deliver(Notice("id-1", "kill_switch.activated", NOTICE.at, payload))
    (got,) = receiver.got
    expected = hmac.new(SECRET.encode(), got.body, hashlib.sha256).hexdigest()
    assert got.headers["X-AgentGate-Signature"] == f"sha256={expected}"
    assert got.value == {
        "event_type": "kill_switch.activated",
        "timestamp": NOTICE.at,
        "source": "agentgate",
        "version": "1.0.0",
        "payload": payload,
    }
    assert got.headers["Content-Type"] == "application/json"
    await courier.aclose()


@pytest.mark.parametrize(("secret", "key"), [(WHSEC, KEY), (SECRET, SECRET.encode())])
async def test_an_independent_verifier_takes_it_and_no_other_bytes(receiver: Receiver, secret: str, key: bytes) -> None:
    courier = a_courier(receiver.url, secret)
    await courier.deliver(NOTICE)
    (got,) = receiver.got
    verifier = Verifier(base64.b64encode(key).decode())
    headers = {name.lower(): value for name, value in got.headers.items()}
    assert verifier.verify(got.body, headers) == got.value
    assert headers["webhook-id"] == NOTICE.id
    with pytest.raises(WebhookVerificationError):
        verifier.verify(got.body.replace(b"policy", b"Policy"), headers)
    with pytest.raises(WebhookVerificationError):
        verifier.verify(got.body, headers | {"webhook-id": "another"})
    await courier.aclose()


async def test_sent_again_it_is_the_same_bytes_under_the_same_id(receiver: Receiver) -> None:
    courier = a_courier(receiver.url)
    await courier.deliver(NOTICE)
    await courier.deliver(NOTICE)
    one, two = receiver.got
    assert one.body == two.body
    assert one.headers["webhook-id"] == two.headers["webhook-id"]
    await courier.aclose()


async def test_without_a_secret_nothing_is_signed(receiver: Receiver) -> None:
    courier = a_courier(receiver.url, None)
    assert await courier.deliver(NOTICE) is None
    assert not {"X-AgentGate-Signature", "webhook-signature"} & set(receiver.got[0].headers)
    await courier.aclose()


@pytest.mark.parametrize("secret", ["whsec_", "whsec_!!!", f"whsec_{base64.b64encode(b'short').decode()}"])
def test_a_secret_that_only_looks_like_one_is_refused(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        a_courier("https://example.org/", secret)
