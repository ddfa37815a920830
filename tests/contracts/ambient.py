"""What every clock and every source of chance promises."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC

import pytest

from agentgate.ports.ambient import Clock, Entropy, Worker


class ClockContract:
    clock: Clock

    def test_now_is_aware_and_utc(self) -> None:
        assert self.clock.now().tzinfo is UTC

    def test_ticks_never_run_backwards(self) -> None:
        ticks = [self.clock.ticks_ns() for _ in range(1000)]
        assert ticks == sorted(ticks)

    def test_boot_time_never_runs_backwards(self) -> None:
        seconds = [self.clock.boot_s() for _ in range(1000)]
        assert seconds == sorted(seconds)

    def test_ticks_and_boot_time_run_at_the_same_speed(self) -> None:
        """Ticks are nanoseconds and boot time is seconds, of whatever beginning."""
        ticks, seconds = self.clock.ticks_ns(), self.clock.boot_s()
        time.sleep(0.05)
        ticked = (self.clock.ticks_ns() - ticks) / 1e9
        assert self.clock.boot_s() - seconds == pytest.approx(ticked, abs=0.02)


class EntropyContract:
    entropy: Entropy

    def test_token_has_its_length(self) -> None:
        for n_bytes in (1, 16, 26, 4095, 4096, 10_000):
            assert len(self.entropy.token(n_bytes)) == n_bytes

    def test_tokens_never_repeat(self) -> None:
        tokens = [self.entropy.token(16) for _ in range(10_000)]
        assert len(set(tokens)) == len(tokens)


class WorkerContract:
    worker: Worker

    async def test_the_loop_goes_on_while_it_works(self) -> None:
        go_on = threading.Event()
        working = asyncio.create_task(self.worker.run(lambda: go_on.wait(10)))
        await asyncio.sleep(0)
        go_on.set()
        assert await working is True

    async def test_what_the_work_raises_is_raised(self) -> None:
        with pytest.raises(ZeroDivisionError):
            await self.worker.run(lambda: 1 // 0)
        assert await self.worker.run(lambda: 7) == 7

    async def test_one_thing_at_a_time(self) -> None:
        running: list[int] = []

        def work() -> int:
            running.append(1)
            time.sleep(0.01)
            most = len(running)
            running.pop()
            return most

        assert await asyncio.gather(*(self.worker.run(work) for _ in range(5))) == [1] * 5
