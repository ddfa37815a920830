"""Programs that we did not write, to check what we signed. `scripts/services` puts them into its cache."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def cache() -> Path:
    named = os.environ.get("AGENTGATE_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "agentgate"


def digest(folder: Path, *names: str) -> str:
    """As scripts/services names what it makes of these files."""
    content = b"".join((folder / name).read_bytes() for name in names)
    return hashlib.sha256(content).hexdigest()[:16]


def found(path: Path | str | None, what: str) -> str:
    if path is None or not Path(path).exists():
        pytest.skip(f"{what} is not there: run scripts/services")
    return str(path)


def go() -> str:
    """Go's sumdb: tests/outside/go/main.go."""
    return found(cache() / "bin" / f"outside-{digest(HERE / 'go', 'go.mod', 'go.sum', 'main.go')}", "Go's sumdb")


def sigstore() -> tuple[str, str]:
    """Sigstore's JavaScript: tests/outside/node/verify.mjs."""
    return _node("verify.mjs", "@sigstore/verify")


def signatures() -> tuple[str, str]:
    """http-message-signatures of npm: tests/outside/node/sign.mjs."""
    return _node("sign.mjs", "http-message-signatures")


def _node(script: str, what: str) -> tuple[str, str]:
    names = (".node-version", "package.json", "package-lock.json", "verify.mjs", "sign.mjs")
    folder = cache() / f"outside-node-{digest(HERE / 'node', *names)}"
    return found(folder / "node", what), found(folder / script, what)


def openssl() -> str:
    return found(shutil.which("openssl"), "openssl")


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


def unpacked(pack: bytes, folder: Path) -> Path:
    with zipfile.ZipFile(io.BytesIO(pack)) as opened:
        assert opened.testzip() is None
        opened.extractall(folder)
    return folder


def flip(path: Path, at: int) -> None:
    """Change one bit of the byte at that place."""
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def flipped(name: str, at: int = 10) -> Callable[[Path], None]:
    """What changes one bit of a file in the folder that it is given."""
    return lambda folder: flip(folder / name, at)
