"""What the log says was used: counted from the events of calls."""

from __future__ import annotations

from typing import Any

import pytest

from agentgate.core.amounts import Amounts
from agentgate.core.budget import Count, Period, Tally
from agentgate.core.event import Kind, Outcome, Record
from agentgate.core.facts import Facts, Past

AT = "2026-01-01T00:00:00.000000Z"


def record(kind: Kind, **fields: Any) -> Record:
    return Record(0, 0, 0, {"kind": kind.value, "tool": "crm_read", "at": AT, **fields}, b"", None, None)


@pytest.mark.parametrize("outcome", list(Outcome))
def test_what_a_call_has_touched_counts_however_it_ended(outcome: Outcome) -> None:
    """A tool's error message is data as well."""
    count = Count()
    count.add(record(Kind.DECIDED, decision="ALLOW", arguments_bytes=10))
    count.add(record(Kind.FINISHED, outcome=outcome.value, result_bytes=5, labels=["private"]))
    facts = count.tally(2).facts
    assert facts.labels == {"private"}
    assert (facts.calls, facts.bytes) == (1, 15)
    assert set(facts.tools) == ({"crm_read"} if outcome is Outcome.OK else set())


def test_all_that_was_used_is_counted_and_nothing_that_was_refused() -> None:
    count = Count()
    assert count.tally(0) == Tally(0)
    for decision in ("ALLOW", "DENY", "REQUIRE_APPROVAL", "ALLOW"):
        count.add(record(Kind.DECIDED, decision=decision, arguments_bytes=10, cost_micros=7))
        count.add(record(Kind.DECIDED, decision=decision))
    for second, tool in enumerate(["a", "b", "a", "a"]):
        at = f"2026-01-01T00:00:0{second}.500000Z"
        count.add(record(Kind.FINISHED, outcome="ok", result_bytes=100, tool=tool, at=at, labels=[tool]))
    count.add(record(Kind.FINISHED, outcome="error", at="2026-01-02T00:00:00.000000Z"))
    count.add(record(Kind.KILLED, decision="ALLOW", arguments_bytes=1000))
    start = 1767225600.0
    tools = {"a": Past(3, start + 3.5), "b": Past(1, start + 1.5)}
    facts = Facts(4, 420, 14, frozenset({"a", "b"}), tools)
    assert count.tally(13) == Tally(13, Amounts(4, 420, 14), facts)


def test_only_hours_and_days_end_by_a_clock() -> None:
    assert [period.seconds for period in (Period.ACTION, Period.SESSION, Period.HOUR, Period.DAY)] == [
        0,
        0,
        3600,
        86_400,
    ]
