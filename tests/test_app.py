"""The composition root's own duties."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from agentgate import settings
from agentgate.app import running


async def test_a_gateway_whose_upkeep_dies_takes_no_more_calls_and_ends(tmp_path: Path) -> None:
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    async with running(settings.load({"AGENTGATE_DATA_DIR": str(tmp_path / "data")})) as gateway:

        async def dies() -> None:
            raise ZeroDivisionError

        upkeep = asyncio.create_task(dies())
        upkeep.add_done_callback(gateway.stop_unless_asked)
        await asyncio.wait_for(told.wait(), 5)
        assert gateway.gate.closing
        with pytest.raises(ZeroDivisionError):
            await upkeep
    asyncio.get_running_loop().remove_signal_handler(signal.SIGTERM)
