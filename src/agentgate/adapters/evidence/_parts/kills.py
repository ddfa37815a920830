"""Kills as people read them: what each stopped, and whether it was final."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

from agentgate.adapters.evidence._parts.marks import Entry, Mark, Marked
from agentgate.adapters.evidence._parts.words import listed, moment, text_of
from agentgate.core.containment import Scope
from agentgate.core.errors import ReasonCode
from agentgate.core.strict_json import parse
from agentgate.core.visible import visible


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill from order to release. Times are empty for what has not happened, or not in this pack."""

    label: str
    """K1, K2, … in the order of time; the timeline says the same."""
    kill_id: str
    target: str
    """Such as `session s-1`, `everything`."""
    ordered_by: str
    at: str
    reason: str
    standing: str
    """Drained, drained except for some, or not known to be: a sentence."""
    is_drained: bool
    drained_at: str
    expires_at: str
    """When it ends by itself, if it does."""
    excepted: tuple[str, ...]
    attested: tuple[str, ...]
    asks: tuple[str, ...]
    """Who asked for its release, and when, where more than one person is needed."""
    released_by: str
    released_at: str
    cut: int
    """Running calls that ended by it."""
    refused: int
    """Calls in its scope that were refused for a kill while it was in force."""


class Stopped:
    """What kills did to the calls of the pack."""

    def __init__(self, body: Entry, calls: Sequence[Marked]) -> None:
        self.cut = Counter(entry["kill_id"] for entry, _ in calls if entry["kill_id"] is not None)
        self._index_of = {event["event_id"]: event["index"] for event in body["integrity"]["events"]}
        self._refused: dict[tuple[str, str], list[int]] = {}
        for entry, mark in calls:
            if mark is Mark.REFUSED and entry["reason_code"] == ReasonCode.KILLED:
                for scope, name_of in _NAME_OF.items():
                    self._refused.setdefault((scope, name_of(entry)), []).append(entry["index"])

    def refused(self, order: Entry, release: Entry | None) -> int:
        """How many calls in the scope of `order` were refused for a kill before `release`. By the log's order: clocks
        of members differ."""
        scope = order["scope"]
        found = self._refused.get((scope, "" if scope == Scope.GLOBAL else order["target"]), [])
        end = len(found) if release is None else bisect_left(found, self._index_of[release["event_id"]])
        return end - bisect_left(found, self._index_of[order["event_id"]])


def expiries(body: Entry, by_kill: Mapping[str, Sequence[Entry]]) -> dict[str, str]:
    """When kills end by themselves, by the id of the order's event. Only its leaf says so."""
    orders = {row["event_id"] for rows in by_kill.values() for row in rows if row["what"] == "killed"}
    leaves = {e["event_id"]: e["leaf"] for e in body["integrity"]["events"] if e["event_id"] in orders}
    return {event_id: parse(leaf.encode()).get("expires_at", "") for event_id, leaf in leaves.items()}


def kill_of(label: str, rows: Sequence[Entry], stopped: Stopped, expiries: Mapping[str, str]) -> Kill:
    """One kill from its rows: the order, its receipts, what was asked, its release."""
    order = next((row for row in rows if row["what"] == "killed"), rows[0])
    release = next((row for row in rows if row["what"] == "released"), None)
    asks = [row for row in rows if row["what"] == "release_asked"]
    receipts = [row for row in rows if row["what"] == "drained"]
    whole = next((row for row in receipts if row["drained"]), None)
    receipt = whole or (receipts[-1] if receipts else None)
    excepted = _members(receipt, "drained_except", "excepted")
    scope = order["scope"]
    return Kill(
        label=label,
        kill_id=visible(order["kill_id"]),
        target="everything" if scope == Scope.GLOBAL else f"{visible(scope)} {visible(order['target'])}",
        ordered_by=text_of(order["actor"]),
        at=moment(order["timestamp"]),
        reason="(pruned)" if order["reason"] is None else visible(order["reason"]),
        standing=_standing(receipt, excepted),
        is_drained=whole is not None,
        drained_at="" if receipt is None else moment(receipt["timestamp"]),
        expires_at=moment(expiries.get(order["event_id"])),
        excepted=excepted,
        attested=_members(receipt, "attested", "attested"),
        asks=tuple(f"{text_of(row['actor'])}, {moment(row['timestamp'])}" for row in asks),
        released_by="" if release is None else _releaser(release),
        released_at="" if release is None else moment(release["timestamp"]),
        cut=stopped.cut[order["kill_id"]],
        refused=stopped.refused(order, release),
    )


_NAME_OF: Final[Mapping[str, Callable[[Entry], str]]] = {
    Scope.GLOBAL: lambda _: "",
    Scope.SESSION: itemgetter("session_id"),
    Scope.AGENT: lambda entry: entry["agent_id"].partition(":")[2],  # a kill names it without its kind
    Scope.TOOL: itemgetter("tool_name"),
    Scope.SERVER: itemgetter("server"),
    Scope.TENANT: itemgetter("tenant"),
}


def _members(receipt: Entry | None, name: str, of_leaf: str) -> tuple[str, ...]:
    """As many as there were; those that a receipt of very many does not name come last."""
    if receipt is None:
        return ()
    named = tuple(map(visible, receipt[name]))
    count: int = receipt.get("counts", {}).get(of_leaf, 0)
    return named + ("not named",) * (count - len(named))


def _standing(receipt: Entry | None, excepted: Sequence[str]) -> str:
    if receipt is None:
        return "No receipt: it is not recorded here that all calls in its scope had ended."
    if receipt["drained"]:
        by_word = " For some members an admin attested that they are destroyed." if receipt["attested"] else ""
        return f"Drained: every member confirmed that no call in its scope was left.{by_word}"
    return f"Drained except for {listed(excepted) or 'some'}: what ran there was not known."


def _releaser(release: Entry) -> str:
    if release["why"] == "expiry":
        return "its own expiry"
    asked = [visible(person) for person in release["asked_by"]]
    both = f" (asked for by {listed(asked)})" if asked else ""
    forced = ", forced before it had drained" if release["forced"] else ""
    return f"{text_of(release['actor'])}{both}{forced}"


def ordered_and_released(rows: Sequence[Entry]) -> tuple[str, str]:
    released = next((row["timestamp"] for row in rows if row["what"] == "released"), "")
    return rows[0]["timestamp"], released
