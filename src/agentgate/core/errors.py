"""Every way a call can be refused or fail, as one closed set.

A reason code is the machine-readable half of every refusal: it is in the answer, in the record and in
the problem document (RFC 9457). Text beside it is for people and may change; nobody should read it to
learn what happened. `docs/reasons.md` lists the codes and a test keeps the two alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class ReasonCode(StrEnum):
    """Why a call was answered as it was. Closed: a new code needs its line in docs/reasons.md."""

    # decisions of policy
    POLICY_ALLOW = "policy_allow"
    POLICY_DENY = "policy_deny"
    APPROVAL_REQUIRED = "approval_required"
    APPROVAL_DENIED = "approval_denied"
    APPROVAL_SPENT = "approval_spent"
    OBLIGATION_UNKNOWN = "obligation_unknown"
    # refused before policy was asked
    UNKNOWN_TOOL = "unknown_tool"
    INVALID_TOOL_NAME = "invalid_tool_name"
    TOOL_QUARANTINED = "tool_quarantined"
    ARGUMENTS_INVALID = "arguments_invalid"
    KILLED = "killed"
    RATE_LIMITED = "rate_limited"
    BUDGET_SPENT = "budget_spent"
    BUDGET_UNKNOWN = "budget_unknown"
    IDEMPOTENCY_MISMATCH = "idempotency_mismatch"
    IDEMPOTENCY_IN_PROGRESS = "idempotency_in_progress"
    IDEMPOTENCY_FORGOTTEN = "idempotency_forgotten"
    SIGNATURE_INVALID = "signature_invalid"
    SIGNATURE_EXPIRED = "signature_expired"
    TOO_MANY_REFUSALS = "too_many_refusals"
    FOREIGN_SESSION = "foreign_session"
    # the policy engine did not give a well-formed answer
    POLICY_UNAVAILABLE = "policy_unavailable"
    POLICY_TIMEOUT = "policy_timeout"
    POLICY_UNDEFINED = "policy_undefined"
    POLICY_MALFORMED = "policy_malformed"
    POLICY_ERROR = "policy_error"
    POLICY_REVISION_UNKNOWN = "policy_revision_unknown"
    # what the gateway itself needs is missing
    KILL_STATE_UNKNOWN = "kill_state_unknown"
    LOG_UNAVAILABLE = "log_unavailable"
    OUTCOME_UNRECORDED = "outcome_unrecorded"
    SHUTTING_DOWN = "shutting_down"
    REDACTION_FAILED = "redaction_failed"
    INTERNAL = "internal"
    # what came of an allowed call
    OK = "ok"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNAVAILABLE = "upstream_unavailable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_TOO_LARGE = "upstream_too_large"
    CREDENTIAL_UNAVAILABLE = "credential_unavailable"
    CALLER_WITHDREW = "caller_withdrew"
    # the request itself
    MALFORMED_JSON = "malformed_json"
    INVALID_REQUEST = "invalid_request"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    HOST_NOT_ALLOWED = "host_not_allowed"
    ORIGIN_NOT_ALLOWED = "origin_not_allowed"
    UNAUTHENTICATED = "unauthenticated"
    INVALID_KEY = "invalid_key"
    INVALID_TOKEN = "invalid_token"  # noqa: S105 - a code, no token
    INSUFFICIENT_SCOPE = "insufficient_scope"
    CERTIFICATE_INVALID = "certificate_invalid"
    IDENTITY_UNAVAILABLE = "identity_unavailable"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    EXPIRED = "expired"
    NOT_IMPLEMENTED = "not_implemented"
    # evidence
    PACK_TOO_LARGE = "pack_too_large"
    TIMESTAMP_UNAVAILABLE = "timestamp_unavailable"
    # retention
    RETENTION_FLOOR = "retention_floor"
    RETENTION_UNAVAILABLE = "retention_unavailable"
    CLOCK_UNTRUSTED = "clock_untrusted"
    # policy administration
    POLICY_INVALID = "policy_invalid"
    POLICY_NOT_ENFORCED = "policy_not_enforced"
    POLICY_EXTERNAL = "policy_external"


OUTAGE: Final = frozenset(
    {
        ReasonCode.KILL_STATE_UNKNOWN,
        ReasonCode.BUDGET_UNKNOWN,
        ReasonCode.LOG_UNAVAILABLE,
        ReasonCode.OUTCOME_UNRECORDED,
        ReasonCode.SHUTTING_DOWN,
        ReasonCode.REDACTION_FAILED,
        ReasonCode.INTERNAL,
        ReasonCode.IDENTITY_UNAVAILABLE,
    }
)
"""Refusals that a caller should retry later: the tool door answers them with 503 (DESIGN §6)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why what a person wanted of the gateway was not done."""

    reason: ReasonCode
    detail: str


class AgentGateError(Exception):
    """Root of the few errors that are raised, because no value could carry them further."""


class LogUnavailable(AgentGateError):
    """The log could not be written or read. Whatever waits for it is refused (promise 2)."""

    untried = False
    """Of an append that was refused before it was tried: it is not in the log, and never will be."""


class LogBroken(LogUnavailable):
    """The log contradicts itself (a gap, a rewritten leaf, a rolled back file). It stays unavailable until somebody
    has looked."""


class KillStateUnknown(AgentGateError):
    """Kill flags could not be read or written in time (K4)."""


class PolicyInvalid(AgentGateError):
    """A policy bundle was refused; the one in force stays. The text is the compiler's own message."""


class PolicyNotEnforced(AgentGateError):
    """A bundle was published, but the engine still answers from another revision."""

    def __init__(self, wanted: str, enforced: str | None) -> None:
        super().__init__(f"policy revision {wanted} was published, but {enforced or 'none'} is enforced")
        self.wanted = wanted
        self.enforced = enforced


class PolicyOvertaken(PolicyNotEnforced):
    """A bundle was not published, because another worker had published a newer one meanwhile."""

    def __init__(self, wanted: str, published: str) -> None:
        super().__init__(wanted, published)
        self.args = (f"policy revision {wanted} gives way to {published}, which another worker published meanwhile",)


class PolicyExternal(AgentGateError):
    """The policy engine runs policies of its own, which the gateway does not write."""


class TimestampUnavailable(AgentGateError):
    """The time stamp authority gave no time stamp that holds. The text says why."""


class UnsafeConfiguration(AgentGateError):
    """A setting that must stop the start. The text says what to change."""
