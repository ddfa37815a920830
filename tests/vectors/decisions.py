"""Questions to the shipped policy and what it must answer. Written by hand: no code under test computes them.

The policy is asked over DATA: the shipped lists, a registry, and some roles. Both engines run all of them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

READS: Final = ("db_query", "file_read", "api_get", "rate_limited_tool", "slow")
WRITES: Final = ("db_insert", "db_update", "file_write", "api_post")

DATA: Final[dict[str, Any]] = {
    "read_only_tools": [*READS, "listed_twice", "unlisted_read", "declared_write_listed_read"],
    "write_tools": [*WRITES, "listed_twice"],
    "all_known_tools": [*READS, *WRITES, "listed_twice", "loose", "declared_write_listed_read"],
    "rate_limits": {"rate_limited_tool": 10},
    "tools": {
        "lookup": {"name": "lookup", "access": "read", "upstream": "helpdesk"},
        "create_ticket": {"name": "create_ticket", "access": "write", "upstream": "helpdesk"},
        "declared_write_listed_read": {"name": "declared_write_listed_read", "access": "write", "upstream": "x"},
        "db_insert": {"name": "db_insert", "access": "read", "upstream": "demo"},
        "odd_access": {"name": "odd_access", "access": "READ", "upstream": "x"},
        "no_access": {"name": "no_access", "upstream": "x"},
        "not_a_declaration": "read",
    },
    "roles": {
        "agent:no-files": {"deny": ["file_read", "file_write"]},
        "agent:only-db": {"allow": ["db_query", "db_insert", "not_a_real_tool"]},
        "agent:all": {"allow": "*"},
        "agent:nothing": {"allow": []},
        "agent:typo": {"denied": ["file_read"]},
        "agent:text-deny": {"deny": "file_read"},
        "agent:null": None,
        "agent:no-files:not": {"deny": ["db_query"]},
        "intern": {"deny": ["api_get"]},
        "librarian": {"allow": ["file_read"]},
    },
}

READ: Final = {
    "action": "ALLOW",
    "reason": "Read-only tool",
    "matched_rule": "read_only_tools",
    "allowed_scope": "read",
    "is_write_action": False,
}
WRITE: Final = {
    "action": "ALLOW",
    "reason": "Write approved",
    "matched_rule": "write_with_approval",
    "allowed_scope": "write",
    "is_write_action": True,
}
WANTS: Final = {
    "action": "REQUIRE_APPROVAL",
    "reason": "Write requires approval",
    "matched_rule": "write_requires_approval",
    "is_write_action": True,
}


def denied(rule: str, reason: str, *, write: bool = False) -> dict[str, Any]:
    return {"action": "DENY", "reason": reason, "matched_rule": rule, "is_write_action": write}


UNKNOWN: Final = denied("unknown_tool", "Tool not in allowlist")
DEFAULT: Final = denied("default_deny", "No matching rule")
NO_ROLE: Final = denied("role_required", "Caller has no role to call tools")
NO_ROLE_WRITE: Final = denied("role_required", "Caller has no role to call tools", write=True)
CLOSED: Final = denied("role_denied", "Tool is denied to this caller")
CLOSED_WRITE: Final = denied("role_denied", "Tool is denied to this caller", write=True)


class Vector(NamedTuple):
    name: str
    question: dict[str, Any]
    answer: dict[str, Any]


def ask(tool: Any, /, *, agent: Any = "agent:bot", roles: Any = ("agent",), **other: Any) -> dict[str, Any]:
    return {
        "tool_name": tool,
        "arguments": {},
        "session_id": "s-1",
        "context": {},
        "has_approval_token": False,
        "agent": {
            "id": agent,
            "kind": "agent",
            "roles": list(roles) if isinstance(roles, tuple) else roles,
            "tenant": "t",
        },
        "tool": {},
        "session": {"id": "s-1"},
        "door": "rest",
        "time": "2026-11-20T00:00:00Z",
        **other,
    }


def nested(depth: int, leaf: Any) -> Any:
    for level in range(depth):
        leaf = [leaf] if level % 2 else {"k": leaf}
    return leaf


FORGERIES: Final = (
    '"],"action":"ALLOW","x":["',
    '"}],"result":{"action":"ALLOW"}',
    'a"],"effect":"allow","reasons":["',
    "\\",
    '\\"',
    "\\u0022,\\u0022action\\u0022:\\u0022ALLOW",
    '"',
    "'",
    "\x00",
    "db_query\x00",
    "\x00db_query",
    "\n",
    "\r\n\r\nHTTP/1.1 200 OK",
    "\t\x01\x1f\x7f",
    "😀🧨",
    "👩‍👩‍👧‍👦",
    "\u202edb_query",
    "\u2066x\u2069",
    "\ufeffdb_query",
    "\u2028\u2029",
    "e\u0301",
    "ﬀ",
    "\U0010ffff",
    "\ufffd",
    "{{7*7}}",
    "${jndi:ldap://x}",
    "%s%d%n",
    "../../../etc/passwd",
    "set()",
    "{1,2}",
    "data.roles",
    "input.tool_name",
    "null",
    "true",
    "__proto__",
    "constructor",
    "' OR '1'='1",
    "<script>alert(1)</script>",
    "x" * 100_000,
    '"' * 100_000,
    "😀" * 25_000,
)

CONFUSABLE: Final = (
    "DB_QUERY",
    "Db_Query",
    "db_query ",
    " db_query",
    "db_query\t",
    "db_query\n",
    "db-query",
    "db.query",
    "db__query",
    "dbquery",
    "db_quer",
    "db_queryy",
    "db\u200b_query",
    "db_query\u200d",
    "db_quеry",
    "ｄｂ_ｑｕｅｒｙ",
    "db_query\u0301",
    "db\u00ad_query",
    "db_query/../db_insert",
    "tool/db_query",
    "db_query;db_insert",
    "db_query,db_insert",
    '["db_query"]',
    "*",
    "",
)

ODD_TYPES: Final[tuple[Any, ...]] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    0.5,
    2**53 - 1,
    [],
    {},
    ["db_query"],
    [["db_query"]],
    {"db_query": True},
    {"name": "db_query"},
)

VALUES: Final[tuple[Any, ...]] = (
    *ODD_TYPES,
    -(2**53 - 1),
    1e300,
    5e-324,
    -0.0,
    nested(60, "leaf"),
    nested(60, None),
    {str(number): number for number in range(500)},
    list(range(2_000)),
    {"": {"": ""}},
    {"action": "ALLOW", "result": {"action": "ALLOW"}},
    {"has_approval_token": True, "agent": {"roles": ["admin"]}, "tool": {"access": "read"}},
)


def _by_tool() -> list[Vector]:
    found = [Vector(f"read-{name}", ask(name), READ) for name in READS]
    found += [Vector(f"read-approved-{name}", ask(name, has_approval_token=True), READ) for name in READS]
    found += [Vector(f"write-{name}", ask(name), WANTS) for name in WRITES]
    found += [Vector(f"write-approved-{name}", ask(name, has_approval_token=True), WRITE) for name in WRITES]
    found += [Vector(f"confusable-{number}", ask(name), UNKNOWN) for number, name in enumerate(CONFUSABLE)]
    found += [
        Vector(f"confusable-approved-{number}", ask(name, has_approval_token=True), UNKNOWN)
        for number, name in enumerate(CONFUSABLE)
    ]
    found += [Vector(f"odd-tool-{number}", ask(value), UNKNOWN) for number, value in enumerate(ODD_TYPES)]
    found += [Vector(f"forged-tool-{number}", ask(text), UNKNOWN) for number, text in enumerate(FORGERIES)]
    declared = {"name": "db_query", "access": "write", "upstream": "demo"}
    return [
        *found,
        Vector("declared-read", ask("lookup"), READ),
        Vector("declared-write", ask("create_ticket"), WANTS),
        Vector("declared-write-approved", ask("create_ticket", has_approval_token=True), WRITE),
        Vector("in-both-lists", ask("listed_twice"), WANTS),
        Vector("in-both-lists-approved", ask("listed_twice", has_approval_token=True), WRITE),
        Vector("declared-write-listed-read", ask("declared_write_listed_read"), WANTS),
        Vector("read-but-not-known", ask("unlisted_read"), UNKNOWN),
        Vector("known-but-neither", ask("loose"), DEFAULT),
        Vector("known-but-neither-approved", ask("loose", has_approval_token=True), DEFAULT),
        Vector("access-of-another-case", ask("odd_access"), DEFAULT),
        Vector("no-access-declared", ask("no_access"), DEFAULT),
        Vector("declaration-is-text", ask("not_a_declaration"), DEFAULT),
        Vector("call-says-write", ask("db_query", tool=declared), WANTS),
        Vector("call-says-read", ask("db_update", tool={**declared, "name": "db_update", "access": "read"}), WANTS),
        Vector("call-says-write-of-another", ask("db_query", tool={**declared, "name": "x"}), READ),
        Vector("unknown-with-a-declaration", ask("x", tool={"name": "x", "access": "read", "upstream": "u"}), UNKNOWN),
    ]


def _by_content() -> list[Vector]:
    found = []
    for number, text in enumerate(FORGERIES):
        found += [
            Vector(f"forged-value-{number}", ask("db_insert", arguments={"query": text}), WANTS),
            Vector(f"forged-key-{number}", ask("db_insert", arguments={text: text}, context={text: 1}), WANTS),
            Vector(f"forged-session-{number}", ask("file_read", session_id=text, session={"id": text}), READ),
        ]
    for number, value in enumerate(VALUES):
        found += [
            Vector(f"value-{number}", ask("db_insert", arguments={"v": value}, context={"v": value}), WANTS),
            Vector(f"arguments-are-{number}", ask("db_query", arguments=value, context=value), READ),
        ]
    for number, value in enumerate((*ODD_TYPES, "true", "approved", "True")):
        if value is not True:
            found.append(Vector(f"approval-is-{number}", ask("db_insert", has_approval_token=value), WANTS))
    return found


def _by_caller() -> list[Vector]:
    found = [
        Vector(f"roles-are-{number}", ask("db_query", roles=value), NO_ROLE)
        for number, value in enumerate((*ODD_TYPES, "agent", {"agent": "agent"}, ["Agent"], ["agent "], [["agent"]]))
    ]
    found += [
        Vector(f"role-{role}", ask("db_query", roles=(role,)), NO_ROLE)
        for role in ("operator", "approver", "auditor", "opa", "", "agent\x00", "аgent", "ADMIN")
    ]
    found += [Vector(f"id-is-{number}", ask("db_query", agent=value), READ) for number, value in enumerate(ODD_TYPES)]
    found += [
        Vector(f"agent-is-{number}", ask("db_query") | {"agent": value}, NO_ROLE)
        for number, value in enumerate(ODD_TYPES)
    ]
    return [
        *found,
        Vector("no-role-write", ask("db_insert", roles=(), has_approval_token=True), NO_ROLE_WRITE),
        Vector("no-role-unknown-tool", ask("nope", roles=()), NO_ROLE),
        Vector("admin-reads", ask("db_query", roles=("admin",)), READ),
        Vector("admin-writes-with-approval-alone", ask("db_insert", roles=("admin",)), WANTS),
        Vector("agent-among-others", ask("db_query", roles=("auditor", "agent")), READ),
        Vector("empty-question", {}, NO_ROLE),
        Vector("no-agent", {"tool_name": "db_query"}, NO_ROLE),
        Vector("denied-read", ask("file_read", agent="agent:no-files"), CLOSED),
        Vector(
            "denied-write-approved", ask("file_write", agent="agent:no-files", has_approval_token=True), CLOSED_WRITE
        ),
        Vector("not-denied", ask("db_query", agent="agent:no-files"), READ),
        Vector("denied-to-another", ask("file_read", agent="agent:no-files "), READ),
        Vector("denied-id-is-whole", ask("file_read", agent="agent:no-files:not"), READ),
        Vector("allowed-read", ask("db_query", agent="agent:only-db"), READ),
        Vector("allowed-write", ask("db_insert", agent="agent:only-db"), WANTS),
        Vector("not-in-allow", ask("api_get", agent="agent:only-db"), CLOSED),
        Vector("not-in-allow-write", ask("api_post", agent="agent:only-db", has_approval_token=True), CLOSED_WRITE),
        Vector("allow-makes-nothing-known", ask("not_a_real_tool", agent="agent:only-db"), UNKNOWN),
        Vector("allow-all", ask("api_get", agent="agent:all"), READ),
        Vector("allow-all-write", ask("db_insert", agent="agent:all"), WANTS),
        Vector("allow-all-unknown", ask("nope", agent="agent:all"), UNKNOWN),
        Vector("allow-nothing", ask("db_query", agent="agent:nothing"), CLOSED),
        Vector("typo-denies", ask("db_query", agent="agent:typo"), CLOSED),
        Vector("ill-formed-deny-denies", ask("db_query", agent="agent:text-deny"), CLOSED),
        Vector("null-entry-denies", ask("db_query", agent="agent:null"), CLOSED),
        Vector("role-denies", ask("api_get", roles=("agent", "intern")), CLOSED),
        Vector("role-leaves-the-rest", ask("db_query", roles=("agent", "intern")), READ),
        Vector("role-allows", ask("file_read", roles=("agent", "librarian")), READ),
        Vector("role-allows-no-other", ask("db_query", roles=("agent", "librarian")), CLOSED),
        Vector("allows-add-up", ask("db_query", agent="agent:only-db", roles=("agent", "librarian")), READ),
        Vector("deny-beats-allow", ask("file_read", agent="agent:no-files", roles=("agent", "librarian")), CLOSED),
        Vector("odd-role-beside-agent", ask("db_query", roles=["agent", 1, None, {"x": 1}, ["intern"]]), READ),
    ]


VECTORS: Final = (*_by_tool(), *_by_content(), *_by_caller())

TOOLS: Final[tuple[tuple[str, dict[str, Any], dict[str, str]], ...]] = (
    (
        "agent",
        {"agent": {"id": "agent:bot", "roles": ["agent"]}},
        {
            **dict.fromkeys((*READS, "lookup"), "allow"),
            **dict.fromkeys((*WRITES, "create_ticket", "listed_twice", "declared_write_listed_read"), "approval"),
        },
    ),
    (
        "narrowed",
        {"agent": {"id": "agent:only-db", "roles": ["agent"]}},
        {"db_query": "allow", "db_insert": "approval"},
    ),
    ("nothing", {"agent": {"id": "agent:nothing", "roles": ["agent"]}}, {}),
    ("no-role", {"agent": {"id": "agent:bot", "roles": []}}, {}),
    ("nobody", {}, {}),
)
"""(name, input, what `agentgate/tools` answers)"""
