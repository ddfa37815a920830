"""What an event uses up of the things that can be used once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from agentgate.core.event import Kind

Spending = tuple[str, str]
"""Kind and key of a thing that can be used once."""


def spendings(fields: Mapping[str, Any]) -> tuple[Spending, ...]:
    """What an event uses up, as its leaf says. A log appends it only if nobody used these before.

    `idempotency_sha256` is the digest of an idempotency key: a leaf holds no text of callers.
    """
    of_kind = _OF_KINDS.get(fields["kind"])
    return () if of_kind is None else of_kind(fields)


def _decision(fields: Mapping[str, Any]) -> tuple[Spending, ...]:
    found: list[Spending] = []
    if "idempotency_sha256" in fields:
        found.append(("idempotency", fields["idempotency_sha256"]))
    if "approval_id" in fields and fields["decision"] == "ALLOW":
        found.append(("approval", fields["approval_id"]))
    return tuple(found)


def _answer(fields: Mapping[str, Any]) -> tuple[Spending, ...]:
    """Of people who answer at once each has a place of their own, and one completes it. Logs of before schema version 6
    do not say `ordinal`."""
    of = fields["approval_id"]
    if "ordinal" not in fields:  # a no
        return (("verdict", of),)
    votes = (("vote", f"{of}/{fields['principal']}"), ("vote", f"{of}#{fields['ordinal']}"))
    return (*votes, ("verdict", of)) if fields["ordinal"] >= fields["quorum"] else votes


def _closing(fields: Mapping[str, Any]) -> tuple[Spending, ...]:
    """What is closed can be neither answered nor used any more. Logs of before schema version 6 do not say `closes`."""
    of = fields["approval_id"]
    if "closes" not in fields:
        return ()
    return (("verdict", of), ("approval", of)) if fields["closes"] == "pending" else (("approval", of),)


def _first_use(fields: Mapping[str, Any]) -> tuple[Spending, ...]:
    """Of all members that see a tool for the first time one says so; an operator may say so again."""
    return () if fields["trust"] == "operator" else (("first_use", f"{fields['server']}/{fields['of_tool']}"),)


_OF_KINDS: Final[Mapping[str, Callable[[Mapping[str, Any]], tuple[Spending, ...]]]] = {
    Kind.DECIDED: _decision,
    Kind.FINISHED: lambda leaf: (("outcome", leaf["trace_id"]),) if "of" in leaf else (),
    Kind.KILLED: lambda leaf: (("kill", leaf["kill_id"]),),
    Kind.RELEASED: lambda leaf: (("release", leaf["kill_id"]),),
    Kind.RELEASE_ASKED: lambda leaf: (("release_ask", f"{leaf['kill_id']}/{leaf['principal']}"),),
    Kind.DRAINED: lambda leaf: (("receipt", f"{leaf['kill_id']}/{'complete' if leaf['drained'] else 'except'}"),),
    Kind.HELD: lambda leaf: (("hold", leaf["hold_id"]),),
    Kind.UNHELD: lambda leaf: (("unhold", leaf["hold_id"]),),
    Kind.PRUNED: lambda leaf: (("prune", f"{leaf.get('tenant', '')}/{leaf['session']}/{leaf['through']}"),),
    Kind.GONE: lambda leaf: (("gone", f"{leaf['of']}/{leaf['why']}"),),
    Kind.KEYS_CHANGED: lambda leaf: (("keys", leaf["change"]),),
    Kind.APPROVAL_DECIDED: _answer,
    Kind.APPROVAL_CLOSED: _closing,
    Kind.TOOL_QUARANTINED: lambda leaf: (("quarantine", f"{leaf['accepted']}/{leaf['found']}"),),
    Kind.TOOL_ACCEPTED: _first_use,
}
