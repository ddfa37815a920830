"""What approvals look like in a terminal: in a table, in a line, and in full with whatever hides in the call."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.table import Table
from rich.text import Text

from agentgate.commands.answers import Answer
from agentgate.commands.terminal import safe
from agentgate.commands.words import ago, duration, named, seconds_since
from agentgate.core.visible import visible

_MOST_SHOWN: Final = 60
"""Characters of arguments in the table."""


def approvals_table(found: Sequence[Answer]) -> Table:
    now = datetime.now(UTC)
    table = Table("ID", "STATE", "TOOL", "ARGUMENTS", "BY", "AGE", "EXPIRES", box=None, pad_edge=False)
    for one in found:
        left_s = -seconds_since(one["expires_at"], now)
        is_open = one["state"] in ("pending", "approved") and left_s > 0
        text = visible(one["arguments_text"] or "")
        table.add_row(
            safe(one["id"]),
            standing(one),
            safe(one["tool_name"]),
            Text(text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"),
            _asker(one),
            ago(seconds_since(one["requested_at"], now)),
            f"in {duration(left_s)}" if is_open else "–",
        )
    return table


def standing(one: Answer) -> str:
    if one["state"] == "pending" and one["quorum"] > 1:
        return f"pending {len(one['votes'])}/{one['quorum']}"
    return safe(f"{one['state']} ({one['why']})" if one["state"] == "void" and one["why"] else one["state"])


def in_short(one: Answer) -> str:
    """What it is about."""
    return f"{safe(one['tool_name'])}, asked by {_asker(one)}"


def _asker(one: Answer) -> str:
    """With the tenant where that is not the usual one: of several there may be an agent of one name."""
    return safe(named(one["tenant"], visible(one["requested_by"])))


def in_full(one: Answer) -> Iterator[str]:
    """Everything about it, line by line: who voted, what policy wants, and the whole call."""
    wanted = f"{one['quorum']} of " + (", ".join(one["approvers"]) or "whoever has the role approver")
    votes = ", ".join(f"{vote['by']} ({vote['at']})" for vote in one["votes"]) or "nobody yet"
    rows: dict[str, object] = {
        "approval": one["id"],
        "state": f"{one['state']}, {one['why']}" if one["why"] else one["state"],
        "asked by": one["requested_by"] + (f" for {one['on_behalf_of']}" if one["on_behalf_of"] else ""),
        "asked at": one["requested_at"],
        "expires": one["expires_at"],
        "tenant": one["tenant"],
        "session": one["session_id"],
        "tool": one["tool_name"],
        "definition": one["tool_sha256"],
        "policy": one["policy_revision"],
        "wants": wanted,
        "said yes": votes,
        "decided by": one["decided_by"] or "–",
        "trace": one["trace_id"],
        "edited from": one["edited_from"],
        "edited to": one["edited_to"],
    }
    for name, value in rows.items():
        if value is not None:
            yield f"{name:<12} {safe(value)}"
    if one["executes"]:
        yield "             the gateway makes the call itself once it is approved"
    yield from _call("arguments", one["call"], "arguments")
    if one["call"] is not None and one["call"]["context"]:
        yield from _call("context", one["call"], "context")
    if one.get("original") is not None:
        yield from _call("as the agent sent it", one["original"], "arguments")


def _call(title: str, call: Mapping[str, Any] | None, member: str) -> Iterator[str]:
    if call is None:
        yield f"{title}: not kept any more"
        return
    yield f"{title}:"
    # line by line: what is to be read is JSON, and what hides in it is written out
    for line in json.dumps(call[member], indent=2, ensure_ascii=False, sort_keys=True).split("\n"):
        yield f"  {safe(line)}"
