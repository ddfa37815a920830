"""What is asked of the log: which events, by what was written about them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from agentgate.core.event import Kind, Record
from agentgate.core.strict_json import canonical_plain


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

    def said(self) -> dict[str, str | list[str]]:
        """What was asked, by its names: only what is not None."""
        found: dict[str, str | list[str]] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if value is not None:
                found[name] = value if isinstance(value, str) else sorted(str(kind) for kind in value)
        return found

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


def as_line(record: Record) -> bytes:
    """A record as one line of JSON. `event` is its leaf and `body` its body byte for byte (null once it was pruned), so
    that a line can be checked against the log: SHA-256(0x00 ‖ event) is the leaf's hash, and SHA-256(salt ‖ body) the
    event's `body_sha256`."""
    placed = {
        "index": record.index,
        "session_number": record.session_number,
        "kill_position": record.kill_position,
        "salt": None if record.salt is None else record.salt.hex(),
    }
    parts = (canonical_plain(placed)[:-1], b',"event":', record.leaf, b',"body":', record.raw_body or b"null", b"}")
    return b"".join(parts).replace(b"\n", b" ")  # in JSON a newline is nothing but space
