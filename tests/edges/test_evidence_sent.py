"""A pack on its way: its place is free when it has gone, and when nobody reads on."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any, cast

import pytest

from agentgate.edges.evidence import Sent
from agentgate.pipeline.records.evidence import EvidenceDesk, Export

EXPORT = Export("application/zip", "zip", "ab" * 32, events=1, size=6, chunks=lambda: iter((b"abc", b"def")))


class Desk:
    """Counts the places that were given back."""

    free = 0

    def sent(self) -> None:
        self.free += 1


async def receive() -> MutableMapping[str, Any]:
    return {}


async def test_a_pack_that_has_gone_gives_its_place_back() -> None:
    desk, told = Desk(), []

    async def send(message: MutableMapping[str, Any]) -> None:
        told.append(message)

    await Sent(cast("EvidenceDesk", desk), EXPORT, {})({"type": "http"}, receive, send)
    assert b"".join(message.get("body", b"") for message in told) == b"abcdef"
    assert not told[-1].get("more_body", False)
    assert desk.free == 1


async def test_a_reader_who_stalls_is_cut_off_and_the_answer_is_not_ended_as_if_it_were_whole() -> None:
    desk, told = Desk(), []

    async def send(message: MutableMapping[str, Any]) -> None:
        told.append(message)
        if len(told) == 2:
            await asyncio.Event().wait()  # it reads no more

    await Sent(cast("EvidenceDesk", desk), EXPORT, {}, patience_s=0.01)({"type": "http"}, receive, send)
    assert told[-1]["more_body"] is True
    assert desk.free == 1


async def test_a_connection_that_breaks_gives_its_place_back() -> None:
    desk = Desk()

    async def send(_: MutableMapping[str, Any]) -> None:
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        await Sent(cast("EvidenceDesk", desk), EXPORT, {})({"type": "http"}, receive, send)
    assert desk.free == 1
