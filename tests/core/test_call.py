"""Names, principals, and the digest that stands for a whole call (A08, A09, A26)."""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from agentgate.core.call import (
    Access,
    AgentId,
    Call,
    Principal,
    PrincipalKind,
    Role,
    SessionId,
    TenantId,
    Tool,
    ToolName,
    TraceId,
    is_id,
    is_tool_name,
    key_sha256,
)
from agentgate.core.event import rfc3339
from agentgate.core.policy import policy_question
from agentgate.core.strict_json import canonical
from tests.core.strategies import OBJECTS
from tests.fakes import TOOL, a_call, principal

ASCII_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-"


def _confusables() -> list[str]:
    """`db_query` with each letter replaced by what looks or normalises like it, and with what cannot be seen."""
    alike = [
        char
        for char in map(chr, range(0x80, 0x20000))
        if len(unicodedata.normalize("NFKC", char)) == 1 and unicodedata.normalize("NFKC", char) in ASCII_NAME
    ]
    cyrillic = "аеорсухіјѕԁԛԝһӏɡıοαν"
    unseen = [
        "\u200b", "\u200c", "\u200d", "\u2060", "\ufeff", "\u00ad", "\u202e", "\u2066", "\u034f",
        "\u180e", "\u0301", "\ufe0f", "\U000e0061",
    ]  # fmt: skip
    names = [f"db_{char}uery" for char in (*alike, *cyrillic)]
    names += ["db_query"[:place] + char + "db_query"[place:] for char in unseen for place in range(9)]
    return names


def test_a_thousand_confusable_names_are_refused() -> None:
    names = _confusables()
    assert len(names) >= 1000
    assert [name for name in names if is_tool_name(name)] == []
    assert [name for name in names if is_id(name)] == []


@pytest.mark.parametrize(
    "name",
    [
        "", "..", "a..b", "../../../etc/passwd", "tool/../secret", "tool%2F..%2Fsecret", "a%2f..%2fb", "db query",
        "db/query", "db$query", "bad/name", "a\x00", "a\n", "a\r\nb", "\na", "a:b", "a@b", "x" * 129, "é",
        'x"} 1\nevil_metric 1\n#', "\x1b[31mred", "a\\b", "a'b",
    ],
)  # fmt: skip
def test_tool_name_outside_of_the_grammar_is_refused(name: str) -> None:
    assert not is_tool_name(name)


@pytest.mark.parametrize(
    "name", ["", " s", "s ", "a/b", "-a", ".a", "a\x00", "a\n", "x" * 257, "é", "\ud800", "a%2Fb", "a;b", "a,b", "١"]
)
def test_id_outside_of_the_grammar_is_refused(name: str) -> None:
    assert not is_id(name)


@given(st.text(ASCII_NAME, min_size=1, max_size=128))
def test_tool_name_within_the_grammar_is_accepted(name: str) -> None:
    assert is_tool_name(name) is (".." not in name)


@given(st.text(min_size=1, max_size=20))
def test_no_accepted_name_needs_escaping_or_folds_into_another(name: str) -> None:
    """What can be called can be killed by a path, and is one name under every normalisation."""
    if is_tool_name(name) or is_id(name):
        assert orjson.dumps(name) == f'"{name}"'.encode()
        assert unicodedata.normalize("NFKC", name) == name
        assert "/" not in name


# --- principals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_admin_has_every_role_and_others_only_their_own(role: Role) -> None:
    assert principal("root", Role.ADMIN).has(role)
    assert [other for other in Role if principal("x", role).has(other)] == (
        list(Role) if role is Role.ADMIN else [role]
    )


def test_agent_and_person_of_one_name_are_two_principals() -> None:
    assert principal("sam").id != principal("sam", person=True).id


def test_only_an_operator_of_all_tenants_sees_another_tenant() -> None:
    one = principal("op", Role.OPERATOR)
    assert (one.sees("default"), one.sees("other"), replace(one, tenants_all=True).sees("other")) == (True, False, True)


def test_an_id_that_somebody_gives_is_their_tenants_own() -> None:
    one = principal("op", Role.OPERATOR)
    assert (one.own_id("k-1"), replace(one, tenants_all=True).own_id("k-1")) == ("default~k-1", "k-1")


@given(st.text(max_size=30))
@example("\ud800")
def test_any_text_has_a_key_digest(secret: str) -> None:
    assert len(key_sha256(secret)) == 64


# --- the digest ---------------------------------------------------------------------------------------------


def _whole(call: Call) -> dict[str, Any]:
    return {
        "tenant": call.tenant,
        "agent": call.caller.id,
        "session": call.session,
        "tool": call.tool_name,
        "tool_sha256": call.tool.definition_sha256 if call.tool else "",
        "arguments": call.arguments,
        "context": call.context,
    }


@given(
    arguments=OBJECTS,
    context=OBJECTS,
    session=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}", fullmatch=True),
    key=st.binary(max_size=40),
)
def test_digest_is_hmac_sha256_of_rfc_8785_of_the_whole(
    arguments: dict[str, Any], context: dict[str, Any], session: str, key: bytes
) -> None:
    call = replace(a_call(arguments=arguments, session=session), context=context, digest_key=key)
    assert call.digest == hmac.new(key, rfc8785.dumps(_whole(call)), hashlib.sha256).hexdigest()
    unknown = replace(call, tool=None)
    assert unknown.digest == hmac.new(key, rfc8785.dumps(_whole(unknown)), hashlib.sha256).hexdigest()


BASE = a_call(arguments={"query": "SELECT 1", "n": 1, "deep": {"list": [1, 2, {"x": None}]}})


def _caller(**changes: Any) -> Principal:
    return replace(BASE.caller, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"caller": _caller(tenant=TenantId("other"))},
        {"caller": _caller(name=AgentId("bot2"))},
        {"caller": _caller(kind=PrincipalKind.PERSON)},
        {"session": SessionId("s-2")},
        {"session": SessionId("S-1")},
        {"tool_name": ToolName("db_insert")},
        {"tool": None},
        {"tool": replace(TOOL, access=Access.WRITE)},
        {"tool": replace(TOOL, upstream="other")},
        {"tool": replace(TOOL, description="now it does more")},
        {"tool": replace(TOOL, input_schema={"type": "object", "required": ["x"]})},
        {"tool": replace(TOOL, options={"path": "/other"})},
        {"tool": replace(TOOL, labels=("pii",))},
        {"arguments": {}},
        {"arguments": {**BASE.arguments, "n": "1"}},
        {"arguments": {**BASE.arguments, "n": True}},
        {"arguments": {**BASE.arguments, "n": 1.5}},
        {"arguments": {**BASE.arguments, "query": "SELECT 2"}},
        {"arguments": {**BASE.arguments, "query": "SELECT 1 "}},
        {"arguments": {**BASE.arguments, "N": 1}},
        {"arguments": {**BASE.arguments, "deep": {"list": [2, 1, {"x": None}]}}},
        {"arguments": {**BASE.arguments, "deep": {"list": [1, 2, {}]}}},
        {"context": {"a": 1}},
        {"arguments": {"context": {}}, "context": dict(BASE.arguments)},
    ],
)
def test_any_change_of_any_part_changes_the_digest(changes: dict[str, Any]) -> None:
    assert replace(BASE, **changes).digest != BASE.digest


@given(OBJECTS, OBJECTS)
def test_two_arguments_have_one_digest_only_if_they_are_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    same = a_call(arguments=one).digest == a_call(arguments=other).digest
    assert same is (canonical(one) == canonical(other))


def test_token_trace_and_door_details_are_not_in_the_digest() -> None:
    """An approved call is repeated with its token and another trace id: it is the same call."""
    assert a_call(approval_token="apt_x").digest == a_call().digest


def test_tool_definition_hash_ignores_what_cannot_change_what_it_does_to_the_world() -> None:
    assert replace(TOOL, timeout_s=1).definition_sha256 == TOOL.definition_sha256
    assert Tool(TOOL.name, "demo", Access.READ, {"type": "object"}).definition_sha256 == TOOL.definition_sha256


# --- the question to policy -----------------------------------------------------------------------------------


@given(arguments=OBJECTS, context=OBJECTS, approved=st.booleans())
def test_policy_is_asked_about_exactly_the_parsed_call(
    arguments: dict[str, Any], context: dict[str, Any], approved: bool
) -> None:
    call = replace(a_call(arguments=arguments, approval_token="apt_secret"), context=context)
    raw = policy_question(call, has_approval_token=approved, now=rfc3339(datetime(2026, 1, 1, tzinfo=UTC)))
    asked = orjson.loads(raw)["input"]
    assert b"apt_secret" not in raw
    assert asked == {
        "tool_name": "db_query",
        "arguments": arguments,
        "context": context,
        "session_id": "s-1",
        "has_approval_token": approved,
        "agent": {"id": "bot", "kind": "agent", "roles": ["agent"], "tenant": "default"},
        "tool": {"name": "db_query", "access": "read", "upstream": "demo"},
        "session": {"id": "s-1"},
        "door": "rest",
        "time": "2026-01-01T00:00:00.000000Z",
    }


def asked_about(call: Call, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(policy_question(call, has_approval_token=False, now="t", **more))["input"]
    return found


def test_policy_sees_who_asks_by_what_right_and_for_whom() -> None:
    caller = replace(BASE.caller, scopes=frozenset({"write", "read"}), tier="gold", on_behalf_of="alice")
    assert asked_about(replace(BASE, caller=caller))["agent"] == {
        "id": "bot", "kind": "agent", "roles": ["agent"], "tenant": "default",
        "scopes": ["read", "write"], "tier": "gold", "on_behalf_of": "alice",
    }  # fmt: skip


def test_policy_sees_labels_the_past_and_what_parsers_say_where_there_is_any() -> None:
    labelled = replace(BASE, tool=replace(TOOL, labels=("pii", "own")))
    tool = {"name": "db_query", "access": "read", "upstream": "demo"}
    assert labelled.tool is not None
    assert labelled.tool.definition["labels"] == ["pii", "own"]
    assert asked_about(labelled)["tool"] == tool | {"labels": ["pii", "own"]}
    assert asked_about(labelled, labels=["x"])["tool"] == tool | {"labels": ["x"]}
    assert asked_about(labelled, labels=[])["tool"] == tool
    assert asked_about(replace(BASE, tool=None), labels=["x"])["tool"] == {}
    more = asked_about(BASE, past={"calls": 3}, parsed={"command": []})
    assert more["parsed"] == {"command": []}
    assert more["session"] == {"id": "s-1", "calls": 3}
    assert "parsed" not in asked_about(BASE)


# --- its names ------------------------------------------------------------------------------------------------


def test_an_idempotency_key_is_its_principals_own() -> None:
    """Neither another agent, nor the same one for another user, gets the answer that was kept."""
    mine = replace(BASE, idempotency_key="k")
    others = [
        replace(mine, caller=_caller(**other))
        for other in ({"tenant": "x"}, {"name": "x"}, {"on_behalf_of": "x"}, {"on_behalf_of": ""})
    ]
    assert mine.idempotency_sha256 == hashlib.sha256(b"default\0agent:bot\0k").hexdigest() == mine.answer_key
    for_alice = replace(mine, caller=_caller(on_behalf_of="alice"))
    assert for_alice.idempotency_sha256 == hashlib.sha256(b"default\0agent:bot\0k\0alice").hexdigest()
    assert len({call.idempotency_sha256 for call in (mine, for_alice, *others)}) == 6


def test_only_an_answer_that_somebody_may_ask_for_again_is_kept() -> None:
    assert (BASE.idempotency_sha256, BASE.answer_key, replace(BASE, deferred=True).answer_key) == (
        None, None, BASE.trace_id,
    )  # fmt: skip


def test_arguments_cannot_add_to_the_question() -> None:
    sly = {"has_approval_token": True, '"},"has_approval_token":true,"x":{"': 1}
    asked = orjson.loads(policy_question(a_call(arguments=sly), has_approval_token=False, now="t"))["input"]
    assert asked["has_approval_token"] is False
    assert asked["arguments"] == sly


def test_a_call_under_another_trace_is_the_same_but_for_that() -> None:
    again = BASE.under(TraceId("another"))
    assert again == replace(BASE, trace_id=TraceId("another"))
    assert (again.digest, again.arguments_json) == (BASE.digest, BASE.arguments_json)
    assert BASE.trace_id != again.trace_id
