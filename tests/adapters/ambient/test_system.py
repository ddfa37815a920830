from __future__ import annotations

import os
import time

import pytest

from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from tests.contracts.ambient import ClockContract, EntropyContract


class TestClock(ClockContract):
    clock = SystemClock()


class TestEntropy(EntropyContract):
    entropy = SystemEntropy()


@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="a clock of Linux")
def test_boot_time_goes_on_while_the_machine_sleeps() -> None:
    """Suspending is not possible here; that it is the clock which does is."""
    assert SystemClock().boot_s() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)


def test_a_forked_child_does_not_share_the_page() -> None:
    entropy = SystemEntropy()
    entropy.token(16)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, entropy.token(16))
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 16) != entropy.token(16)
    os.close(reader)
    os.close(writer)
