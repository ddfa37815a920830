"""OSCAL Assessment Results (1.1.2, JSON): what the events of an export show of NIST SP 800-53 controls.

A finding is `satisfied` only where the exported events bear it out; without any it is not. The same events give the
same bytes: identifiers are UUIDv5 of what was asked and found, and times are the events'.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

import orjson

from agentgate.adapters.exports._checks import Check, make_checks
from agentgate.adapters.exports._compliance import controls
from agentgate.core.event import Record
from agentgate.core.merkle import leaf_hash
from agentgate.core.query import Query
from agentgate.core.strict_json import canonical_plain

NAMESPACE: Final = "https://agentgate.dev/ns/oscal"
OSCAL_VERSION: Final = "1.1.2"

_ROOT: Final = uuid.uuid5(uuid.NAMESPACE_URL, NAMESPACE)
_NEVER: Final = "1970-01-01T00:00:00.000000Z"
"""What an export without events and without a time range is of."""
_PLAN: Final = (
    "There is no assessment plan: these results are what the gateway's own log shows of the controls that events can "
    "show. What they cannot show is in docs/compliance.md, with the tests that do."
)


class OscalResults:
    """`ports.Export`: everything is said at the end."""

    media_type = "application/json"
    extension = "oscal.json"

    def __init__(self, query: Query) -> None:
        self._query = query
        self._checks = make_checks()
        self._digest = hashlib.sha256()
        self._count = 0
        self._times: list[str] = []

    def start(self) -> bytes:
        return b""

    def write(self, records: Sequence[Record]) -> bytes:
        for record in records:
            self._count += 1
            self._digest.update(leaf_hash(record.leaf))
            self._times = [min([*self._times, record.fields["at"]]), max([*self._times, record.fields["at"]])]
            for check in self._checks.values():
                check.see(record)
        return b""

    def end(self) -> bytes:
        return orjson.dumps({"assessment-results": self._results()}, option=orjson.OPT_INDENT_2)

    def _results(self) -> dict[str, Any]:
        first, last = self._times or [self._query.since or _NEVER, self._query.until or self._query.since or _NEVER]
        plan = self._id("plan")
        observations = {name: self._observation(name, check, last) for name, check in self._checks.items()}
        return {
            "uuid": self._id("document"),
            "metadata": {
                "title": "AgentGate: what the log shows",
                "last-modified": last,
                "version": self._digest.hexdigest()[:16],
                "oscal-version": OSCAL_VERSION,
            },
            "import-ap": {"href": f"#{plan}"},
            "results": [
                {
                    "uuid": self._id("result"),
                    "title": "Events of the gateway",
                    "description": f"{self._count} events were read, each of them once.",
                    "start": first,
                    "end": last,
                    "props": list(self._props()),
                    "reviewed-controls": {
                        "control-selections": [
                            {"include-controls": [{"control-id": control["control"]} for control in controls()]}
                        ]
                    },
                    "observations": list(observations.values()),
                    "findings": [
                        self._finding(control, self._checks[control["check"]], observations[control["check"]]["uuid"])
                        for control in controls()
                    ],
                }
            ],
            "back-matter": {"resources": [{"uuid": plan, "title": "No assessment plan", "description": _PLAN}]},
        }

    def _id(self, *name: str) -> str:
        """The same for the same events, asked for in the same way."""
        asked = canonical_plain(self._query.said()).decode()
        return str(uuid.uuid5(_ROOT, "\n".join([asked, self._digest.hexdigest(), *name])))

    def _props(self) -> Iterator[dict[str, str]]:
        yield _prop("events", str(self._count))
        yield _prop("leaves-sha256", self._digest.hexdigest())
        for name, value in self._query.said().items():
            yield _prop(f"query-{name.replace('_', '-')}", value if isinstance(value, str) else " ".join(value))

    def _observation(self, name: str, check: Check, collected: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "uuid": self._id("observation", name),
            "title": check.title,
            "description": check.sentence,
            "methods": ["EXAMINE"],
            "collected": collected,
        }
        if check.examples:
            found["relevant-evidence"] = [_evidence(record) for record in check.examples]
        return found

    def _finding(self, control: dict[str, Any], check: Check, observation: str) -> dict[str, Any]:
        return {
            "uuid": self._id("finding", control["control"]),
            "title": f"{control['id']} {control['title']}",
            "description": f"{check.title}. {check.sentence} What this does not show: {control['limits']}",
            "target": {
                "type": "objective-id",
                "target-id": control["objective"],
                "status": {
                    "state": "satisfied" if check.holds else "not-satisfied",
                    "reason": "pass" if check.holds else "fail",
                },
            },
            "related-observations": [{"observation-uuid": observation}],
        }


def _evidence(record: Record) -> dict[str, Any]:
    return {
        "description": f"Event {record.index} of the log, of kind {record.fields['kind']}",
        "props": [
            _prop("event-index", str(record.index)),
            _prop("event-id", str(record.fields["id"])),
            _prop("leaf-sha256", leaf_hash(record.leaf).hex()),
        ],
    }


def _prop(name: str, value: str) -> dict[str, str]:
    """A property: its value must be one line that neither is empty nor ends in space."""
    line = " ".join("".join(char if char.isprintable() else " " for char in value).split())
    return {"name": name, "ns": NAMESPACE, "value": line or "-"}
