"""Envelopes that were signed by software that we did not write: npm's `http-message-signatures`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.gateway import GatewayProcess
from tests.outside import tools
from tests.signing import PATH, body

SECRET = "a-shared-secret-of-the-tests-4711"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both keys, as files."""
    made = tmp_path_factory.mktemp("keys")
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (made / "ed25519").write_bytes(pem)
    (made / "public.pem").write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    (made / "hmac-sha256").touch(0o600)
    (made / "hmac-sha256").write_text(SECRET)
    return made


@pytest.fixture(scope="module")
def gateway(folder: Path) -> Iterator[GatewayProcess]:
    keys = [
        {"id": "ed25519", "agent": "bot", "signature": {"ed25519": {"file": str(folder / "public.pem")}}},
        {"id": "hmac-sha256", "agent": "bot", "signature": {"hmac": {"file": str(folder / "hmac-sha256")}}},
    ]
    with GatewayProcess(config={"auth": {"keys": keys}}) as process:
        yield process


@pytest.mark.parametrize("algorithm", ["ed25519", "hmac-sha256"])
def test_a_signature_by_others_is_taken(gateway: GatewayProcess, folder: Path, algorithm: str) -> None:
    node, script = tools.signatures()
    said = body("bot", f"r-{algorithm}", "db_query", {"query": "SELECT 1 AS n"})
    (folder / "body").write_bytes(said)
    url = gateway.url + PATH
    command = [node, script, url, str(folder / "body"), algorithm, algorithm, str(folder / algorithm)]
    headers = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=60).stdout)
    assert {"Signature", "Signature-Input"} <= headers.keys()
    answer = gateway.client().post(url, content=said, headers=headers)
    assert answer.json()["result"]["rows"] == [{"n": 1}]
    spoilt = gateway.client().post(url, content=said + b" ", headers=headers)
    assert (spoilt.status_code, spoilt.json()["reason_code"]) == (401, "signature_invalid")
