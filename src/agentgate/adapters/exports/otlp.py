"""Events as OpenTelemetry logs: OTLP in its JSON form, one request of `POST /v1/logs` on each line.

That is what collectors take, and what their file receiver reads. It is one mapping of names: the SDK for it would bring
protobuf, a clock and threads of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from agentgate.core.event import Kind, Outcome, Record

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INFO, _WARN, _ERROR = (9, "INFO"), (13, "WARN"), (17, "ERROR")
_NOT_ATTRIBUTES: Final = frozenset({"v", "at", "kind", "traceparent", "version", "member"})
_WARNINGS: Final = frozenset({Kind.KILLED, Kind.GONE, Kind.REFUSALS, Kind.REPAIRED, Kind.PRUNED, Kind.TOOL_QUARANTINED})
_BAD_OUTCOMES: Final = frozenset({Outcome.ERROR, Outcome.UNKNOWN})


class OtlpLines:
    """`ports.Export`."""

    media_type = "application/x-ndjson"
    extension = "otlp.jsonl"

    def start(self) -> bytes:
        return b""

    def write(self, records: Sequence[Record]) -> bytes:
        """One request; a resource for each member that wrote some of the records."""
        by_writer: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            by_writer.setdefault((record.fields["member"], record.fields["version"]), []).append(record)
        request = {"resourceLogs": [_resource(*writer, some) for writer, some in by_writer.items()]}
        return orjson.dumps(request, option=orjson.OPT_APPEND_NEWLINE)

    def end(self) -> bytes:
        return b""


def _resource(member: str, version: str, records: Sequence[Record]) -> dict[str, Any]:
    about = {"service.name": "agentgate", "service.version": version, "service.instance.id": member}
    scope = {"name": "agentgate.log", "version": version}
    return {
        "resource": {"attributes": _attributes(about)},
        "scopeLogs": [{"scope": scope, "logRecords": [_log_record(record) for record in records]}],
    }


def _log_record(record: Record) -> dict[str, Any]:
    fields = record.fields
    number, text = _severity(record)
    at = str(_nanoseconds(fields["at"]))
    found: dict[str, Any] = {
        "timeUnixNano": at,
        "observedTimeUnixNano": at,
        "severityNumber": number,
        "severityText": text,
        "eventName": f"agentgate.{fields['kind']}",
        "attributes": _attributes(dict(_named(record))),
    }
    if record.raw_body is not None:
        found["body"] = {"stringValue": record.raw_body.decode(errors="replace")}
    if "traceparent" in fields:  # of the caller; the identifier that we gave stays an attribute
        _, found["traceId"], found["spanId"], flags = fields["traceparent"].split("-")
        found["flags"] = int(flags, 16)
    return found


def _named(record: Record) -> Iterator[tuple[str, Any]]:
    yield "agentgate.index", record.index
    for name, value in record.fields.items():
        if name not in _NOT_ATTRIBUTES:
            yield f"agentgate.{name}", value
    if "tool" in record.fields:
        yield "gen_ai.tool.name", record.fields["tool"]


def _severity(record: Record) -> tuple[int, str]:
    fields = record.fields
    if fields.get("outcome") in _BAD_OUTCOMES:
        return _ERROR
    if record.kind in _WARNINGS or fields.get("decision") == "DENY":
        return _WARN
    return _INFO


def _nanoseconds(at: str) -> int:
    since = datetime.fromisoformat(at) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000_000 + since.microseconds * 1_000


def _attributes(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in values.items()]


def _value(value: Any) -> dict[str, Any]:
    """An AnyValue. 64-bit integers are text in the JSON form."""
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case Mapping():
            return {"kvlistValue": {"values": _attributes(value)}}
        case list() | tuple():
            return {"arrayValue": {"values": [_value(one) for one in value]}}
        case _:
            return {"stringValue": str(value)}
