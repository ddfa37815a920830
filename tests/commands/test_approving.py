"""What approvals look like in a terminal: who decides sees whose call it is, and nobody's text obeys the terminal."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from agentgate.commands.tables.approvals import approvals_table, in_full, in_short


def an_approval(**more: Any) -> dict[str, Any]:
    nothing = ("why", "on_behalf_of", "tool_sha256", "decided_by", "edited_from", "edited_to", "original")
    return dict.fromkeys(nothing) | {
        "id": "apr-3f9c",
        "state": "pending",
        "tenant": "default",
        "session_id": "s-1",
        "requested_by": "agent:bot",
        "tool_name": "db_insert",
        "arguments_text": '{"price":12}',
        "trace_id": "0b7e",
        "policy_revision": "r1",
        "requested_at": "2026-03-01T12:00:00.000000Z",
        "expires_at": "2026-03-01T12:15:00.000000Z",
        "quorum": 1,
        "approvers": [],
        "votes": [],
        "executes": False,
        "call": {"arguments": {"price": 12}, "context": {}},
        **more,
    }


def printed(what: object) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(what, soft_wrap=isinstance(what, str))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_whose_call_it_is_stands_in_the_table_in_a_line_and_in_full() -> None:
    acme = an_approval(tenant="acme")
    assert " acme/agent:bot " in printed(approvals_table([acme]))
    assert printed(in_short(acme)) == "db_insert, asked by acme/agent:bot\n"
    assert "tenant       acme" in list(in_full(acme))


def test_the_usual_tenant_is_named_in_full_only() -> None:
    usual = an_approval()
    assert " agent:bot " in printed(approvals_table([usual]))
    assert printed(in_short(usual)) == "db_insert, asked by agent:bot\n"
    assert "tenant       default" in list(in_full(usual))


def test_what_hides_in_who_asked_is_written_out_and_colours_nothing() -> None:
    sly = an_approval(tenant="acme", requested_by="agent:[red]b\u202eot")
    for shown in (approvals_table([sly]), in_short(sly)):
        assert "acme/agent:[red]b[U+202E]ot" in printed(shown)
