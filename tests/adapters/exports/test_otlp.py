"""Events as OpenTelemetry logs, in the JSON form of OTLP."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from agentgate.adapters.exports.otlp import OtlpLines
from agentgate.core.event import Kind, make
from tests.contracts.export import ExportContract, exported, records
from tests.core.events import origin, record_of

VALUE_KINDS = {"stringValue", "boolValue", "intValue", "doubleValue", "arrayValue", "kvlistValue", "bytesValue"}


class TestOtlpLines(ExportContract):
    begin = staticmethod(lambda _: OtlpLines())


def requests() -> list[Any]:
    return [json.loads(line) for line in exported(OtlpLines(), records(), at_once=5).splitlines()]


def log_records() -> list[dict[str, Any]]:
    return [
        one
        for request in requests()
        for resource in request["resourceLogs"]
        for scope in resource["scopeLogs"]
        for one in scope["logRecords"]
    ]


def attributes(one: dict[str, Any]) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in one["attributes"]}


def test_every_record_is_there_once_and_in_order() -> None:
    indexes = [attributes(one)["agentgate.index"] for one in log_records()]
    assert indexes == [{"intValue": str(record.index)} for record in records()]


def test_each_request_says_who_wrote_it() -> None:
    for request in requests():
        for resource in request["resourceLogs"]:
            assert attributes(resource["resource"])["service.name"] == {"stringValue": "agentgate"}
            assert attributes(resource["resource"])["service.instance.id"] == {"stringValue": "m-1"}


def test_integers_of_64_bits_are_text_and_enums_numbers() -> None:
    for one in log_records():
        assert re.fullmatch(r"[0-9]{19}", one["timeUnixNano"])
        assert one["severityNumber"] in (9, 13, 17)
        for value in attributes(one).values():
            assert len(value) == 1
            assert set(value) <= VALUE_KINDS
            assert not isinstance(value.get("intValue", ""), int)


def test_a_trace_context_that_came_in_is_the_records() -> None:
    fields = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    record = record_of(make(origin(), Kind.FINISHED, fields))
    [line] = exported(OtlpLines(), [record]).splitlines()
    one = json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    assert (one["traceId"], one["spanId"], one["flags"]) == ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", 1)


@pytest.mark.parametrize(
    ("kind", "fields", "severity"),
    [
        (Kind.DECIDED, {"decision": "ALLOW"}, "INFO"),
        (Kind.DECIDED, {"decision": "DENY"}, "WARN"),
        (Kind.FINISHED, {"outcome": "ok"}, "INFO"),
        (Kind.FINISHED, {"outcome": "unknown"}, "ERROR"),
        (Kind.KILLED, {}, "WARN"),
    ],
)
def test_what_was_refused_or_failed_stands_out(kind: Kind, fields: dict[str, str], severity: str) -> None:
    [line] = exported(OtlpLines(), [record_of(make(origin(), kind, fields))]).splitlines()
    assert json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["severityText"] == severity


def test_time_is_exact() -> None:
    record = record_of(make(origin(), Kind.ACKED, {}))
    assert record.fields["at"] == "2026-11-21T09:00:05.000000Z"
    [line] = exported(OtlpLines(), [record]).splitlines()
    one = json.loads(line)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    assert one["timeUnixNano"] == "1795251605000000000"
