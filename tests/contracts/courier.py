"""What every courier promises: None is a receiver's yes, everything else a failure with a sentence and no secret."""

from __future__ import annotations

import pytest

from agentgate.core.notice import NOTICES, PING, Notice
from agentgate.ports.notices import Courier, Failure
from tests.receiver import Receiver

NOTICE = Notice("0192f000-0000-7000-8000-000000000001", "policy.denied", "2026-11-21T00:00:00.000000Z", {"reason": "ü"})


class CourierContract:
    def make(self, url: str, *, allow_private: bool = True) -> Courier:
        raise NotImplementedError

    async def test_what_is_taken_comes_to_nothing(self, receiver: Receiver) -> None:
        courier = self.make(receiver.url)
        assert await courier.deliver(NOTICE) is None
        assert len(receiver.got) == 1
        await courier.aclose()

    @pytest.mark.parametrize("kind", [*NOTICES, PING, "something.new"])
    async def test_every_kind_can_be_told_with_whatever_is_in_it(self, receiver: Receiver, kind: str) -> None:
        courier = self.make(receiver.url)
        odd = {"reason": None, "quorum": 2, "approvers": [], "arguments": {"a": [1, None]}, "changes": [], "new": {}}
        assert await courier.deliver(Notice("id-1", kind, NOTICE.at, odd)) is None
        await courier.aclose()

    @pytest.mark.parametrize(
        ("status", "for_good"), [(500, False), (301, False), (404, False), (401, False), (422, True)]
    )
    async def test_another_answer_is_a_failure(self, receiver: Receiver, status: int, for_good: bool) -> None:
        receiver.status = status
        courier = self.make(receiver.url)
        failure = await courier.deliver(NOTICE)
        assert failure is not None
        assert str(status) in failure.detail
        assert failure.for_good is for_good
        await courier.aclose()

    async def test_nobody_there_is_a_failure_that_hides_the_url(self) -> None:
        courier = self.make("http://127.0.0.1:9/services/T0/B0/canary-secret")
        failure = await courier.deliver(NOTICE)
        assert isinstance(failure, Failure)
        assert not failure.for_good
        assert "canary" not in failure.detail + courier.shown
        assert courier.shown == "http://127.0.0.1:9"
        await courier.aclose()

    async def test_a_private_address_is_not_spoken_to_unasked(self, receiver: Receiver) -> None:
        courier = self.make(receiver.url.replace("http://", "https://"), allow_private=False)
        failure = await courier.deliver(NOTICE)
        assert failure is not None
        assert "not public" in failure.detail
        assert receiver.connections == 0
        await courier.aclose()
