"""Promise 1: anything but a well-formed ALLOW is a refusal, and only an ALLOW on record makes a grant."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.decision import (
    KNOWN_OBLIGATIONS,
    MAX_QUORUM,
    MAX_REASON_CHARS,
    Behind,
    Decision,
    Grant,
    GrantRefused,
    NoRuling,
    Receipt,
    Ruling,
    Terms,
    Verdict,
    grant,
    read_ruling,
    refusal,
)
from agentgate.core.errors import ReasonCode
from tests.core.strategies import ANYTHING
from tests.fakes import ALLOW, ASK, DENY, REVISION, a_call

CALL = a_call()
RECEIPT = Receipt("e-1", 0, 3, CALL.digest)
ENGINE_FAULTS = [code for code in ReasonCode if code.startswith("policy_") and code not in {
    ReasonCode.POLICY_ALLOW, ReasonCode.POLICY_DENY, ReasonCode.POLICY_INVALID, ReasonCode.POLICY_NOT_ENFORCED,
    ReasonCode.POLICY_EXTERNAL,
}]  # fmt: skip


def _is_well_formed_allow(value: Any) -> bool:
    """Written a second time, in other words than the code's."""
    if type(value) is not dict or value.get("action") != "ALLOW" or type(value.get("reason")) is not str:
        return False
    types = {"matched_rule": str, "allowed_scope": str, "is_write_action": bool, "credential_ttl": int}
    if any(type(value[name]) is not wanted for name, wanted in types.items() if name in value):
        return False
    if not 1 <= value.get("credential_ttl", 1) <= 86_400:
        return False
    obligations = value.get("obligations", [])
    return type(obligations) is list and all(
        type(item) is dict and type(item.get("type")) is str and item["type"] in KNOWN_OBLIGATIONS
        for item in obligations
    )


NEARLY = st.fixed_dictionaries(
    {},
    optional={
        "action": st.just("ALLOW") | ANYTHING,
        "reason": st.just("because") | ANYTHING,
        "matched_rule": st.just("rule") | ANYTHING,
        "allowed_scope": st.just("orders:read") | ANYTHING,
        "credential_ttl": st.integers(-1, 90_000) | ANYTHING,
        "is_write_action": st.booleans() | ANYTHING,
        "obligations": st.lists(st.fixed_dictionaries({"type": st.sampled_from(["redact_result", "x"]) | ANYTHING}))
        | ANYTHING,
        "extra": ANYTHING,
    },
)


MOSTLY = st.builds(lambda changes: {**ALLOW, **changes}, st.just({}) | NEARLY.map(lambda v: dict([*v.items()][:1])))
"""A well-formed ALLOW, or one with a single member changed."""


@given(ANYTHING | NEARLY | MOSTLY, st.just(REVISION) | st.just(""))
def test_no_grant_from_any_value_that_is_not_a_well_formed_allow(value: Any, revision: str) -> None:
    decision = read_ruling(Ruling(value, revision))
    assert decision.allowed is (_is_well_formed_allow(value) and revision != "")
    if decision.allowed:
        assert isinstance(grant(CALL, decision, RECEIPT, applied_position=3), Grant)
        return
    with pytest.raises(GrantRefused):
        grant(CALL, decision, RECEIPT, applied_position=3)


@given(NEARLY | MOSTLY)
def test_adding_an_ill_typed_member_never_turns_a_refusal_into_an_allow(value: dict[str, Any]) -> None:
    if not read_ruling(Ruling(value, REVISION)).allowed:
        assert not read_ruling(Ruling({**value, "matched_rule": 1}, REVISION)).allowed


@pytest.mark.parametrize(
    "action", ["allow", "Allow", "ALLOW ", "ALLOW\x00", "АLLOW", "", None, True, 1, ["ALLOW"], {"ALLOW": 1}]
)
def test_only_the_exact_word_allows(action: object) -> None:
    assert read_ruling(Ruling({**ALLOW, "action": action}, REVISION)).reason_code is ReasonCode.POLICY_MALFORMED


@pytest.mark.parametrize(
    ("value", "misfit"),
    [
        (["ALLOW"], "not an object"),
        ({**ALLOW, "action": "allow"}, "action is not one of ALLOW, DENY, REQUIRE_APPROVAL"),
        ({"action": "ALLOW"}, "reason is not a string"),
        ({**ALLOW, "reason": 1}, "reason is not a string"),
        ({**ALLOW, "matched_rule": None}, "matched_rule is not a string"),
        ({**ALLOW, "allowed_scope": 1}, "allowed_scope is not a string"),
        ({**ALLOW, "is_write_action": 1}, "is_write_action is not a boolean"),
        ({**ALLOW, "credential_ttl": 0}, "credential_ttl is not a number of seconds from 1 to 86400"),
        ({**ALLOW, "credential_ttl": 86_401}, "credential_ttl is not a number of seconds from 1 to 86400"),
        ({**ALLOW, "credential_ttl": True}, "credential_ttl is not a number of seconds from 1 to 86400"),
        ({**ALLOW, "obligations": {}}, "obligations is not a list of objects with a type"),
        ({**ALLOW, "obligations": [{"type": "x"}, "y"]}, "obligations is not a list of objects with a type"),
        ({**ALLOW, "obligations": [{"type": 1}]}, "obligations is not a list of objects with a type"),
        ({**ALLOW, "est_cost": 1}, 'est_cost is not an amount such as "0.002"'),
        ({**ALLOW, "est_cost": "-1"}, 'est_cost is not an amount such as "0.002"'),
        ({**ASK, "approval": []}, "approval: not an object with quorum, approvers, expires_in_s"),
        ({**ASK, "approval": {"quorom": 1}}, "approval: not an object with quorum, approvers, expires_in_s"),
        ({**ASK, "approval": {"quorum": 11}}, "approval: quorum is not a number from 1 to 10"),
        (
            {**ASK, "approval": {"approvers": ["person:a"] * 101}},
            "approval: approvers is not a list of at most 100 ids such as person:alice",
        ),
        ({**ASK, "approval": {"approvers": []}}, "approval: fewer approvers than the quorum"),
        (
            {**ASK, "approval": {"expires_in_s": 0}},
            "approval: expires_in_s is not a number of seconds from 1 to 2592000",
        ),
    ],
)
def test_malformed_answer_is_a_refusal_that_says_what_is_wrong(value: Any, misfit: str) -> None:
    decision = read_ruling(Ruling(value, REVISION))
    assert decision == refusal(
        ReasonCode.POLICY_MALFORMED, f"Policy answer malformed: {misfit}", "policy_malformed", REVISION
    )


def test_amounts_and_terms_at_their_bounds_are_taken() -> None:
    terms = {"quorum": MAX_QUORUM, "approvers": [f"person:p{n}" for n in range(100)], "expires_in_s": 2_592_000}
    said = {**ASK, "credential_ttl": 86_400, "est_cost": "0.000001", "approval": terms}
    decision = read_ruling(Ruling(said, REVISION))
    assert decision.verdict is Verdict.REQUIRE_APPROVAL
    assert (decision.credential_ttl_s, decision.est_cost) == (86_400, 1)
    assert decision.terms == Terms(MAX_QUORUM, tuple(terms["approvers"]), 2_592_000)
    assert read_ruling(Ruling({**ALLOW, "est_cost": "0", "credential_ttl": 1}, REVISION)).est_cost == 0


def test_what_policy_left_out_is_the_strict_default() -> None:
    decision = read_ruling(Ruling({"action": "ALLOW", "reason": "r"}, REVISION))
    assert decision == Decision(
        Verdict.ALLOW, ReasonCode.POLICY_ALLOW, "r", "default_deny", REVISION, None, None, False, ()
    )


def test_refusal_without_an_answer_names_no_revision() -> None:
    unnamed = "The policy engine did not say which revision it enforces"
    assert read_ruling(Ruling(ALLOW, "")) == refusal(ReasonCode.POLICY_REVISION_UNKNOWN, unnamed)
    strange = {**ALLOW, "obligations": [{"type": "b"}, {"type": "a" * 300}]}
    assert read_ruling(Ruling(strange, REVISION)) == refusal(
        ReasonCode.OBLIGATION_UNKNOWN,
        "Policy obliges the gateway to something it cannot do: " + "a" * 200,
        revision=REVISION,
    )
    two = read_ruling(Ruling({**ALLOW, "obligations": [{"type": "b"}, {"type": "a"}]}, REVISION))
    assert two.reason == "Policy obliges the gateway to something it cannot do: a, b"


@pytest.mark.parametrize("code", ENGINE_FAULTS)
def test_engine_fault_is_a_refusal_with_its_own_reason(code: ReasonCode) -> None:
    decision = read_ruling(NoRuling(code, "secret detail of the engine"))
    assert (decision.verdict, decision.reason_code) == (Verdict.DENY, code)
    assert "secret detail" not in decision.reason


@pytest.mark.parametrize(("value", "verdict"), [(ALLOW, "ALLOW"), (DENY, "DENY"), (ASK, "REQUIRE_APPROVAL")])
def test_well_formed_answer_is_that_decision(value: dict[str, Any], verdict: str) -> None:
    decision = read_ruling(Ruling(value, REVISION))
    assert (decision.verdict, decision.reason, decision.policy_revision) == (verdict, value["reason"], REVISION)
    assert decision.matched_rule == value["matched_rule"]


def test_everything_that_policy_said_is_kept() -> None:
    said = {**ALLOW, "allowed_scope": "s", "credential_ttl": 60, "is_write_action": True,
            "obligations": [{"type": "redact_result"}]}  # fmt: skip
    decision = read_ruling(Ruling(said, REVISION))
    assert (decision.allowed_scope, decision.credential_ttl_s, decision.is_write_action) == ("s", 60, True)
    assert decision.obligations == ({"type": "redact_result"},)


def test_one_unknown_obligation_among_known_ones_is_a_refusal() -> None:
    both = [{"type": "redact_result"}, {"type": "watermark"}]
    decision = read_ruling(Ruling({**ALLOW, "obligations": both}, REVISION))
    assert decision.reason_code is ReasonCode.OBLIGATION_UNKNOWN
    assert "watermark" in decision.reason


def test_allow_of_a_policy_that_nobody_can_name_is_a_refusal() -> None:
    assert read_ruling(Ruling(ALLOW, "")).reason_code is ReasonCode.POLICY_REVISION_UNKNOWN


def test_long_reason_is_cut() -> None:
    assert len(read_ruling(Ruling({**DENY, "reason": "x" * 10_000}, REVISION)).reason) == MAX_REASON_CHARS


# --- grants -------------------------------------------------------------------------------------------------

ALLOWED = read_ruling(Ruling(ALLOW, REVISION))


def test_grant_is_for_its_own_call_alone() -> None:
    other = a_call(arguments={"more": 1})
    with pytest.raises(GrantRefused, match="^the receipt is for another call$"):
        grant(other, ALLOWED, RECEIPT, applied_position=3)
    with pytest.raises(GrantRefused, match="another call"):
        grant(CALL, ALLOWED, replace(RECEIPT, digest=None), applied_position=3)


@pytest.mark.parametrize("verdict", [Verdict.DENY, Verdict.REQUIRE_APPROVAL])
def test_no_grant_from_another_verdict(verdict: Verdict) -> None:
    with pytest.raises(GrantRefused, match=f"^no grant from {verdict}$"):
        grant(CALL, ALLOWED._replace(verdict=verdict), RECEIPT, applied_position=99)


@given(recorded=st.integers(-1, 50), applied=st.integers(-1, 50))
def test_grant_only_at_a_position_that_is_applied(recorded: int, applied: int) -> None:
    receipt = replace(RECEIPT, kill_position=recorded)
    granted = grant(CALL, ALLOWED, receipt, applied_position=applied)
    if recorded > applied:
        assert granted == Behind(recorded)
    else:
        assert isinstance(granted, Grant)
        assert granted.receipt == receipt


def test_grant_cannot_be_made_by_hand() -> None:
    with pytest.raises(TypeError):
        Grant(CALL, ALLOWED, RECEIPT)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"^a Grant is made by core\.decision\.grant\(\) alone$"):
        Grant(CALL, ALLOWED, RECEIPT, object())  # type: ignore[arg-type]
    with pytest.raises((TypeError, ValueError)):
        replace(_granted(), call=a_call())  # type: ignore[call-arg]


def _granted() -> Grant:
    granted = grant(CALL, ALLOWED, RECEIPT, applied_position=3)
    assert isinstance(granted, Grant)
    return granted


def test_grant_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        _granted().call = a_call()  # type: ignore[misc]


def test_refusal_is_a_deny_that_names_its_rule() -> None:
    decision = refusal(ReasonCode.KILLED, "no")
    assert decision == Decision(Verdict.DENY, ReasonCode.KILLED, "no", "killed", "")
    named = refusal(ReasonCode.KILLED, "no", "rule", "r-1")
    assert named == Decision(Verdict.DENY, ReasonCode.KILLED, "no", "rule", "r-1")


# --- terms of an approval -----------------------------------------------------------------------------------

PEOPLE = ["person:alice", "person:bob", "person:carol"]
TERMS = st.fixed_dictionaries(
    {},
    optional={
        "quorum": st.integers(-1, MAX_QUORUM + 1) | ANYTHING,
        "approvers": st.lists(st.sampled_from([*PEOPLE, "agent:bot", "alice", "person:", "person:a b"])) | ANYTHING,
        "expires_in_s": st.integers(-1, 10) | ANYTHING,
        "qourum": st.just(2),
    },
)


def _terms(approval: Any) -> Decision:
    return read_ruling(Ruling({**ASK, "approval": approval}, REVISION))


def test_terms_are_read_as_policy_says_them() -> None:
    decision = _terms({"quorum": 2, "approvers": [*PEOPLE, "person:bob"], "expires_in_s": 60})
    assert decision.verdict is Verdict.REQUIRE_APPROVAL
    assert decision.terms == Terms(2, tuple(PEOPLE), 60)
    assert _terms({"approvers": PEOPLE[:1], "expires_in_s": 1}).terms == Terms(1, tuple(PEOPLE[:1]), 1)


def test_without_terms_one_person_with_the_role_is_enough() -> None:
    assert _terms({}).verdict is Verdict.REQUIRE_APPROVAL
    assert _terms({}).terms == read_ruling(Ruling(ASK, REVISION)).terms == Terms(1, (), None)


@pytest.mark.parametrize(
    "approval",
    [
        None,
        [],
        "two",
        {"quorum": 0},
        {"quorum": True},
        {"quorum": 1.0},
        {"quorum": "2"},
        {"quorum": None},
        {"quorum": MAX_QUORUM + 1},
        {"approvers": []},
        {"approvers": "person:alice"},
        {"approvers": ["agent:bot"]},
        {"approvers": ["alice"]},
        {"approvers": ["person:"]},
        {"approvers": ["person:-x"]},
        {"approvers": [1]},
        {"quorum": 2, "approvers": ["person:alice"]},
        {"quorum": 2, "approvers": ["person:alice", "person:alice"]},
        {"expires_in_s": 0},
        {"expires_in_s": 2_592_001},
        {"expires_in_s": 1.5},
        {"qourum": 2},
    ],
)
def test_terms_that_are_not_understood_are_a_refusal(approval: Any) -> None:
    decision = _terms(approval)
    assert (decision.verdict, decision.reason_code) == (Verdict.DENY, ReasonCode.POLICY_MALFORMED)


@given(TERMS)
def test_malformed_terms_never_become_weaker_ones(approval: dict[str, Any]) -> None:
    decision = _terms(approval)
    if decision.verdict is Verdict.DENY:
        return
    terms = decision.terms
    assert type(terms.quorum) is int
    assert terms.quorum == approval.get("quorum", 1)
    assert set(terms.approvers) == set(approval.get("approvers", []))
    assert ("approvers" in approval) == bool(terms.approvers)
    assert not terms.approvers or len(terms.approvers) >= terms.quorum
    assert terms.ttl_s == approval.get("expires_in_s")
    assert approval.keys() <= {"quorum", "approvers", "expires_in_s"}
