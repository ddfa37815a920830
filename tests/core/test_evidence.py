"""A pack that was touched anywhere does not verify, and the report names what is wrong (A51-A53)."""

from __future__ import annotations

import copy
import hashlib
import hmac
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentgate.core.call import TraceId
from agentgate.core.decision import refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, Outcome, Record
from agentgate.core.events.calls import closed, decided, finished
from agentgate.core.events.kills import drained, killed, release_asked
from agentgate.core.evidence.pack import SECTIONS, About, Seals, build, key_id, seal, signed_bytes
from agentgate.core.evidence.scope import Scope
from agentgate.core.members import Progress
from agentgate.core.merkle import leaf_hash
from agentgate.core.strict_json import canonical, parse
from agentgate.core.verification.findings import Report, Standing
from agentgate.core.verification.seals import Trust
from agentgate.core.verification.verify import verify as verify_pack
from tests.core.events import WRITE, a_session, allow, numbered, origin, record_of
from tests.core.strategies import JSON
from tests.fakes import ALLOW_WRITE, ASK, a_call, a_kill

KEY = b"an-hmac-key-of-32-random-bytes!!"
ABOUT = About(Scope("default", "s-1"), "2026-11-21T10:00:00.000000Z", "AgentGate test")
SIGNED_AT = "2026-11-21T10:00:01.000000Z"

Body = dict[str, Any]


def _pack(records: list[Record]) -> Body:
    body: Body = parse(seal(build(ABOUT, records), Seals(KEY), signed_at=SIGNED_AT).json)
    return body


def verify(raw: bytes, key: bytes | None) -> Report:
    return verify_pack(raw, Trust(hmac_keys=(key,) if key is not None else ()))


SMALL = _pack(a_session(1, kill=False))
FULL = _pack(a_session(3))


def _standing(report: Report, check: str) -> Standing:
    return next(finding.standing for finding in report.findings if finding.check == check)


def _rehash(body: Body) -> Body:
    """What a forger without the key can put right: leaf hashes, the count, the hash over all."""
    integrity = body["integrity"]
    for event in integrity["events"]:
        event["leaf_hash"] = leaf_hash(event["leaf"].encode()).hex()
    integrity["event_count"] = len(integrity["events"])
    over_all = b"".join(bytes.fromhex(event["leaf_hash"]) for event in integrity["events"])
    integrity["hash"] = hashlib.sha256(over_all).hexdigest()
    return body


def _renumber(body: Body) -> Body:
    for number, event in enumerate(body["integrity"]["events"], 1):
        event["number"] = number
        event["index"] = 3 + 2 * number
    return _rehash(body)


# --- what holds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [SMALL, FULL, _pack([])], ids=["small", "full", "empty"])
def test_built_and_signed_pack_verifies(body: Body) -> None:
    report = verify(canonical(body), KEY)
    assert report.exit_status == 0
    assert {finding.standing for finding in report.findings} == {Standing.HOLDS}
    assert sorted(body) == sorted(SECTIONS)


def test_signed_bytes_are_everything_but_the_signature() -> None:
    without = copy.deepcopy(FULL)
    signature = without["integrity"].pop("signature")
    assert signed_bytes(FULL) == canonical(without)
    assert signature == hmac.new(KEY, canonical(without), hashlib.sha256).hexdigest()


def test_pack_with_pruned_bodies_verifies() -> None:
    pruned = [Record(r.index, r.session_number, 0, r.fields, r.leaf, None, None) for r in a_session(2)]
    body = _pack(pruned)
    assert verify(canonical(body), KEY).exit_status == 0
    assert {entry["reason"] for entry in body["timeline"]} == {None}


def test_pack_names_every_call_with_its_end() -> None:
    ends = [(entry["decision"], entry["outcome"]) for entry in _pack(a_session(1))["timeline"]]
    assert ends == [
        ("ALLOW", "ok"),
        ("DENY", None),
        ("REQUIRE_APPROVAL", None),
        ("ALLOW", "ok"),
        ("ALLOW", "cancelled"),
    ]


def test_summary_counts_what_happened() -> None:
    summary = FULL["summary"]
    assert summary["by_decision"] == {"ALLOW": 5, "DENY": 1, "REQUIRE_APPROVAL": 1}
    assert summary["write_actions"] == {"total": 1, "reversible": 0, "irreversible": 1}
    assert summary["kill_switch_activations"] == 1
    assert [row["approver"] for row in summary["approvals"]] == ["person:alice"]
    assert FULL["write_action_log"][0]["approved_by"] == "person:alice"
    assert "effect_unknown" in {anomaly["type"] for anomaly in FULL["anomalies"]}


@pytest.mark.parametrize("late", [False, True])
def test_call_that_was_closed_for_a_member_that_seemed_gone_has_its_own_word_when_it_comes(late: bool) -> None:
    """Whichever came first; both are among the events, and the pack can be rebuilt from them."""
    call = a_call()
    allowed = decided(origin(1), call, allow(), position=0, arguments=b"{}", context=b"{}", latency_us={"policy": 80})
    own = finished(origin(2), call, Outcome.OK, ReasonCode.OK, result=b"{}", latency_us={"upstream": 1200})
    others = closed(origin(3), record_of(allowed), Outcome.UNKNOWN, "the process ended")
    ends = [others, own] if late else [own, others]
    body = _pack(numbered([allowed, *ends]))
    assert [(entry["outcome"], entry["outcome_event_id"]) for entry in body["timeline"]] == [("ok", own.id)]
    assert [event["event_id"] for event in body["integrity"]["events"]] == [allowed.id, *(end.id for end in ends)]
    assert body["anomalies"] == []
    assert verify(canonical(body), KEY).exit_status == 0


def test_call_of_a_member_that_is_gone_has_an_unknown_effect() -> None:
    call = a_call()
    allowed = decided(origin(1), call, allow(), position=0, arguments=b"{}", context=b"{}", latency_us={})
    body = _pack(numbered([allowed, closed(origin(2), record_of(allowed), Outcome.UNKNOWN, "the process ended")]))
    assert [(entry["outcome"], entry["error"]) for entry in body["timeline"]] == [("unknown", "the process ended")]
    assert [anomaly["type"] for anomaly in body["anomalies"]] == ["effect_unknown"]
    assert verify(canonical(body), KEY).exit_status == 0


def test_receipt_of_a_kill_names_whom_it_went_on_without_and_a_release_who_asked_for_it() -> None:
    kill = a_kill(position=1)
    went_on = drained(origin(2), kill, position=1, members=["m-1", "m-2"], progress=Progress((), ("m-2",), ("m-3",)))
    asked = release_asked(origin(3), kill, actor="person:bea", auth="api_key")
    body = _pack(numbered([killed(origin(1), kill, auth="api_key"), went_on, asked]))
    shown = body["summary"]["kills"]
    assert [row["what"] for row in shown] == ["killed", "drained", "release_asked"]
    assert (shown[1]["drained"], shown[1]["drained_except"], shown[1]["attested"]) == (False, ["m-2"], ["m-3"])
    assert shown[2]["actor"] == "person:bea"
    assert verify(canonical(body), KEY).exit_status == 0


def test_only_the_allowed_of_a_deferred_calls_decisions_has_its_outcome() -> None:
    """The gateway makes it under the trace id of the question, and again after a refusal that may pass."""
    call = replace(a_call(tool=WRITE), trace_id=TraceId("5b1f-deferred"))
    answers = [
        allow(ASK)._replace(approval_id="apr-1"),
        refusal(ReasonCode.RATE_LIMITED, "Rate limit exceeded"),
        allow(ALLOW_WRITE)._replace(approval_id="apr-1", approved_by="person:alice"),
    ]
    events = [
        decided(origin(number), call, answer, position=0, arguments=b"{}", context=b"{}", latency_us={})
        for number, answer in enumerate(answers, 1)
    ]
    events.append(finished(origin(4), call, Outcome.CANCELLED, ReasonCode.KILLED, kill_id="k-1"))
    body = _pack(numbered(events))
    assert [(entry["reason_code"], entry["outcome"], entry["kill_id"]) for entry in body["timeline"]] == [
        ("approval_required", None, None),
        ("rate_limited", None, None),
        ("killed", "cancelled", "k-1"),
    ]
    assert body["summary"]["by_outcome"] == {"cancelled": 1}
    assert [entry["event_ids"] for entry in body["anomalies"]] == [[events[2].id]]
    done = _pack(numbered([*events[:3], finished(origin(4), call, Outcome.OK, ReasonCode.OK)]))
    assert done["summary"]["write_actions"]["total"] == len(done["write_action_log"]) == 1


def test_call_without_an_outcome_is_open() -> None:
    records = [record for record in a_session(1, kill=False) if record.kind is not Kind.FINISHED]
    body = build(ABOUT, records)
    assert [entry["outcome"] for entry in body["timeline"]] == ["open"]
    assert body["anomalies"][0]["event_ids"] == [records[0].fields["id"]]


# --- what does not --------------------------------------------------------------------------------------------


def test_every_single_byte_change_of_a_small_pack_fails() -> None:
    raw = canonical(SMALL)
    for offset, byte in enumerate(raw):
        changed = raw[:offset] + bytes([byte ^ 1]) + raw[offset + 1 :]
        assert verify(changed, KEY).exit_status == 1, (offset, changed[max(0, offset - 20) : offset + 20])


def test_sampled_byte_changes_of_a_bigger_pack_fail() -> None:
    raw = canonical(_pack(a_session(30)))
    chance = random.Random(7)
    for _ in range(300):
        offset, flip = chance.randrange(len(raw)), chance.randrange(1, 256)
        assert verify(raw[:offset] + bytes([raw[offset] ^ flip]) + raw[offset + 1 :], KEY).exit_status == 1, offset


@given(st.data())
@settings(max_examples=60)
def test_any_bytes_taken_out_or_put_in_fail(data: st.DataObject) -> None:
    raw = canonical(SMALL)
    first = data.draw(st.integers(0, len(raw) - 1))
    put_in = data.draw(st.binary(max_size=4))
    changed = raw[:first] + put_in + raw[data.draw(st.integers(first, min(first + 8, len(raw)))) :]
    if parse_or_none(changed) != SMALL:
        assert verify(changed, KEY).exit_status == 1


def parse_or_none(raw: bytes) -> Any:
    try:
        return parse(raw)
    except ValueError:
        return None


def _remove(place: int) -> Callable[[Body], object]:
    return lambda body: body["integrity"]["events"].pop(place)


def _swap(body: Body) -> None:
    events = body["integrity"]["events"]
    events[0], events[1] = events[1], events[0]


def _repeat(body: Body) -> None:
    body["integrity"]["events"].append(copy.deepcopy(body["integrity"]["events"][-1]))


def _add_foreign(body: Body) -> None:
    body["integrity"]["events"].append(copy.deepcopy(SMALL["integrity"]["events"][0]))


@pytest.mark.parametrize(
    "tamper",
    [
        _remove(0),
        _remove(2),
        _remove(-1),
        _swap,
        _repeat,
        _add_foreign,
        lambda body: body["integrity"]["events"].clear(),
    ],
    ids=["first removed", "middle removed", "last removed", "reordered", "repeated", "added", "emptied"],
)
@pytest.mark.parametrize("repair", [lambda body: body, _rehash, _renumber], ids=["as is", "re-hashed", "renumbered"])
def test_events_removed_moved_or_added_are_found(
    tamper: Callable[[Body], object], repair: Callable[[Body], Body]
) -> None:
    body = copy.deepcopy(FULL)
    tamper(body)
    raw = canonical(repair(body))
    assert verify(raw, KEY).exit_status == 1
    assert _standing(verify(raw, KEY), "signature") is Standing.BROKEN
    assert verify(raw, None).exit_status == 1, "without the key the sections show it"


def _edit_leaf(body: Body, name: str, value: object) -> None:
    event = body["integrity"]["events"][0]
    event["leaf"] = canonical({**parse(event["leaf"].encode()), name: value}).decode()


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("timeline", "tool_name", "db_insert"),
        ("timeline", "decision", "DENY"),
        ("timeline", "timestamp", "2026-11-21T08:00:00.000000Z"),
    ],
)
def test_rewriting_what_the_peer_left_unsigned_breaks_it(section: str, name: str, value: str) -> None:
    """The peer's signature covered event ids alone: tool, decision and time could be rewritten under it."""
    body = copy.deepcopy(FULL)
    body[section][0][name] = value
    report = verify(canonical(body), KEY)
    assert _standing(report, "views") is Standing.BROKEN
    assert _standing(report, "signature") is Standing.BROKEN
    assert verify(canonical(body), None).exit_status == 1


@pytest.mark.parametrize(
    ("name", "value"), [("tool", "db_insert"), ("decision", "DENY"), ("at", "2026-11-21T08:00:00.000000Z"), ("id", "x")]
)
def test_rewritten_leaf_is_named(name: str, value: str) -> None:
    body = copy.deepcopy(FULL)
    _edit_leaf(body, name, value)
    found = next(f for f in verify(canonical(body), KEY).findings if f.check == "events")
    assert found.standing is Standing.BROKEN
    assert body["integrity"]["events"][0]["event_id"] in found.detail


@pytest.mark.parametrize("section", SECTIONS)
def test_altered_section_that_was_hashed_again_but_not_signed_fails(section: str) -> None:
    body = copy.deepcopy(FULL)
    if section == "integrity":
        _edit_leaf(body, "decision", "DENY")
    elif isinstance(body[section], list):
        body[section].append(copy.deepcopy(body[section][0]))
    else:
        body[section]["more"] = 1
    report = verify(canonical(_rehash(body)), KEY)
    assert report.exit_status == 1
    assert _standing(report, "events") is Standing.HOLDS, "the forger put the hashes right"
    assert "altered after signing" in next(f.detail for f in report.findings if f.check == "signature")


@given(st.sampled_from(SECTIONS), JSON)
@settings(max_examples=60)
def test_section_replaced_by_anything_fails(section: str, value: Any) -> None:
    body = {**FULL, section: value}
    assert verify(canonical(body), KEY).exit_status == 1
    assert verify(canonical(body), None).exit_status == 1


@pytest.mark.parametrize("value", [None, "", "00" * 32, 1, [], {}, "é"])
def test_stripped_signature_is_broken_with_and_without_a_key(value: object) -> None:
    body = copy.deepcopy(FULL)
    body["integrity"]["signature"] = value
    assert verify(canonical(body), KEY).exit_status == 1
    if not isinstance(value, str):
        stripped = verify(canonical(body), None)
        assert stripped.exit_status == 1
        assert "stripped" in next(f.detail for f in stripped.findings if f.check == "signature")


@pytest.mark.parametrize("name", ["signature", "signed_by", "key_id", "signature_algorithm", "signed_at", "salt"])
def test_member_of_integrity_that_was_taken_out_is_missed(name: str) -> None:
    body = copy.deepcopy(FULL)
    holder = body["integrity"]["events"][0] if name == "salt" else body["integrity"]
    del holder[name]
    assert verify(canonical(body), KEY).exit_status == 1


def test_pack_that_never_was_signed_does_not_pass_as_one() -> None:
    unsigned = canonical(build(ABOUT, a_session(2)))
    assert verify(unsigned, None).exit_status == 2
    assert verify(unsigned, KEY).exit_status == 1


def test_wrong_key_fails_and_says_so() -> None:
    report = verify(canonical(FULL), b"another key of thirty-two bytes!")
    assert report.exit_status == 1
    assert "another key" in next(f.detail for f in report.findings if f.check == "signature")


def test_without_a_key_nothing_is_shown() -> None:
    report = verify(canonical(FULL), None)
    assert report.exit_status == 2
    assert _standing(report, "signature") is Standing.NOT_CHECKED


def test_signature_under_another_algorithm_name_fails() -> None:
    body = copy.deepcopy(FULL)
    body["integrity"]["signature_algorithm"] = "none"
    body["integrity"]["signed_by"] = []
    assert verify(canonical(body), KEY).exit_status == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"garbage", b"{}", b"[]", b"null", b"0", b"\x00" * 100, b"[" * 100_000, b'{"metadata":1,"metadata":2}',
        canonical({"integrity": FULL["integrity"]}), canonical({**FULL, "more": 1}),
    ],
)  # fmt: skip
def test_garbage_is_broken(raw: bytes) -> None:
    for key in (KEY, None):
        report = verify(raw, key)
        assert report.exit_status == 1
        assert report.findings[0].check == "shape"


@given(st.data())
@settings(max_examples=80)
def test_any_value_anywhere_in_a_pack_is_a_finding_and_not_a_crash(data: st.DataObject) -> None:
    body = copy.deepcopy(SMALL)
    place: Any = body
    while True:
        step = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        inner = place[step]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[step] = value = data.draw(JSON)
    if value != inner or type(value) is not type(inner):
        assert verify(canonical(body), KEY).exit_status == 1
        assert verify(canonical(_rehash_or_not(body)), None).exit_status in {1, 2}


def _rehash_or_not(body: Body) -> Body:
    try:
        return _rehash(copy.deepcopy(body))
    except (KeyError, TypeError, AttributeError, ValueError):
        return body


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00", "9999-12-31T23:59:59", "soon", "2026-11-21"])
def test_times_that_no_clock_shows_are_a_finding(at: str) -> None:
    body = copy.deepcopy(SMALL)
    _edit_leaf(body, "at", at)
    assert verify(canonical(_rehash(body)), None).exit_status == 1


def test_latency_beyond_all_numbers_is_a_finding() -> None:
    body = copy.deepcopy(SMALL)
    event = body["integrity"]["events"][1]
    event["leaf"] = canonical({**parse(event["leaf"].encode()), "latency_us": {"a": 1e308, "b": 1e308}}).decode()
    assert verify(canonical(_rehash(body)), None).exit_status == 1


def test_key_id_names_a_key_without_telling_it() -> None:
    assert key_id(KEY) != key_id(KEY + b"x")
    assert KEY.hex()[:16] != key_id(KEY) != hashlib.sha256(KEY).hexdigest()[:16]


def test_numbers_start_at_one_and_indices_grow() -> None:
    assert [record.session_number for record in numbered([])] == []
    assert [event["number"] for event in FULL["integrity"]["events"]] == list(
        range(1, FULL["integrity"]["event_count"] + 1)
    )
