"""What the log says was used: counted from the events of calls."""

from __future__ import annotations

from typing import Any

import pytest

from agentgate.core.budget import Count
from agentgate.core.event import Kind, Outcome, Record

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
