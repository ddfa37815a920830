"""The key file: changed by one at a time, followed by a gateway that never believes it for longer than it may."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentgate.core.errors import UnsafeConfiguration
from agentgate.keyfile import FollowedKeys, add_key, change_keys, key_file, read_keys
from agentgate.settings import Key

CONFIGURED = (Key(id="fixed", sha256="f" * 64, agent="fixed"),)


def key(number: int, **more: object) -> Key:
    return Key.model_validate({"id": f"k-{number}", "sha256": f"{number:064x}", "agent": f"bot-{number}", **more})


@dataclass
class House:
    path: Path
    followed: FollowedKeys

    def ids(self) -> list[str] | None:
        found = self.followed.look()
        return None if found is None else [one.id for one in found]


@pytest.fixture
def house(tmp_path: Path) -> House:
    path = key_file(tmp_path)
    return House(path, FollowedKeys(path, CONFIGURED))


def test_of_many_who_change_it_at_once_nobody_loses_a_key(tmp_path: Path) -> None:
    path = key_file(tmp_path / "data")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: add_key(path, key(number)), range(40)))
    assert {one.id for one in read_keys(path)} == {f"k-{number}" for number in range(40)}
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.yaml"]


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    add_key(path, key(1))

    def fail(_: tuple[Key, ...]) -> tuple[Key, ...]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        change_keys(path, fail)
    assert read_keys(path) == (key(1),)
    add_key(path, key(2))
    assert len(read_keys(path)) == 2


def test_what_an_earlier_one_left_half_written_is_neither_read_nor_trusted(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    left = tmp_path / "keys.new"
    left.write_text("half", encoding="utf-8")
    left.chmod(0o666)
    add_key(path, key(1))
    assert read_keys(path) == (key(1),)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    elsewhere = tmp_path / "elsewhere"
    left.symlink_to(elsewhere)
    add_key(path, key(2))
    assert not elsewhere.exists()
    assert not path.is_symlink()


def test_a_gateway_takes_every_change_and_looks_again_only_then(house: House) -> None:
    assert house.ids() == ["fixed"]
    assert house.ids() is None
    add_key(house.path, key(1))
    assert house.ids() == ["fixed", "k-1"]
    assert house.ids() is None
    change_keys(house.path, lambda keys: [keys[0].model_copy(update={"disabled": True})])
    found = house.followed.look()
    assert found is not None
    assert found[1].known().disabled
    change_keys(house.path, lambda _: [])
    assert house.ids() == ["fixed"]


def test_two_changes_within_one_tick_of_the_disks_clock_are_both_seen(house: House) -> None:
    add_key(house.path, key(1))
    at = house.path.stat()
    house.ids()
    raw = house.path.read_bytes().replace(b"bot-1", b"bot-2")
    house.path.write_bytes(raw)  # the same file, of the same size
    os.utime(house.path, ns=(at.st_atime_ns, at.st_mtime_ns))
    found = house.followed.look()
    assert found is not None
    assert found[1].agent == "bot-2"


@pytest.mark.parametrize("damage", ["garbage", "mode", "folder", "gone", "no list", "twice", "one id", "dangling"])
def test_a_file_that_cannot_be_read_keeps_no_key_alive_and_says_so_once(house: House, damage: str) -> None:
    add_key(house.path, key(1))
    assert house.ids() == ["fixed", "k-1"]
    whole = house.path.read_bytes()
    match damage:
        case "garbage":
            house.path.write_bytes(b"{" + whole)
        case "mode":
            house.path.chmod(0o644)
        case "folder":
            house.path.unlink()
            house.path.mkdir(mode=0o700)
        case "gone":
            house.path.unlink()
        case "no list":
            house.path.write_bytes(b"keys: 1")
        case "twice":
            house.path.write_bytes(whole + whole.replace(b"k-1", b"k-2"))
        case "one id":
            house.path.write_bytes(whole.replace(b"k-1", b"fixed"))
        case "dangling":
            house.path.unlink()
            house.path.symlink_to("nowhere")
    assert house.ids() == ["fixed"], "and not k-1"
    assert house.followed.trouble is not None
    assert house.ids() is None
    if house.path.is_dir():
        house.path.rmdir()
    house.path.unlink(missing_ok=True)
    house.path.write_bytes(whole)
    house.path.chmod(0o600)
    assert house.ids() == ["fixed", "k-1"], "the same as before the trouble, and taken again"
    assert house.followed.trouble is None


@pytest.mark.parametrize("value", ["!!bool x", "!!int ''", "!!float ''", "!!timestamp x", "1:" * 200 + "1.0"])
def test_a_value_that_is_not_what_its_tag_says_makes_a_file_that_cannot_be_read(house: House, value: str) -> None:
    add_key(house.path, key(1))
    house.path.write_text(f"- id: {value}", encoding="utf-8")
    assert house.ids() == ["fixed"]
    assert house.followed.trouble is not None


def test_the_same_content_written_anew_is_another_version(house: House) -> None:
    """A key that was disabled, enabled and disabled again: the log is told of each."""
    add_key(house.path, key(1))
    house.ids()
    versions = [house.followed.version]
    for second in (1, 2):
        change_keys(house.path, lambda keys: [one.model_copy(update={"disabled": not one.disabled}) for one in keys])
        os.utime(house.path, (second, second))
        house.ids()
        versions.append(house.followed.version)
    assert len(set(versions)) == 3
    beside = FollowedKeys(house.path, CONFIGURED)
    beside.look()
    assert beside.version == versions[-1], "whoever reads it sees the same version"


def test_a_file_that_was_never_there_is_no_trouble(house: House) -> None:
    assert house.ids() == ["fixed"]
    assert house.followed.trouble is None


def test_a_file_that_cannot_be_read_from_the_start_is_trouble(house: House) -> None:
    house.path.write_bytes(b"{")
    house.path.chmod(0o600)
    assert house.ids() == ["fixed"]
    assert house.followed.trouble is not None
    with pytest.raises(UnsafeConfiguration):
        read_keys(house.path)
