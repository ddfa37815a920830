"""An event as a line for people. Nothing that strangers wrote is taken for markup or obeyed by the terminal."""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from rich.console import Console
from rich.text import Text

from agentgate.commands.words import named, plain

Event = dict[str, Any]

_HEADS: Final = ("INDEX", "TIME (UTC)", "EVENT", "WHO", "SESSION", "TOOL", "WHAT")
_WIDTHS: Final = {130: (7, 20, 16, 18, 18, 16), 95: (6, 14, 10, 14, 14, 12), 0: (5, 8, 8, 10, 10, 10)}
"""From a terminal's width on, those of all columns but the last, which has what is left."""
_TIMES: Final = {20: slice(0, 20), 14: slice(5, 19), 8: slice(11, 19)}
"""What of `2026-11-21 09:00:05Z` fits into a column."""
_LEAST_WHAT: Final = 10
_STYLES: Final = {
    "ALLOW": "green",
    "DENY": "red",
    "REQUIRE_APPROVAL": "yellow",
    "ok": "green",
    "error": "red",
    "unknown": "red",
    "cancelled": "yellow",
    "not_sent": "yellow",
    "killed": "bold red",
    "released": "bold",
    "gone": "red",
    "pruned": "yellow",
}
_SAID: Final = (
    *("rule", "upstream_status", "approval_id", "approved_by", "kill_id", "why", "verdict", "state"),
    *("edited_from", "edited_to"),
    *("format", "of_session", "of_agent", "of", "position", "count", "policy_revision", "credential"),
    *("hold_id", "bodies", "use", "key_id"),
    *("added", "removed", "disabled", "enabled", "altered"),
)
"""Of an event's other fields, what a line has room for."""


class Lines:
    """Rows of a table that are printed as they come, with the columns' names before the first one.

    On a terminal they fit its width; into a file or a pipe nothing is cut off.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_first = True

    def print(self, event: Event) -> None:
        if self._is_first:
            self._is_first = False
            self._line([Text(head, "bold") for head in _HEADS])
        self._line(cells(event))

    def _line(self, found: list[Text]) -> None:
        if not self._console.is_terminal:
            padded = [one.plain.ljust(width) for one, width in zip(found[:-1], _WIDTHS[130], strict=True)]
            sys.stdout.write("  ".join([*padded, found[-1].plain]).rstrip() + "\n")
            sys.stdout.flush()
            return
        widths = next(widths for least, widths in _WIDTHS.items() if self._console.width >= least)
        *fixed, last = found
        fixed[1] = fixed[1][_TIMES[widths[1]]] if not self._is_head(found) else fixed[1]
        left = max(self._console.width - sum(widths) - 2 * len(widths), _LEAST_WHAT)
        fitted = [_fit(one, width, pad=True) for one, width in zip(fixed, widths, strict=True)]
        self._console.print(Text("  ").join([*fitted, _fit(last, left, pad=False)]))

    def _is_head(self, found: list[Text]) -> bool:
        return found[0].plain == _HEADS[0]


def _fit(text: Text, width: int, *, pad: bool) -> Text:
    fitted = text.copy()
    fitted.truncate(width, overflow="ellipsis", pad=pad)
    return fitted


def cells(event: Event) -> list[Text]:
    """One cell for each column."""
    fields = event["event"]
    word = str(fields.get("decision") or fields.get("outcome") or fields.get("kind"))
    tool = fields.get("tool") or (f"{fields['scope']} {fields.get('target', '')}" if "scope" in fields else "")
    return [
        Text(str(event["index"])),
        Text(plain(fields.get("at", ""))[:19].replace("T", " ") + "Z"),
        Text(plain(word), _STYLES.get(word, "")),
        Text(plain(str(fields.get("principal", "")).removeprefix("agent:"))),
        Text(named(str(fields.get("tenant", "")), str(fields.get("session", "")))),
        Text(plain(tool)),
        Text(_what(event)),
    ]


def _what(event: Event) -> str:
    """Why, in codes and in the words of people; then what else there is room for."""
    fields, body = event["event"], event.get("body") or {}
    said = [fields.get("reason_code"), *(body.get(name) for name in ("reason", "error"))]
    said += [f"{name}={_value(fields[name])}" for name in _SAID if fields.get(name)]
    arguments = body.get("arguments")
    shown = json.dumps(arguments, ensure_ascii=False, separators=(",", ":")) if arguments else None
    said += ["(body pruned)" if event.get("body") is None else shown]
    return plain("  ".join(str(one) for one in said if one))


def _value(value: object) -> object:
    return ",".join(map(str, value)) if isinstance(value, list) else value
