"""Zip packs made the plain way, apart from the gateway's own writers: for tests of what checks them.

pack = Maker().make()                    # a session of a log, signed with every key
raw = pack.zip()                         # the archive
pack.files["leaves/3.json"] = b"{}"      # tamper
raw = pack.resigned(envelope=THIEF)      # and sign it again
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.core.archive import ENVELOPE_FILES, canonical_zip
from agentgate.core.dsse import P256_ORDER, PublicKey
from agentgate.core.event import Record
from agentgate.core.evidence.pack import About, Pack, Seals, build, seal
from agentgate.core.evidence.scope import Scope
from agentgate.core.merkle import consistency_proof, inclusion_proof, leaf_hash, root
from agentgate.core.note import Checkpoint, NoteKey, sign
from agentgate.core.verification.seals import Trust
from tests.core.events import a_session

ORIGIN = "gateway.test/log/1"
HMAC_KEY = b"an-hmac-key-of-32-random-bytes!!"
SESSION = Scope("default", "s-1")
WHEN = "2026-11-21T10:00:00.000000Z"

EnvelopeSecret = ec.EllipticCurvePrivateKey | Ed25519PrivateKey


def a_secret(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))


LOG_SECRET = a_secret(1)
ENVELOPE_SECRET: EnvelopeSecret = ec.derive_private_key(0xA6E47, ec.SECP256R1())
THIEF: EnvelopeSecret = ec.derive_private_key(0xBAD, ec.SECP256R1())


def log_key(secret: Ed25519PrivateKey = LOG_SECRET, origin: str = ORIGIN) -> NoteKey:
    return NoteKey(origin, secret.public_key().public_bytes_raw())


def pem_of(secret: EnvelopeSecret) -> bytes:
    return secret.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def key_id_of(secret: EnvelopeSecret) -> str:
    der = secret.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).hexdigest()


def low_s(signature: bytes) -> bytes:
    """The form that verifiers take: of `s` and its negative the lower one."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, P256_ORDER - s))


def signature_of(secret: EnvelopeSecret, message: bytes) -> bytes:
    if isinstance(secret, Ed25519PrivateKey):
        return secret.sign(message)
    return low_s(secret.sign(message, ec.ECDSA(SHA256())))


TRUST = Trust((HMAC_KEY,), (PublicKey.from_pem(pem_of(ENVELOPE_SECRET)),), (log_key(),))


def dumps(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def enveloped(files: Mapping[str, bytes], secret: EnvelopeSecret, key_id: str | None = None) -> dict[str, bytes]:
    """`files` with an envelope over all of them."""
    subjects = [
        {"name": name, "digest": {"sha256": hashlib.sha256(content).hexdigest()}}
        for name, content in sorted(files.items())
        if name not in ENVELOPE_FILES
    ]
    kind = "application/vnd.in-toto+json"
    payload = dumps(
        {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects,
            "predicateType": "https://agentgate.dev/evidence/v1",
            "predicate": {
                "made": "by a test",
                "pack_id": hashlib.sha256(files["pack.json"]).hexdigest(),
                "timestamp": "pack.dsse.tsr" in files,
            },
        }
    )
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    named = key_id or key_id_of(secret)
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": kind,
        "signatures": [{"keyid": named, "sig": base64.b64encode(signature_of(secret, signed)).decode()}],
    }
    bundle = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": named}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return {**files, "pack.dsse.json": dumps(envelope), "pack.sigstore.json": dumps(bundle)}


@dataclass
class ZipPack:
    """The files of a pack, to be tampered with."""

    files: dict[str, bytes]
    hmac_key: bytes = HMAC_KEY

    def zip(self) -> bytes:
        return canonical_zip(self.files)

    def resigned(self, envelope: EnvelopeSecret = ENVELOPE_SECRET, *, hmac_key: bytes | None = None) -> bytes:
        """The archive with HMACs and envelope made anew: what an insider can do who holds these keys."""
        files = dict(self.files)
        body = json.loads(files["pack.json"])
        if envelope is not ENVELOPE_SECRET:
            body["integrity"]["envelope_key_id"] = key_id_of(envelope)
            files["pack.json"] = dumps(body)
        if "keys/envelope.pub.pem" in files:
            files["keys/envelope.pub.pem"] = pem_of(envelope)
        for name in ("pack.json", "pack.html", "pack.pdf"):
            if name in files:
                files[f"{name}.hmac"] = hmac_line(files[name], hmac_key or self.hmac_key)
        return canonical_zip(enveloped(files, envelope))

    def edit(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the body in place."""
        body = json.loads(self.files["pack.json"])
        change(body)
        self.files["pack.json"] = dumps(body)


def hmac_line(content: bytes, key: bytes = HMAC_KEY) -> bytes:
    return hmac.new(key, content, hashlib.sha256).hexdigest().encode() + b"\n"


def numbered_leaves(records: Sequence[Record], size: int) -> list[bytes]:
    """A log of `size` leaves with the records at their places."""
    mine = {record.index: record.leaf for record in records}
    return [mine.get(index, b'{"somebody":"else","n":%d}' % index) for index in range(size)]


@dataclass
class Maker:
    """A log, and packs of it."""

    records: list[Record] = field(default_factory=lambda: a_session(2))
    size: int = 40
    log_secret: Ed25519PrivateKey = LOG_SECRET
    envelope_secret: EnvelopeSecret = ENVELOPE_SECRET
    hmac_key: bytes = HMAC_KEY
    scope: Scope = SESSION
    earlier_size: int | None = None
    """A consistency proof from here is put in."""
    leaves: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.leaves:
            self.leaves = numbered_leaves(self.records, self.size)

    @property
    def hashes(self) -> list[bytes]:
        return [leaf_hash(leaf) for leaf in self.leaves]

    def checkpoint(self, size: int | None = None) -> bytes:
        hashes = self.hashes[:size]
        text = Checkpoint(ORIGIN, len(hashes), root(hashes)).text
        return sign(text, log_key(self.log_secret), self.log_secret.sign)

    def body(self) -> Pack:
        seals = Seals(self.hmac_key, key_id_of(self.envelope_secret), proofs=True)
        about = About(self.scope, WHEN, "AgentGate test")
        return seal(build(about, self.records, self.checkpoint()), seals, signed_at=WHEN)

    def json(self) -> bytes:
        """The pack as one document, signed with the HMAC alone."""
        body = build(About(self.scope, WHEN, "AgentGate test"), self.records, self.checkpoint())
        return seal(body, Seals(self.hmac_key), signed_at=WHEN).json

    def make(self) -> ZipPack:
        hashes, note = self.hashes, self.checkpoint()
        files = {
            "VERIFY.md": b"# How to check this pack\n",
            "pack.json": self.body().raw,
            "pack.html": b"<!doctype html><title>Evidence</title>\n",
            "pack.pdf": b"%PDF-1.7\n%%EOF\n",
            "checkpoint": note,
            "keys/log.vkey": log_key(self.log_secret).text.encode() + b"\n",
            "keys/envelope.pub.pem": pem_of(self.envelope_secret),
        }
        for name in ("pack.json", "pack.html", "pack.pdf"):
            files[f"{name}.hmac"] = hmac_line(files[name], self.hmac_key)
        for record in self.records:
            index = record.index
            files[f"leaves/{index}.json"] = record.leaf
            if record.raw_body is not None:
                files[f"bodies/{index}.json"] = record.raw_body
            path = [base64.b64encode(one).decode() for one in inclusion_proof(hashes, index)]
            lines = "\n".join(["c2sp.org/tlog-proof@v1", f"index {index}", *path])
            files[f"proofs/{index}.tlog-proof"] = lines.encode() + b"\n\n" + note
        if self.earlier_size is not None:
            path = [base64.b64encode(one).decode() for one in consistency_proof(hashes, self.earlier_size)]
            head = "\n".join([f"old {self.earlier_size}", *path]).encode()
            files[f"consistency/{self.earlier_size}"] = head + b"\n\n" + note
        return ZipPack(enveloped(files, self.envelope_secret), self.hmac_key)
