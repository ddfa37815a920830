"""`agentgate verify` names what was done to a pack: by somebody without keys, with all but the log's, with his own."""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.event import Kind, Record, make
from agentgate.core.events.keeping import pruned
from agentgate.core.evidence.scope import Scope
from agentgate.core.strict_json import canonical
from agentgate.core.verification.findings import Fault, Report, Standing
from agentgate.core.verification.seals import NoKey, Trust, read_trust
from agentgate.core.verification.unpack import unpack
from agentgate.core.verification.verify import findings, is_view, verify, verify_view
from tests.core.events import a_session, origin, record_of
from tests.packs import (
    ENVELOPE_SECRET,
    HMAC_KEY,
    LOG_SECRET,
    THIEF,
    TRUST,
    Maker,
    ZipPack,
    a_secret,
    hmac_line,
    log_key,
    pem_of,
)

RECORDS = a_session(2)
MAKER = Maker(RECORDS)
PACK = MAKER.make()
RAW = PACK.zip()
FIRST, SECOND = RECORDS[0].index, RECORDS[1].index

Body = dict[str, Any]


def tampered() -> ZipPack:
    return ZipPack(dict(PACK.files))


def standings(report: Report) -> dict[str, Standing]:
    return {finding.check: finding.standing for finding in report.findings}


# --- what holds -------------------------------------------------------------------------------------------


def test_a_whole_pack_holds_under_the_keys_of_its_reader() -> None:
    report = verify(RAW, TRUST)
    assert (report.exit_status, report.faults) == (0, ())
    assert set(standings(report).values()) == {Standing.HOLDS}


@pytest.mark.parametrize(
    ("trust", "status"),
    [
        (Trust(hmac_keys=TRUST.hmac_keys), 0),
        (Trust(envelope_keys=TRUST.envelope_keys), 0),
        (Trust(log_keys=TRUST.log_keys), 2),
        (Trust(), 2),
    ],
    ids=["hmac", "envelope", "log", "none"],
)
def test_one_key_that_covers_all_is_enough_and_none_or_only_the_logs_is_not(trust: Trust, status: int) -> None:
    """The log's key shows that nothing was put in, but not that nothing was left out."""
    report = verify(RAW, trust)
    assert (report.exit_status, report.faults) == (status, ())


def test_without_keys_the_report_names_those_to_compare() -> None:
    said = " ".join(finding.detail for finding in verify(RAW, Trust()).findings)
    assert log_key().text in said
    assert TRUST.envelope_keys[0].key_id in said


def test_older_keys_may_be_given_too() -> None:
    others = Trust((b"another key of thirty-two bytes!",), (), (log_key(a_secret(9)),))
    assert verify(RAW, others | TRUST).exit_status == 0


def test_an_ed25519_envelope_holds() -> None:
    secret = a_secret(7)
    raw = Maker(RECORDS, envelope_secret=secret).make().zip()
    assert verify(raw, read_trust(pem_of(secret))).exit_status == 0


def test_a_json_pack_holds_under_its_hmac_alone() -> None:
    raw = MAKER.json()
    assert verify(raw, TRUST).exit_status == 0
    assert verify(raw, Trust(log_keys=TRUST.log_keys, envelope_keys=TRUST.envelope_keys)).exit_status == 2


def test_a_json_pack_that_was_formatted_anew_is_refused() -> None:
    """Else a bit could change that no reader sees."""
    assert verify(MAKER.json() + b"\n", TRUST).faults == (Fault.MALFORMED,)


@pytest.mark.parametrize("size", [MAKER.size, 17, 1])
def test_an_earlier_checkpoint_is_continued(size: int) -> None:
    raw = Maker(RECORDS, earlier_size=size if size < MAKER.size else None).make().zip()
    report = verify(raw, TRUST, MAKER.checkpoint(size))
    assert (report.exit_status, standings(report)["history"]) == (0, Standing.HOLDS)


def with_prune(*, told: bool) -> list[Record]:
    """A session whose bodies are gone but for that of the event that says so, or of another one that does not."""
    event = pruned(origin(99), actor="", tenant="default", session="s-1", why="retention", bodies=9, through=1000)
    if not told:
        event = make(origin(99), Kind.REFUSALS, {"count": 1}, tenant="default", session="s-1")
    session = a_session(2)
    last = record_of(event, index=session[-1].index + 2, number=len(session) + 1)
    return [*(replace(record, salt=None, raw_body=None) for record in session), last]


@pytest.mark.parametrize("told", [True, False])
def test_bodies_that_are_not_there_are_explained_by_a_prune_or_are_said_not_to_be_checked(told: bool) -> None:
    report = verify(Maker(with_prune(told=told)).make().zip(), TRUST)
    assert report.exit_status == 0
    (found,) = [finding for finding in report.findings if finding.check == "bodies"]
    missing = f"13 bodies are not there, and no prune in the pack says why, first that of event {FIRST}"
    assert (found.standing, found.detail) == (
        (Standing.HOLDS, "1 bodies are the ones that their leaves bind") if told else (Standing.NOT_CHECKED, missing)
    )


def test_a_pack_with_what_a_person_said_and_edited_holds() -> None:
    """A JSON pack has no bodies: these texts are there because a section quotes them."""
    asked = {"approval_id": "apr-2", "tool": "db_insert", "edited_from": "apr-1", "edited_by": "person:ada"}
    answered = {"approval_id": "apr-2", "verdict": "approved"}
    acts = (
        (Kind.APPROVAL_REQUESTED, asked, b'{"arguments":{"n":10}}'),
        (Kind.APPROVAL_DECIDED, answered, b'{"reason":"as agreed with Ada"}'),
    )
    session = a_session(2)
    for number, (kind, fields, body) in enumerate(acts, 98):
        act = make(origin(number), kind, fields, tenant="default", session="s-1", body=body)
        session.append(record_of(act, index=session[-1].index + 2, number=len(session) + 1))
    maker = Maker(session)
    assert b"as agreed with Ada" in maker.json()
    for raw in (maker.json(), maker.make().zip()):
        assert verify(raw, TRUST).faults == ()


def test_a_pack_of_an_agent_and_of_a_tenant_hold() -> None:
    for scope in (Scope("default", agent="agent:bot"), Scope("default")):
        assert verify(Maker(RECORDS, scope=scope).make().zip(), TRUST).exit_status == 0


def test_a_pack_of_a_time_range_may_start_late() -> None:
    scope = Scope("default", "s-1", since=RECORDS[3].fields["at"])
    assert verify(Maker(RECORDS[3:], scope=scope, leaves=MAKER.leaves).make().zip(), TRUST).exit_status == 0


def test_a_time_stamp_is_said_not_to_be_checked_here_and_is_missed_when_it_is_gone() -> None:
    stamped = tampered()
    stamped.files["pack.dsse.tsr"] = b"0 a token"
    raw = stamped.resigned()
    report = verify(raw, TRUST)
    assert (report.exit_status, standings(report)["time"]) == (0, Standing.NOT_CHECKED)
    files = dict(unpack(raw).files)
    del files["pack.dsse.tsr"]
    assert verify(ZipPack(files).zip(), TRUST).faults == (Fault.STRIPPED,)


# --- the tampering table: files of a zip, by somebody without a key -------------------------------------------


def put(name: str, content: bytes) -> Callable[[ZipPack], object]:
    return lambda pack: pack.files.__setitem__(name, content)


def drop(*names: str) -> Callable[[ZipPack], object]:
    return lambda pack: [pack.files.pop(name) for name in names]


def swap(one: str, other: str) -> Callable[[ZipPack], None]:
    def change(pack: ZipPack) -> None:
        pack.files[one], pack.files[other] = pack.files[other], pack.files[one]

    return change


def edit(change: Callable[[Body], object]) -> Callable[[ZipPack], None]:
    return lambda pack: pack.edit(change)


def events(body: Body) -> list[Body]:
    found: list[Body] = body["integrity"]["events"]
    return found


def trio(index: int) -> tuple[str, str, str]:
    return f"leaves/{index}.json", f"bodies/{index}.json", f"proofs/{index}.tlog-proof"


TABLE: dict[str, tuple[Callable[[ZipPack], object], Fault]] = {
    "leaf edited": (put(f"leaves/{FIRST}.json", b"{}"), Fault.ALTERED),
    "body edited": (put(f"bodies/{FIRST}.json", b'{"arguments":{}}'), Fault.ALTERED),
    "proof edited": (put(f"proofs/{FIRST}.tlog-proof", b"c2sp.org/tlog-proof@v1\n"), Fault.ALTERED),
    "leaves swapped": (swap(f"leaves/{FIRST}.json", f"leaves/{SECOND}.json"), Fault.ALTERED),
    "event deleted": (drop(*trio(FIRST)), Fault.REMOVED),
    "body deleted": (drop(f"bodies/{FIRST}.json"), Fault.REMOVED),
    "proofs deleted": (drop(*(name for name in PACK.files if name.startswith("proofs/"))), Fault.STRIPPED),
    "event put in": (put("leaves/1.json", b"{}"), Fault.INSERTED),
    "body put in": (put("bodies/1.json", b"{}"), Fault.INSERTED),
    "html edited": (put("pack.html", b"<!doctype html>All was well.\n"), Fault.CHANGED_VIEW),
    "pdf deleted": (drop("pack.pdf"), Fault.MISSING),
    "hmac deleted": (drop("pack.json.hmac"), Fault.STRIPPED),
    "envelope deleted": (drop("pack.dsse.json", "pack.sigstore.json"), Fault.STRIPPED),
    "bundle deleted": (drop("pack.sigstore.json"), Fault.STRIPPED),
    "checkpoint deleted": (drop("checkpoint"), Fault.STRIPPED),
    "checkpoint of another size": (put("checkpoint", MAKER.checkpoint(30)), Fault.CHANGED),
    "time stamp put in": (put("pack.dsse.tsr", b"0"), Fault.INSERTED),
    "instructions edited": (put("VERIFY.md", b"all is well\n"), Fault.CHANGED),
    "key swapped": (put("keys/envelope.pub.pem", pem_of(THIEF)), Fault.CHANGED),
    "key put in": (put(f"keys/retired-{'0' * 64}.pub.pem", pem_of(THIEF)), Fault.CHANGED),
    "decision rewritten": (edit(lambda body: body["timeline"][0].update(decision="DENY")), Fault.CHANGED_VIEW),
    "event altered in the body": (edit(lambda body: events(body)[0].update(leaf="{}")), Fault.ALTERED),
    "event removed from the body": (edit(lambda body: events(body).pop(3)), Fault.REMOVED),
    "events swapped in the body": (edit(lambda body: events(body).reverse()), Fault.REORDERED),
    "event repeated in the body": (edit(lambda body: events(body).append(events(body)[-1])), Fault.INSERTED),
    "tail cut off the body": (edit(lambda body: events(body).pop()), Fault.TRUNCATED),
    "signed by nobody": (edit(lambda body: body["integrity"].update(signed_by=[])), Fault.CHANGED),
}


@pytest.mark.parametrize(("change", "fault"), TABLE.values(), ids=TABLE.keys())
@pytest.mark.parametrize("trust", [TRUST, Trust()], ids=["with keys", "without"])
def test_what_was_done_to_a_zip_is_named(change: Callable[[ZipPack], object], fault: Fault, trust: Trust) -> None:
    pack = tampered()
    change(pack)
    report = verify(pack.zip(), trust)
    assert report.exit_status == 1
    assert fault in report.faults


def test_pages_that_have_each_others_hmac_are_named() -> None:
    pack = tampered()
    swap("pack.html.hmac", "pack.pdf.hmac")(pack)
    assert verify(pack.zip(), TRUST).faults == (Fault.CHANGED, Fault.CHANGED_VIEW)


# --- by an insider, who holds every key but the log's ---------------------------------------------------------


def forged(records: list[Record]) -> bytes:
    """What the gateway itself would make of these records, with proofs of the true log, signed with its keys."""
    pack = Maker(records, leaves=MAKER.leaves).make()
    return pack.resigned()


def altered(place: int, **fields: object) -> list[Record]:
    records = list(RECORDS)
    changed = {**records[place].fields, **fields}
    records[place] = replace(records[place], fields=changed, leaf=canonical(changed))
    return records


def test_an_event_rewritten_by_who_holds_the_other_keys_is_not_in_the_log() -> None:
    report = verify(forged(altered(0, decision="DENY", reason_code="policy_deny")), TRUST)
    assert report.faults == (Fault.ALTERED,)
    assert f"event {FIRST}" in next(f.detail for f in report.findings if f.fault)


def test_an_event_left_out_by_who_holds_the_other_keys_leaves_a_gap() -> None:
    assert verify(forged([*RECORDS[:4], *RECORDS[5:]]), TRUST).faults == (Fault.REMOVED,)


def test_an_event_made_up_by_who_holds_the_other_keys_is_not_in_the_log() -> None:
    extra = replace(RECORDS[2], index=RECORDS[-1].index + 1, session_number=len(RECORDS) + 1)
    changed = {**extra.fields, "id": "made-up"}
    extra = replace(extra, fields=changed, leaf=canonical(changed))
    assert verify(forged([*RECORDS, extra]), TRUST).faults == (Fault.ALTERED,)


def test_a_body_put_in_by_who_holds_the_other_keys_is_of_no_event() -> None:
    pack = tampered()
    pack.files["bodies/1.json"] = b"{}"
    assert verify(pack.resigned(), TRUST).faults == (Fault.INSERTED,)


def test_another_logs_proofs_cost_no_more_than_a_look() -> None:
    """Every event of a large pack is at the wrong place: they are not all looked for at every other."""
    records = a_session(40)
    pack = Maker(records, size=200).make()
    pack.files["checkpoint"] = Maker(records, size=201).checkpoint()
    report = verify(pack.resigned(), TRUST)
    assert report.faults == (Fault.CHANGED, Fault.ALTERED)
    assert 50 <= len(report.findings) < 80


def test_events_swapped_by_who_holds_the_other_keys_are_found_at_each_others_place() -> None:
    records = list(RECORDS)
    one, other = records[0], records[2]
    records[0], records[2] = (
        replace(other, index=one.index, session_number=one.session_number),
        replace(one, index=other.index, session_number=other.session_number),
    )
    assert verify(forged(records), TRUST).faults == (Fault.REORDERED,)


def test_an_event_of_yesterday_put_in_again_is_there_twice() -> None:
    again = replace(RECORDS[0], index=RECORDS[-1].index + 2, session_number=len(RECORDS) + 1)
    report = verify(forged([*RECORDS, again]), TRUST)
    assert Fault.INSERTED in report.faults


# --- signed by somebody else ----------------------------------------------------------------------------------


def test_a_pack_signed_with_another_envelope_key_is_named() -> None:
    report = verify(tampered().resigned(THIEF), TRUST)
    assert Fault.WRONG_KEY in report.faults
    assert report.exit_status == 1


def test_a_pack_signed_with_another_hmac_key_is_named() -> None:
    pack = Maker(RECORDS, hmac_key=b"the-thief's-own-key-of-32-bytes!").make()
    assert verify(pack.zip(), TRUST).faults == (Fault.WRONG_KEY,)


def test_a_pack_of_a_log_signed_with_another_key_is_named() -> None:
    pack = Maker(RECORDS, log_secret=a_secret(66)).make()
    assert verify(pack.zip(), TRUST).faults == (Fault.WRONG_KEY,)


def test_a_signature_under_the_name_of_another_key_does_not_hold() -> None:
    pack = tampered()
    pack.files["pack.dsse.json"] = pack.files["pack.dsse.json"].replace(
        TRUST.envelope_keys[0].key_id.encode(), read_trust(pem_of(THIEF)).envelope_keys[0].key_id.encode()
    )
    assert Fault.CHANGED in verify(pack.zip(), TRUST).faults


# --- the log's history ----------------------------------------------------------------------------------------

FORK = Maker(RECORDS, leaves=[b"{}", *MAKER.leaves[1:]])


@pytest.mark.parametrize(
    ("earlier", "fault"),
    [
        (FORK.checkpoint(), Fault.FORKED),
        (FORK.checkpoint(17), Fault.FORKED),
        (Maker(RECORDS, size=50).checkpoint(), Fault.ROLLED_BACK),
        (MAKER.checkpoint(16), Fault.MISSING),
        (Maker(RECORDS, log_secret=a_secret(66)).checkpoint(17), Fault.WRONG_KEY),
        (MAKER.checkpoint(17).replace(b"\n17\n", b"\n18\n"), Fault.CHANGED),
        (b"nothing", Fault.CHANGED),
    ],
    ids=["fork of the same size", "fork since", "set back", "no proof", "another key", "edited", "no checkpoint"],
)
@pytest.mark.parametrize("trust", [TRUST, Trust()], ids=["with keys", "without"])
def test_a_log_that_does_not_continue_the_one_of_an_earlier_checkpoint_is_named(
    earlier: bytes, fault: Fault, trust: Trust
) -> None:
    report = verify(Maker(RECORDS, earlier_size=17).make().zip(), trust, earlier)
    assert (report.exit_status, report.faults) == (1, (fault,))


def test_a_json_pack_shows_a_fork_and_a_rollback_by_its_checkpoint() -> None:
    assert verify(MAKER.json(), TRUST, FORK.checkpoint()).faults == (Fault.FORKED,)
    assert verify(MAKER.json(), TRUST, Maker(RECORDS, size=50).checkpoint()).faults == (Fault.ROLLED_BACK,)
    assert verify(MAKER.json(), TRUST, MAKER.checkpoint()).exit_status == 0


# --- views by themselves --------------------------------------------------------------------------------------

PAGE = b"<!doctype html><title>Evidence</title>"


def test_a_page_is_checked_by_the_hmac_that_came_with_it() -> None:
    assert is_view(PAGE)
    assert is_view(b"%PDF-1.7")
    assert not is_view(RAW)
    line = hmac_line(PAGE)
    assert verify_view(PAGE, line, TRUST).exit_status == 0
    assert verify_view(PAGE + b" ", line, TRUST).faults == (Fault.CHANGED_VIEW,)
    assert verify_view(PAGE, None, TRUST).faults == (Fault.STRIPPED,)
    assert verify_view(PAGE, line, TRUST, MAKER.checkpoint()).faults == (Fault.MISSING,), "only a zip shows its log"
    assert verify_view(PAGE, line, Trust()).exit_status == 2


def test_keys_are_read_from_pem_and_vkey_and_from_nothing_else() -> None:
    assert read_trust(pem_of(ENVELOPE_SECRET)) == Trust(envelope_keys=TRUST.envelope_keys)
    assert read_trust(log_key().text.encode() + b"\n") == Trust(log_keys=(log_key(LOG_SECRET),))
    for raw in (b"", b"x", HMAC_KEY, RAW, pem_of(ENVELOPE_SECRET)[:-40], log_key().text[:-3].encode()):
        with pytest.raises(NoKey):
            read_trust(raw)


def test_every_kind_of_damage_is_explained() -> None:
    page = (Path(__file__).parents[2] / "docs" / "verifying.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z ]+)` \|", page, re.MULTILINE) == [fault.value for fault in Fault]


# --- nothing makes it stumble ---------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.sampled_from(sorted(PACK.files)))
def test_whatever_a_file_holds_there_is_a_finding_and_no_exception(content: bytes, name: str) -> None:
    pack = tampered()
    if content != pack.files[name]:
        pack.files[name] = content
        assert verify(pack.zip(), TRUST, MAKER.checkpoint(17)).exit_status == 1


JUNK: list[Any] = [None, 0, -1, 1.5, "", "x", [], {}, [None], {"a": 1}, True]


def test_whatever_the_body_holds_there_is_a_finding_and_no_exception() -> None:
    """Each member of the body, at any depth, replaced by junk, or taken out: also by somebody who can sign it."""
    body = PACK.files["pack.json"]
    chance = random.Random(11)
    for _ in range(400):
        pack = tampered()
        pack.edit(lambda value: _spoil(value, chance))
        if pack.files["pack.json"] != body:
            assert verify(pack.zip(), TRUST).exit_status == 1
            assert verify(pack.resigned(), TRUST, MAKER.checkpoint(17)).exit_status == 1, "at least of no proof"
            assert verify(pack.files["pack.json"], TRUST).exit_status == 1


def _spoil(value: Any, chance: random.Random) -> None:
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        inner = value[key]
        if isinstance(inner, dict | list) and inner and chance.random() < 0.8:
            value = inner
        elif chance.random() < 0.3:
            del value[key]
            return
        else:
            value[key] = copy.deepcopy(chance.choice(JUNK))
            return


# --- every bit ------------------------------------------------------------------------------------------------


def refused(raw: bytes) -> bool:
    """Whether some finding is broken; the rest need not be waited for."""
    return any(finding.standing is Standing.BROKEN for finding in findings(raw, TRUST))


def test_a_bit_flipped_anywhere_in_a_zip_is_refused() -> None:
    """Every byte of a pack of more than 50 kB, names, lengths and times of the container too."""
    assert len(RAW) > 50_000
    changed, chance = bytearray(RAW), random.Random(3)
    for offset, byte in enumerate(RAW):
        changed[offset] = byte ^ 1 << chance.randrange(8)
        assert refused(bytes(changed)), offset
        changed[offset] = byte


def flipped_contents(pack: ZipPack, chance: random.Random, count: int | None) -> None:
    """The same by somebody who packs the files anew: the container is whole then, and the signatures must notice."""
    places = [(name, offset) for name, content in pack.files.items() for offset in range(len(content))]
    for name, offset in places if count is None else chance.sample(places, count):
        content = bytearray(pack.files[name])
        content[offset] ^= 1 << chance.randrange(8)
        assert refused(ZipPack({**pack.files, name: bytes(content)}).zip()), (name, offset)


def test_a_bit_flipped_in_any_file_of_a_zip_is_refused() -> None:
    flipped_contents(PACK, random.Random(5), 4_000)


@pytest.mark.torture
def test_every_bit_of_every_file_of_a_zip_counts() -> None:
    flipped_contents(Maker(RECORDS, earlier_size=17).make(), random.Random(6), None)


def test_a_bit_flipped_anywhere_in_a_json_pack_is_refused() -> None:
    """2,000 of them in a pack of more than 50 kB; every byte of a small one in test_evidence.py."""
    raw = Maker(a_session(30), size=200).json()
    assert len(raw) > 50_000
    chance = random.Random(4)
    for offset in chance.sample(range(len(raw)), 2_000):
        changed = bytearray(raw)
        changed[offset] ^= 1 << chance.randrange(8)
        assert refused(bytes(changed)), offset


@pytest.mark.torture
def test_every_byte_of_a_json_pack_counts() -> None:
    raw = Maker(a_session(30), size=200).json()
    changed, chance = bytearray(raw), random.Random(8)
    for offset, byte in enumerate(raw):
        changed[offset] = byte ^ 1 << chance.randrange(8)
        assert refused(bytes(changed)), offset
        changed[offset] = byte
