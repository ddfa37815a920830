"""What becomes of the tools that servers list: which are offered, and why the others are not. Pure.

A tool is offered as an operator accepted it and in no other form: what is served is the accepted definition, and a
server that describes the tool otherwise now puts it into quarantine. Names decide nothing: a tool that was renamed is a
new tool, and nobody has accepted it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from agentgate.core import strict_json
from agentgate.core.call import Access, ArgumentCheck, Tool, ToolName
from agentgate.core.pin import (
    MAX_DEFINITION_BYTES,
    Pin,
    PinState,
    Unpinned,
    is_offerable,
    shown,
    skeleton,
    subject_json,
)
from agentgate.core.visible import visible
from agentgate.ports.upstreams import Listing, Schemas, ToolRule

MAX_TOOLS: Final = 1_000
"""Of one server: what it lists beyond them is not read."""
_MAX_SHOWN_CHARS: Final = 160
_UNUSABLE: Final = "its inputSchema cannot be used: {}"


@dataclass(frozen=True, slots=True)
class ServerRules:
    """What the configuration says of the tools of a server."""

    name: str
    prefix: str
    trust: Literal["accepted", "first_use"] = "accepted"
    access: Access = Access.WRITE
    labels: tuple[str, ...] = ()
    timeout_s: float = 30.0
    tools: Mapping[str, ToolRule] = field(default_factory=dict)

    def access_of(self, tool: str, accepted: Access | None = None) -> Access:
        """The configuration's word for this very tool, else what was accepted, else the server's default."""
        rule = self.tools.get(tool, ToolRule())
        return rule.access or accepted or self.access

    def labels_of(self, tool: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.labels, *self.tools.get(tool, ToolRule()).labels)))

    def timeout_of(self, tool: str) -> float:
        return self.tools.get(tool, ToolRule()).timeout_s or self.timeout_s


@dataclass(frozen=True, slots=True)
class Found:
    """A tool as its server lists it."""

    tool: str
    sha256: str
    subject: bytes
    """`core.pin.subject` in its canonical form; empty where it has none, or more than anybody reads."""
    flaw: str | None
    """Why it cannot be offered, whoever accepts it."""
    unpinned: Unpinned | None = None
    """Why it has no `sha256`."""

    @property
    def mark(self) -> str:
        """What the log knows it by: its pin, or what stands for one."""
        return self.sha256 if self.unpinned is None else self.unpinned.value


class State(StrEnum):
    """How it stands with a tool of a server."""

    OFFERED = "offered"
    NEW = "new"
    """Listed, and nobody has accepted it yet."""
    QUARANTINED = "quarantined"
    REJECTED = "rejected"
    REFUSED = "refused"
    """It cannot be offered as it is: see why."""
    MISSING = "missing"
    """Accepted, and its server does not list it any more."""


@dataclass(frozen=True, slots=True)
class Offer:
    """One tool of one server, and what becomes of it."""

    server: str
    tool: str
    name: str
    state: State
    why: str
    access: Access
    pin: Pin | None
    found: Found | None
    made: Tool | None = field(default=None, repr=False)
    """What is served, also of a tool in quarantine if it can be made: its refusal is a record then that names it."""

    @property
    def in_policy(self) -> bool:
        """Whether policy is to know of it. It follows from what was accepted, and not from which server is up, so that
        all members of a log have one policy."""
        return self.state is State.MISSING or self.made is not None


def read_listing(listing: Listing, prefix: str) -> dict[str, Found]:
    """Every tool of a list by its name. Names that nobody could write are shown escaped."""
    found: dict[str, Found] = {}
    for definition in listing.tools[:MAX_TOOLS]:
        name = definition.get("name")
        tool = name if isinstance(name, str) and is_offerable(name) else shown(name)[:_MAX_SHOWN_CHARS]
        if tool in found:
            found[tool] = _unpinned(tool, Unpinned.LISTED_TWICE)
            continue
        found[tool] = _read(tool, prefix, listing.identity, definition)
    return found


def _read(tool: str, prefix: str, identity: Mapping[str, Any], definition: Mapping[str, Any]) -> Found:
    try:
        subject = subject_json(identity, definition)
    except strict_json.NotStrictJson as error:
        return _unpinned(tool, Unpinned.NOT_STRICT, f": {error}")
    size, sha256 = len(subject), hashlib.sha256(subject).hexdigest()
    kept = subject if size <= MAX_DEFINITION_BYTES else b""
    return Found(tool, sha256, kept, _flaw(tool, prefix, definition, size))


def _unpinned(tool: str, unpinned: Unpinned, more: str = "") -> Found:
    return Found(tool, "", b"", unpinned.why + more, unpinned)


def _flaw(tool: str, prefix: str, definition: Mapping[str, Any], size: int) -> str | None:
    if not is_offerable(str(definition.get("name"))) or not is_offerable(prefix + tool):
        return "its name is not of ASCII letters, digits, _ . - , at most 128 with the prefix, and no '..'"
    if size > MAX_DEFINITION_BYTES:
        return f"its definition has more than {MAX_DEFINITION_BYTES} bytes"
    if not isinstance(definition.get("inputSchema"), Mapping):
        return "it has no inputSchema"
    if not isinstance(definition.get("description", ""), str):
        return "its description is no text"
    return None


class Workshop:
    """Makes tools, and remembers them: compiling a schema and hashing a definition are not for every second."""

    def __init__(self, schemas: Schemas) -> None:
        self._schemas = schemas
        self._checks: dict[str, ArgumentCheck | str] = {}
        self._flaws: dict[str, str | None] = {}
        self._made: dict[tuple[Any, ...], Tool] = {}

    def forget(self) -> None:
        """Keep memory bounded, whatever servers come up with."""
        if max(len(self._checks), len(self._flaws), len(self._made)) > 8 * MAX_TOOLS:
            self._checks.clear()
            self._flaws.clear()
            self._made.clear()

    def check(self, sha256: str, definition: Mapping[str, Any]) -> ArgumentCheck | str:
        """The compiled schema of a definition, or why it is none."""
        if sha256 not in self._checks:
            try:
                self._checks[sha256] = self._schemas.compile(definition["inputSchema"])
            except ValueError as error:
                self._checks[sha256] = _UNUSABLE.format(error)
        return self._checks[sha256]

    def flaw(self, sha256: str, definition: Mapping[str, Any]) -> str | None:
        """Why a definition that nobody has accepted is none, as far as it can be said without compiling it: servers may
        list as many as they like."""
        if sha256 not in self._flaws:
            try:
                self._schemas.examine(definition["inputSchema"])
            except ValueError as error:
                self._flaws[sha256] = _UNUSABLE.format(error)
            else:
                self._flaws[sha256] = None
        return self._flaws[sha256]

    def make(self, rules: ServerRules, pin: Pin, name: str, quarantine: str | None) -> Tool | str:
        """The tool as it was accepted, or why it cannot be offered."""
        check = self.check(pin.sha256, pin.definition)
        if isinstance(check, str):
            return check
        access = rules.access_of(pin.tool, pin.access)
        key = (rules.name, name, pin.sha256, access, quarantine)
        if key not in self._made:
            self._made[key] = Tool(
                name=ToolName(name),
                upstream=rules.name,
                access=access,
                input_schema=pin.definition["inputSchema"],
                description=pin.definition.get("description", ""),
                labels=rules.labels_of(pin.tool),
                timeout_s=rules.timeout_of(pin.tool),
                check=check,
                quarantine=quarantine,
                options={"tool": pin.tool, "pin": pin.sha256, "definition": dict(pin.definition)},
            )
        return self._made[key]


class Offers:
    """Sorts out all servers at once, because their names must differ from each other and from the declared ones."""

    def __init__(self, servers: Sequence[ServerRules], fixed: Iterable[str], workshop: Workshop) -> None:
        """`fixed`: the names that are taken whatever servers say: declared tools, and the servers' operations."""
        self._servers = {rules.name: rules for rules in servers}
        self._fixed = {skeleton(name): name for name in fixed}
        self._workshop = workshop

    def sort(
        self, pins: Mapping[tuple[str, str], Pin], found: Mapping[str, Mapping[str, Found]], seen: frozenset[str]
    ) -> list[Offer]:
        """Every tool that was ever accepted or rejected, and every one that is listed. `seen`: the servers that have
        been heard since the start. What was accepted first has the name."""
        taken = dict(self._fixed)
        offers: list[Offer] = []
        for pin in sorted(pins.values(), key=lambda pin: pin.index):
            if pin.server in self._servers:
                listed = found.get(pin.server, {}).get(pin.tool)
                offers.append(self._pinned(pin, listed, taken, is_seen=pin.server in seen))
        for server, tools in found.items():
            offers += (self._new(server, one, taken) for key, one in tools.items() if (server, key) not in pins)
        self._workshop.forget()
        return offers

    def _pinned(self, pin: Pin, found: Found | None, taken: dict[str, str], *, is_seen: bool) -> Offer:
        rules = self._servers[pin.server]
        name = rules.prefix + pin.tool
        access = rules.access_of(pin.tool, pin.access)

        def offer(state: State, why: str = "", made: Tool | None = None) -> Offer:
            return Offer(pin.server, pin.tool, name, state, why, access, pin, found, made)

        if pin.state is PinState.REJECTED:
            return offer(State.REJECTED, f"rejected by {pin.by}")
        flaw = _name_flaw(name, taken)
        if flaw is not None:
            return offer(State.REFUSED, flaw)
        taken[skeleton(name)] = name
        quarantine = _quarantine(pin, found)
        made = self._workshop.make(rules, pin, name, quarantine)
        if quarantine is not None:
            return offer(State.QUARANTINED, quarantine, made if isinstance(made, Tool) else None)
        if isinstance(made, str):
            return offer(State.REFUSED, made)
        if found is None and is_seen:
            return offer(State.MISSING, "its server does not list it any more")
        return offer(State.OFFERED, "", made)

    def _new(self, server: str, found: Found, taken: dict[str, str]) -> Offer:
        rules = self._servers[server]
        name = rules.prefix + found.tool
        flaw = found.flaw or _name_flaw(name, taken)
        if flaw is None:
            judge = self._workshop.check if rules.trust == "first_use" else self._workshop.flaw  # it is accepted next
            judged = judge(found.sha256, strict_json.parse(found.subject)["tool"])
            flaw = judged if isinstance(judged, str) else None
        if flaw is None:
            taken[skeleton(name)] = name
        state = State.NEW if flaw is None else State.REFUSED
        why = flaw or "nobody has accepted it yet"
        return Offer(server, found.tool, name, state, visible(why), rules.access_of(found.tool), None, found)


def _name_flaw(name: str, taken: Mapping[str, str]) -> str | None:
    if not is_offerable(name):
        return "its name is too long with the prefix"
    other = taken.get(skeleton(name))
    if other is None:
        return None
    return f"{other} has this name" if other == name else f"its name is too much like {other}"


def _quarantine(pin: Pin, found: Found | None) -> str | None:
    """Why an accepted tool may not be called. That its server has taken a change back lifts nothing: it might come
    again between two looks, and somebody should know that it was there."""
    if found is not None and found.unpinned is not None:
        return found.flaw
    if found is not None and found.sha256 != pin.sha256:
        return "its server describes it otherwise than it was accepted"
    if found is not None and found.flaw is not None:
        return found.flaw
    if pin.state is PinState.QUARANTINED:
        how = f" ({pin.unpinned.value})" if pin.unpinned is not None else ""
        return f"its server has described it otherwise than it was accepted{how}"
    return None
