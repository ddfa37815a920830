"""What `agentgate verify` says of a whole pack and of each damage, to the letter: people read it, scripts keep it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.dsse import PublicKey
from agentgate.core.evidence.pack import SECTIONS
from agentgate.core.strict_json import canonical, parse
from agentgate.core.verification.findings import Standing
from agentgate.core.verification.seals import Trust
from agentgate.core.verification.unpack import unpack
from agentgate.core.verification.verify import verify, verify_view
from tests.core.events import a_session
from tests.core.test_verify import MAKER, PACK, RAW, RECORDS, TABLE, drop, edit, put, tampered
from tests.packs import LOG_SECRET, THIEF, TRUST, Maker, ZipPack, a_secret, hmac_line, log_key, pem_of

PLACES = [record.index for record in RECORDS]
SAID = {
    "container": "51 files, and not a byte besides",
    "shape": "13 events in 7 sections",
    "files": "49 files have the digests that the envelope lists, and no more are there",
    "envelope": "signed with a key that you trust, and with it every file that is listed",
    "sigstore": "the bundle holds the same envelope",
    "log": "13 events are in the log of 40 that gateway.test/log/1 signed, with a key that you trust",
    **dict.fromkeys(
        ("pack.json", "pack.html", "pack.pdf"), "HMAC-SHA256 over all of it; it convinces whoever holds the key"
    ),
    "events": "13 leaves have their hashes, in the log's order, numbered without a gap",
    "bodies": "13 bodies are the ones that their leaves bind",
    "views": "every section follows from the events",
}
OWN_KEY = PublicKey.from_pem(PACK.files["keys/envelope.pub.pem"]).key_id
NO_HMAC_KEY = "no HMAC key given: it would show that holders of that key made the pack"
UNCHECKED = {
    "envelope": f"it holds under the pack's own key: compare its SHA-256, {OWN_KEY}, with whom you trust",
    "log": "13 events are in the log of 40 that gateway.test/log/1 signed with the pack's own key: compare it with "
    f"whom you trust: {log_key(LOG_SECRET).text}",
    **dict.fromkeys(("pack.json", "pack.html", "pack.pdf"), NO_HMAC_KEY),
}
HMAC = "the HMAC does not fit: it was altered after signing"
NO_ENVELOPE = "envelope: there is no envelope over all files, or the body does not name it"
NO_CHECKPOINT = "checkpoint: there is no checkpoint with proofs, or the body does not name it"
EDITED = [
    "files: pack.json is not the file that was signed",
    "files: the envelope is of another pack.json",
    f"pack.json: {HMAC}",
]
SUMMARY = "views: section summary does not follow from the events"
TIMELINE = "views: section timeline does not follow from the events"
KEY = "keys/envelope.pub.pem"

TOLD: dict[str, list[str]] = {
    "leaf edited": [
        "files: leaves/3.json is not the file that was signed",
        "log: leaves/3.json is not there or not the leaf that the body has",
    ],
    "body edited": [
        "files: bodies/3.json is not the file that was signed",
        "bodies: the body of event 3 is not the one that its leaf binds",
        "views: the sections cannot be rebuilt from the events: KeyError",
    ],
    "proof edited": [
        "files: proofs/3.tlog-proof is not the file that was signed",
        "log: proofs/3.tlog-proof: lines, an empty line and a checkpoint are wanted",
    ],
    "leaves swapped": [
        *[f"files: leaves/{at}.json is not the file that was signed" for at in (3, 5)],
        *[f"log: leaves/{at}.json is not there or not the leaf that the body has" for at in (3, 5)],
    ],
    "event deleted": [
        *[f"files: {name} was taken out" for name in ("bodies/3.json", "leaves/3.json", "proofs/3.tlog-proof")],
        "log: leaves/3.json is not there or not the leaf that the body has",
        "bodies: the body of event 3 was taken out",
        TIMELINE,
    ],
    "body deleted": ["files: bodies/3.json was taken out", "bodies: the body of event 3 was taken out", TIMELINE],
    "proofs deleted": [
        *[f"files: proofs/{at}.tlog-proof was taken out" for at in sorted(PLACES, key=str)],
        *[f"log: event {at} has no proof" for at in PLACES],
    ],
    "event put in": [
        "files: leaves/1.json was put in: nothing lists it",
        "log: event 1 has a leaf or a proof, and the body does not have it",
    ],
    "body put in": [
        "files: bodies/1.json was put in: nothing lists it",
        "bodies: bodies/1.json is of no event in the pack",
    ],
    "html edited": ["files: pack.html is not the file that was signed", f"pack.html: {HMAC}"],
    "pdf deleted": ["files: pack.pdf was taken out"],
    "hmac deleted": ["files: pack.json.hmac was taken out", "pack.json: there is no HMAC: the signature was stripped"],
    "envelope deleted": [NO_ENVELOPE],
    "bundle deleted": ["sigstore: there is no pack.sigstore.json"],
    "checkpoint deleted": ["files: checkpoint was taken out", NO_CHECKPOINT],
    "checkpoint of another size": [
        "files: checkpoint is not the file that was signed",
        "checkpoint: the checkpoint is not the one that the body names",
        *[f"log: proofs/{at}.tlog-proof is of another event or another checkpoint" for at in PLACES],
    ],
    "time stamp put in": ["files: pack.dsse.tsr was put in: the envelope says otherwise"],
    "instructions edited": ["files: VERIFY.md is not the file that was signed"],
    "key swapped": [
        f"files: {KEY} is not the file that was signed",
        f"envelope: {KEY} is not the key that the envelope names",
    ],
    "key put in": [f"files: keys/retired-{'0' * 64}.pub.pem was put in: nothing lists it"],
    "decision rewritten": [*EDITED, TIMELINE],
    "event altered in the body": [
        *EDITED[:2],
        "log: leaves/3.json is not there or not the leaf that the body has",
        EDITED[2],
        "events: event 0197-000001 was altered: its leaf hash is another leaf's",
    ],
    "event removed from the body": [
        *EDITED[:2],
        "log: event 9 has a leaf or a proof, and the body does not have it",
        EDITED[2],
        "events: number 4 of session s-1 was removed: event 0197-000005 is number 5",
        "bodies: bodies/9.json is of no event in the pack",
        SUMMARY,
    ],
    "events swapped in the body": [*EDITED, "events: event 0197-000012 stands behind one with a larger index", SUMMARY],
    "event repeated in the body": [
        *EDITED,
        "events: event 0197-000013 is there twice: one of them was put in",
        SUMMARY,
    ],
    "tail cut off the body": [
        *EDITED[:2],
        "log: event 27 has a leaf or a proof, and the body does not have it",
        EDITED[2],
        "events: the pack was of 13 events, and the last 1 are gone",
        "bodies: bodies/27.json is of no event in the pack",
        "views: section metadata does not follow from the events",
    ],
    "signed by nobody": [
        NO_ENVELOPE,
        *EDITED[:2],
        NO_CHECKPOINT,
        EDITED[2],
        "views: integrity.proves does not follow from the events",
    ],
}


def test_of_a_whole_pack_every_check_is_told() -> None:
    found = verify(RAW, TRUST).findings
    assert {one.check: one.detail for one in found} == SAID
    assert [one.check for one in found] == list(SAID)
    assert [one.check for one in found if one.convinces] == ["envelope", "pack.json", "pack.html", "pack.pdf"]


def test_without_keys_it_is_told_what_could_not_be_checked() -> None:
    found = verify(RAW, Trust()).findings
    assert {one.check: one.detail for one in found} == {**SAID, **UNCHECKED}
    assert {one.check for one in found if one.standing is Standing.NOT_CHECKED} == set(UNCHECKED)
    assert not any(one.convinces for one in found)


@pytest.mark.parametrize("name", TABLE)
def test_damage_is_told_in_these_words(name: str) -> None:
    pack = tampered()
    TABLE[name][0](pack)
    found = verify(pack.zip(), TRUST).findings
    broken = [one for one in found if one.standing is Standing.BROKEN]
    assert [f"{one.check}: {one.detail}" for one in broken] == TOLD[name]
    assert [one for one in found if one.fault is not None] == broken
    assert not any(one.convinces for one in broken)
    flawed = {one.check for one in broken} - {"envelope"}  # which may hold although the body does not name it
    assert flawed.isdisjoint(one.check for one in found if one not in broken)


OTHER = Maker(a_session(1)).make().files
KIND = "application/vnd.in-toto+json"
VKEY, BUNDLE, DSSE = "keys/log.vkey", "pack.sigstore.json", "pack.dsse.json"
NOT_SIGNED = [
    "malformed, shape: pack.json is not what is signed: the canonical body without signature",
    *[f"changed after signing, {one}" for one in EDITED],
]
NO_KEY_OF_A_LOG = "changed after signing, checkpoint: keys/log.vkey is not a verifier key of a log"
ANOTHER_VKEY = "changed after signing, files: keys/log.vkey is not the file that was signed"
SPACED = PACK.files["pack.json"].replace(b":", b": ", 1)
MISSIGNED = canonical(parse(PACK.files[DSSE]) | {"signatures": parse(OTHER[DSSE])["signatures"]})
TYPED = PACK.files[DSSE].replace(KIND.encode(), b"application/" + b"x" * 70)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (put(VKEY, b"nothing"), [ANOTHER_VKEY, NO_KEY_OF_A_LOG]),
        (put(VKEY, b"\xff"), [ANOTHER_VKEY, NO_KEY_OF_A_LOG]),
        (drop(VKEY), ["missing, files: keys/log.vkey was taken out", NO_KEY_OF_A_LOG]),
        (put(BUNDLE, OTHER[BUNDLE]),
         ["changed after signing, sigstore: pack.sigstore.json holds another envelope than pack.dsse.json"]),
        (put(BUNDLE, b"{}"),
         ["changed after signing, sigstore: pack.sigstore.json: a bundle holds an envelope"]),
        (put(DSSE, b"{}"),
         ["changed after signing, envelope: pack.dsse.json: an envelope has a payload, its type and signatures"]),
        (put(DSSE, TYPED),
         [f"changed after signing, envelope: a payload of type {'application/'.ljust(60, 'x')}, not {KIND}",
          "changed after signing, sigstore: pack.sigstore.json holds another envelope than pack.dsse.json"]),
        (put(DSSE, MISSIGNED),
         ["changed after signing, envelope: the envelope's signature does not hold: it was altered after signing",
          "changed after signing, sigstore: pack.sigstore.json holds another envelope than pack.dsse.json"]),
        (put(KEY, b"nothing"),
         [f"changed after signing, files: {KEY} is not the file that was signed",
          f"changed after signing, envelope: {KEY}: not a public key in PEM (SubjectPublicKeyInfo)"]),
        (drop(KEY),
         [f"missing, files: {KEY} was taken out",
          f"changed after signing, envelope: {KEY} is not the key that the envelope names"]),
        (edit(lambda body: body["integrity"].update(envelope_key_id="0" * 64)),
         [*[f"changed after signing, {one}" for one in EDITED[:2]],
          "changed after signing, envelope: the envelope has not the one signature that the body names",
          f"changed after signing, {EDITED[2]}"]),
        (put("pack.json.hmac", PACK.files["pack.json.hmac"].strip()),
         ["changed after signing, files: pack.json.hmac is not the file that was signed",
          "changed after signing, pack.json: pack.json.hmac is not 64 hexadecimals and a newline"]),
        (put("pack.json.hmac", b"\xff\n"),
         ["changed after signing, files: pack.json.hmac is not the file that was signed",
          f"changed after signing, pack.json: {HMAC}"]),
        (drop("pack.json"),
         ["malformed, shape: no pack.json in strict JSON: EOF while parsing a value at line 1 column 0"]),
        (put("pack.json", b"{"),
         ["malformed, shape: no pack.json in strict JSON: EOF while parsing an object at line 1 column 1"]),
        (put("pack.json", SPACED), NOT_SIGNED),
        (edit(lambda body: body["integrity"].update(signature="x")), NOT_SIGNED),
    ],
    ids=lambda value: "" if callable(value) else value[-1],
)  # fmt: skip
def test_damage_to_what_proves_is_told_with_its_kind(change: Callable[[ZipPack], object], told: list[str]) -> None:
    pack = tampered()
    change(pack)
    assert kinds(pack.zip()) == told


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        (("leaf edited", "proof edited"), "altered event"),
        (("proofs deleted", "event deleted", "body deleted"), "removed event"),
        (("event put in", "body put in"), "inserted event"),
        (("instructions edited", "key put in"), "changed after signing"),
        (("pdf deleted",), "missing"),
        (("html edited",), "changed view"),
    ],
)
def test_of_a_damaged_file_is_told_what_happened_to_what_it_is_of(names: tuple[str, ...], fault: str) -> None:
    for name in names:
        pack = tampered()
        TABLE[name][0](pack)
        assert {one.partition(", files: ")[0] for one in kinds(pack.zip()) if ", files: " in one} == {fault}, name


def test_an_event_whose_leaf_is_gone_was_removed_and_one_whose_leaf_differs_altered() -> None:
    for change, fault in ((drop("leaves/3.json"), "removed event"), (put("leaves/3.json", b"{}"), "altered event")):
        pack = tampered()
        change(pack)
        assert f"{fault}, log: leaves/3.json is not there or not the leaf that the body has" in kinds(pack.zip())
    pack = tampered()
    put("leaves/1.json", b"{}")(pack)
    assert "inserted event, log: event 1 has a leaf or a proof, and the body does not have it" in kinds(pack.zip())


def test_events_at_each_others_place_are_named_and_of_many_the_first_five() -> None:
    """By somebody who holds every key but the log's. To look for one costs a proof for each event."""
    after = [*RECORDS[1:], RECORDS[0]]
    moved = [
        replace(record, index=here.index, session_number=here.session_number)
        for record, here in zip(after, RECORDS, strict=True)
    ]
    assert kinds(Maker(moved, leaves=MAKER.leaves).make().resigned()) == [
        *[f"reordered events, log: event {at} is event {at + 2} of the log" for at in PLACES[:5]],
        *[f"altered event, log: event {at} is not the one that the log has there" for at in PLACES[5:]],
    ]


def test_keys_that_are_not_the_readers_are_named() -> None:
    other, thief = a_secret(66), PublicKey.from_pem(pem_of(THIEF)).key_id
    assert kinds(Maker(RECORDS, log_secret=other).make().zip()) == [
        f"wrong key, checkpoint: signed with another key than yours: {log_key(other).text}"
    ]
    assert kinds(tampered().resigned(THIEF)) == [f"wrong key, envelope: signed with another key than yours: {thief}"]
    unknown = "the checkpoint does not hold: no known key has signed this note"
    theirs = Maker(RECORDS, log_secret=other)
    assert kinds(theirs.json()) == [f"wrong key, checkpoint: {unknown}"]
    assert kinds(MAKER.json(), theirs.checkpoint(17)) == [f"wrong key, history: the earlier checkpoint: {unknown}"]


def test_of_a_time_stamp_is_told_who_checks_it_and_when_it_is_gone() -> None:
    stamped = tampered()
    stamped.files["pack.dsse.tsr"] = b"0 a token"
    raw = stamped.resigned()
    assert words(raw, TRUST)[-1] == (
        "time: a time stamp is there; check it with: openssl ts -verify (VERIFY.md says how)"
    )
    files = dict(unpack(raw).files)
    del files["pack.dsse.tsr"]
    assert kinds(ZipPack(files).zip()) == [
        "stripped signature, files: pack.dsse.tsr was taken out: the envelope says otherwise"
    ]


def kinds(raw: bytes, earlier: bytes | None = None) -> list[str]:
    """What is broken, each with the kind of damage."""
    found = verify(raw, TRUST, earlier).findings
    return [f"{one.fault.value}, {one.check}: {one.detail}" for one in found if one.fault is not None]


def test_nothing_is_said_beside_what_follows_from_the_events() -> None:
    """Of an unsigned pack somebody could make it say more."""
    for place in (("integrity", "more"), ("integrity", "event_count"), ("summary", "more")):
        body = parse(MAKER.json())
        body[place[0]][place[1]] = 7
        what = "section summary" if place[0] == "summary" else "integrity." + place[1]
        assert f"views: {what} does not follow from the events" in words(canonical(body), Trust())


ENTRY_END = 30 + len("VERIFY.md") + len(PACK.files["VERIFY.md"])
ENTRY = RAW[:ENTRY_END]
EMPTY = b"PK\x03\x04" + bytes(26)
FILES = list(unpack(RAW).files)
ANEW = "the archive is not the one that its files make: it was changed, or packed anew"


def foreign(name: str, *, compressed: int = 0) -> bytes:
    return (
        ENTRY + struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, compressed, 0, 0, 0, 0, 0, len(name), 0) + name.encode()
    )


@pytest.mark.parametrize(
    ("raw", "told", "files"),
    [
        (RAW[:29], "the archive ends inside an entry", 0),
        (ENTRY + EMPTY[:-1], "the archive ends inside an entry", 1),
        (ENTRY + EMPTY, "the archive has an entry '': a pack has no such file", 1),
        (foreign("x" * 90), f"the archive has an entry '{'x' * 80}': a pack has no such file", 1),
        (ENTRY + ENTRY, "the archive has VERIFY.md twice: two readers would see two packs", 1),
        (foreign("pack.json", compressed=8), "the entry pack.json is compressed or cut off", 1),
        (RAW[: ENTRY_END - 1], "the entry VERIFY.md is compressed or cut off", 0),
        (ENTRY, ANEW, 1),
        (foreign("pack.json"), ANEW, 2),
        (RAW + b"x", ANEW, len(PACK.files)),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_of_a_damaged_archive_the_first_damage_is_told(raw: bytes, told: str, files: int) -> None:
    """And what could be made out before it is still looked at."""
    opened = unpack(raw)
    assert (opened.flaw, list(opened.files)) == (told, FILES[:files])
    assert kinds(raw)[0] == f"malformed, container: {told}"


def words(raw: bytes, trust: Trust, earlier: bytes | None = None) -> list[str]:
    return [f"{one.check}: {one.detail}" for one in verify(raw, trust, earlier).findings]


def test_of_a_json_pack_is_told_what_only_a_zip_shows() -> None:
    raw = MAKER.json()
    told = [
        "signature: HMAC-SHA256 over all of it; it convinces whoever holds the key",
        "envelope: a JSON pack has none: the zip does",
        *[f"{name}: {SAID[name]}" for name in ("events", "views")],
        "checkpoint: its signature holds; that the events are in that log, only a zip can show",
    ]
    assert words(raw, TRUST) == [f"shape: {SAID['shape']}", *told]
    assert words(raw, Trust()) == [
        f"shape: {SAID['shape']}", f"signature: {NO_HMAC_KEY}", *told[2:4],
    ]  # fmt: skip
    assert words(raw.replace(b":", b": ", 1), Trust())[:1] == [
        "shape: not in canonical form (RFC 8785): it was changed, or written anew"
    ]
    assert kinds(b"{") == ["malformed, shape: not strict JSON: EOF while parsing an object at line 1 column 1"]
    assert words(b"{}", Trust()) == [f"shape: a pack has exactly the sections {', '.join(SECTIONS)}"]
    assert kinds(PACK.files["pack.json"])[-1] == (
        "stripped signature, envelope: the body is of a zip, whose envelope and proofs are not here"
    )


def test_of_a_page_is_told_what_its_hmac_shows_and_what_only_a_zip_shows() -> None:
    page, line = PACK.files["pack.html"], hmac_line(PACK.files["pack.html"])

    def told(raw: bytes, signature: Any, trust: Trust = TRUST) -> list[str]:
        return [f"{one.check}: {one.detail}" for one in verify_view(raw, signature, trust).findings]

    rest = ["envelope: a page has none: the zip does", "log: a page shows nothing of the log: the zip does"]
    assert told(page, line) == [f"signature: {SAID['pack.html']}", *rest]
    assert told(page, line.strip()) == told(page, b"sha256=" + line)
    assert told(page + b" ", line)[0] == "signature: the HMAC does not fit: altered, or made with another key"
    assert told(page, b"\xff")[0] == told(page + b" ", line)[0]
    assert told(page, None, Trust()) == ["signature: the pack has no HMAC"]
