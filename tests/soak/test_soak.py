"""A soak of half a minute: that the program works, not that the gateway lasts. `make soak` says that."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.conftest import ROOT, needs_opa, needs_redis


@pytest.mark.torture
@needs_opa
@needs_redis
def test_a_short_soak_ends_with_every_promise_kept(tmp_path: Path) -> None:
    out = tmp_path / "soak.json"
    command = [sys.executable, "-m", "bench.soak", "--minutes", "0.5", "--directory", str(tmp_path), "--out", str(out)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert out.exists(), ran.stdout + ran.stderr
    bounds = json.loads(out.read_text(encoding="utf-8"))["bounds"]
    speed_apart = [bound for bound in bounds if not bound["holds"] and not bound["name"].startswith("p99")]
    assert speed_apart == [], ran.stdout
