"""Schemas of the bodies of approvals."""

from __future__ import annotations

from typing import Final

from agentgate.core.approval import State, Why
from agentgate.edges.schemas import BOOL, OBJECT, TEXT, TIME, Schema, list_of, perhaps, record, ref, said

APPROVALS: Final[dict[str, Schema]] = {
    "Approval": record(
        {
            "id": TEXT | {"examples": ["apr-3f9c0a51d2b94e6688aa17c4"]},
            "state": {"enum": [state.value for state in State]},
            "tool_name": TEXT,
            "requested_by": TEXT | {"examples": ["agent:deploy-bot"]},
            "expires_at": TIME,
            "quorum": {"type": "integer", "minimum": 1, "maximum": 10},
            "votes": list_of(record({"by": TEXT, "at": TIME})),
            "executes": said(BOOL, "The gateway makes the call itself once it is approved"),
        },
        {
            "why": {"enum": [None, *(why.value for why in Why)], "description": "Of a void one"},
            "tenant": TEXT,
            "session_id": TEXT,
            "on_behalf_of": perhaps(TEXT),
            "tool_sha256": said(TEXT, "The definition of the tool that the call is bound to"),
            "arguments_text": said(perhaps(TEXT), "The beginning of the arguments"),
            "trace_id": {"type": "string", "format": "uuid"},
            "digest": said(TEXT, "SHA-256 of all that the approval is bound to"),
            "policy_revision": TEXT,
            "requested_at": TIME,
            "approvers": said(list_of(TEXT), "Who may; empty: the role approver"),
            "decided_by": perhaps(TEXT),
            "edited_from": perhaps(TEXT),
            "edited_to": perhaps(TEXT),
            "call": said(perhaps(OBJECT), "What was sent; null when it is not kept any more"),
            "text": said(perhaps(TEXT), "`call` as canonical JSON in which nothing hides"),
            "original": said(perhaps(OBJECT), "Of an edited call: what the agent had sent"),
            "approval_token": said(perhaps(TEXT), "With the yes that completes the quorum, once"),
        },
        description="An approval. `call`, `text` and `original` where one is asked for by its id, or was edited; "
        "`approval_token` in the answers to a yes or no",
    ),
    "Approvals": record(
        {"approvals": list_of(ref("Approval")), "next": said(perhaps(TEXT), "The following page's `after`")}
    ),
}
