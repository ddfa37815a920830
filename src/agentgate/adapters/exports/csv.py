"""Events as CSV (RFC 4180), for people with a spreadsheet: no cell of theirs is taken for a formula (attack A49)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any, Final

from agentgate.core.event import Record
from agentgate.core.merkle import leaf_hash

COLUMNS: Final = (
    *("index", "at", "kind", "tenant", "session", "principal", "tool", "server", "decision", "reason_code", "rule"),
    *("outcome", "upstream_status", "trace_id", "door", "auth", "approval_id", "approved_by", "kill_id", "scope"),
    *("target", "policy_revision", "credential", "member", "version", "id", "leaf_sha256", "body"),
)
"""`leaf_sha256` is the event's hash in the log; `body` its redacted JSON, empty once it was pruned."""

_FORMULA: Final = (
    "=+-@\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
_BEGINS: Final = re.compile(rf"[\t\r\n]|[\s\"']*[{re.escape(_FORMULA)}]")
# Where a spreadsheet splits at semicolons, as half of Europe's do, a cell may begin in the middle of ours.
_BEGINS_WITHIN: Final = re.compile(rf";(?=[\s\"']*[{re.escape(_FORMULA)}\t\r\n])")


def safe(text: str) -> str:
    """`text` as a cell that no spreadsheet computes."""
    text = _BEGINS_WITHIN.sub(";'", text)
    return "'" + text if _BEGINS.match(text) else text


class CommaSeparated:
    """`ports.Export`."""

    media_type = "text/csv; charset=utf-8; header=present"
    extension = "csv"

    def start(self) -> bytes:
        return _lines([COLUMNS])

    def write(self, records: Sequence[Record]) -> bytes:
        return _lines([[_cell(value) for value in _row(record)] for record in records])

    def end(self) -> bytes:
        return b""


def _row(record: Record) -> list[Any]:
    derived = {
        "index": record.index,
        "leaf_sha256": leaf_hash(record.leaf).hex(),
        "body": (record.raw_body or b"").decode(errors="replace"),
    }
    return [derived[name] if name in derived else record.fields.get(name, "") for name in COLUMNS]


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, int) else safe(str(value))


def _lines(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
