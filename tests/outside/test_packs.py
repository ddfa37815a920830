"""Packs as others read them: Go's sumdb, Sigstore's JavaScript, securesystemslib, openssl, pymerkle, zipfile.

Each finds a good pack good, and notices the damage that is its part to notice.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from pymerkle import InmemoryTree
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

from agentgate.core.dsse import pae
from tests.core.events import a_session
from tests.outside import tools
from tests.outside.tools import flipped, unpacked
from tests.packs import ENVELOPE_SECRET, HMAC_KEY, THIEF, Maker, a_secret, log_key, pem_of

RECORDS = a_session(2)
VKEY = log_key().text
SECRETS = {"ecdsa": ENVELOPE_SECRET, "ed25519": a_secret(5)}
every_signer = pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpacked(Maker(RECORDS, earlier_size=17).make().zip(), tmp_path / "pack")


def test_go_finds_every_event_in_the_log(folder: Path) -> None:
    status, said = tools.run([tools.go(), "pack", folder, VKEY])
    assert (status, said) == (0, f"OK {len(RECORDS)} leaves are in the log of 40 that gateway.test/log/1 signed\n")


def test_go_finds_that_the_log_continues_an_earlier_one(folder: Path, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier"
    for size in (17, 40):
        earlier.write_bytes(Maker(RECORDS).checkpoint(size))
        assert tools.run([tools.go(), "pack", folder, VKEY, earlier])[0] == 0
    fork = Maker(RECORDS)
    fork.leaves[0] = b"{}"
    for size in (17, 40):
        earlier.write_bytes(fork.checkpoint(size))
        status, said = tools.run([tools.go(), "pack", folder, VKEY, earlier])
        assert (status, "FORK" in said) == (1, True)
    earlier.write_bytes(Maker(RECORDS, size=50).checkpoint())
    assert "ROLLED BACK" in tools.run([tools.go(), "pack", folder, VKEY, earlier])[1]


FIRST = RECORDS[0].index
GO_SEES: dict[str, Callable[[Path], object]] = {
    "leaf": flipped(f"leaves/{FIRST}.json"),
    "proof": flipped(f"proofs/{FIRST}.tlog-proof", 60),
    "checkpoint": flipped("checkpoint", 25),
    "signature": flipped("checkpoint", -8),
    "leaf gone": lambda pack: (pack / f"leaves/{FIRST}.json").unlink(),
    "proof gone": lambda pack: (pack / f"proofs/{FIRST}.tlog-proof").unlink(),
    "swapped": lambda pack: swap(pack / f"leaves/{FIRST}.json", pack / f"leaves/{RECORDS[1].index}.json"),
}


def swap(one: Path, other: Path) -> None:
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)


@pytest.mark.parametrize("tamper", GO_SEES.values(), ids=GO_SEES.keys())
def test_go_notices_what_was_done_to_the_logs_part(folder: Path, tamper: Callable[[Path], object]) -> None:
    tamper(folder)
    assert tools.run([tools.go(), "pack", folder, VKEY])[0] == 1


def test_go_refuses_another_logs_key(folder: Path) -> None:
    for key in (log_key(a_secret(6)), log_key(origin="another.test/log")):
        assert tools.run([tools.go(), "pack", folder, key.text])[0] == 1


@every_signer
def test_sigstore_accepts_the_bundle_and_refuses_a_changed_one(secret: object, tmp_path: Path) -> None:
    pack = Maker(RECORDS, envelope_secret=secret).make()  # type: ignore[arg-type]
    folder = unpacked(pack.zip(), tmp_path / "pack")
    check = [*tools.sigstore(), folder / "pack.sigstore.json", folder / "keys/envelope.pub.pem"]
    status, said = tools.run(check)
    assert status == 0, said
    assert {subject["name"] for subject in json.loads(said)["subject"]} == set(pack.files) - {
        "pack.dsse.json",
        "pack.sigstore.json",
    }
    thief = tmp_path / "thief.pem"
    thief.write_bytes(pem_of(THIEF))
    assert tools.run([*check[:-1], thief])[0] == 1
    bundle = json.loads((folder / "pack.sigstore.json").read_bytes())
    payload = base64.b64decode(bundle["dsseEnvelope"]["payload"]).replace(b'"made"', b'"fake"')
    bundle["dsseEnvelope"]["payload"] = base64.b64encode(payload).decode()
    (folder / "pack.sigstore.json").write_text(json.dumps(bundle), encoding="utf-8")
    status, said = tools.run(check)
    assert (status, said) == (1, "FAIL signature verification failed\n")


@every_signer
def test_securesystemslib_accepts_the_envelope_and_refuses_a_changed_one(secret: object) -> None:
    pack = Maker(RECORDS, envelope_secret=secret).make()  # type: ignore[arg-type]
    document = json.loads(pack.files["pack.dsse.json"])
    key_id = document["signatures"][0]["keyid"]
    key = SSlibKey.from_crypto(secret.public_key(), keyid=key_id)  # type: ignore[attr-defined]
    assert Envelope.from_dict(json.loads(pack.files["pack.dsse.json"])).verify([key], 1)
    payload = base64.b64decode(document["payload"]).replace(b'"made"', b'"fake"')
    document["payload"] = base64.b64encode(payload).decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(document).verify([key], 1)


OPENSSL = {
    "ecdsa": ["dgst", "-sha256", "-verify", "key", "-signature", "signature", "signed"],
    "ed25519": ["pkeyutl", "-verify", "-pubin", "-inkey", "key", "-rawin", "-in", "signed", "-sigfile", "signature"],
}


@pytest.mark.parametrize("kind", OPENSSL)
def test_openssl_accepts_the_signature_over_the_encoded_payload(kind: str, tmp_path: Path) -> None:
    pack = Maker(RECORDS, envelope_secret=SECRETS[kind]).make()
    document = json.loads(pack.files["pack.dsse.json"])
    payload = base64.b64decode(document["payload"])
    (tmp_path / "key").write_bytes(pack.files["keys/envelope.pub.pem"])
    (tmp_path / "signature").write_bytes(base64.b64decode(document["signatures"][0]["sig"]))
    (tmp_path / "signed").write_bytes(pae(document["payloadType"], payload))
    assert tools.run([tools.openssl(), *OPENSSL[kind]], cwd=tmp_path)[0] == 0
    (tmp_path / "signed").write_bytes(pae(document["payloadType"], payload + b" "))
    assert tools.run([tools.openssl(), *OPENSSL[kind]], cwd=tmp_path)[0] == 1


def test_openssl_makes_the_same_hmac(folder: Path) -> None:
    for name in ("pack.json", "pack.html", "pack.pdf"):
        hexkey = f"hexkey:{HMAC_KEY.hex()}"
        status, said = tools.run(
            [tools.openssl(), "dgst", "-sha256", "-mac", "HMAC", "-macopt", hexkey, "-r", name], cwd=folder
        )
        assert (status, said.split(" ")[0] + "\n") == (0, (folder / f"{name}.hmac").read_text())


@pytest.mark.parametrize("size", [1, 2, 3, 40, 255, 256, 257, 600])
def test_pymerkle_has_the_same_root(size: int) -> None:
    maker = Maker([], size=size)
    tree = InmemoryTree(algorithm="sha256")
    for leaf in maker.leaves:
        tree.append_entry(leaf)
    assert base64.b64encode(tree.get_root()) == maker.checkpoint().split(b"\n")[2]
