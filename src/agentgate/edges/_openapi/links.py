"""Which answers lead to which operations."""

from __future__ import annotations

from typing import Any, Final

_Link = tuple[str, str, str]
"""The operation that it leads to, its parameter, and where the answer (or the request) has the value of that."""

_OF_CALL: Final[tuple[_Link, ...]] = (
    ("get_call", "trace_id", "$response.body#/trace_id"),
    ("session_evidence", "session_id", "$request.body#/session_id"),
    ("kill_session", "session_id", "$request.body#/session_id"),
)
_ANSWERS: Final = ("get_approval", "approve", "deny", "edit", "void")
_OF_PENDING: Final[tuple[_Link, ...]] = tuple((name, "approval_id", "$response.body#/approval/id") for name in _ANSWERS)
_OF_APPROVAL: Final[tuple[_Link, ...]] = (
    *((name, "approval_id", "$response.body#/id") for name in _ANSWERS),
    ("get_call", "trace_id", "$response.body#/trace_id"),
)
_OF_KILL: Final[tuple[_Link, ...]] = tuple(
    (name, "kill_id", "$response.body#/id") for name in ("get_kill", "release_kill")
)
_KILLS: Final = ("create_kill", "kill_session", "kill_agent", "kill_tool", "kill_server", "kill_tenant", "pause")

_LINKS: Final[dict[str, tuple[_Link, ...]]] = {
    "call_tool": (*_OF_CALL, *_OF_PENDING),
    "call_tool_envelope": (("get_call", "trace_id", "$response.body#/audit_id"), *_OF_PENDING),
    "get_call": (("get_call", "trace_id", "$response.body#/trace_id"), *_OF_PENDING),
    "list_tools": (("kill_tool", "tool_name", "$response.body#/tools/0"),),
    "get_approval": _OF_APPROVAL,
    "approve": _OF_APPROVAL,
    "edit": _OF_APPROVAL,
    "list_approvals": (
        *((name, "approval_id", "$response.body#/approvals/0/id") for name in _ANSWERS),
        ("list_approvals", "after", "$response.body#/next"),
    ),
    **dict.fromkeys((*_KILLS, "get_kill"), _OF_KILL),
    "list_kills": tuple((name, "kill_id", "$response.body#/kills/0/id") for name in ("get_kill", "release_kill")),
    "list_members": (("attest_gone", "member", "$response.body#/members/0/member"),),
    "list_calls": (("kill_session", "session_id", "$response.body#/calls/0/session"),),
    "list_sessions": (
        ("session_evidence", "session_id", "$response.body#/sessions/0"),
        ("kill_session", "session_id", "$response.body#/sessions/0"),
        ("list_sessions", "after", "$response.body#/next"),
    ),
    "audit": (("audit", "cursor", "$response.body#/next"),),
    "create_hold": (("release_hold", "hold_id", "$response.body#/id"),),
    "list_holds": (("release_hold", "hold_id", "$response.body#/holds/0/id"),),
    "review_tools": tuple((name, "name", "$response.body#/tools/0/name") for name in ("accept_tool", "reject_tool")),
}
"""By the operation whose answers they are in: every one below 300."""


def link(operation: dict[str, Any]) -> None:
    """Say of an operation which others its answers lead to."""
    for target, parameter, value in _LINKS.get(operation["operationId"], ()):
        for status in [status for status in operation["responses"] if status < "300"]:
            links = operation["responses"][status].setdefault("links", {})
            links[target] = {"operationId": target, "parameters": {parameter: value}}
