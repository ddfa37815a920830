"""What every clock and every source of chance promises."""

from __future__ import annotations

import time
from datetime import UTC

import pytest

from agentgate.ports import Clock, Entropy


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
