"""What a tool of a server is, as an operator accepted it: its pin, and what a change of it looks like.

A server describes its tools itself, and may describe them otherwise tomorrow. The pin is a digest of all that a model
or a client is shown of a tool, and of who brings it: another description is another pin, and a tool with another pin
is not what was accepted.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import orjson

from agentgate.core import strict_json
from agentgate.core.call import Access, is_tool_name
from agentgate.core.visible import visible

MAX_DEFINITION_BYTES: Final = 65_536
"""Of a tool's canonical definition: what is longer, nobody reviews."""
_STAMPS: Final = frozenset({"io.modelcontextprotocol/serverInfo"})
"""Members of `_meta` that the protocol puts on every answer: they are no part of a tool."""
_LONG: Final = 60
_AROUND: Final = 20
_MISSING: Final = object()


class PinState(StrEnum):
    """What an operator, or trust on first use, said of a tool."""

    ACCEPTED = "accepted"
    QUARANTINED = "quarantined"
    """It was accepted, and is described otherwise now: nobody may call it until somebody has looked."""
    REJECTED = "rejected"


class Unpinned(StrEnum):
    """What stands in the log for the pin of a description that has none.

    A quarantine for it must last as any other does, so the log has to know it by something. That is a word and no
    digest: it is nobody's pin and can never become one, so nobody can accept a tool by it, and whoever reads the log
    sees that no definition is kept. One word for all such descriptions, since nothing tells two of them apart.
    """

    NOT_STRICT = "not_strict_json"
    """It has no canonical form."""
    LISTED_TWICE = "listed_twice"
    """Each of the two may have a pin, even the accepted one; which of them a call would reach, nobody knows."""

    @property
    def why(self) -> str:
        """What is wrong, as a clause."""
        match self:
            case Unpinned.NOT_STRICT:
                return "its definition is not strict JSON"
            case Unpinned.LISTED_TWICE:
                return "its server lists two tools of this name"


def unpinned_of(found: object) -> Unpinned | None:
    """What is said where an event or a row has this for `found`; None for a pin."""
    return next((one for one in Unpinned if one.value == found), None)


def subject(identity: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
    """What a pin is a digest of: `{"server": {"name"}, "tool": {…}}`.

    A server counts by its name: a new version of it is no change of a tool by itself. A tool counts whole, but for
    empty members and for what the protocol stamps on every answer.
    """
    tool = {name: value for name, value in definition.items() if value is not None}
    if isinstance(tool.get("_meta"), Mapping):
        meta = {name: value for name, value in tool["_meta"].items() if name not in _STAMPS}
        tool = {name: value for name, value in tool.items() if name != "_meta"} | ({"_meta": meta} if meta else {})
    return {"server": {"name": identity.get("name", "")}, "tool": tool}


def subject_json(identity: Mapping[str, Any], definition: Mapping[str, Any]) -> bytes:
    """`subject` in its canonical form (RFC 8785).

    Raises:
        NotStrictJson: it has none.
    """
    found = subject(identity, definition)
    strict_json.check(found)
    return strict_json.canonical(found)


def pin_sha256(identity: Mapping[str, Any], definition: Mapping[str, Any]) -> str:
    """The pin of a tool: lower-case hex. Empty where the definition has no canonical form, and so is nobody's pin.

    `identity` and `definition` are what the server said: MCP's Implementation and Tool.
    """
    try:
        return hashlib.sha256(subject_json(identity, definition)).hexdigest()
    except strict_json.NotStrictJson:
        return ""


@dataclass(frozen=True, slots=True)
class Pin:
    """One tool of one server, as it was accepted, quarantined or rejected."""

    server: str
    """The upstream's configured name."""
    tool: str
    """The tool's name at its server."""
    name: str
    """The name under which it is offered here."""
    state: PinState
    sha256: str
    """Of what was accepted; empty for what never was."""
    subject: Mapping[str, Any] | None
    """What was accepted, as `subject` puts it."""
    access: Access
    found_sha256: str = ""
    """Of what was rejected, or for which it was quarantined; empty where that has no pin."""
    unpinned: Unpinned | None = None
    """For which it was quarantined, where that has no pin."""
    found: Mapping[str, Any] | None = field(default=None, repr=False)
    by: str = ""
    at: str = ""
    trust: str = ""
    """`operator` or `first_use`: who took the responsibility."""
    index: int = -1
    """Of the event that accepted or rejected it."""

    @property
    def definition(self) -> Mapping[str, Any]:
        """The accepted definition, as its server wrote it."""
        return self.subject["tool"] if self.subject is not None else {}


_SEPARATORS: Final = re.compile(r"[_.\-]+")
_ALIKE: Final = str.maketrans("01i", "oll")


def is_offerable(name: str) -> bool:
    """Whether a tool may be offered under `name`, its prefix included."""
    return is_tool_name(name)


def skeleton(name: str) -> str:
    """What is left of a name for somebody who reads it quickly: two names with one skeleton are taken for each other.

    Only for names that `is_offerable`: those have ASCII characters only.
    """
    return _SEPARATORS.sub("_", name.casefold()).translate(_ALIKE)


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """How the subject `new` differs from `old`: one line for each place, its path first, nothing left out.

    Made for an operator's eyes: what nobody can see, or what turns text round, is written out (`[U+202E]`).
    """
    return list(_compare("", old, new))


def _compare(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted(old.keys() | new.keys()):
            yield from _compare(_below(path, name), old.get(name, _MISSING), new.get(name, _MISSING))
    elif isinstance(old, list) and isinstance(new, list):
        for number in range(max(len(old), len(new))):
            yield from _compare(f"{path}[{number}]", *(_at(items, number) for items in (old, new)))
    elif old is _MISSING:
        yield f"{path}: added {shown(new)}"
    elif new is _MISSING:
        yield f"{path}: removed {shown(old)}"
    elif isinstance(old, str) and isinstance(new, str) and max(len(old), len(new)) > _LONG:
        if old != new:
            yield f"{path}: {_edit(old, new)}"
    elif type(old) is not type(new) or old != new:  # 1, 1.0 and true are not alike
        yield f"{path}: {shown(old)} became {shown(new)}"


def _at(items: list[Any], number: int) -> Any:
    return items[number] if number < len(items) else _MISSING


def _below(path: str, name: str) -> str:
    plain = name if re.fullmatch(r"[\w$-]+", name, re.ASCII) else shown(name)
    return f"{path}.{plain}" if path else plain


def _edit(old: str, new: str) -> str:
    """Where two long texts differ, with all that went and all that came."""
    most = min(len(old), len(new))
    start = next((i for i in range(most) if old[i] != new[i]), most)
    end = next((i for i in range(most - start) if old[-1 - i] != new[-1 - i]), most - start)
    gone, come = old[start : len(old) - end], new[start : len(new) - end]
    before = f"after {shown(old[max(0, start - _AROUND) : start])}" if start else "at its beginning"
    if not gone:
        return f"{before}, added {shown(come)}"
    return f"{before}, {shown(gone)} became {shown(come)}" if come else f"{before}, removed {shown(gone)}"


def shown(value: Any) -> str:
    """A JSON value on one line, with nothing hidden in it."""
    try:
        text = orjson.dumps(value).decode()
    except TypeError:  # a lone surrogate, a number beyond 64 bits
        text = repr(value)
    return visible(text)


def pin_from_row(row: Mapping[str, Any]) -> Pin:
    """A pin from its derived row.

    Who says that a tool has changed may not have heard yet that this very change was accepted: then nothing is wrong.
    """
    state = PinState(row["state"])
    if state is PinState.QUARANTINED and row["found"] == row["pin"]:
        state = PinState.ACCEPTED
    unpinned = unpinned_of(row["found"])
    return Pin(
        server=row["server"],
        tool=row["tool"],
        name=row["name"],
        state=state,
        sha256=row["pin"],
        subject=_parsed(row["definition"]),
        access=Access(row["access"]) if row["access"] else Access.WRITE,
        found_sha256=row["found"] if unpinned is None else "",
        unpinned=unpinned,
        found=_parsed(row["found_definition"]),
        by=row["actor"],
        at=row["at"],
        trust=row["trust"],
        index=row["idx"],
    )


def _parsed(text: str | None) -> Mapping[str, Any] | None:
    found = None if text is None else orjson.loads(text)
    return found if isinstance(found, Mapping) else None
