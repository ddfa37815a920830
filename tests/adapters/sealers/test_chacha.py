from __future__ import annotations

from pathlib import Path

import pytest

from agentgate.adapters.sealers.chacha import ChaChaSealer
from agentgate.core.errors import UnsafeConfiguration
from tests.contracts.sealer import SealerContract


class TestChaCha(SealerContract):
    sealer = ChaChaSealer(bytes(range(32)))


def test_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    sealed = ChaChaSealer.from_file(path).seal(b"x", b"")
    assert path.stat().st_mode & 0o777 == 0o600
    assert ChaChaSealer.from_file(path).unseal(sealed, b"") == b"x"


def test_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    ChaChaSealer.from_file(path)
    path.chmod(0o644)
    with pytest.raises(UnsafeConfiguration, match="chmod 600"):
        ChaChaSealer.from_file(path)


def test_a_file_that_is_no_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    path.write_bytes(b"short")
    path.chmod(0o600)
    with pytest.raises(UnsafeConfiguration, match="not a sealing key"):
        ChaChaSealer.from_file(path)
