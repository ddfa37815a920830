"""Events as JSON lines: leaf and body as the log holds them, so that each line can be checked against it."""

from __future__ import annotations

from collections.abc import Sequence

from agentgate.core.event import Record
from agentgate.core.query import as_line


class JsonLines:
    """`ports.Export`."""

    media_type = "application/x-ndjson"
    extension = "jsonl"

    def start(self) -> bytes:
        return b""

    def write(self, records: Sequence[Record]) -> bytes:
        return b"".join(as_line(record) + b"\n" for record in records)

    def end(self) -> bytes:
        return b""
