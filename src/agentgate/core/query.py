"""What is asked of the log: which events, by what was written about them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from agentgate.core.event import Kind, Record


@dataclass(frozen=True, slots=True)
class Query:
    """Events that fit all that is said here; what is None fits everything.

    `since` and `until` are RFC 3339 with microseconds and a `Z` (`event.rfc3339`), the second one exclusive. `text` is
    looked for in bodies, ignoring case: a pruned body holds nothing. `agent` is the event's principal.
    """

    tenant: str | None = None
    session: str | None = None
    agent: str | None = None
    tool: str | None = None
    decision: str | None = None
    reason_code: str | None = None
    outcome: str | None = None
    trace_id: str | None = None
    kinds: Collection[Kind] | None = None
    since: str | None = None
    until: str | None = None
    text: str | None = None

    def matches(self, record: Record) -> bool:
        """Whether a record fits."""
        fields = record.fields
        at: str = fields["at"]
        if (self.since is not None and at < self.since) or (self.until is not None and at >= self.until):
            return False
        if self.kinds is not None and record.kind not in self.kinds:
            return False
        wanted = (
            ("tenant", self.tenant),
            ("session", self.session),
            ("principal", self.agent),
            ("tool", self.tool),
            ("decision", self.decision),
            ("reason_code", self.reason_code),
            ("outcome", self.outcome),
            ("trace_id", self.trace_id),
        )
        if any(value is not None and fields.get(name, "") != value for name, value in wanted):
            return False
        return self.text is None or self.text.casefold() in (record.raw_body or b"").decode().casefold()
