"""What every clock and every source of chance promises."""

from __future__ import annotations

from datetime import UTC

from agentgate.ports import Clock, Entropy


class ClockContract:
    clock: Clock

    def test_now_is_aware_and_utc(self) -> None:
        assert self.clock.now().tzinfo is UTC

    def test_ticks_never_run_backwards(self) -> None:
        ticks = [self.clock.ticks_ns() for _ in range(1000)]
        assert ticks == sorted(ticks)


class EntropyContract:
    entropy: Entropy

    def test_token_has_its_length(self) -> None:
        for n_bytes in (1, 16, 26, 4095, 4096, 10_000):
            assert len(self.entropy.token(n_bytes)) == n_bytes

    def test_tokens_never_repeat(self) -> None:
        tokens = [self.entropy.token(16) for _ in range(10_000)]
        assert len(set(tokens)) == len(tokens)
