"""The zip: one byte form for its files, whatever Python or zip library somebody has, and readable by all of them."""

from __future__ import annotations

import hashlib
import io
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
    with pytest.raises(archive.NotAMember):
        archive.canonical_zip({name: b""})


def test_more_entries_than_a_plain_zip_can_count_are_read_by_others(tmp_path: Path) -> None:
    files = {f"leaves/{index}.json": b"%d" % index for index in range(70_000)}
    raw = archive.canonical_zip(files)
    assert archive.size_of(files) == len(raw)
    with zipfile.ZipFile(io.BytesIO(raw)) as found:
        assert len(found.namelist()) == len(files)
        assert found.read("leaves/69999.json") == b"69999"
    if (unzip := shutil.which("unzip")) is not None:
        (tmp_path / "pack.zip").write_bytes(raw)
        ran = subprocess.run([unzip, "-tqq", tmp_path / "pack.zip"], capture_output=True, check=False)
        assert (ran.returncode, ran.stderr) == (0, b"")


def test_it_leaves_in_pieces_of_a_bounded_size() -> None:
    files = {f"leaves/{index}.json": bytes(10_000) for index in range(200)}
    sizes = [len(chunk) for chunk in archive.chunks(files)]
    assert sum(sizes) == archive.size_of(files)
    assert 5 < len(sizes) < 20
    assert max(sizes) < 300_000
