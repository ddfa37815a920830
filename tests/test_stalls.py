"""Which failures are given a second chance: those of a machine that stood still, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stalls import STRICT

CASE = """
import pathlib, time
from tests.stalls import Stalls

def test_that_is_in_a_hurry():
    began = time.monotonic()
    pathlib.Path("begun").touch()
    while not pathlib.Path("goes on").exists():
        time.sleep(0.01)
    assert time.monotonic() - began < 2 and {holds}
"""
CONFTEST = "from tests.stalls import Stalls\ndef pytest_configure(config): config.pluginmanager.register(Stalls())\n"


def run(folder: Path, *, holds: bool, stops_for_s: float, file: str = "test_it.py") -> str:
    """What pytest says at last of a test that is stopped once, for so long."""
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(CASE.format(holds=holds))
    process = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), file],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (folder / "begun").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)
    time.sleep(stops_for_s)
    process.send_signal(signal.SIGCONT)
    (folder / "goes on").touch()
    said, _ = process.communicate(timeout=60)
    return said.splitlines()[-1]


@pytest.mark.parametrize(
    ("stops_for_s", "holds", "verdict"),
    [(2.5, True, "1 passed, 1 rerun"), (0.0, False, "1 failed in"), (2.5, False, "1 failed, ")],
    ids=["stood still", "did not", "stood still, and it fails all the same"],
)
def test_a_failure_of_a_machine_that_stood_still_is_tried_again(
    tmp_path: Path, stops_for_s: float, holds: bool, verdict: str
) -> None:
    assert verdict in run(tmp_path, holds=holds, stops_for_s=stops_for_s)


def test_what_says_whether_a_promise_was_kept_is_not_tried_again(tmp_path: Path) -> None:
    assert "1 failed in" in run(tmp_path, holds=True, stops_for_s=2.5, file="tests/containment/test_it.py")


def test_what_is_strict_is_there() -> None:
    assert all((Path(__file__).parents[1] / path).exists() for path in STRICT)
