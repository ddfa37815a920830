"""Every parser that meets foreign bytes takes any: no crash, no accepted forgery, no text with two readings.

In the normal run that is each target's corpus and a moment of fresh inputs; the long run is guided by coverage where
atheris is installed, for AGENTGATE_FUZZ_SECONDS each (20; `make fuzz` gives it 600).
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.run import is_guided, mutated, run_plainly
from tests.fuzz.target import edited, edits_of
from tests.fuzz.targets import CORPUS, TARGETS

MOMENT_S = 0.25
LONG_S = int(os.environ.get("AGENTGATE_FUZZ_SECONDS", "20"))
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_its_corpus_and_a_moment_of_anything(name: str) -> None:
    assert run_plainly(name, MOMENT_S, random.Random(name)) >= len(TARGETS[name].corpus()) > 1


def test_every_kept_corpus_is_some_targets() -> None:
    assert {path.stem for path in CORPUS.glob("*")} <= TARGETS.keys()


def test_no_edits_are_no_change_and_any_edit_is_one() -> None:
    original = bytes(range(60))
    assert edited(original, b"") == original
    assert all(edited(original, program) != original for program in edits_of(original))


def test_mutations_differ_and_are_the_same_in_every_run() -> None:
    first, again = ([mutated(random.Random(number), [b'{"a":1}']) for number in range(50)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 40


@pytest.mark.torture
@pytest.mark.timeout(LONG_S + 600)
@pytest.mark.parametrize("name", TARGETS)
def test_a_parser_takes_anything_for_as_long_as_one_likes(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz.run", name, "--seconds", str(LONG_S), "--found", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = [path.read_bytes() for path in (tmp_path / name).glob("*-*")] if is_guided() else []
    assert done.returncode == 0, f"{found}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
