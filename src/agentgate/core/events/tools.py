"""Events of tool servers' tools: which were accepted, and which are not any more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from agentgate.core.event import Event, Kind, Origin, make


@dataclass(frozen=True, slots=True)
class OfTool:
    """Which tool of which server an event is about, and the name under which it is offered here."""

    server: str
    tool: str
    name: str

    @property
    def fields(self) -> dict[str, Any]:
        return {"server": self.server, "of_tool": self.tool, "tool": self.name}


def tool_accepted(
    origin: Origin, of: OfTool, *, pin: str, access: str, trust: str, subject: bytes, actor: str = "", auth: str = ""
) -> Event:
    """A server's tool may be offered as `subject` (canonical JSON, see `core.pin`) describes it; `pin` is its SHA-256.

    `trust` says who took that on: an `operator` who has seen it, or the setting `first_use`. The body is not redacted:
    it must be restored to the byte, and nobody's call put anything into it.
    """
    fields = of.fields | {"pin": pin, "access": access, "trust": trust}
    if auth:
        fields["auth"] = auth
    return make(origin, Kind.TOOL_ACCEPTED, fields, principal=actor, body=b'{"subject":%s}' % subject)


def tool_quarantined(
    origin: Origin, of: OfTool, *, pin: str, found: str, accepted: int, subject: bytes, changes: Sequence[str]
) -> Event:
    """An accepted tool (by the event at index `accepted`) is described otherwise now, and may not be called.

    `found` is the pin of what it is now; of what has none, the word of `core.pin.Unpinned` that stands for it.
    `subject` is `null` where there is none to keep.
    """
    fields = of.fields | {"pin": pin, "found": found, "accepted": accepted}
    body = b'{"changes":%s,"subject":%s}' % (orjson.dumps(list(changes)), subject)
    return make(origin, Kind.TOOL_QUARANTINED, fields, body=body)


def tool_rejected(origin: Origin, of: OfTool, *, found: str, subject: bytes, actor: str, auth: str) -> Event:
    """An operator does not want a tool, as it was found or at all."""
    fields = of.fields | {"found": found, "auth": auth}
    return make(origin, Kind.TOOL_REJECTED, fields, principal=actor, body=b'{"subject":%s}' % subject)
