"""Programs that we did not write, to check what we signed. `scripts/services` puts them into its cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _cache() -> Path:
    named = os.environ.get("AGENTGATE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentgate"


def _digest(folder: str, *names: str) -> str:
    """As scripts/services names what it makes of these files."""
    content = b"".join((HERE / folder / name).read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()[:16]


def _found(path: Path | str | None, what: str) -> str:
    if path is None or not Path(path).exists():
        pytest.skip(f"{what} is not there: run scripts/services")
    return str(path)


def go() -> str:
    """Go's sumdb: tests/outside/go/main.go."""
    return _found(_cache() / "bin" / f"outside-{_digest('go', 'go.mod', 'go.sum', 'main.go')}", "Go's sumdb")


def sigstore() -> tuple[str, str]:
    """Sigstore's JavaScript: tests/outside/node/verify.mjs."""
    digest = _digest("node", ".node-version", "package.json", "package-lock.json", "verify.mjs")
    folder = _cache() / f"outside-node-{digest}"
    return _found(folder / "node", "@sigstore/verify"), _found(folder / "verify.mjs", "@sigstore/verify")


def openssl() -> str:
    return _found(shutil.which("openssl"), "openssl")


def run(
    command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None
) -> tuple[int, str]:
    """Exit status and all that was said."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")
