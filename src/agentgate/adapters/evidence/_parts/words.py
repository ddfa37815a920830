"""What the codes of a pack mean in sentences, and numbers and times as people say them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Final

from agentgate.core.errors import ReasonCode
from agentgate.core.visible import visible

REASONS: Final[Mapping[ReasonCode, str]] = {
    ReasonCode.POLICY_ALLOW: "Policy allowed the call.",
    ReasonCode.POLICY_DENY: "Policy refused the call.",
    ReasonCode.APPROVAL_REQUIRED: "Policy asks a person first: the call waited and did not run.",
    ReasonCode.APPROVAL_DENIED: "A person was asked and said no.",
    ReasonCode.APPROVAL_SPENT: "The approval had been used already; each carries one call.",
    ReasonCode.OBLIGATION_UNKNOWN: "Policy demanded something with the call that the gateway cannot do.",
    ReasonCode.UNKNOWN_TOOL: "Nobody has declared a tool of this name.",
    ReasonCode.TOOL_QUARANTINED: "The tool's server describes it otherwise than an operator accepted it.",
    ReasonCode.INVALID_TOOL_NAME: "The name is none that a tool can have.",
    ReasonCode.ARGUMENTS_INVALID: "The arguments do not fit what the tool declares.",
    ReasonCode.KILLED: "A kill switch covered the call.",
    ReasonCode.RATE_LIMITED: "The limit of calls for this tool was used up.",
    ReasonCode.BUDGET_SPENT: "A budget of calls, bytes or cost was used up.",
    ReasonCode.BUDGET_UNKNOWN: "What was spent of a budget could not be found out; without that nothing runs.",
    ReasonCode.IDEMPOTENCY_MISMATCH: "The idempotency key was used before, for another call.",
    ReasonCode.IDEMPOTENCY_IN_PROGRESS: "A call with the same idempotency key was still running.",
    ReasonCode.IDEMPOTENCY_FORGOTTEN: "The call was run before under its idempotency key, and its answer is not kept.",
    ReasonCode.SIGNATURE_INVALID: "The signature of the request does not hold.",
    ReasonCode.SIGNATURE_EXPIRED: "The request was signed too long ago, or for a later time.",
    ReasonCode.TOO_MANY_REFUSALS: "The agent repeated refused calls faster than it may.",
    ReasonCode.FOREIGN_SESSION: "The session belongs to another principal.",
    ReasonCode.POLICY_UNAVAILABLE: "The policy engine could not be reached; without its word nothing runs.",
    ReasonCode.POLICY_TIMEOUT: "The policy engine did not answer in time; without its word nothing runs.",
    ReasonCode.POLICY_UNDEFINED: "Policy says nothing about this call; what is not allowed is refused.",
    ReasonCode.POLICY_MALFORMED: "The policy engine's answer was no decision; without one nothing runs.",
    ReasonCode.POLICY_ERROR: "The policy engine failed over the call; without its word nothing runs.",
    ReasonCode.POLICY_REVISION_UNKNOWN: "The policy engine did not say which policy it decided by.",
    ReasonCode.KILL_STATE_UNKNOWN: "It could not be known whether a kill covers the call; so it was not sent.",
    ReasonCode.LOG_UNAVAILABLE: "The log could not be written; what cannot be recorded is not sent.",
    ReasonCode.OUTCOME_UNRECORDED: "The gateway's process ended before it could record how the call ended.",
    ReasonCode.REDACTION_FAILED: "Secrets could not be taken out of its text; it was not sent, or its answer withheld.",
    ReasonCode.SHUTTING_DOWN: "The gateway's process was ending.",
    ReasonCode.INTERNAL: "A fault in the gateway; the call was refused because of it.",
    ReasonCode.OK: "The tool answered.",
    ReasonCode.UPSTREAM_ERROR: "The tool answered with a failure, or with what is no answer.",
    ReasonCode.UPSTREAM_UNAVAILABLE: "There was no connection to the tool, or it broke.",
    ReasonCode.UPSTREAM_TIMEOUT: "The tool did not answer in time; what it did is not known.",
    ReasonCode.UPSTREAM_TOO_LARGE: "The tool's answer was larger than may be; what it did is done.",
    ReasonCode.CREDENTIAL_UNAVAILABLE: "The credential that the tool needs had no value; nothing was sent.",
    ReasonCode.CALLER_WITHDREW: "The caller took the call back while it ran; whether it had an effect is unknown.",
    ReasonCode.MALFORMED_JSON: "The request was not strict JSON.",
    ReasonCode.INVALID_REQUEST: "The request lacked a part, or had one of the wrong form.",
    ReasonCode.BODY_TOO_LARGE: "The request was larger than may be.",
    ReasonCode.UNSUPPORTED_MEDIA_TYPE: "The request was not JSON in UTF-8.",
    ReasonCode.HOST_NOT_ALLOWED: "The request named a host that the gateway does not serve.",
    ReasonCode.ORIGIN_NOT_ALLOWED: "A web page of another origin sent the request.",
    ReasonCode.UNAUTHENTICATED: "The request carried no key.",
    ReasonCode.INVALID_KEY: "The key is not known, or has expired.",
    ReasonCode.INVALID_TOKEN: "The access token is of no known issuer, not for this gateway, or not valid now.",
    ReasonCode.INSUFFICIENT_SCOPE: "The access token has not the scope that this needs.",
    ReasonCode.CERTIFICATE_INVALID: "The client certificate is of nobody known, not valid now, or not told by a proxy.",
    ReasonCode.IDENTITY_UNAVAILABLE: "Who called could not be checked: keys cannot be read.",
    ReasonCode.FORBIDDEN: "The key does not carry the role that this needs.",
    ReasonCode.NOT_FOUND: "There is no such thing, or not for this principal.",
    ReasonCode.METHOD_NOT_ALLOWED: "The request used a method that the path does not take.",
    ReasonCode.CONFLICT: "It contradicts what was recorded before.",
    ReasonCode.EXPIRED: "Its time was over.",
    ReasonCode.NOT_IMPLEMENTED: "This version does not offer it.",
    ReasonCode.PACK_TOO_LARGE: "One pack cannot hold that many events.",
    ReasonCode.TIMESTAMP_UNAVAILABLE: "The authority for time stamps gave none that holds.",
    ReasonCode.RETENTION_FLOOR: "Texts would have been kept for a shorter time than they must be.",
    ReasonCode.RETENTION_UNAVAILABLE: "No role may delete texts in this database.",
    ReasonCode.CLOCK_UNTRUSTED: "The gateway's clock may have leapt ahead.",
    ReasonCode.POLICY_INVALID: "The policy does not compile or its data does not fit; the old one stayed in force.",
    ReasonCode.POLICY_NOT_ENFORCED: "A policy was published, but the engine still enforced another.",
    ReasonCode.POLICY_EXTERNAL: "The engine runs policies of its own, which the gateway does not write.",
}
"""One sentence for each reason code, for readers who have never seen one."""


def reason(code: str) -> str:
    """The sentence for a code. A pack from a newer gateway may carry one that this version does not know."""
    try:
        return REASONS[ReasonCode(code)]
    except ValueError:
        return "A reason that this version does not know."


def short(text: str, most: int = 64) -> str:
    """The beginning of a long name, for a picture or a heading; the tables have all of it."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def quoted(text: str) -> str:
    return f"“{inner(text)}”" if text else ""


_INNER: Final = str.maketrans("“„‟❝〝”❞〞〟", "\u2018" * 5 + "\u2019" * 4)


def inner(text: str) -> str:
    """What stands within “…”: its own such marks are single ones, so that it does not end where its author says."""
    return text.translate(_INNER)


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 call`, `1,234 calls`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def listed(items: Sequence[str], most: int = 4) -> str:
    """`a`, `a and b`, `a, b and 3 more`."""
    if len(items) > most:
        items = [*items[: most - 1], f"{len(items) - most + 1} more"]
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1]))) if items else ""


def moment(at: str | None) -> str:
    """`2026-11-21 09:00:05.123`: UTC without saying so again; milliseconds, cut and not rounded. Empty for no time."""
    return "" if at is None else visible(at[:23].replace("T", " ").removesuffix("Z"))


def duration(span: timedelta) -> str:
    """As people say it: `less than a second`, `14 minutes`, `3 hours 10 minutes`, `31 days`."""
    seconds = round(span.total_seconds())
    if seconds < 1:
        return "less than a second"
    if seconds < 120:
        return count(seconds, "second")
    minutes = round(seconds / 60)
    if minutes < 120:
        return count(minutes, "minute")
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return count(hours, "hour") + (f" {count(rest, 'minute')}" if rest else "")
    return count(round(minutes / 1440), "day")


def text_of(value: object) -> str:
    """Empty for what is not there."""
    return "" if value is None else visible(value)
