"""The desk for what tool servers bring: it hears their lists, keeps to what was accepted, and takes operators' word.

What is accepted, quarantined or rejected is in the log, and all members follow it; each has its own connections. A
tool is served only once the policy in force knows it. Nothing here is ever raised into an adapter: what cannot be done
now (the log is down, the policy cannot be loaded) is tried again every second, and until then nothing new is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from agentgate.core import strict_json
from agentgate.core.call import Access, Principal, Tool
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogUnavailable, PolicyExternal, PolicyInvalid, PolicyNotEnforced, ReasonCode
from agentgate.core.event import Event, Kind
from agentgate.core.events.tools import OfTool, tool_accepted, tool_quarantined, tool_rejected
from agentgate.core.pin import Pin, PinState, changes, pin_from_row
from agentgate.pipeline.offers import MAX_TOOLS, Found, Offer, Offers, ServerRules, State, Workshop, read_listing
from agentgate.pipeline.orders import Refused
from agentgate.pipeline.policy import TOOLS
from agentgate.pipeline.record import Recorder
from agentgate.pipeline.registry import Registry
from agentgate.ports.log import LogReader
from agentgate.ports.upstreams import Listing, Schemas

logger = logging.getLogger("agentgate.tools")

LIST_CHANGED: Final = "notifications/tools/list_changed"
OF_PINS: Final = (Kind.TOOL_ACCEPTED, Kind.TOOL_QUARANTINED, Kind.TOOL_REJECTED)
_ROUNDS_OF_REST: Final = 5
"""Seconds between two tries to load a policy that failed."""
_MOST_UNTOLD: Final = 1_000
_MAX_QUARANTINES: Final = 8
"""For one acceptance so many different descriptions are recorded: a server must not write our log full."""
_MAX_CHANGES: Final = 50
_MAX_CHANGE_CHARS: Final = 1_000

Listener = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]
"""Hears what a server announced: its name, the method, the params. Must not raise but CancelledError."""


class Policies(Protocol):
    """What this desk needs of the policy desk."""

    known_tools: Mapping[str, Any] | None

    async def load(self, actor: str, what: str) -> object: ...


@dataclass(frozen=True, slots=True)
class Served:
    """A tool server of the configuration: what is said of its tools, and what stands for it beside them."""

    rules: ServerRules
    operations: Mapping[str, Tool]
    """What is no tool but can be called: resources, prompts, completions, by their names."""


def facts_of(tool: Tool) -> dict[str, Any]:
    """What policy's data say of a tool."""
    return _facts(tool.name, tool.access, tool.upstream, tool.labels)


def _facts(name: str, access: Access, upstream: str, labels: Sequence[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {"name": name, "access": access.value, "upstream": upstream}
    return facts | ({"labels": list(labels)} if labels else {})


class PinDesk:
    """Implements `ports.upstreams.Audience`."""

    def __init__(
        self,
        *,
        servers: Sequence[Served],
        registry: Registry,
        policy: Policies,
        facts: dict[str, dict[str, Any]],
        reader: LogReader,
        recorder: Recorder,
        schemas: Schemas,
        is_shared: bool,
    ) -> None:
        """`facts` is what the policy source takes the tools from; this desk keeps it. `is_shared`: whether other
        members write to the log as well."""
        self._servers = {served.rules.name: served for served in servers}
        self._registry = registry
        self._policy = policy
        self._facts = facts
        self._reader = reader
        self._recorder = recorder
        self._is_shared = is_shared
        self.declared: Mapping[str, Tool] = dict(registry)
        """The tools that the configuration declares itself."""
        fixed = dict(registry)
        for served in servers:
            fixed |= served.operations
        self._fixed_facts = {name: facts_of(tool) for name, tool in fixed.items()}
        self._offers = Offers([served.rules for served in servers], fixed, Workshop(schemas))
        self._pins: dict[tuple[str, str], Pin] = {}
        self._found: dict[str, dict[str, Found]] = {}
        self._of_clients: dict[str, dict[str, Found]] = {}
        """Listed to a client in its own session, and not by the server's own connection."""
        self._owed: dict[tuple[str, str], tuple[int, Found]] = {}
        """Changes that were heard and are not in the log yet, with the acceptance they are of: taken back or not, they
        are to be recorded, and until then the tool stays in quarantine."""
        self._first: dict[str, frozenset[str]] = {}
        """What each server listed when it was heard for the first time, if nothing of it was in the log then."""
        self._said: set[tuple[int, str]] = set()
        """Quarantines that are in the log: the acceptance they are of, and what was found."""
        self._about: dict[str, tuple[Mapping[str, Any], str]] = {}
        self._sorted: list[Offer] = []
        self._working = asyncio.Lock()
        self._read_to = 0
        self._is_stale = False
        """Whether this member has written what it has not read back yet."""
        self._rest = 0
        self._listeners: list[Listener] = []
        self._untold: asyncio.Queue[tuple[str, str, Mapping[str, Any]]] = asyncio.Queue(_MOST_UNTOLD)
        self.trouble: str | None = None
        """Why accepted tools are not served, for health."""
        facts.clear()
        facts.update(self._fixed_facts)

    # --- hearing servers ---

    async def listed(self, listing: Listing) -> None:
        """As the port says. A tool that is described otherwise is in quarantine when this returns, log or no log."""
        served = self._servers.get(listing.server)
        if served is None:
            return
        self._take(listing, read_listing(listing, served.rules.prefix))
        self._sort()
        self._serve()
        try:
            await self.settle()
        except LogUnavailable as error:
            logger.warning("what %s lists cannot be recorded: %s; trying again", listing.server, error)

    async def changed(self, server: str, method: str, params: Mapping[str, Any]) -> None:
        """As the port says."""
        self._tell(server, method, params)

    def _take(self, listing: Listing, found: dict[str, Found]) -> None:
        server = listing.server
        if listing.of_client:
            others = self._of_clients.setdefault(server, {})
            for name, one in found.items():
                if name in others or (server, name) in self._pins or len(others) < MAX_TOOLS:
                    others[name] = one
            return
        if server not in self._first:
            is_known = any(pin.server == server for pin in self._pins.values())
            self._first[server] = frozenset() if is_known else frozenset(found)
        self._found[server] = found
        self._of_clients.pop(server, None)  # it has just said what it offers now
        self._about[server] = (listing.capabilities, listing.instructions)

    def _listed(self) -> dict[str, dict[str, Found]]:
        """What the servers list, each in all its sessions. Where they differ, what differs from the pin counts."""
        whole = {server: dict(found) for server, found in self._found.items()}
        for server, others in self._of_clients.items():
            tools = whole.setdefault(server, {})
            for name, found in others.items():
                pin = self._pins.get((server, name))
                if name not in tools or (pin is not None and _differs(pin, found)):
                    tools[name] = found
        for (server, name), (accepted, found) in self._owed.items():
            pin = self._pins.get((server, name))
            if pin is not None and pin.state is PinState.ACCEPTED and pin.index == accepted:
                whole.setdefault(server, {})[name] = found
        return whole

    # --- what M2's door and health ask ---

    def on_change(self, listener: Listener) -> None:
        """Have `listener` awaited with what servers announce, and with every change of what is served."""
        self._listeners.append(listener)

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """MCP's ServerCapabilities of every server that has been heard."""
        return {server: capabilities for server, (capabilities, _) in self._about.items()}

    def instructions(self) -> str:
        """Of the one transparent server; empty if there is none."""
        for server, (_, text) in self._about.items():
            if not self._servers[server].rules.prefix:
                return text
        return ""

    @property
    def quarantined(self) -> int:
        return sum(1 for offer in self._sorted if offer.state is State.QUARANTINED)

    def _tell(self, server: str, method: str, params: Mapping[str, Any]) -> None:
        with contextlib.suppress(asyncio.QueueFull):  # nobody relies on them: whoever wants to know asks
            self._untold.put_nowait((server, method, params))

    async def announce(self) -> None:
        """Tell the listeners, until cancelled. By itself, because a client that reads nothing must hold up neither a
        server's answers nor what is decided of its tools."""
        while True:
            server, method, params = await self._untold.get()
            for listener in self._listeners:
                await listener(server, method, params)

    # --- life ---

    async def start(self) -> None:
        """Take over what the log has accepted, before the first policy is loaded. Raises LogUnavailable."""
        if self._servers:
            self._read_to = await self._reader.size()
            await self._read()

    async def settle(self) -> None:
        """Once a second, and whenever there is news: hear what other members have recorded, record what was found,
        have the policy know it, serve it.

        Raises:
            LogUnavailable: the next round tries again.
        """
        if not self._servers:
            return
        async with self._working:
            await self._hear()
            await self._record()
            self._serve()
            await self._enforce()

    async def _hear(self) -> None:
        if self._is_shared:
            kinds = tuple(kind.value for kind in OF_PINS)
            async for record in self._reader.records(first=self._read_to, kinds=kinds):
                self._read_to, self._is_stale = record.index + 1, True
        if self._is_stale:
            await self._read()

    async def _read(self) -> None:
        rows = await self._reader.projection("pins")
        self._is_stale = False
        self._pins = {(row["server"], row["tool"]): pin_from_row(row) for row in rows if row["server"] in self._servers}
        self._sort()

    def _sort(self) -> None:
        self._sorted = self._offers.sort(self._pins, self._listed(), frozenset(self._found))
        self._owed = {
            (offer.server, offer.tool): (pin.index, found)
            for offer in self._sorted
            if (pin := offer.pin) is not None and pin.state is PinState.ACCEPTED
            if (found := offer.found) is not None and _differs(pin, found)
        }
        facts = self._fixed_facts | {offer.name: self._facts_of(offer) for offer in self._sorted if offer.in_policy}
        if facts != self._facts:
            self._facts.clear()
            self._facts.update(facts)
            self._rest = 0

    def _facts_of(self, offer: Offer) -> dict[str, Any]:
        labels = self._servers[offer.server].rules.labels_of(offer.tool)
        return _facts(offer.name, offer.access, offer.server, labels)

    # --- recording what was found ---

    async def _record(self) -> None:
        due = [maker for offer in self._sorted if (maker := self._due(offer)) is not None]
        for maker in due:
            event = maker()
            self._is_stale = True
            outcome = await self._recorder.write(event)
            if not isinstance(outcome, Receipt):
                logger.info("%s: another member was first to say so", event.fields["tool"])
            elif event.kind is Kind.TOOL_QUARANTINED:
                logger.warning("tool %s is in quarantine: its server describes it otherwise now", event.fields["tool"])
            if event.kind is Kind.TOOL_QUARANTINED:
                self._said.add((event.fields["accepted"], event.fields["found"]))
        if due:
            await self._read()

    def _due(self, offer: Offer) -> Callable[[], Event] | None:
        """What is to be recorded of a tool, as something that makes the event."""
        found, pin = offer.found, offer.pin
        if found is None:
            return None
        of = OfTool(offer.server, offer.tool, offer.name)
        if pin is None:
            rules = self._servers[offer.server].rules
            is_first = rules.trust == "first_use" and offer.tool in self._first.get(offer.server, frozenset())
            if offer.state is not State.NEW or not is_first:
                return None
            return lambda: tool_accepted(
                self._recorder.origin(),
                of,
                pin=found.sha256,
                access=offer.access.value,
                trust="first_use",
                subject=found.subject,
            )
        is_known = found.mark in (pin.sha256, pin.found_sha256, pin.unpinned)
        is_said = is_known or (pin.index, found.mark) in self._said
        said = sum(1 for index, _ in self._said if index == pin.index)
        if offer.state is not State.QUARANTINED or is_said or said >= _MAX_QUARANTINES:
            return None
        told = [line[:_MAX_CHANGE_CHARS] for line in self.changes_of(offer)[:_MAX_CHANGES]]
        return lambda: tool_quarantined(
            self._recorder.origin(),
            of,
            pin=pin.sha256,
            found=found.mark,
            accepted=pin.index,
            subject=found.subject or b"null",
            changes=told,
        )

    # --- serving ---

    async def _enforce(self) -> None:
        """Have the policy know the tools that are to be served. One that cannot be loaded serves no new tool."""
        if self._policy.known_tools in (None, self._facts):
            self.trouble = None
            return
        if self._policy.known_tools == {}:
            return  # the first policy is not in force yet
        if self._rest > 0:
            self._rest -= 1
            return
        try:
            await self._policy.load("", TOOLS)
            self.trouble = None
        except PolicyExternal:
            self._policy.known_tools = None
        except (PolicyInvalid, PolicyNotEnforced) as error:
            self.trouble, self._rest = f"the policy cannot be loaded: {error}", _ROUNDS_OF_REST
            logger.error("accepted tools are not served yet, because %s", self.trouble)
        self._serve()

    def _serve(self) -> None:
        """Put into the registry what was accepted, as far as the policy in force knows it."""
        known = self._policy.known_tools
        for name, served in self._servers.items():
            tools = dict(served.operations)
            for offer in self._sorted:
                is_known = known is None or known.get(offer.name) == self._facts_of(offer)
                if offer.server == name and offer.made is not None and is_known:
                    tools[offer.name] = offer.made
            before = self._registry.of_server(name)
            if {key: (tool, tool.quarantine) for key, tool in before.items()} != {
                key: (tool, tool.quarantine) for key, tool in tools.items()
            }:
                self._registry.serve(name, tools)
                self._tell(name, LIST_CHANGED, {})

    def is_served(self, offer: Offer) -> bool:
        return offer.state is State.OFFERED and offer.name in self._registry

    # --- operators ---

    def offers(self) -> tuple[Offer, ...]:
        """Every tool of every server, by its name."""
        return tuple(sorted(self._sorted, key=lambda offer: (offer.server, offer.name)))

    def changes_of(self, offer: Offer) -> list[str]:
        """How what was found differs from what was accepted, for somebody to read."""
        pin, found = offer.pin, offer.found
        if pin is None or pin.subject is None:
            return []
        if found is not None and not found.subject:
            return [found.flaw or ""]
        now = strict_json.parse(found.subject) if found is not None else pin.found
        return changes(pin.subject, now) if now is not None else []

    async def accept(self, actor: Principal, name: str, sha256: str, access: Access | None = None) -> Offer | Refused:
        """Offer a tool as it was found, and in no other form: `sha256` says what was looked at.

        Raises:
            LogUnavailable: nothing was accepted.
        """
        async with self._working:
            offer = self._named(actor, name)
            if isinstance(offer, Refused):
                return offer
            if offer.state is State.REFUSED:
                return Refused(ReasonCode.CONFLICT, f"it cannot be offered: {offer.why}")
            subject = _reviewed(offer).get(sha256)
            if subject is None:
                return Refused(ReasonCode.CONFLICT, "that is not what its server describes now: look at it again")
            rules = self._servers[offer.server].rules
            fixed = rules.access_of(offer.tool, access or offer.access)
            if access not in (None, fixed):
                return Refused(ReasonCode.CONFLICT, f"the configuration says that its access is {fixed}")
            self._is_stale = True  # before it is known: what a log says of a failure may be wrong
            await self._recorder.note(
                lambda origin: tool_accepted(
                    origin,
                    OfTool(offer.server, offer.tool, offer.name),
                    pin=sha256,
                    access=fixed.value,
                    trust="operator",
                    subject=subject,
                    actor=actor.id,
                    auth=actor.auth_method,
                )
            )
            self._of_clients.get(offer.server, {}).pop(offer.tool, None)  # heard before this; it may be heard again
        return await self._after(offer)

    async def reject(self, actor: Principal, name: str) -> Offer | Refused:
        """Do not offer a tool, whatever was accepted before.

        Raises:
            LogUnavailable: nothing was rejected.
        """
        async with self._working:
            offer = self._named(actor, name)
            if isinstance(offer, Refused):
                return offer
            sha256, subject = next(iter(_reviewed(offer).items()), ("", b"null"))
            if not sha256 and offer.pin is None:
                return Refused(ReasonCode.CONFLICT, f"it is not offered as it is: {offer.why}")
            self._is_stale = True
            await self._recorder.note(
                lambda origin: tool_rejected(
                    origin,
                    OfTool(offer.server, offer.tool, offer.name),
                    found=sha256,
                    subject=subject,
                    actor=actor.id,
                    auth=actor.auth_method,
                )
            )
        return await self._after(offer)

    def _named(self, actor: Principal, name: str) -> Offer | Refused:
        if not actor.tenants_all:
            return Refused(ReasonCode.FORBIDDEN, "tools are everybody's: this needs an operator of all tenants")
        for offer in self._sorted:
            if offer.name == name:
                return offer
        return Refused(ReasonCode.NOT_FOUND, "no server lists a tool of this name, and none was accepted")

    async def _after(self, offer: Offer) -> Offer:
        """What has become of a tool since somebody spoke: the word is in the log, whatever else goes wrong."""
        try:
            await self.settle()
        except LogUnavailable as error:
            logger.warning("what was decided of %s takes effect when the log can be read: %s", offer.name, error)
        return next((one for one in self._sorted if (one.server, one.tool) == (offer.server, offer.tool)), offer)


def _differs(pin: Pin, found: Found) -> bool:
    return found.sha256 != pin.sha256 or found.flaw is not None


def _reviewed(offer: Offer) -> dict[str, bytes]:
    """What an operator may have looked at, by its pin: what is listed now, what the quarantine was for, what was
    accepted before."""
    found: dict[str, bytes] = {}
    if offer.found is not None and offer.found.sha256 and offer.found.flaw is None:
        found[offer.found.sha256] = offer.found.subject
    if offer.pin is not None:
        for sha256, subject in ((offer.pin.found_sha256, offer.pin.found), (offer.pin.sha256, offer.pin.subject)):
            if sha256 and subject is not None:
                found.setdefault(sha256, strict_json.canonical(subject))
    return found
