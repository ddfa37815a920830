"""Events and whole sessions for the tests of what is written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from agentgate.core.call import Access, Tool, ToolName
from agentgate.core.decision import Decision, Ruling, read_ruling, refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import SALT_BYTES, Event, Kind, Origin, Outcome, Record, make
from agentgate.core.events.calls import closed, decided, finished
from agentgate.core.events.keeping import keys_changed
from agentgate.core.events.kills import acked, drained, gone, killed, release_asked, released
from agentgate.core.events.tools import OfTool, tool_accepted, tool_quarantined, tool_rejected
from agentgate.core.members import Acknowledgement, Progress
from agentgate.core.strict_json import canonical
from tests.fakes import ALLOW, ALLOW_WRITE, ASK, REVISION, a_call, a_kill

START = datetime(2026, 11, 21, 9, 0, tzinfo=UTC)
CANARY = "CANARY-9f8e7d"
READ = OfTool("files", "read", "files__read")
WRITE = Tool(ToolName("db_insert"), "demo", Access.WRITE, {"type": "object"})


def origin(number: int = 1, *, seconds: float | None = None) -> Origin:
    at = START + timedelta(seconds=number * 5 if seconds is None else seconds)
    salt = number.to_bytes(SALT_BYTES, "big")
    return Origin(f"0197-{number:06d}", at, "m-1", number, "0.3.0", salt)


def allow(value: dict[str, Any] = ALLOW) -> Decision:
    return read_ruling(Ruling(value, REVISION))


def with_text(text: str) -> list[Event]:
    """An event of every kind that can carry text of people, with `text` wherever it can be said."""
    call = replace(a_call(arguments={text: [text]}, approval_token=text), context={text: text})
    kill = replace(a_kill(), reason=text)
    decision = refusal(ReasonCode.POLICY_DENY, text)._replace(allowed_scope=text, obligations=({"type": text},))
    subject = canonical({"tool": {"description": text}})
    intent = decided(origin(), call, allow(), position=0, arguments=b"{}", context=b"{}", latency_us={})
    return [
        decided(
            origin(),
            call,
            decision,
            position=3,
            arguments=call.arguments_json,
            context=call.context_json,
            latency_us={"policy": 12},
        ),
        finished(origin(), call, Outcome.ERROR, ReasonCode.UPSTREAM_ERROR, error=text, result=text.encode()),
        closed(origin(), record_of(intent), Outcome.UNKNOWN, text),
        killed(origin(), kill, auth="api_key"),
        released(origin(), kill, actor="person:op", auth="api_key", why="release", forced=True),
        acked(origin(), Acknowledgement("m-1", 3, 1, 2, 3, 4.5)),
        drained(origin(), kill, position=3, members=["m-1", "m-2"], progress=Progress((), ("m-2",), ())),
        gone(origin(), "m-2", why="attested", actor="person:op", auth="api_key"),
        release_asked(origin(), kill, actor="person:op", auth="api_key"),
        tool_accepted(origin(), READ, pin="p", access="read", trust="operator", subject=subject, actor="person:op"),
        tool_quarantined(origin(), READ, pin="p", found="q", accepted=3, subject=subject, changes=[text]),
        tool_rejected(origin(), READ, found="q", subject=subject, actor="person:op", auth="api_key"),
        keys_changed(origin(), {"added": ["k-1"], "removed": []}, "f" * 64),
        make(origin(), Kind.APPROVAL_REQUESTED, {"approval_id": "apr-1"}, projected={"sealed": text.encode()}),
    ]


def record_of(event: Event, index: int = 0, number: int = 1) -> Record:
    return Record(index, number, 0, event.fields, event.leaf, event.salt, event.body)


def a_session(calls: int = 1, *, kill: bool = True) -> list[Record]:
    """A session's records: reads, a refused call, a question, its approval, an approved write, one cut, a kill."""
    events: list[Event] = []

    def add(make_event: Any, *arguments: Any, **more: Any) -> Event:
        event: Event = make_event(origin(len(events) + 1), *arguments, **more)
        events.append(event)
        return event

    def decide(call: Any, decision: Decision) -> None:
        add(decided, call, decision, position=0, arguments=b"{}", context=b"{}", latency_us={"policy": 80})

    for number in range(calls):
        call = a_call(arguments={"n": number})
        decide(call, allow())
        add(finished, call, Outcome.OK, ReasonCode.OK, result=b"{}", latency_us={"upstream": 1200})
    if kill:
        decide(a_call(tool=None, tool_name="hack"), refusal(ReasonCode.UNKNOWN_TOOL, "Tool not in allowlist"))
        decide(a_call(tool=WRITE), allow(ASK)._replace(approval_id="apr-1"))
        verdict = {"approval_id": "apr-1", "verdict": "approved", "auth": "api_key"}
        add(make, Kind.APPROVAL_DECIDED, verdict, tenant="default", session="s-1", principal="person:alice")
        write = a_call(tool=WRITE)
        decide(write, allow(ALLOW_WRITE)._replace(approval_id="apr-1", approved_by="person:alice"))
        add(finished, write, Outcome.OK, ReasonCode.OK, result=b"{}", latency_us={"upstream": 3000})
        cut = a_call()
        decide(cut, allow())
        add(killed, a_kill(position=1), auth="api_key")
        add(finished, cut, Outcome.CANCELLED, ReasonCode.KILLED, error="upstream effect unknown", kill_id="k")
        add(drained, a_kill(position=1), position=1, members=["m-1"])
    return numbered(events)


def numbered(events: Sequence[Event]) -> list[Record]:
    return [record_of(event, index=3 + 2 * place, number=place + 1) for place, event in enumerate(events)]
