"""What readers of signed forms are told, to the letter: `agentgate verify` and monitors show these sentences."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, SECP384R1, derive_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agentgate.core import dsse, merkle, note, subtrees, tiles
from agentgate.core.evidence.pack import key_id
from agentgate.core.strict_json import canonical
from agentgate.core.verification.findings import Fault, Finding, Standing
from agentgate.core.verification.seals import NoKey, Trust, history_finding, hmac_finding, open_checkpoint, read_trust

SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RAW = SIGNER.public_key().public_bytes_raw()
KEY = note.NoteKey("log", RAW)
WITNESS = note.NoteKey("w", RAW, note.COSIGNATURE_V1)
ROOT = base64.b64encode(bytes(32)).decode()
NOTE = note.sign(f"log\n7\n{ROOT}\n", KEY, SIGNER.sign)
FALSE = note.sign("x\n", KEY, lambda _: bytes(64))
SHORT = "x\n\n— log " + base64.b64encode(KEY.hash).decode() + "\n"
OTHERS = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = note.NoteKey("log", OTHERS.public_key().public_bytes_raw())
P256 = derive_private_key(7, SECP256R1()).public_key()
P384 = derive_private_key(7, SECP384R1()).public_key()
SHAPE = "a checkpoint has an origin, a size and a root, and no empty line"
NOT_TEXT = "a note is text, an empty line and signatures, without control characters"
FORM = "a verifier key has the form name+hash+base64 and is"
STATEMENT = {
    "_type": dsse.STATEMENT_TYPE, "predicateType": dsse.PREDICATE_TYPE, "predicate": {}, "subject": [],
}  # fmt: skip


def proof(*lines: str) -> bytes:
    return "\n".join(lines).encode() + b"\n\nnote"


def statement(**changes: object) -> Callable[[], object]:
    return partial(dsse.parse_statement, canonical(STATEMENT | changes))


def envelope(value: object) -> Callable[[], object]:
    return partial(dsse.parse_envelope, canonical(value))


SENTENCES: list[tuple[Callable[[], object], str]] = [
    # keys of notes
    (lambda: note.NoteKey("a b", RAW), "a key name has neither spaces nor a plus sign: 'a b'"),
    (lambda: note.NoteKey("a+b", RAW), "a key name has neither spaces nor a plus sign: 'a+b'"),
    (lambda: note.NoteKey("", RAW), "a key name has neither spaces nor a plus sign: ''"),
    (lambda: note.NoteKey("\ud800", RAW), "a key name has neither spaces nor a plus sign: '\\ud800'"),
    (lambda: note.NoteKey("\udfff", RAW), "a key name has neither spaces nor a plus sign: '\\udfff'"),
    (lambda: note.NoteKey("a", b"x"), "an Ed25519 public key has 32 bytes, not 1"),
    (lambda: note.parse_key("log"), f"{FORM} an Ed25519 key"),
    (lambda: note.parse_key("log+00"), f"{FORM} an Ed25519 key"),
    (lambda: note.parse_key(WITNESS.text), f"{FORM} an Ed25519 key"),
    (lambda: note.parse_witness_key(KEY.text), f"{FORM} a witness's key for cosignature/v1"),
    (lambda: note.parse_key(KEY.text.replace("log", "gol")), "the verifier key's hash is another key's"),
    (lambda: note.parse_key("log+00+*"), "not base64"),
    (lambda: note.parse_key("log+00+AR=="), "base64 with stray bits"),
    # notes
    (lambda: note.sign("x", KEY, SIGNER.sign), "a note's text ends with a newline and has no control characters"),
    (lambda: note.sign("\t\n", KEY, SIGNER.sign), "a note's text ends with a newline and has no control characters"),
    (lambda: note.open_note(FALSE, [KEY]), "the signature of log does not hold"),
    (lambda: note.open_note(NOTE, [WITNESS]), "no known key has signed this note"),
    (lambda: note.open_note(b"x" * 1_000_001, []), "a note has at most a million bytes"),
    (lambda: note.open_note(b"x" * 1_000_000, []), NOT_TEXT),
    (lambda: note.open_note(b"\xff\n\nx\n", []), "a note is UTF-8"),
    (lambda: note.open_note(b"x\n", []), NOT_TEXT),
    (lambda: note.open_note(b"x\n\n", []), NOT_TEXT),
    (lambda: note.open_note(b"x\n\ny", []), NOT_TEXT),
    (lambda: note.open_note(b"x\n\n" + b"y\n" * 101, []), "a note has at most a hundred signatures"),
    (lambda: note.open_note(b"x\n\n" + b"y\n" * 100, []), "a signature line is a dash, a name and base64"),
    (lambda: note.open_note("x\n\n— log\n".encode(), []), "a signature line is a dash, a name and base64"),
    (lambda: note.open_note("x\n\n— l+g AAAA\n".encode(), []), "a signature line is a dash, a name and base64"),
    (lambda: note.open_note(SHORT.encode(), []), "a signature line without a signature"),
    (lambda: note.cosignatures(
        b"x\n\n" + note.cosign("y\n", WITNESS, SIGNER.sign, 7).encode(), [KEY, WITNESS]
    ), "the cosignature of w does not hold"),
    # checkpoints
    (lambda: note.parse_checkpoint("log\n7\n"), SHAPE),
    (lambda: note.parse_checkpoint(f"\n7\n{ROOT}\n"), SHAPE),
    (lambda: note.parse_checkpoint(f"log\n7\n{ROOT}"), SHAPE),
    (lambda: note.parse_checkpoint(f"log\n07\n{ROOT}\n"),
     "a checkpoint's size is a decimal number without leading zeros"),
    (lambda: note.parse_checkpoint("log\n7\nAAAA\n"), "a checkpoint's root has 32 bytes"),
    (lambda: note.open_checkpoint(NOTE, [KEY], "gol"), "the checkpoint is of 'log', not of 'gol'"),
    # tiles
    (lambda: tiles.parse_tile("file/0/000"), "a tile's path starts with tile/"),
    (lambda: tiles.parse_tile("tile/64/000"), "a tile's level is a number from 0 to 63, or entries"),
    (lambda: tiles.parse_tile("tile/01/000"), "a tile's level is a number from 0 to 63, or entries"),
    (lambda: tiles.parse_tile("tile/0/000.p/256"), "a partial tile's width is a number from 1 to 255"),
    (lambda: tiles.parse_tile("tile/0/000.p/0"), "a partial tile's width is a number from 1 to 255"),
    (lambda: tiles.parse_tile("tile/0/00"), "a tile's index is in groups of three digits, like x001/x234/067"),
    (lambda: tiles.parse_tile("tile/0/x000/001"), "a tile's index is in groups of three digits, like x001/x234/067"),
    (lambda: tiles.parse_tile("tile/0/x009/x223/x372/x036/x854/x775/808"), "a tile's index is below 2^63"),
    (lambda: tiles.bundle([b"", bytes(65_536)]), "a leaf has at most 65535 bytes, not 65536"),
    (lambda: tiles.parse_bundle(b"\0"), "an entry bundle ends within an entry"),
    (lambda: tiles.parse_bundle(b"\0\2x"), "an entry bundle ends within an entry"),
    (lambda: tiles.parse_bundle(bytes(2 * 257)), "an entry bundle has at most 256 entries"),
    (lambda: tiles.parse_hashes(bytes(63), 2), "a tile of 2 hashes has 64 bytes, not 63"),
    (lambda: tiles.parse_tlog_proof(proof("x")), "a proof starts with the line c2sp.org/tlog-proof@v1"),
    (lambda: tiles.parse_tlog_proof(proof("c2sp.org/tlog-proof@v1")), "a proof without an index"),
    (lambda: tiles.parse_tlog_proof(proof("c2sp.org/tlog-proof@v1", "old 1")),
     "a line «index number» is wanted, without leading zeros"),
    (lambda: tiles.parse_tlog_proof(proof("c2sp.org/tlog-proof@v1", "index 1", *[ROOT] * 64)),
     "a proof has at most 63 hashes"),
    (lambda: tiles.parse_tlog_proof(proof("c2sp.org/tlog-proof@v1", "index 1", "AAAA")), "a hash has 32 bytes"),
    (lambda: tiles.parse_tlog_proof(proof("c2sp.org/tlog-proof@v1", "extra *")), "not base64"),
    (lambda: tiles.parse_consistency_body(proof("old 01")), "a line «old number» is wanted, without leading zeros"),
    (lambda: tiles.parse_consistency_body(proof("old 9223372036854775808")),
     "a line «old number» is wanted, without leading zeros"),
    (lambda: tiles.parse_consistency_body(proof("old 1", *[ROOT] * 64)), "a proof has at most 63 hashes"),
    (lambda: tiles.parse_consistency_body(b"old 1"), "lines, an empty line and a checkpoint are wanted"),
    (lambda: tiles.parse_consistency_body(b"old 1\n\n"), "lines, an empty line and a checkpoint are wanted"),
    (lambda: tiles.parse_consistency_body(proof("öld 1")), "what comes before the checkpoint is ASCII"),
    # trees
    (lambda: merkle.inclusion_ranges(7, 7), "no leaf 7 in a tree of 7"),
    (lambda: merkle.inclusion_ranges(-1, 7), "no leaf -1 in a tree of 7"),
    (lambda: merkle.consistency_ranges(8, 7), "a tree of 7 does not continue one of 8"),
    (lambda: merkle.consistency_ranges(-1, 7), "a tree of 7 does not continue one of -1"),
    (lambda: merkle.Frontier.from_bytes(bytes(9)), "a frontier of size 0 does not have 9 bytes"),
    (lambda: subtrees.Subtrees([(0, 2)]).root((0, 2)), "the tree that is read does not reach leaf 1"),
    # envelopes
    (lambda: dsse.PublicKey.from_pem(b"x"), "not a public key in PEM (SubjectPublicKeyInfo)"),
    (lambda: dsse.PublicKey(b"x").algorithm, "not a public key"),
    (lambda: dsse.PublicKey.from_pem(P384.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
     "envelopes are signed with ECDSA on P-256 or with Ed25519, and this is another key"),
    (statement(more=1), "a statement has a type, subjects and a predicate, and nothing else"),
    (statement(_type="x"), "the statement is not one about an evidence pack"),
    (statement(predicateType="x"), "the statement is not one about an evidence pack"),
    (statement(predicate=[]), "the statement is malformed"),
    (statement(subject={}), "the statement is malformed"),
    (statement(subject=[{"name": "x", "digest": {"sha256": "y"}}] * 2),
     "a subject has one name, of its own, and its SHA-256"),
    (lambda: dsse.parse_statement(b"{"),
     "the statement is not strict JSON: EOF while parsing an object at line 1 column 1"),
    (lambda: dsse.parse_statement(b"[]"), "the statement is not a JSON object in canonical form"),
    (lambda: dsse.parse_statement(b"{ }"), "the statement is not a JSON object in canonical form"),
    (envelope({}), "an envelope has a payload, its type and signatures"),
    (envelope({"payload": "", "payloadType": "", "signatures": []}),
     "an envelope has a payload, its type and signatures"),
    (envelope({"payload": "", "payloadType": "", "signatures": [{"sig": ""}]}), "a signature has a key id and bytes"),
    (envelope({"payload": "*", "payloadType": "", "signatures": [1]}), "not base64"),
    (envelope({"more": 1, "payload": "", "payloadType": "", "signatures": [{"keyid": "", "sig": ""}]}),
     "the envelope has more in it than it should"),
    (lambda: dsse.parse_envelope(b"[]"), "the envelope is not a JSON object in canonical form"),
    (lambda: dsse.parse_bundle(b"[]"), "the bundle is not a JSON object in canonical form"),
    (lambda: dsse.parse_bundle(b"{}"), "a bundle holds an envelope"),
    (lambda: dsse.parse_bundle(canonical(
        {"dsseEnvelope": {"payload": "", "payloadType": "", "signatures": [{"keyid": "", "sig": ""}]}}
    )), "the bundle is not one of an evidence pack"),
]  # fmt: skip


@pytest.mark.parametrize(("read", "sentence"), SENTENCES, ids=[sentence[:60] for _, sentence in SENTENCES])
def test_what_is_no_such_form_is_refused_in_these_words(read: Callable[[], object], sentence: str) -> None:
    with pytest.raises(ValueError) as refused:
        read()
    assert str(refused.value) == sentence


# --- what is said of a pack's signatures ------------------------------------------------------------------


def signed_checkpoint(size: int, root: bytes = bytes(32), *, key: note.NoteKey = KEY, origin: str = "log") -> bytes:
    return note.sign(note.Checkpoint(origin, size, root).text, key, SIGNER.sign)


LEAVES = [merkle.leaf_hash(b"%d" % number) for number in range(5)]
OLD = signed_checkpoint(3, merkle.root(LEAVES[:3]))
NEW = signed_checkpoint(5, merkle.root(LEAVES))
PROOF = tiles.consistency_body(3, merkle.consistency_proof(LEAVES, 3), NEW)
ELSEWHERE = note.sign("log\n5\n" + ROOT + "\n", OTHER, OTHERS.sign)
TAG = hmac.new(b"k" * 32, b"signed", hashlib.sha256).hexdigest()
UNNAMED: dict[str, Any] = {"signed_by": []}
HELD = Trust(hmac_keys=(b"j" * 32, b"k" * 32))


def history(earlier: bytes, found: bytes | None, proof: bytes | None = None, keys: Any = (KEY,)) -> Finding:
    return history_finding(earlier, found, proof, keys)


def of_hmac(signature: Any, trust: Trust, integrity: dict[str, Any] = UNNAMED) -> Finding:
    return hmac_finding("signature", b"signed", signature, integrity, trust)


FINDINGS: list[tuple[Callable[[], Any], Fault | Standing, str]] = [
    (lambda: of_hmac(None, Trust()), Standing.NOT_CHECKED, "the pack has no HMAC"),
    (lambda: of_hmac(None, HELD), Fault.STRIPPED, "there is no HMAC: the signature was stripped"),
    (lambda: of_hmac(7, Trust(), {"signed_by": ["hmac-sha256"]}), Fault.STRIPPED,
     "there is no HMAC: the signature was stripped"),
    (lambda: of_hmac(TAG, Trust()), Standing.NOT_CHECKED,
     "no HMAC key given: it would show that holders of that key made the pack"),
    (lambda: of_hmac(TAG, HELD), Standing.HOLDS, "HMAC-SHA256 over all of it; it convinces whoever holds the key"),
    (lambda: of_hmac("\ud800", HELD, {"signed_by": [], "key_id": key_id(b"k" * 32)}), Fault.CHANGED,
     "the HMAC does not fit: it was altered after signing"),
    (lambda: of_hmac("x", HELD, {"signed_by": [], "key_id": "0123456789abcdef0"}), Fault.WRONG_KEY,
     "the HMAC does not fit: it was made with another key (0123456789abcdef)"),
    (lambda: open_checkpoint(b"x", [KEY]), Fault.CHANGED, f"not a checkpoint: {NOT_TEXT}"),
    (lambda: open_checkpoint(OLD, [OTHER, WITNESS]), Fault.WRONG_KEY,
     "the checkpoint does not hold: no known key has signed this note"),
    (lambda: open_checkpoint(OLD, [WITNESS, note.NoteKey("a", RAW)]), Fault.WRONG_KEY,
     "the checkpoint is of log, and the key of a, w"),
    (lambda: open_checkpoint(OLD.replace(b"\n3\n", b"\n4\n"), [KEY]), Fault.CHANGED,
     "the checkpoint does not hold: the signature of log does not hold"),
    (lambda: open_checkpoint(OLD + b"x y\n", [KEY]), Fault.CHANGED,
     "the checkpoint does not hold: a signature line is a dash, a name and base64"),
    (lambda: history(OLD, None), Fault.MISSING, "the pack has no checkpoint to compare the earlier one with"),
    (lambda: history(b"x", NEW), Fault.CHANGED, f"the earlier checkpoint: not a checkpoint: {NOT_TEXT}"),
    (lambda: history(OLD, b"x"), Fault.CHANGED, f"not a checkpoint: {NOT_TEXT}"),
    (lambda: history(OLD.replace(b"\n3\n", b"\n4\n"), NEW), Fault.CHANGED,
     "the earlier checkpoint: the checkpoint does not hold: the signature of log does not hold"),
    (lambda: history(OLD, NEW.replace(b"\n5\n", b"\n6\n")), Fault.CHANGED,
     "the checkpoint does not hold: the signature of log does not hold"),
    (lambda: history(OLD, signed_checkpoint(5, key=WITNESS, origin="w"), keys=()), Fault.OTHER_LOG,
     "the earlier checkpoint is of log, and the pack's of w"),
    (lambda: history(NEW, OLD), Fault.ROLLED_BACK,
     "the log had 5 events and has 3 here: an older pack, or a log that was set back"),
    (lambda: history(NEW, signed_checkpoint(5)), Fault.FORKED, "one log, two contents of 5 events"),
    (lambda: history(NEW, NEW), Standing.HOLDS, "the same log of 5 events"),
    (lambda: history(NEW, NEW, keys=()), Standing.NOT_CHECKED,
     "the same log of 5 events, as they say: no key of the log was given to check them with"),
    (lambda: history(OLD, NEW), Fault.MISSING,
     "no consistency/3 in the pack: export it again, as zip and with checkpoint_size=3"),
    (lambda: history(OLD, NEW, b"x"), Fault.CHANGED,
     "consistency/3 is no proof: lines, an empty line and a checkpoint are wanted"),
    (lambda: history(OLD, NEW, tiles.consistency_body(2, [], NEW)), Fault.CHANGED,
     "consistency/3 is of another size or another checkpoint"),
    (lambda: history(OLD, NEW, tiles.consistency_body(3, [], OLD)), Fault.CHANGED,
     "consistency/3 is of another size or another checkpoint"),
    (lambda: history(OLD, NEW, tiles.consistency_body(3, LEAVES[:2], NEW)), Fault.FORKED,
     "the log of 5 events does not continue the one of 3: it was forked"),
    (lambda: history(OLD, NEW, PROOF), Standing.HOLDS, "the log of 5 events continues the earlier one of 3"),
]  # fmt: skip


@pytest.mark.parametrize(("look", "standing", "detail"), FINDINGS, ids=[detail[:60] for *_, detail in FINDINGS])
def test_what_is_found_of_a_signature_is_said_in_these_words(
    look: Callable[[], Finding], standing: Fault | Standing, detail: str
) -> None:
    found = look()
    assert found.detail == detail
    assert (found.fault or found.standing) is standing
    assert (found.standing is Standing.BROKEN) is (found.fault is not None)
    assert found.convinces is detail.startswith("HMAC-SHA256")
    assert found.check in {"signature", "checkpoint", "history"}


def test_checks_are_named_after_what_they_look_at() -> None:
    assert of_hmac(TAG, HELD).check == of_hmac("x", HELD).check == of_hmac(None, Trust()).check == "signature"
    assert {history(OLD, found, PROOF).check for found in (None, OLD, NEW, b"x")} == {"history"}
    opened = [open_checkpoint(found, [OTHER]) for found in (b"x", OLD)]
    assert [one.check for one in opened if isinstance(one, Finding)] == ["checkpoint", "checkpoint"]


def test_without_keys_a_checkpoint_is_taken_at_its_word() -> None:
    assert open_checkpoint(ELSEWHERE, ()) == note.Checkpoint("log", 5, bytes(32))
    assert open_checkpoint(NEW, [OTHER, KEY]) == note.Checkpoint("log", 5, merkle.root(LEAVES))


def test_key_file_is_a_pem_or_a_vkey_and_nothing_that_has_one_in_it() -> None:
    pem = P256.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    assert read_trust(b" \n" + pem) == Trust(envelope_keys=(dsse.PublicKey.from_pem(pem),))
    assert read_trust(f" {KEY.text}\n".encode()) == Trust(log_keys=(KEY,))
    assert read_trust(pem) | HELD | Trust(log_keys=(KEY,)) | HELD == Trust(
        HELD.hmac_keys * 2, (dsse.PublicKey.from_pem(pem),), (KEY,)
    )
    for raw in (b"x" + pem, b"\xff", b"", b"-----BEGIN PUBLIC KEY-----"):
        with pytest.raises(NoKey, match=r"^neither a public key in PEM form nor a log's verifier key \(name"):
            read_trust(raw)
