"""What policy answered, read strictly, and the grant that alone lets a call out.

Promise 1 lives here: anything but a well-formed ALLOW is a refusal. `read_ruling` is the only way from an
engine's answer to a `Decision`, and `grant` the only way from a `Decision` to a `Grant`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from agentgate.core.amounts import micros
from agentgate.core.call import Call, Digest, is_id
from agentgate.core.errors import ReasonCode


class Verdict(StrEnum):
    ALLOW = "ALLOW"
    DENY = "DENY"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"


class Ruling(NamedTuple):
    """A value that a policy engine computed, and the revision it computed it from."""

    value: Any
    revision: str


@dataclass(frozen=True, slots=True)
class NoRuling:
    """The engine did not answer. `reason` is one of the `POLICY_*` codes."""

    reason: ReasonCode
    detail: str


class Terms(NamedTuple):
    """What policy wants of an approval: the member `approval` of its answer."""

    quorum: int = 1
    """How many different persons must say yes."""
    approvers: tuple[str, ...] = ()
    """Who may: principal ids such as `person:alice`. Empty: whoever has the role approver."""
    ttl_s: int | None = None
    """For how long it is open and good; None: `approvals.ttl_s` of the configuration."""


class Decision(NamedTuple):
    """The verdict on one call, and why. What was recorded is what is enforced: it cannot be changed.

    A named tuple, because a frozen dataclass takes a microsecond longer to make.
    """

    verdict: Verdict
    reason_code: ReasonCode
    reason: str
    matched_rule: str
    policy_revision: str = ""
    allowed_scope: str | None = None
    credential_ttl_s: int | None = None
    is_write_action: bool = False
    obligations: tuple[Mapping[str, Any], ...] = ()
    approval_id: str | None = None
    approved_by: str | None = None
    """Who said yes: `person:alice` (several: with commas), or `static token` for v0.2's shared one."""
    edited_from: str | None = None
    """The digest of the call as its caller sent it, where an approver edited it: this decision is on the edited one."""
    terms: Terms = Terms()
    """Of an approval that is required."""
    est_cost: int | None = None
    """What policy estimates the call to cost, in micros; None: what the data's `costs` say of the tool."""

    @property
    def allowed(self) -> bool:
        return self.verdict is Verdict.ALLOW


KNOWN_OBLIGATIONS: Final = frozenset({"redact_result"})
"""Obligation types that the gateway performs. One that it cannot perform is a DENY (AuthZEN obligations)."""

MAX_REASON_CHARS: Final = 500
MAX_QUORUM: Final = 10
MAX_APPROVERS: Final = 100
MAX_APPROVAL_TTL_S: Final = 2_592_000
_NO_TERMS: Final = Terms()
_MAX_TTL_S: Final = 86_400


def refusal(code: ReasonCode, reason: str, rule: str | None = None, revision: str = "") -> Decision:
    """A DENY that policy did not speak."""
    return Decision(Verdict.DENY, code, reason, rule or code.value, revision)


def read_ruling(answer: Ruling | NoRuling) -> Decision:
    """The decision in an engine's answer; a DENY with a distinct reason for anything not well-formed.

    The expected value is `{action, reason, matched_rule?, allowed_scope?, credential_ttl?, is_write_action?,
    obligations?, approval?, est_cost?}` (DESIGN §6), with `approval` as `{quorum?, approvers?, expires_in_s?}`. Extra
    members are ignored, wrong types are not.
    """
    if isinstance(answer, NoRuling):
        return refusal(answer.reason, _ENGINE_SAYS[answer.reason])
    misfit = _misfit(answer.value)
    if misfit is not None:
        return refusal(ReasonCode.POLICY_MALFORMED, f"Policy answer malformed: {misfit}", revision=answer.revision)
    if not answer.revision:
        return refusal(ReasonCode.POLICY_REVISION_UNKNOWN, "The policy engine did not say which revision it enforces")
    value: Mapping[str, Any] = answer.value
    verdict = _VERDICTS[value["action"]]
    obligations = tuple(value.get("obligations", ()))
    if obligations and (unknown := sorted({str(item["type"]) for item in obligations} - KNOWN_OBLIGATIONS)):
        return refusal(
            ReasonCode.OBLIGATION_UNKNOWN,
            f"Policy obliges the gateway to something it cannot do: {', '.join(unknown)[:200]}",
            revision=answer.revision,
        )
    return Decision(
        verdict=verdict,
        reason_code=_CODE[verdict],
        reason=value["reason"][:MAX_REASON_CHARS],
        matched_rule=value.get("matched_rule", "default_deny"),
        policy_revision=answer.revision,
        allowed_scope=value.get("allowed_scope"),
        credential_ttl_s=value.get("credential_ttl"),
        is_write_action=value.get("is_write_action", False),
        obligations=obligations,
        terms=_terms(value["approval"]) if "approval" in value else _NO_TERMS,
        est_cost=micros(value["est_cost"]) if "est_cost" in value else None,
    )


_CODE: Final = {
    Verdict.ALLOW: ReasonCode.POLICY_ALLOW,
    Verdict.DENY: ReasonCode.POLICY_DENY,
    Verdict.REQUIRE_APPROVAL: ReasonCode.APPROVAL_REQUIRED,
}

_ENGINE_SAYS: Final = {
    ReasonCode.POLICY_UNAVAILABLE: "Policy engine unavailable",
    ReasonCode.POLICY_TIMEOUT: "Policy engine did not answer in time",
    ReasonCode.POLICY_UNDEFINED: "Policy gave no decision",
    ReasonCode.POLICY_MALFORMED: "Policy answer malformed",
    ReasonCode.POLICY_ERROR: "Policy evaluation failed",
    ReasonCode.POLICY_REVISION_UNKNOWN: "The policy engine did not say which revision it enforces",
}


def _misfit(value: Any) -> str | None:
    """What is wrong with the shape of an answer, or None."""
    if not isinstance(value, dict):
        return "not an object"
    action = value.get("action")
    if not isinstance(action, str) or action not in _VERDICTS:
        return "action is not one of ALLOW, DENY, REQUIRE_APPROVAL"
    if not isinstance(value.get("reason"), str):
        return "reason is not a string"
    for name in ("matched_rule", "allowed_scope"):
        if name in value and not isinstance(value[name], str):
            return f"{name} is not a string"
    if "is_write_action" in value and not isinstance(value["is_write_action"], bool):
        return "is_write_action is not a boolean"
    ttl = value.get("credential_ttl", 1)
    if type(ttl) is not int or not 1 <= ttl <= _MAX_TTL_S:
        return "credential_ttl is not a number of seconds from 1 to 86400"
    obligations = value.get("obligations", [])
    if not isinstance(obligations, list) or (obligations and not all(map(_is_obligation, obligations))):
        return "obligations is not a list of objects with a type"
    return _rest_misfit(value)


def _rest_misfit(value: Mapping[str, Any]) -> str | None:
    if "est_cost" in value and not _is_money(value["est_cost"]):
        return 'est_cost is not an amount such as "0.002"'
    return _terms_misfit(value["approval"]) if "approval" in value else None


def _terms_misfit(value: Any) -> str | None:
    """What is wrong with `approval`, or None. Unknown members too: one that is not understood may be the strict one."""
    if not isinstance(value, dict) or not value.keys() <= {"quorum", "approvers", "expires_in_s"}:
        return "approval: not an object with quorum, approvers, expires_in_s"
    if type(quorum := value.get("quorum", 1)) is not int or not 1 <= quorum <= MAX_QUORUM:
        return f"approval: quorum is not a number from 1 to {MAX_QUORUM}"
    approvers = value.get("approvers", [])
    if not isinstance(approvers, list) or len(approvers) > MAX_APPROVERS or not all(map(_is_person, approvers)):
        return f"approval: approvers is not a list of at most {MAX_APPROVERS} ids such as person:alice"
    if "approvers" in value and len(set(approvers)) < quorum:
        return "approval: fewer approvers than the quorum"
    if type(ttl := value.get("expires_in_s", 1)) is not int or not 1 <= ttl <= MAX_APPROVAL_TTL_S:
        return f"approval: expires_in_s is not a number of seconds from 1 to {MAX_APPROVAL_TTL_S}"
    return None


def _is_person(item: Any) -> bool:
    return isinstance(item, str) and item.startswith("person:") and is_id(item.removeprefix("person:"))


def _terms(value: Mapping[str, Any]) -> Terms:
    approvers = tuple(dict.fromkeys(value.get("approvers", ())))
    return Terms(value.get("quorum", 1), approvers, value.get("expires_in_s"))


def _is_money(item: Any) -> bool:
    try:
        return isinstance(item, str) and micros(item) >= 0
    except ValueError:
        return False


def _is_obligation(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("type"), str)


_VERDICTS: Final[Mapping[str, Verdict]] = {str(verdict): verdict for verdict in Verdict}


@dataclass(frozen=True, slots=True)
class Receipt:
    """The log's word that an event is durable.

    `kill_position` is the number of the newest kill or release that the same transaction saw: the fence
    that K5 rests on. `digest` is the call's, for a `Decided` event.
    """

    event_id: str
    index: int
    kill_position: int
    digest: Digest | None = None
    members: tuple[str, ...] = ()
    """For a kill or a release: the members that the log has at this position."""


@dataclass(frozen=True, slots=True)
class Behind:
    """A receipt's kill position is newer than what this replica has applied: it must read on before it sends."""

    position: int


class _Seal:
    __slots__ = ()


_SEAL: Final = _Seal()


@dataclass(frozen=True, slots=True)
class Grant:
    """Permission to send one call, once. Only `grant` makes one; `Upstream.send` cannot be called without."""

    call: Call
    decision: Decision
    receipt: Receipt
    seal: InitVar[_Seal]
    """Not kept: so not even `dataclasses.replace` makes a grant for another call."""

    def __post_init__(self, seal: _Seal) -> None:
        if seal is not _SEAL:
            raise TypeError("a Grant is made by core.decision.grant() alone")


class GrantRefused(TypeError):
    """The gate asked for a grant that the record does not carry: a fault of ours, never of the caller."""


def grant(call: Call, decision: Decision, receipt: Receipt, *, applied_position: int) -> Grant | Behind:
    """A grant for a call whose ALLOW is durably recorded, at a kill position that is already applied here.

    Raises:
        GrantRefused: the decision is not an ALLOW, or the receipt is another call's.
    """
    if not decision.allowed:
        raise GrantRefused(f"no grant from {decision.verdict}")
    if receipt.digest != call.digest:
        raise GrantRefused("the receipt is for another call")
    if receipt.kill_position > applied_position:
        return Behind(receipt.kill_position)
    return Grant(call, decision, receipt, _SEAL)
