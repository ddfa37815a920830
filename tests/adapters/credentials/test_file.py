"""The credential kind `file`."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentgate.adapters.credentials.file import FileCredentials
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.credentials import Ask, CredentialRefused
from tests.contracts.credential_source import CredentialSourceContract, broker_of


def private(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    path.chmod(0o600)
    return path


class TestFileCredentials(CredentialSourceContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Broker:
        private(tmp_path / "known", b"s3cret-value\n")
        private(tmp_path / "empty", b"\n")
        return broker_of({name: FileCredentials({"path": str(tmp_path / name)}, {}) for name in ("known", "empty")})

    async def test_a_changed_file_is_seen_by_the_next_call(self, source: Broker, tmp_path: Path) -> None:
        private(tmp_path / "new", b"rotated").replace(tmp_path / "known")
        credential = await source.credential("known", scope=None, ttl_s=None)
        assert credential is not None
        assert credential.secret == "rotated"


async def why_not(path: Path) -> str:
    with pytest.raises(CredentialRefused) as refused:
        await FileCredentials({"path": str(path)}, {}).issue(Ask("a"))
    assert "s3cret" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620, 0o610])
async def test_a_file_that_others_can_touch_is_no_credential(tmp_path: Path, mode: int) -> None:
    path = private(tmp_path / "token", b"s3cret-value")
    path.chmod(mode)
    assert "chmod 600" in await why_not(path)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(mode=0o700), "not a regular file"),
        (lambda path: os.mkfifo(path, 0o600), "not a regular file"),
        (lambda path: private(path, b"\xff\xfe s3cret"), "UTF-8"),
        (lambda path: private(path, b"s3cret" * 20_000), "larger"),
    ],
)
async def test_what_is_no_private_file_of_text_is_no_credential(
    tmp_path: Path, make: Callable[[Path], object], why: str
) -> None:
    make(tmp_path / "token")
    assert why in await why_not(tmp_path / "token")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
async def test_a_file_of_another_user_is_no_credential(tmp_path: Path) -> None:
    path = private(tmp_path / "token", b"s3cret-value")
    os.chown(path, 12345, 12345)
    assert "another user" in await why_not(path)
