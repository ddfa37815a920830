"""A leaf has one byte form and no text of people in it; its body is bound, hidden and prunable."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.call import AgentId, SessionId, TenantId, Tool, ToolName
from agentgate.core.containment import Kill, Scope
from agentgate.core.event import MAX_LEAF_BYTES, Event, Kind, Outcome, body_sha256, make, rfc3339
from agentgate.core.events.calls import closed, decided
from agentgate.core.events.keeping import keys_changed
from agentgate.core.events.kills import drained, gone, killed, release_asked, released
from agentgate.core.members import Progress
from tests.core.events import CANARY, START, allow, origin, record_of, with_text
from tests.core.strategies import TEXT
from tests.fakes import TOOL, a_call, a_kill


@pytest.mark.parametrize("event", with_text(CANARY), ids=lambda event: str(event.kind))
def test_leaf_holds_no_free_text(event: Event) -> None:
    assert CANARY.encode() not in event.leaf
    assert CANARY not in repr(dict(event.fields))


def test_text_is_in_the_bodies_instead() -> None:
    assert [event.kind for event in with_text(CANARY) if CANARY.encode() in event.body] == [
        Kind.DECIDED,
        Kind.FINISHED,
        Kind.FINISHED,
        Kind.KILLED,
        Kind.TOOL_ACCEPTED,
        Kind.TOOL_QUARANTINED,
        Kind.TOOL_REJECTED,
    ]


@given(TEXT)
def test_leaf_is_rfc_8785_and_says_what_its_fields_say(text: str) -> None:
    for event in with_text(text):
        assert event.leaf == rfc8785.dumps(dict(event.fields))
        assert orjson.loads(event.leaf) == event.fields
        assert orjson.loads(event.body) is not None


@given(TEXT)
def test_text_changes_a_leaf_only_through_its_salted_hashes(text: str) -> None:
    hashes = {"body_sha256", "result_sha256", "result_bytes", "arguments_sha256", "call_sha256", "trace_id"}
    for plain, changed in zip(with_text("x"), with_text(text), strict=True):
        kept = [
            {name: value for name, value in event.fields.items() if name not in hashes} for event in (plain, changed)
        ]
        assert kept[0] == kept[1]


def test_leaf_binds_its_body_with_its_salt() -> None:
    for event in with_text(CANARY):
        assert event.fields["body_sha256"] == hashlib.sha256(event.salt + event.body).hexdigest()
        assert body_sha256(b"\x00" * 16, event.body) != event.fields["body_sha256"]


def test_equal_calls_have_unequal_hashes_because_of_the_salt() -> None:
    """Without the salt a reader of leaves could guess arguments."""
    one, other = (
        decided(origin(number), a_call(), allow(), position=0, arguments=b"{}", context=b"{}", latency_us={})
        for number in (1, 2)
    )
    for name in ("arguments_sha256", "body_sha256"):
        assert one.fields[name] != other.fields[name]


def test_equal_calls_have_equal_digests_under_one_key_alone() -> None:
    """A reader of the log, who does not have the key, can try nothing."""
    one, same, other = (replace(a_call(), digest_key=key).digest for key in (b"a", b"a", b"b"))
    assert one == same != other


def test_leaf_hash_is_rfc_6962() -> None:
    event = with_text("x")[0]
    assert event.leaf_hash == hashlib.sha256(b"\x00" + event.leaf).digest()


@pytest.mark.parametrize(("width", "named"), [(10, 100), (200, 50), (256, 39)])
def test_however_many_keys_change_as_many_as_fit_are_named_and_all_are_counted(width: int, named: int) -> None:
    ids = [f"{number:0{width}d}" for number in range(10_000)]
    event = keys_changed(origin(), dict.fromkeys(("added", "removed", "disabled", "enabled", "altered"), ids), "f" * 64)
    assert len(event.leaf) <= MAX_LEAF_BYTES
    assert event.fields["added"] == event.fields["altered"] == ids[:named]
    assert event.fields["counts"]["disabled"] == 10_000


def test_widest_names_fit_into_a_leaf() -> None:
    long = "n" * 256
    tool = replace(TOOL, name=ToolName("t" * 128), upstream="u" * 128)
    caller = replace(a_call().caller, name=AgentId(long), tenant=TenantId(long))
    call = replace(a_call(), caller=caller, session=SessionId(long), tool=tool, tool_name=tool.name)
    wordy = allow()._replace(matched_rule="r" * 100_000, policy_revision="v" * 100_000, reason="x" * 500)
    event = decided(origin(), call, wordy, position=2**53 - 1, arguments=b"{}", context=b"{}", latency_us={})
    assert len(event.leaf) < 4096


def test_leaf_over_the_limit_is_refused() -> None:
    fits = MAX_LEAF_BYTES - len(make(origin(), Kind.REFUSALS, {"who": ""}).leaf)
    assert len(make(origin(), Kind.REFUSALS, {"who": "x" * fits}).leaf) == MAX_LEAF_BYTES
    with pytest.raises(ValueError, match=r"^a leaf of 65536 bytes$"):
        make(origin(), Kind.REFUSALS, {"who": "x" * (fits + 1)})
    members = [f"m-{number:032d}" for number in range(1500)]
    assert len(drained(origin(), a_kill(), position=1, members=members).leaf) < MAX_LEAF_BYTES


def test_receipt_of_a_kill_says_whether_it_drained_and_without_whom() -> None:
    def receipt(*progress: tuple[str, ...]) -> tuple[object, ...]:
        fields = drained(origin(), a_kill(), position=1, members=["a", "b"], progress=Progress(*progress)).fields
        return fields["drained"], fields["excepted"], fields["attested"]

    assert receipt((), (), ()) == (True, [], [])
    assert receipt((), (), ("b",)) == (True, [], ["b"])
    assert receipt((), ("b",), ()) == (False, ["b"], [])
    assert receipt(("a",), (), ()) == (False, [], [])


def test_member_that_is_gone_and_whose_word_that_is() -> None:
    presumed, attested = gone(origin(), "m-2", why="presumed"), gone(origin(), "m-2", why="attested", actor="person:op")
    assert (presumed.fields["of"], presumed.principal, presumed.fields["member"]) == ("m-2", "", "m-1")
    assert (attested.fields["why"], attested.principal) == ("attested", "person:op")


def test_release_names_all_who_asked_for_it_where_one_was_not_enough() -> None:
    def asked_by(*persons: str) -> object:
        more = {"actor": "person:b", "auth": "key", "why": "release", "forced": False}
        return released(origin(), a_kill(), asked_by=persons, **more).fields.get("asked_by")  # type: ignore[arg-type]

    assert asked_by("person:a", "person:b") == ["person:a", "person:b"]
    assert asked_by() is None
    asked = release_asked(origin(), a_kill(), actor="person:a", auth="key")
    assert (asked.principal, asked.session, asked.fields["kill_id"]) == ("person:a", "s-1", a_kill().id)


def test_parts_that_are_empty_are_left_out() -> None:
    event = make(origin(), Kind.REFUSALS, {"count": 1})
    assert not {"tenant", "session", "principal"} & event.fields.keys()


@pytest.mark.parametrize("scope", list(Scope))
def test_kill_of_a_session_belongs_to_the_session_and_no_other_does(scope: Scope) -> None:
    kill: Kill = a_kill(scope, "s-1")
    assert killed(origin(), kill, auth="api_key").session == ("s-1" if scope is Scope.SESSION else "")


def test_closed_intent_repeats_whose_call_it_was() -> None:
    call = replace(a_call(), traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
    intent = decided(origin(), call, allow(), position=0, arguments=b"{}", context=b"{}", latency_us={})
    event = closed(origin(2), record_of(intent), Outcome.UNKNOWN, "died")
    for name in ("trace_id", "tool", "server", "tool_sha256", "traceparent", "tenant", "session", "principal"):
        assert event.fields[name] == intent.fields[name]
    assert (event.fields["outcome"], event.fields["reason_code"]) == ("unknown", "outcome_unrecorded")


def test_unknown_tool_has_neither_server_nor_definition() -> None:
    event = decided(origin(), a_call(tool=None), allow(), position=0, arguments=b"{}", context=b"{}", latency_us={})
    assert not {"server", "tool_sha256"} & event.fields.keys()


@given(st.integers(86_400, 250_000_000_000), st.integers(0, 999_999), st.integers(-23, 23))
def test_times_sort_as_text_and_are_utc(seconds: int, microseconds: int, hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    moment = datetime.fromtimestamp(seconds, zone) + timedelta(microseconds=microseconds)
    text = rfc3339(moment)
    assert (len(text), text[-1]) == (27, "Z")
    assert datetime.fromisoformat(text) == moment
    assert (text < rfc3339(START)) is (moment < START)


def test_times_are_utc_on_a_machine_in_another_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        assert rfc3339(START) == "2026-11-21T09:00:00.000000Z"
    time.tzset()


def test_record_of_a_kind_that_nobody_knows_stops_its_reader() -> None:
    strange: dict[str, Any] = {"kind": "gossiped"}
    with pytest.raises(ValueError, match="gossiped"):
        _ = replace(record_of(with_text("x")[0]), fields=strange).kind


def test_tool_is_named_by_its_definition() -> None:
    changed = Tool(TOOL.name, TOOL.upstream, TOOL.access, TOOL.input_schema, "another")
    one, other = (
        decided(origin(), a_call(tool=tool), allow(), position=0, arguments=b"{}", context=b"{}", latency_us={})
        for tool in (TOOL, changed)
    )
    assert one.fields["tool_sha256"] != other.fields["tool_sha256"]
    assert START.tzinfo is UTC
