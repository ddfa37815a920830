"""What segments of bodies say of themselves, against the events: where each begins and ends, and how old it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agentgate.core.audit.report import Findings
from agentgate.core.audit.stored import StoredSegment


class AuditedSegments:
    """Feed it every event's time in order."""

    def __init__(self, findings: Findings, segments: Iterable[StoredSegment]) -> None:
        self._findings = findings
        self._due = sorted(segments, key=lambda segment: segment.first, reverse=True)
        self._newest = ""
        self._too_old = 0
        last = -1
        for segment in reversed(self._due):
            if segment.first <= last or segment.last < segment.first:
                findings.add(segment.first, "its body is in two segments, or in one that ends before it begins")
            last = max(last, segment.last)

    def feed(self, index: int, at: str) -> None:
        # of most events nothing is asked, and what is no time is told elsewhere
        if not self._due or not isinstance(at, str):
            return
        self._newest = max(self._newest, at)
        while self._due and self._due[-1].last <= index:
            segment = self._due.pop()
            if segment.newest > self._newest:
                what = f"the segment of bodies up to here says that it is of {segment.newest}, and no event says so"
                self._findings.add(index, what)
            self._too_old += segment.newest < self._newest

    def finish(self) -> Iterator[str]:
        """Notes. A time that had not come yet when a segment was made is not counted in it."""
        for segment in reversed(self._due):
            self._findings.add(segment.first, f"a segment of bodies from here goes on to event {segment.last}")
        if self._too_old:
            yield (
                f"segments of bodies that say they are older than an event of theirs: {self._too_old}; a clock ran "
                "ahead, or they were changed. Nothing is pruned for it that says a later time itself"
            )
