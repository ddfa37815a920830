"""Lock files as slots: with real processes that are killed and frozen, and with everything that can lie in a file."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.adapters.ambient.slot import Slot
from agentgate.core.errors import UnsafeConfiguration
from tests.contracts.slot import SlotContract

_HOLD = """
import sys
from pathlib import Path
from agentgate.adapters.ambient.slot import Slot
slot = Slot.take(Path(sys.argv[1]))
slot.occupy(sys.argv[2])
print(slot.number, *slot.predecessors, flush=True)
sys.stdin.read()
"""


class Holder:
    """Another process that takes a slot and keeps it until it is ended."""

    def __init__(self, data_dir: Path, member: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _HOLD, str(data_dir), member],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def said(self) -> tuple[int, list[str]]:
        assert self.process.stdout is not None
        number, *predecessors = self.process.stdout.readline().split()
        return int(number), predecessors

    def kill9(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders() -> Iterator[list[Holder]]:
    made: list[Holder] = []
    yield made
    for holder in made:
        holder.kill9()


class TestSlot(SlotContract):
    @pytest.fixture(autouse=True)
    def _directory(self, tmp_path: Path) -> Iterator[None]:
        self.data_dir = tmp_path
        self.taken: list[Slot] = []
        yield
        for slot in self.taken:
            slot.release()

    def take(self) -> Slot:
        self.taken.append(Slot.take(self.data_dir))
        return self.taken[-1]

    def die(self, slot: Slot) -> None:
        """The kernel closes its files: to the lock that is all there is to a death (a real one is below)."""
        slot.release()


# --- processes ------------------------------------------------------------------------------------------------------


def test_a_killed_process_is_named_to_the_next_taker(tmp_path: Path, holders: list[Holder]) -> None:
    holders += [Holder(tmp_path, "aaaa")]
    assert holders[0].said() == (0, [])
    holders[0].kill9()
    holders += [Holder(tmp_path, "bbbb")]
    assert holders[1].said() == (0, ["aaaa"])


def test_a_frozen_process_still_holds_its_slot(tmp_path: Path, holders: list[Holder]) -> None:
    holders += [Holder(tmp_path, "aaaa")]
    assert holders[0].said() == (0, [])
    holders[0].process.send_signal(signal.SIGSTOP)
    slot = Slot.take(tmp_path)
    assert (slot.number, slot.predecessors) == (1, ())
    slot.release()


def test_processes_that_start_together_hold_different_slots(tmp_path: Path, holders: list[Holder]) -> None:
    holders += [Holder(tmp_path, f"m{number}") for number in range(8)]
    numbers = [holder.said()[0] for holder in holders]
    assert len(set(numbers)) == 8, numbers


def test_of_processes_that_died_together_each_is_named_to_exactly_one_successor(
    tmp_path: Path, holders: list[Holder]
) -> None:
    dead = [Holder(tmp_path, f"dead{number}") for number in range(5)]
    for holder in dead:
        holder.said()
    for holder in dead:
        holder.kill9()
    holders += [Holder(tmp_path, f"m{number}") for number in range(3)]
    named = [member for holder in holders for member in holder.said()[1]]
    assert sorted(named) == [f"dead{number}" for number in range(5)]


def test_a_program_that_the_holder_starts_does_not_keep_its_slot(tmp_path: Path) -> None:
    slot = Slot.take(tmp_path)
    slot.occupy("aaaa")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False) as child:
        slot.release()
        again = Slot.take(tmp_path)
        assert (again.number, again.predecessors) == (0, ("aaaa",))
        again.release()
        child.communicate(b"\n")


# --- files ----------------------------------------------------------------------------------------------------------


def _leave(directory: Path, line: bytes) -> None:
    path = directory / "slot-0.lock"
    path.touch(0o600)
    path.write_bytes(line)


def _left_by(directory: Path, *members: str) -> bytes:
    """The line that a process which was these members leaves."""
    slot = Slot.take(directory)
    for member in members:
        slot.occupy(member)
    slot.release()
    return (directory / "slot-0.lock").read_bytes()


def _predecessors(directory: Path) -> tuple[str, ...]:
    slot = Slot.take(directory)
    slot.release()
    return slot.predecessors


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(garbage=st.binary(max_size=200))
def test_garbage_names_nobody_and_the_slot_can_be_used(tmp_path: Path, garbage: bytes) -> None:
    _leave(tmp_path, garbage)
    assert _predecessors(tmp_path) == ()
    assert _left_by(tmp_path, "aaaa").partition(b"\n")[0].endswith(b" aaaa")
    assert _predecessors(tmp_path) == ("aaaa",)


@pytest.mark.parametrize("member", [b"../etc", b"-rf", b"a" * 300, b"\xff\xfe", b"", b"a\tb", b"a\x00"])
def test_what_is_no_member_id_is_refused_with_all_that_is_beside_it(tmp_path: Path, member: bytes) -> None:
    lock = _left_by(tmp_path, "aaaa").split(b" ")[0]
    _leave(tmp_path, b"%s aaaa %s\n" % (lock, member))
    assert _predecessors(tmp_path) == ()


def test_a_line_that_is_cut_short_names_nobody(tmp_path: Path) -> None:
    whole = _left_by(tmp_path, "aaaa", "bbbb")
    for size in range(len(whole)):
        _leave(tmp_path, whole[:size])
        assert _predecessors(tmp_path) == ()


def test_a_shorter_line_over_a_longer_one_is_read_alone(tmp_path: Path) -> None:
    _left_by(tmp_path, "a" * 40)
    slot = Slot.take(tmp_path)
    slot.occupy("b")
    slot.settle()
    slot.release()
    assert _predecessors(tmp_path) == ("b",)


def test_ids_from_another_boot_are_not_believed(tmp_path: Path) -> None:
    """A volume that moved to another machine: another kernel kept that lock, and its holder may live."""
    line = _left_by(tmp_path, "aaaa")
    _leave(tmp_path, b"00000000-0000-0000-0000-000000000000" + line[36:])
    assert _predecessors(tmp_path) == ()


def test_ids_in_a_copied_directory_are_not_believed(tmp_path: Path) -> None:
    slot = Slot.take(tmp_path)
    slot.occupy("aaaa")
    shutil.copytree(tmp_path, tmp_path / "copy")
    assert _predecessors(tmp_path / "copy") == ()
    slot.release()


def test_the_line_never_grows_past_a_page_and_keeps_the_newest(tmp_path: Path) -> None:
    members = [f"m{number:062}" for number in range(100)]
    assert len(_left_by(tmp_path, *members)) <= 4096
    assert _predecessors(tmp_path) == tuple(members[-len(_predecessors(tmp_path)) :])
    assert len(_predecessors(tmp_path)) > 50


def test_its_file_is_private(tmp_path: Path) -> None:
    Slot.take(tmp_path).release()
    assert stat.S_IMODE((tmp_path / "slot-0.lock").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    """Whoever can write it can declare a living member dead."""
    _leave(tmp_path, b"")
    (tmp_path / "slot-0.lock").chmod(mode)
    with pytest.raises(UnsafeConfiguration, match="chmod 600"):
        Slot.take(tmp_path)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.touch(0o600)
    victim.write_text("precious")
    (tmp_path / "slot-0.lock").symlink_to(victim)
    with pytest.raises(UnsafeConfiguration, match="slot-0.lock"):
        Slot.take(tmp_path)
    assert victim.read_text() == "precious"


def test_a_pipe_or_a_directory_in_its_place_is_refused_without_waiting(tmp_path: Path) -> None:
    path = tmp_path / "slot-0.lock"
    os.mkfifo(path, 0o600)
    with pytest.raises(UnsafeConfiguration, match="plain file"):
        Slot.take(tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UnsafeConfiguration, match="cannot be opened"):
        Slot.take(tmp_path)


def test_a_removed_file_is_no_lock_for_the_next_taker(tmp_path: Path) -> None:
    """Somebody tidied up: the holder lives on and must not be named."""
    slot = Slot.take(tmp_path)
    slot.occupy("aaaa")
    (tmp_path / "slot-0.lock").unlink()
    again = Slot.take(tmp_path)
    assert (again.number, again.predecessors) == (0, ())
    slot.release()
    again.release()


def test_a_refused_start_keeps_no_slot(tmp_path: Path) -> None:
    (tmp_path / "slot-1.lock").symlink_to("/nowhere")
    with pytest.raises(UnsafeConfiguration):
        Slot.take(tmp_path)
    (tmp_path / "slot-1.lock").unlink()
    slot = Slot.take(tmp_path)
    assert slot.number == 0
    slot.release()
