"""Attacks on evidence: its container, its signatures, the log behind it, its order."""

from __future__ import annotations

import base64
import io
import json
import random
import stat
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.core.archive import NotAMember, canonical_zip
from agentgate.core.dsse import pae
from agentgate.core.evidence.pack import About, Seals, build, seal
from agentgate.core.verification.findings import Fault
from agentgate.core.verification.seals import NoKey, Trust, read_trust
from agentgate.core.verification.unpack import unpack
from agentgate.core.verification.verify import verify
from tests.core.events import a_session
from tests.packs import (
    ENVELOPE_SECRET,
    SESSION,
    TRUST,
    WHEN,
    Maker,
    ZipPack,
    a_secret,
    dumps,
    hmac_line,
    log_key,
    signature_of,
)

RECORDS = a_session(2)
MAKER = Maker(RECORDS)
PACK = MAKER.make()

ELSEWHERE = [
    "../evil.sh", "/etc/cron.d/evil", "leaves/../../evil", "C:\\evil", "..\\evil", "leaves\\1.json", "leaves//1.json",
    "./pack.json", "PACK.JSON", "pack.json ", "pack.json\0.sh", "leaves/01.json", "leaves/1.JSON", "leaves/-1.json",
    "leaves/\N{FULLWIDTH DIGIT ONE}.json", ".bashrc", "keys/log.vkey/x", "proofs/", "con", "VERIFY.md.exe", "",
]  # fmt: skip


def zipped(files: list[tuple[str, bytes]], *, compression: int = zipfile.ZIP_STORED, mode: int = 0o644) -> bytes:
    """A zip as somebody else's program writes it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a name is there twice is the point
        for name, content in files:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.external_attr, entry.compress_type = mode << 16, compression
            archive.writestr(entry, content)
    return out.getvalue()


def test_names_that_lead_elsewhere_twice_the_same_and_two_zips_of_one_pack() -> None:
    """A50: a name that leads out of the folder, a second entry of a name, a link, a bomb, a byte between entries."""
    files = list(PACK.files.items())
    for name in ELSEWHERE:
        raw = zipped([*files, (name, b"x")])
        assert unpack(raw).flaw is not None, name
        assert verify(raw, TRUST).exit_status == 1, name
        assert set(unpack(raw).files) <= set(PACK.files)
        with pytest.raises(NotAMember):
            canonical_zip({name: b""})
    for twice in (files[0], ("pack.json", b"{}"), ("leaves/3.json", b"{}")):
        for order in ([*files, twice], [twice, *files]):
            assert verify(zipped(order), TRUST).exit_status == 1
    link = zipped([("VERIFY.md", b"/etc/passwd")], mode=stat.S_IFLNK | 0o777)
    bomb = zipped([("pack.json", bytes(50_000_000))], compression=zipfile.ZIP_DEFLATED)
    for hostile in (link, bomb, zipped(files), canonical_zip(PACK.files) + b"\0", b"MZ" + canonical_zip(PACK.files)):
        assert verify(hostile, TRUST).exit_status == 1
    shuffled = files.copy()
    random.Random(1).shuffle(shuffled)
    assert canonical_zip(dict(shuffled)) == canonical_zip(PACK.files)
    made = [Maker(RECORDS, envelope_secret=a_secret(4)).make().zip() for _ in range(2)]
    assert made[0] == made[1]
    assert zipfile.ZipFile(io.BytesIO(canonical_zip(PACK.files))).testzip() is None


def envelope_of(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The pack with another envelope, and the bundle that goes with it."""
    document = json.loads(PACK.files["pack.dsse.json"])
    change(document)
    bundle = json.loads(PACK.files["pack.sigstore.json"])
    bundle["dsseEnvelope"] = document
    envelope = {"pack.dsse.json": dumps(document), "pack.sigstore.json": dumps(bundle)}
    return ZipPack(PACK.files | envelope).zip()


def as_other_type(document: dict[str, Any]) -> None:
    """Signed truly, as something that is not a statement about files."""
    kind = document["payloadType"] = "application/json"
    signature = signature_of(ENVELOPE_SECRET, pae(kind, base64.b64decode(document["payload"])))
    document["signatures"][0]["sig"] = base64.b64encode(signature).decode()


def with_payload(document: dict[str, Any], payload: bytes) -> None:
    """Signed truly, but it says something else."""
    document["payload"] = base64.b64encode(payload).decode()
    signature = signature_of(ENVELOPE_SECRET, pae(document["payloadType"], payload))
    document["signatures"][0]["sig"] = base64.b64encode(signature).decode()


ENVELOPES: dict[str, Callable[[dict[str, Any]], object]] = {
    "no signature": lambda document: document.update(signatures=[]),
    "signature of nothing": lambda document: document["signatures"][0].update(sig=""),
    "two signatures": lambda document: document["signatures"].append(document["signatures"][0]),
    "a stranger's first": lambda document: document["signatures"].insert(0, {"keyid": "", "sig": "AAAA"}),
    "no key id": lambda document: document["signatures"][0].update(keyid=""),
    "another type": lambda document: document.update(payloadType="application/json"),
    "another type, signed": as_other_type,
    "no payload": lambda document: document.update(payload=""),
    "no subjects, signed": lambda document: with_payload(
        document, base64.b64decode(document["payload"]).replace(b'"subject":[', b'"subject":[],"were":[')
    ),
    "something besides": lambda document: document.update(note="trust me"),
}


def test_signatures_that_are_stripped_or_weakened() -> None:
    """A51: what must be signed is named inside what is signed, and by the keys that a reader brings along."""
    for name, change in ENVELOPES.items():
        for trust in (TRUST, Trust()):
            assert verify(envelope_of(change), trust).exit_status == 1, name
    for gone in ("pack.dsse.json", "pack.sigstore.json", "pack.json.hmac", "checkpoint", "proofs/3.tlog-proof"):
        pack = ZipPack({name: content for name, content in PACK.files.items() if name != gone})
        assert Fault.STRIPPED in verify(pack.zip(), TRUST).faults, gone
        assert Fault.STRIPPED in verify(pack.zip(), Trust()).faults, gone
    hmac_only = seal(build(About(SESSION, WHEN, "AgentGate test"), RECORDS), Seals(TRUST.hmac_keys[0]), signed_at=WHEN)
    files = {"pack.json": hmac_only.raw, "pack.json.hmac": hmac_line(hmac_only.raw)}
    bare = canonical_zip(files | {name: PACK.files[name] for name in PACK.files if name.startswith("bodies/")})
    for keys in (TRUST, Trust(hmac_keys=TRUST.hmac_keys), Trust()):
        assert verify(bare, keys).faults == (Fault.STRIPPED,), "no gateway makes a zip without an envelope and proofs"
    assert verify(hmac_only.json, Trust()).exit_status == 2, "an HMAC convinces nobody who has not its key"
    other = rsa.generate_private_key(65537, 2048).public_key()
    with pytest.raises(NoKey):
        read_trust(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def test_a_log_that_was_cut_forked_or_set_back() -> None:
    """A52: held against one checkpoint that somebody else has kept."""
    yesterday, today = Maker(RECORDS, size=30), Maker(RECORDS, earlier_size=30)
    assert verify(today.make().zip(), TRUST, yesterday.checkpoint()).exit_status == 0
    assert verify(yesterday.make().zip(), TRUST, today.checkpoint()).faults == (Fault.ROLLED_BACK,)
    fork = Maker(RECORDS, earlier_size=30)
    fork.leaves[1] = b'{"another":"past"}'
    for kept in (yesterday.checkpoint(), today.checkpoint()):
        assert verify(fork.make().zip(), TRUST, kept).faults == (Fault.FORKED,)
    cut = ZipPack(dict(PACK.files))
    cut.edit(lambda body: body["integrity"]["events"].pop())
    assert Fault.TRUNCATED in verify(cut.resigned(), TRUST).faults


def test_events_that_were_left_out_or_put_in_another_order() -> None:
    """A53: by somebody who holds every key but the log's and writes everything anew around it."""
    for place in range(len(RECORDS) - 1):
        kept = [*RECORDS[:place], *RECORDS[place + 1 :]]
        report = verify(Maker(kept, leaves=MAKER.leaves).make().zip(), TRUST)
        assert report.faults == (Fault.REMOVED,), place
        assert f"number {place + 1} of session s-1" in next(f.detail for f in report.findings if f.fault)
    for place in range(len(RECORDS) - 1):
        moved = [*RECORDS[:place], RECORDS[place + 1], RECORDS[place], *RECORDS[place + 2 :]]
        assert verify(Maker(moved, leaves=MAKER.leaves).make().zip(), TRUST).faults == (Fault.REORDERED,), place


def test_a_strangers_log_does_not_stand_in_for_ours() -> None:
    """A key of another name, or the same name with another key."""
    for key in (log_key(origin="another.test/log"), log_key(a_secret(4))):
        assert verify(PACK.zip(), Trust(log_keys=(key,))).faults == (Fault.WRONG_KEY,)
