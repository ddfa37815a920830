"""From a pack's signed body to what people read: who did what, what was stopped and why, and what is not known.

Derived from the body and from nothing else, so that a view can be made again from `pack.json`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeVar

from agentgate.adapters.evidence._claims import integrity, pack_id
from agentgate.adapters.evidence._model import (
    EFFECT_UNKNOWN,
    MAX_CALLS,
    MAX_ROWS,
    Actor,
    Anomaly,
    Approval,
    Call,
    Kill,
    Listing,
    Mark,
    Note,
    Refusal,
    Title,
    View,
    Write,
)
from agentgate.adapters.evidence._picture import Entry, Marked, charts, tally, timeline
from agentgate.adapters.evidence._story import figures, narrative
from agentgate.adapters.evidence._words import count, duration, listed, moment, reason
from agentgate.core.containment import Scope
from agentgate.core.errors import ReasonCode
from agentgate.core.pin import unpinned_of
from agentgate.core.strict_json import canonical, parse
from agentgate.core.visible import visible

if TYPE_CHECKING:
    from agentgate.core.evidence import Pack

T = TypeVar("T")
_FIRST_FEW: Final = 8


def view(pack: Pack) -> View:
    """Everything that a writer shows of `pack`."""
    body = pack.body
    entries: Sequence[Entry] = body["timeline"]
    calls = [Marked(entry, _mark(entry)) for entry in entries]
    numbers = {entry["event_id"]: number for number, entry in enumerate(entries, 1)}
    by_kill = _by(body["summary"]["kills"], "kill_id")
    stopped = _Stopped(calls)
    ends = _expiries(body, by_kill)
    kills = tuple(_kill(f"K{n}", rows, stopped, ends) for n, rows in enumerate(by_kill.values(), 1))
    approvals = [
        _approval(rows, entries, numbers) for rows in _by(body["summary"]["approvals"], "approval_id").values()
    ]
    unknown = [(number, call) for number, call in enumerate(calls, 1) if call.mark in EFFECT_UNKNOWN]
    orders = [(kill, *_ordered_and_released(rows)) for kill, rows in zip(kills, by_kill.values(), strict=True)]
    title = _title(pack)
    return View(
        title=title,
        narrative=narrative(body, title, calls, kills, approvals),
        figures=figures(body, calls),
        timeline=timeline(calls, orders[:MAX_ROWS]),
        charts=charts(calls),
        actors=_first(_actors(calls)),
        refusals=_first(_grouped(calls, numbers, frozenset({Mark.REFUSED}))),
        failures=_first(_grouped(calls, numbers, frozenset({Mark.FAILED, Mark.NOT_SENT, *EFFECT_UNKNOWN}))),
        refused_before=body["summary"]["refusals"],
        kills=_first(kills),
        approvals=_first(approvals),
        writes=_first(body["write_action_log"], lambda row: _write(row, numbers)),
        unknown=_first(unknown, lambda item: _call(*item)),
        anomalies=_first(body["anomalies"], lambda row: _anomaly(row, numbers)),
        notes=_first(_notes(body["summary"])),
        calls=_first(list(enumerate(calls, 1)), lambda item: _call(*item), MAX_CALLS),
        has_many_sessions=len(title.sessions) > 1,
        integrity=integrity(pack),
    )


def _first(rows: Sequence[Any], shown: Callable[[Any], T] = lambda row: row, most: int = MAX_ROWS) -> Listing[T]:
    return Listing(tuple(shown(row) for row in rows[:most]), len(rows))


def _by(rows: Iterable[Entry], name: str) -> dict[str, list[Entry]]:
    groups: dict[str, list[Entry]] = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def _text(value: object) -> str:
    """Empty for what is not there."""
    return "" if value is None else visible(value)


# --- the head ---------------------------------------------------------------------------------------------


def _title(pack: Pack) -> Title:
    metadata = pack.body["metadata"]
    scope: Mapping[str, str] = metadata["scope"]
    start, end = metadata["time_range"]["start"], metadata["time_range"]["end"]
    kind = next((name for name in ("session", "agent") if name in scope), "tenant")
    named = scope[kind].removeprefix("agent:") if kind == "agent" else scope[kind]
    limits = [
        f"{word} {moment(scope[name])}" for name, word in (("since", "from"), ("until", "before")) if name in scope
    ]
    return Title(
        heading=f"{kind.capitalize()} {visible(named)}",
        tenant=visible(metadata["tenant"]),
        sessions=tuple(map(visible, metadata["sessions"])),
        agents=tuple(map(visible, metadata["agents"])),
        start=moment(start),
        end=moment(end),
        span=duration(datetime.fromisoformat(end) - datetime.fromisoformat(start)) if start else "",
        asked_for=" ".join(limits),
        generated_at=moment(metadata["generated_at"]),
        generator=visible(metadata["generator"]),
        version=visible(metadata["version"]),
        policies=tuple(map(visible, pack.body["summary"]["policy_versions_used"])),
        pack_id=pack_id(pack),
    )


# --- calls ------------------------------------------------------------------------------------------------

_ENDS: Final = {
    "ok": Mark.RAN,
    "error": Mark.FAILED,
    "cancelled": Mark.CUT,
    "unknown": Mark.UNKNOWN,
    "not_sent": Mark.NOT_SENT,
    "open": Mark.OPEN,
}


def _mark(entry: Entry) -> Mark:
    if entry["decision"] == "ALLOW":
        return _ENDS.get(entry["outcome"], Mark.UNKNOWN)
    return Mark.WAITED if entry["decision"] == "REQUIRE_APPROVAL" else Mark.REFUSED


def _call(number: int, call: Marked) -> Call:
    entry = call.entry
    took = entry["duration_ms"]
    return Call(
        number=number,
        at=moment(entry["timestamp"]),
        session=_text(entry["session_id"]),
        agent=_text(entry["agent_id"]),
        tool=_text(entry["tool_name"]),
        server=_text(entry["server"]),
        mark=call.mark,
        code=_text(entry["reason_code"]),
        plain=_plain(call),
        said=_said(entry),
        rule=_text(entry["matched_rule"]),
        is_write=bool(entry["is_write_action"]),
        error=_text(entry["error"]),
        duration="" if took is None else f"{took:,} ms",
        trace_id=_text(entry["trace_id"]),
        index=entry["index"],
        approved_by=_text(entry["approved_by"]),
        kill_id=_text(entry["kill_id"]),
        upstream_status=_text(entry["upstream_status"]),
        credential=_text(entry["credential"]),
    )


def _said(entry: Entry) -> str:
    return "(pruned)" if entry["reason"] is None else visible(entry["reason"])


def _plain(call: Marked) -> str:
    """The sentence for the code; for a call that was cut or is open, what that means for its effect."""
    if call.mark is Mark.OPEN:
        return "Allowed and sent; how it ended was not recorded when this pack was made."
    if call.mark is Mark.CUT:
        return f"{reason(call.entry['reason_code'])} It was running and was cut; what the tool did is not known."
    return reason(call.entry["reason_code"])


# --- who, and why -----------------------------------------------------------------------------------------


def _actors(calls: Sequence[Marked]) -> list[Actor]:
    groups: dict[tuple[str, str], list[Marked]] = {}
    for call in calls:
        groups.setdefault((call.entry["agent_id"], call.entry["tool_name"]), []).append(call)
    return [
        Actor(
            agent=visible(agent),
            tool=visible(tool),
            total=len(group),
            marks=tally(call.mark for call in group),
            first=moment(group[0].entry["timestamp"]),
            last=moment(group[-1].entry["timestamp"]),
        )
        for (agent, tool), group in sorted(groups.items(), key=lambda item: (item[0][0], -len(item[1]), item[0][1]))
    ]


def _grouped(calls: Sequence[Marked], numbers: Mapping[str, int], marks: frozenset[Mark]) -> list[Refusal]:
    """Calls with one of `marks`, by reason; the most frequent first."""
    groups: dict[tuple[Mark, str, str, str], list[Entry]] = {}
    for entry, mark in calls:
        if mark in marks:
            said = entry["error"] if entry["decision"] == "ALLOW" else _said(entry)
            key = (mark, entry["reason_code"], entry["matched_rule"], _text(said))
            groups.setdefault(key, []).append(entry)
    return [
        Refusal(
            mark=mark,
            code=visible(code),
            plain=_plain(Marked(entries[0], mark)),
            rule=visible(rule),
            said=said,
            total=len(entries),
            agents=tuple(sorted({visible(entry["agent_id"]) for entry in entries})),
            tools=tuple(sorted({visible(entry["tool_name"]) for entry in entries})),
            first=moment(entries[0]["timestamp"]),
            last=moment(entries[-1]["timestamp"]),
            calls=tuple(numbers[entry["event_id"]] for entry in entries[:_FIRST_FEW]),
        )
        for (mark, code, rule, said), entries in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


# --- kills and approvals ----------------------------------------------------------------------------------


class _Stopped:
    """What kills did to the calls of the pack."""

    def __init__(self, calls: Iterable[Marked]) -> None:
        self.cut = Counter(entry["kill_id"] for entry, _ in calls if entry["kill_id"] is not None)
        self._refused = [e for e, mark in calls if mark is Mark.REFUSED and e["reason_code"] == ReasonCode.KILLED]

    def refused(self, order: Entry, until: str | None) -> int:
        """How many calls in the scope of `order` were refused for a kill before `until`."""
        return sum(
            1
            for entry in self._refused
            if order["timestamp"] <= entry["timestamp"] <= (until or entry["timestamp"]) and _covers(order, entry)
        )


def _expiries(body: Entry, by_kill: Mapping[str, Sequence[Entry]]) -> dict[str, str]:
    """When kills end by themselves, by the id of the order's event. Only its leaf says so."""
    orders = {row["event_id"] for rows in by_kill.values() for row in rows if row["what"] == "killed"}
    leaves = {e["event_id"]: e["leaf"] for e in body["integrity"]["events"] if e["event_id"] in orders}
    return {event_id: parse(leaf.encode()).get("expires_at", "") for event_id, leaf in leaves.items()}


def _kill(label: str, rows: Sequence[Entry], stopped: _Stopped, expiries: Mapping[str, str]) -> Kill:
    """One kill from its rows: the order, its receipts, what was asked, its release."""
    order = next((row for row in rows if row["what"] == "killed"), rows[0])
    release = next((row for row in rows if row["what"] == "released"), None)
    asks = [row for row in rows if row["what"] == "release_asked"]
    receipts = [row for row in rows if row["what"] == "drained"]
    whole = next((row for row in receipts if row["drained"]), None)
    receipt = whole or (receipts[-1] if receipts else None)
    excepted = () if receipt is None else tuple(map(visible, receipt["drained_except"]))
    until = None if release is None else release["timestamp"]
    return Kill(
        label=label,
        kill_id=visible(order["kill_id"]),
        target=_target(order),
        ordered_by=_text(order["actor"]),
        at=moment(order["timestamp"]),
        reason="(pruned)" if order["reason"] is None else visible(order["reason"]),
        standing=_standing(receipt, excepted),
        is_drained=whole is not None,
        drained_at="" if receipt is None else moment(receipt["timestamp"]),
        expires_at=moment(expiries.get(order["event_id"])),
        excepted=excepted,
        attested=() if receipt is None else tuple(map(visible, receipt["attested"])),
        asks=tuple(f"{_text(row['actor'])}, {moment(row['timestamp'])}" for row in asks),
        released_by="" if release is None else _releaser(release),
        released_at=moment(until),
        cut=stopped.cut[order["kill_id"]],
        refused=stopped.refused(order, until),
    )


def _target(order: Entry) -> str:
    scope = order["scope"]
    return "everything" if scope == Scope.GLOBAL else f"{visible(scope)} {visible(order['target'])}"


_FIELD_OF: Final = {
    Scope.SESSION: "session_id",
    Scope.AGENT: "agent_id",
    Scope.TOOL: "tool_name",
    Scope.SERVER: "server",
    Scope.TENANT: "tenant",
}


def _covers(order: Entry, entry: Entry) -> bool:
    scope = order["scope"]
    return scope == Scope.GLOBAL or bool(scope in _FIELD_OF and entry[_FIELD_OF[scope]] == order["target"])


def _standing(receipt: Entry | None, excepted: Sequence[str]) -> str:
    if receipt is None:
        return "No receipt: it is not recorded that all calls in its scope had ended."
    if receipt["drained"]:
        by_word = " For some members an admin attested that they are destroyed." if receipt["attested"] else ""
        return f"Drained: every member confirmed that no call in its scope was left.{by_word}"
    return f"Drained except for {listed(excepted) or 'some'}: what ran there is not known."


def _releaser(release: Entry) -> str:
    if release["why"] == "expiry":
        return "its own expiry"
    asked = [visible(person) for person in release["asked_by"]]
    both = f" (asked for by {listed(asked)})" if asked else ""
    forced = ", forced before it had drained" if release["forced"] else ""
    return f"{_text(release['actor'])}{both}{forced}"


def _ordered_and_released(rows: Sequence[Entry]) -> tuple[str, str]:
    released = next((row["timestamp"] for row in rows if row["what"] == "released"), "")
    return rows[0]["timestamp"], released


_STANDINGS: Final = {
    "approved": "Approved", "denied": "Denied", "expired": "Expired", "requested": "Pending", "voted": "Pending",
    "void": "Void",
}  # fmt: skip
_VOID_BY: Final = {
    "killed": "a kill covered it",
    "policy_changed": "the policy had changed",
    "tool_changed": "the tool was described otherwise",
    "edited": "the call was edited",
    "withdrawn": "a person took it back",
}
_MOST_ARGUMENTS: Final = 500


def _approval(rows: Sequence[Entry], entries: Sequence[Entry], numbers: Mapping[str, int]) -> Approval:
    approval_id = rows[0]["approval_id"]
    asked = next((row for row in rows if row["what"] == "requested"), None)
    answer = next((row for row in rows if row["verdict"] is not None), None)
    last = rows[-1] if rows[-1]["what"] == "void" else answer or rows[-1]
    mine = [entry for entry in entries if entry["approval_id"] == approval_id]
    carried = next((entry for entry in mine if entry["decision"] == "ALLOW"), None)
    tool = next((row["tool_name"] for row in rows if row["tool_name"]), mine[0]["tool_name"] if mine else None)
    voters = [_text(row["approver"]) for row in rows if row["what"] == "voted"]
    decided_by = _text(answer["approver"] if answer else None)
    if answer is not None and answer["what"] == "approved":
        decided_by = listed([*voters, decided_by], 10)
    if last["what"] == "expired":
        decided_by = "nobody: its time ran out"
    elif last["what"] == "void":
        decided_by = f"nobody: {_VOID_BY.get(last.get('why', ''), 'it was made void')}"
    return Approval(
        approval_id=visible(approval_id),
        tool=_text(tool),
        asked_by=_text(asked["requested_by"] if asked else (mine[0]["agent_id"] if mine else None)),
        asked_at=moment(asked["timestamp"] if asked else None),
        standing=_STANDINGS.get(last["what"], visible(last["what"])),
        decided_by=decided_by,
        decided_at="" if last["what"] in ("requested", "voted") else moment(last["timestamp"]),
        notes=tuple(_said_of(rows)),
        asking_calls=tuple(numbers[e["event_id"]] for e in mine if e["decision"] != "ALLOW")[:_FIRST_FEW],
        carried_call=numbers[carried["event_id"]] if carried else None,
    )


def _said_of(rows: Sequence[Entry]) -> Iterable[str]:
    """What the answer alone does not say."""
    for row in rows:
        who = _text(row.get("edited_by") or row["approver"] or row.get("actor"))
        said = f": “{visible(row['reason'])}”" if row.get("reason") else ""
        if row["what"] == "requested":
            if row.get("quorum", 1) > 1:
                yield f"wanted the yes of {row['quorum']} persons"
            if row.get("approvers"):
                yield f"of {listed([visible(name) for name in row['approvers']], 6)}"
            if "edited_from" in row:
                arguments = visible(canonical(row.get("arguments")).decode())
                more = "…" if len(arguments) > _MOST_ARGUMENTS else ""
                yield f"edited by {who} from {visible(row['edited_from'])} to {arguments[:_MOST_ARGUMENTS]}{more}{said}"
        elif row["what"] == "void":
            if "edited_to" in row:
                yield f"edited by {who} to {visible(row['edited_to'])}{said}"
            elif "kill_id" in row:
                yield f"void by {visible(row['kill_id'])}"
            elif row.get("why") == "withdrawn":
                yield f"taken back by {who}{said}"
        elif row["what"] == "voted" or row.get("quorum", 1) > 1:
            yield f"{who} said yes ({row['ordinal']} of {row['quorum']}){said}"
        elif said:
            yield f"{who} said{said}"


# --- what may stand, and what is odd ----------------------------------------------------------------------

_WRITES: Final = {
    "ok": "Done: the tool answered",
    "error": "The tool answered with a failure: part of it may have been done",
    "cancelled": "Cut while running: it may have been done",
    "unknown": "No answer was heard: it may have been done",
    "open": "Not known to have ended: it may have been done",
}


def _write(row: Entry, numbers: Mapping[str, int]) -> Write:
    return Write(
        call=numbers.get(row["event_id"]),
        at=moment(row["timestamp"]),
        tool=visible(row["tool_name"]),
        ended=_WRITES.get(row["outcome"], visible(row["outcome"])),
        approved_by=_text(row["approved_by"]).replace(",", ", "),
        is_certain=row["outcome"] == "ok",
    )


_ANOMALIES: Final = {
    "rapid_fire": "Many calls in a moment",
    "denied_after_approval": "Refused after an approval",
    "refused_repeatedly": "Refused again and again",
    "foreign_session": "Somebody else's session",
    "policy_changed": "Policy changed midway",
    "effect_unknown": "Effect unknown",
}


def _anomaly(row: Entry, numbers: Mapping[str, int]) -> Anomaly:
    events = row["event_ids"]
    return Anomaly(
        kind=_ANOMALIES.get(row["type"], visible(row["type"])),
        description=visible(row["description"]),
        calls=tuple(numbers[event_id] for event_id in events[:_FIRST_FEW] if event_id in numbers),
        total=len(events),
    )


# --- what happened to the records -------------------------------------------------------------------------


def _notes(summary: Entry) -> list[Note]:
    """Exports, legal holds, prunes, and what was said of tools, in the order of time."""
    rows = [
        *((row, _exported(row)) for row in summary["exports"]),
        *((row, _held(row)) for row in summary["holds"]),
        *((row, _pruned(row)) for row in summary["prunes"]),
        *((row, _tool(row)) for row in summary.get("tools", ())),
    ]
    return [
        Note(moment(row["timestamp"]), text, _text(row["actor"]) or "the gateway")
        for row, text in sorted(rows, key=lambda item: item[0]["timestamp"])
    ]


def _exported(row: Entry) -> str:
    names = (("of_session", "session"), ("of_agent", "agent"), ("since", "from"), ("until", "before"))
    told = [f"{word} {visible(row[name])}" for name, word in names if row[name]]
    return f"Evidence was taken as {visible(row['format'])}" + (f": {', '.join(told)}" if told else "")


def _held(row: Entry) -> str:
    whose = f"of session {visible(row['of_session'])}" if row["of_session"] else "of all sessions"
    if row["what"] == "unheld":
        return f"Legal hold {visible(row['hold_id'])} {whose} ended"
    why = f": {visible(row['reason'])}" if row["reason"] else ""
    return f"Legal hold {visible(row['hold_id'])} {whose}{why}"


def _tool(row: Entry) -> str:
    name, server = visible(row["tool_name"]), visible(row["server"])
    match row["what"]:
        case "tool_accepted":
            who = "by trust on first use: nobody had looked at it" if row["trust"] == "first_use" else "as it was found"
            return f"Tool {name} of server {server} accepted {who} ({visible(row['access'])}), pin {_pin(row['pin'])}"
        case "tool_quarantined":
            unpinned = unpinned_of(row["found"])
            told = f"its server describes it otherwise: {_pin(row['found'])} instead of {_pin(row['pin'])}"
            told = told if unpinned is None else unpinned.why
            return f"Tool {name} of server {server} put into quarantine, because {told}"
        case _:
            return f"Tool {name} of server {server} rejected"


def _pin(sha256: object) -> str:
    """Enough of a pin to find it; the event has all of it."""
    return visible(sha256)[:16]


def _pruned(row: Entry) -> str:
    why = {"retention": "their time was over", "forced": "an admin shortened it"}.get(row["why"], visible(row["why"]))
    session = f" of session {visible(row['session'])}" if row["session"] else ""
    return f"{count(row['bodies'], 'body', 'bodies')}{session} given up ({why}); the leaves and their proofs stay"
