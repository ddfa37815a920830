"""The zip: one byte form for its files, whatever Python or zip library somebody has, and readable by all of them."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core import archive

NUMBERS = st.integers(0, 10**18 - 1)
NAMES = (
    st.sampled_from(["VERIFY.md", "pack.json", "pack.json.hmac", "pack.dsse.json", "pack.dsse.tsr", "checkpoint"])
    | st.sampled_from(["keys/log.vkey", f"keys/retired-{'0a' * 32}.pub.pem", "keys/retired-0badcafe.vkey"])
    | NUMBERS.map("leaves/{}.json".format)
    | NUMBERS.map("bodies/{}.json".format)
    | NUMBERS.map("proofs/{}.tlog-proof".format)
    | NUMBERS.map("consistency/{}".format)
)
FILES = st.dictionaries(NAMES, st.binary(max_size=100), max_size=8)


@given(files=FILES, order=st.randoms(use_true_random=False))
def test_the_same_files_are_the_same_archive_in_any_order(files: dict[str, bytes], order: Random) -> None:
    names = list(files)
    order.shuffle(names)
    raw = archive.canonical_zip(files)
    assert archive.canonical_zip({name: files[name] for name in names}) == raw
    assert b"".join(archive.chunks(files)) == raw
    assert archive.size_of(files) == len(raw)


@given(files=FILES)
def test_others_read_it(files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(io.BytesIO(archive.canonical_zip(files))) as found:
        assert found.testzip() is None
        assert {one.filename: found.read(one) for one in found.infolist()} == files
        assert found.namelist() == archive.ordered(files)
        for one in found.infolist():
            assert one.date_time == (1980, 1, 1, 0, 0, 0)
            assert (one.compress_type, one.flag_bits, one.external_attr >> 16) == (zipfile.ZIP_STORED, 0, 0o100644)


def test_the_form_never_changes() -> None:
    """Old packs are compared with it, byte for byte."""
    files = {"pack.json": b"{}", "VERIFY.md": b"# Check\n", "proofs/10.tlog-proof": b"x", "proofs/9.tlog-proof": b"y"}
    raw = archive.canonical_zip(files)
    assert len(raw) == 452
    assert hashlib.sha256(raw).hexdigest() == "fd5526ebd039dedc369e0eed305a78040d02b9f1dd043325ae1f3966ecf26f00"


def test_numbers_stand_in_their_order_and_the_reader_first() -> None:
    names = ["leaves/10.json", "leaves/9.json", "pack.pdf", "pack.json", "proofs/1.tlog-proof", "VERIFY.md"]
    assert archive.ordered(names) == [
        "VERIFY.md", "pack.json", "pack.pdf", "leaves/9.json", "leaves/10.json", "proofs/1.tlog-proof",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name",
    [
        *["", "pack.exe", "PACK.JSON", "pack.json ", "/pack.json", "./pack.json", "../pack.json", "keys/../pack.json"],
        *[
            "leaves/01.json",
            "leaves/-1.json",
            "leaves/1.json\n",
            "leaves/1.JSON",
            "leaves/٣.json",
            "leaves/1",
            "leaves/",
        ],
        *["keys/retired-0BADCAFE.vkey", "keys/retired-00.pub.pem", "keys/envelope-key.pem", "consistency/x", "a\\b"],
        "leaves/1000000000000000000.json",
    ],
)
def test_no_other_name_is_in_a_pack(name: str) -> None:
    with pytest.raises(archive.NotAMember, match=f"^a pack has no file {re.escape(repr(name))}$"):
        archive.canonical_zip({name: b""})


def test_more_entries_than_a_plain_zip_can_count_are_read_by_others(tmp_path: Path) -> None:
    files = {f"leaves/{index}.json": b"%d" % index for index in range(70_000)}
    raw = archive.canonical_zip(files)
    assert archive.size_of(files) == len(raw)
    assert hashlib.sha256(raw).hexdigest() == "ef949858a1d74988e2193d40e23d625cd604016b94b1702f0f163ac9bb85fcda"
    with zipfile.ZipFile(io.BytesIO(raw)) as found:
        assert len(found.namelist()) == len(files)
        assert found.read("leaves/69999.json") == b"69999"
    if (unzip := shutil.which("unzip")) is not None:
        (tmp_path / "pack.zip").write_bytes(raw)
        ran = subprocess.run([unzip, "-tqq", tmp_path / "pack.zip"], capture_output=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("numbers", "size"),
    [
        ((0xFFFE, 0xFFFFFFFE, 0xFFFFFFFE), 22),
        *[(numbers, 98) for numbers in ((0xFFFF, 0, 0), (1, 0xFFFFFFFF, 0), (1, 0, 0xFFFFFFFF))],
    ],
)
def test_numbers_that_a_plain_end_has_no_room_for_are_in_an_end_of_zip64(
    numbers: tuple[int, int, int], size: int
) -> None:
    """All ones say that the number is there."""
    assert len(archive._end(*numbers)) == size


class Huge(bytes):
    """Says that it has more bytes than anybody has memory for."""

    said = 0xFFFFFFFE

    def __len__(self) -> int:
        return self.said


class UpToTheEdge(Huge):
    """What comes after it, and after the 39 bytes before it, starts where a plain zip has no word for any more."""

    said = 0xFFFFFFFF - 39


@pytest.mark.parametrize(("huge", "second"), [(Huge, 2**32 + 37), (UpToTheEdge, 2**32 - 1)])
def test_what_lies_beyond_four_gibibytes_is_found_by_others(tmp_path: Path, huge: type[Huge], second: int) -> None:
    files = {"VERIFY.md": huge(), "pack.json": b"{}", "checkpoint": b"signed"}
    with (tmp_path / "pack.zip").open("wb") as raw:  # with a hole in it
        for piece in archive._pieces(files):
            raw.seek(len(piece), io.SEEK_CUR) if isinstance(piece, Huge) else raw.write(piece)
        assert raw.tell() == archive.size_of(files)
    with zipfile.ZipFile(tmp_path / "pack.zip") as found:
        assert [found.read(name) for name in found.namelist()[1:]] == [b"{}", b"signed"]
        assert [one.header_offset for one in found.infolist()] == [0, second, second + 41]
        for one in found.infolist():
            wanted = 45 if one.header_offset else 20
            assert (one.create_system, one.create_version, one.extract_version) == (3, 45, wanted)
            assert (one.volume, one.internal_attr, one.external_attr, one.flag_bits) == (0, 0, 0o100644 << 16, 0)
            assert (one.date_time, one.comment) == ((1980, 1, 1, 0, 0, 0), b"")


def test_a_file_that_no_plain_reader_expects_is_refused() -> None:
    class Larger(Huge):
        said = 0xFFFFFFFF

    told = r"^pack\.json has 4294967295 bytes, which no reader expects in a pack$"
    with pytest.raises(archive.NotAMember, match=told):
        archive.canonical_zip({"pack.json": Larger()})


def test_it_leaves_in_pieces_of_a_bounded_size() -> None:
    files = {f"leaves/{index}.json": bytes(10_000) for index in range(200)}
    sizes = [len(chunk) for chunk in archive.chunks(files)]
    assert sum(sizes) == archive.size_of(files)
    assert 5 < len(sizes) < 20
    assert max(sizes) < 300_000
