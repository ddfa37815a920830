"""A policy whose approvals want what the call's context says, and people to give them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from tests.gateway import call, key_entry

BOT, OTHER_BOT = "key-bot", "key-other-bot"
ADA, BOB, CYD, EVE = "key-ada", "key-bob", "key-cyd", "key-eve"
ADA_TOO = "key-ada-too"
SLY = "key-sly"
SELF = "key-self"
OLGA = "key-olga"
KEYS = [
    key_entry(BOT, agent="bot"),
    key_entry(OTHER_BOT, agent="other"),
    key_entry(ADA, person="ada", roles=["approver"]),
    key_entry(ADA_TOO, person="ada", roles=["approver"]),
    key_entry(BOB, person="bob", roles=["approver"]),
    key_entry(CYD, person="cyd", roles=["approver"]),
    key_entry(EVE, person="eve", roles=["approver"], tenant="b"),
    key_entry(SLY, agent="sly", roles=["agent", "approver"]),
    key_entry(SELF, person="self", roles=["agent", "approver"]),
    key_entry(OLGA, person="olga", roles=["operator"], all_tenants=True),
]

_REGO = """
package agentgate

default decision := {"action": "DENY", "reason": "not for anybody", "matched_rule": "default_deny"}

decision := {"action": "ALLOW", "reason": "a read", "matched_rule": "reads"} if {
	input.tool_name == "db_query"
} else := {"action": "DENY", "reason": "too dear", "matched_rule": "too_dear", "is_write_action": true} if {
	input.arguments.data.price > 1000
} else := {"action": "ALLOW", "reason": "approved", "matched_rule": "write_with_approval", "is_write_action": true} if {
	input.has_approval_token
} else := {
	"action": "REQUIRE_APPROVAL", "reason": "a write", "matched_rule": "writes", "is_write_action": true,
	"approval": object.get(input.context, "terms", {}),
} if {
	input.tool_name == "db_insert"
}

tools["db_insert"] := "approval"
"""


def policies(into: Path) -> dict[str, str]:
    """The environment of a gateway that has this policy."""
    into.mkdir(parents=True, exist_ok=True)
    (into / "agentgate.rego").write_text(_REGO, encoding="utf-8")
    change_policy(into, 0)
    return {"AGENTGATE_POLICY_PATH": str(into)}


def change_policy(into: Path, number: int) -> None:
    """Another revision, that decides the same."""
    (into / "data.json").write_text(json.dumps({"rate_limits": {"db_query": 1_000 + number}}), encoding="utf-8")


def body(session: str, *, price: float = 1, terms: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A write that nobody else makes: its arguments name the session."""
    context = {"terms": terms} if terms is not None else {}
    arguments = {"table": "products", "data": {"name": session, "price": price}}
    return {"session_id": session, "tool_name": "db_insert", "arguments": arguments, "context": context, **more}


def write(client: httpx.Client, session: str, *, headers: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return client.post("/tools/call", json=body(session, **more), headers=headers).json()  # type: ignore[no-any-return]


def prices(client: httpx.Client, session: str) -> list[float]:
    """What was written, however often."""
    query = {"query": f"SELECT price FROM products WHERE name = '{session}'"}
    return [row["price"] for row in call(client, "db_query", query, session=session).json()["result"]["rows"]]
