"""The credential kind `encrypted_file`."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.credentials.encrypted_file import EncryptedFileCredentials
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.credentials import Ask, CredentialRefused
from tests.contracts.credential_source import CredentialSourceContract, broker_of

KEY = base64.b64encode(bytes(range(32))).decode()


def kept_in(folder: Path, key: dict[str, Any] | None = None, environ: dict[str, str] | None = None) -> Any:
    options = {"path": str(folder / "sealed.json"), "key": key or {"env": "KEY"}}
    return EncryptedFileCredentials(options, {"KEY": KEY} if environ is None else environ)


class TestEncryptedFileCredentials(CredentialSourceContract):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Broker:
        issuer = kept_in(tmp_path)
        issuer.put("known", "s3cret-value")
        return broker_of({"known": issuer, "empty": issuer})

    async def test_a_secret_that_was_put_again_is_seen_by_the_next_call(self, source: Broker, tmp_path: Path) -> None:
        kept_in(tmp_path).put("known", "rotated")
        credential = await source.credential("known", scope=None, ttl_s=None)
        assert credential is not None
        assert credential.secret == "rotated"


async def test_the_file_shows_no_secret_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    kept_in(tmp_path).put("a", "s3cret-value")
    raw = (tmp_path / "sealed.json").read_bytes()
    assert b"s3cret" not in raw
    assert base64.b64encode(b"s3cret-value") not in raw
    assert (tmp_path / "sealed.json").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sealed.json"], "nothing is left beside it"


async def test_a_key_file_is_made_with_the_first_secret(tmp_path: Path) -> None:
    key = {"file": str(tmp_path / "key")}
    kept_in(tmp_path, key).put("a", "s3cret-value")
    kept_in(tmp_path, key).put("b", "other-value")
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    for alias, secret in (("a", "s3cret-value"), ("b", "other-value")):
        assert (await kept_in(tmp_path, key).issue(Ask(alias))).credential.secret == secret


async def test_who_can_write_the_file_cannot_pass_one_secret_off_as_another(tmp_path: Path) -> None:
    kept_in(tmp_path).put("admin", "s3cret-value")
    kept_in(tmp_path).put("guest", "other-value")
    path = tmp_path / "sealed.json"
    whole = json.loads(path.read_bytes())
    whole["sealed"]["guest"] = whole["sealed"]["admin"]
    path.write_bytes(json.dumps(whole).encode())
    with pytest.raises(CredentialRefused, match="changed"):
        await kept_in(tmp_path).issue(Ask("guest"))


@pytest.mark.parametrize(
    "key", ["", "short", base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(32)).decode()]
)
async def test_without_its_key_a_secret_stays_where_it_is(tmp_path: Path, key: str) -> None:
    kept_in(tmp_path).put("a", "s3cret-value")
    with pytest.raises(CredentialRefused) as refused:
        await kept_in(tmp_path, environ={"KEY": key}).issue(Ask("a"))
    assert key == "" or key not in str(refused.value)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"version":2,"sealed":{}}', b'{"version":1,"sealed":{"a":3}}', b"\x00"]
)
async def test_what_is_no_file_of_credentials_is_refused_and_not_written_over(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sealed.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(CredentialRefused):
        await kept_in(tmp_path).issue(Ask("a"))
    with pytest.raises(CredentialRefused):
        kept_in(tmp_path).put("b", "other-value")
    assert path.read_bytes() == content


@pytest.mark.parametrize("key", [None, "c2VjcmV0", {}, {"env": ""}, {"env": "A", "file": "b"}, {"value": "x"}])
def test_a_key_that_stands_in_the_configuration_is_refused(tmp_path: Path, key: Any) -> None:
    with pytest.raises(ValueError, match="key must be"):
        EncryptedFileCredentials({"path": str(tmp_path / "f"), "key": key}, {})
