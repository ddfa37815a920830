"""This process's own writing: ids, numbers and salts that repeat for nobody."""

from __future__ import annotations

import itertools
import random
import uuid
from datetime import UTC, datetime

import pytest

from agentgate.core.call import MemberId
from agentgate.core.errors import LogUnavailable
from agentgate.core.event import SALT_BYTES, Kind, make
from agentgate.pipeline.records.record import Recorder, new_trace_id
from tests.fakes import REDACTOR, a_call
from tests.pipeline.conftest import House


class _Bytes:
    """Entropy that is one byte over and over."""

    def __init__(self, byte: int) -> None:
        self._byte = byte

    def token(self, n_bytes: int) -> bytes:
        return bytes([self._byte]) * n_bytes


class _Dice:
    def __init__(self) -> None:
        self._random = random.Random(7)

    def token(self, n_bytes: int) -> bytes:
        return self._random.randbytes(n_bytes)


@pytest.mark.parametrize("byte", range(256))
def test_trace_id_is_a_uuid_4_whatever_the_chance(byte: int) -> None:
    found = uuid.UUID(new_trace_id(_Bytes(byte)))
    assert (found.version, found.variant) == (4, uuid.RFC_4122)


def test_trace_ids_keep_all_their_chance() -> None:
    """An id that follows from the one before it could be guessed (A59)."""
    dice = _Dice()
    ids = [uuid.UUID(new_trace_id(dice)).int for _ in range(2000)]
    assert len(set(ids)) == 2000
    for bit in set(range(128)) - {76, 77, 78, 79, 62, 63}:
        assert 0.4 < sum(number >> bit & 1 for number in ids) / 2000 < 0.6, bit


async def test_event_id_is_a_uuid_7_of_its_time(house: House) -> None:
    origin = house.recorder.origin()
    found = uuid.UUID(origin.id)
    assert (found.version, found.variant) == (7, uuid.RFC_4122)
    assert datetime.fromtimestamp((found.int >> 80) / 1000, UTC) == house.clock.now()
    house.clock.move(0.001)
    assert house.recorder.origin().id > origin.id


async def test_events_of_one_moment_have_ids_and_salts_of_their_own(house: House) -> None:
    recorder = Recorder(house.log, house.clock, _Dice(), member=MemberId("m-1"), version="test", redactor=REDACTOR)
    origins = [recorder.origin() for _ in range(500)]
    assert len({origin.id for origin in origins}) == 500
    assert len({origin.salt for origin in origins}) == 500
    assert {len(origin.salt) for origin in origins} == {SALT_BYTES}


async def test_member_numbers_its_events_without_a_gap(house: House) -> None:
    for _ in range(5):
        await house.gate.pass_through(a_call())
    counters = [event.fields["counter"] for event, _ in house.log.events]
    assert counters == list(itertools.islice(itertools.count(1), len(counters)))
    assert {event.fields["member"] for event, _ in house.log.events} == {"m-1"}


@pytest.mark.parametrize(
    "said", ["4111\x00111111111111", "sk-CANARY0\0" + "123456789abcdef", "Y2FuYXJ5\x00QGV4YW1wbGUub3Jn"], ids=repr
)
def test_reason_is_redacted_as_it_will_stand(house: House, said: str) -> None:
    """Without its NULs, which no store can hold: they parted what is a secret together."""
    assert house.recorder.reason(said, 500) == "[redacted]"
    assert house.recorder.reason(f"a\0b {said}", 9) == "ab [redac"


@pytest.mark.parametrize(
    ("said", "written"),
    [
        ("%00 ada@example.org", " [redacted]"),
        ("\\u0000 ada@example.org", " [redacted]"),
        ("\\x00 password=hunter22", " password=[redacted]"),
    ],
)
def test_a_reason_has_no_nul_that_was_encoded_in_it(house: House, said: str, written: str) -> None:
    """A PostgreSQL log would refuse it, and with it the kill."""
    assert house.recorder.reason(said, 500) == written


async def test_note_that_the_log_refuses_is_an_error_of_ours(house: House) -> None:
    house.log.fail_next("append")
    with pytest.raises(LogUnavailable):
        await house.recorder.note(lambda origin: make(origin, Kind.REPAIRED, {}))
    assert (await house.recorder.note(lambda origin: make(origin, Kind.REPAIRED, {}))).index == 0


async def test_orphans_are_taken_once(house: House) -> None:
    house.recorder.orphaned("t-1")
    house.recorder.orphaned("t-2")
    assert house.recorder.take_orphans() == {"t-1": None, "t-2": None}
    assert house.recorder.take_orphans() == {}
