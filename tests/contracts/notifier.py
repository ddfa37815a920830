"""What every notifier promises: telling costs the caller nothing and cannot fail."""

from __future__ import annotations

import time

from agentgate.ports.notices import Notifier


class NotifierContract:
    def make(self) -> Notifier:
        raise NotImplementedError

    async def test_telling_never_waits_and_never_raises(self) -> None:
        notifier = self.make()
        started = time.monotonic()
        for number in range(3_000):
            notifier.notify("policy.denied", {"number": number})
        assert time.monotonic() - started < 1.0
        await notifier.aclose()
