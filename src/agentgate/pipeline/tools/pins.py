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
from typing import Any, Final

from agentgate.core import strict_json
from agentgate.core.call import Access, Principal, Tool
from agentgate.core.decision import Receipt
from agentgate.core.errors import LogUnavailable, ReasonCode, Refused
from agentgate.core.event import Kind
from agentgate.core.events.tools import OfTool, tool_accepted, tool_rejected
from agentgate.core.pin import Pin, pin_from_row
from agentgate.core.visible import visible
from agentgate.pipeline.records.record import Recorder
from agentgate.pipeline.tools.heard import Heard, reviewed
from agentgate.pipeline.tools.offers import Offer, Offers, State, Workshop, read_listing
from agentgate.pipeline.tools.registry import Registry
from agentgate.pipeline.tools.serving import Policies, Served, ToolServing
from agentgate.ports.log import LogReader
from agentgate.ports.upstreams import Listing, Schemas

logger = logging.getLogger("agentgate.tools")

LIST_CHANGED: Final = "notifications/tools/list_changed"
OF_PINS: Final = (Kind.TOOL_ACCEPTED, Kind.TOOL_QUARANTINED, Kind.TOOL_REJECTED)
_MOST_UNTOLD: Final = 1_000

Listener = Callable[[str, str, Mapping[str, Any]], Awaitable[None]]
"""Hears what a server announced: its name, the method, the params. Must not raise but CancelledError."""


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
        """`facts`: as `ToolServing` says. `is_shared`: whether other members write to the log as well."""
        self._servers = {served.rules.name: served for served in servers}
        self._registry = registry
        self._reader = reader
        self._recorder = recorder
        self._is_shared = is_shared
        self.declared: Mapping[str, Tool] = dict(registry)
        """The tools that the configuration declares itself."""
        self._serving = ToolServing(self._servers, registry, policy, facts)
        self._workshop = Workshop(schemas)
        self._offers = Offers([served.rules for served in servers], self._serving.fixed, self._workshop)
        self._heard = Heard(self._servers)
        self._pins: dict[tuple[str, str], Pin] = {}
        self._sorted: list[Offer] = []
        self._working = asyncio.Lock()
        self._read_to = 0
        self._is_stale = False
        """Whether this member has written what it has not read back yet."""
        self._listeners: list[Listener] = []
        self._untold: asyncio.Queue[tuple[str, str, Mapping[str, Any]]] = asyncio.Queue(_MOST_UNTOLD)

    # --- hearing servers ---

    async def listed(self, listing: Listing) -> None:
        """As the port says. A tool that is described otherwise is in quarantine when this returns, log or no log."""
        served = self._servers.get(listing.server)
        if served is None:
            return
        self._heard.take(listing, read_listing(listing, served.rules.prefix), self._pins)
        self._sort()
        self._serve()
        try:
            await self.settle()
        except LogUnavailable as error:
            logger.warning("what %s lists cannot be recorded: %s; trying again", listing.server, error)

    async def changed(self, server: str, method: str, params: Mapping[str, Any]) -> None:
        """As the port says."""
        self._tell(server, method, params)

    # --- what M2's door and health ask ---

    def on_change(self, listener: Listener) -> None:
        """Have `listener` awaited with what servers announce, and with every change of what is served."""
        self._listeners.append(listener)

    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """MCP's ServerCapabilities of every server that has been heard."""
        return {server: capabilities for server, (capabilities, _) in self._heard.about.items()}

    def instructions(self) -> str:
        """Of the one transparent server; empty if there is none."""
        for server, (_, text) in self._heard.about.items():
            if not self._servers[server].rules.prefix:
                return text
        return ""

    @property
    def trouble(self) -> str | None:
        return self._serving.trouble

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
        have the policy know it, serve it. Raises LogUnavailable: the next round tries again."""
        if not self._servers:
            return
        async with self._working:
            await self._hear()
            await self._record()
            self._serve()
            if await self._serving.enforce():
                self._serve()

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
        self._sorted = self._offers.sort(self._pins, self._heard.listed(self._pins), frozenset(self._heard.found))
        self._heard.owe(self._sorted)
        self._serving.know(self._sorted)

    # --- recording what was found ---

    async def _record(self) -> None:
        makers = [maker for offer in self._sorted if (maker := self._heard.due(offer)) is not None]
        for maker in makers:
            event = maker(self._recorder.origin())
            self._is_stale = True
            outcome = await self._recorder.write(event)
            if not isinstance(outcome, Receipt):
                logger.info("%s: another member was first to say so", event.fields["tool"])
            elif event.kind is Kind.TOOL_QUARANTINED:
                logger.warning("tool %s is in quarantine: its server describes it otherwise now", event.fields["tool"])
            self._heard.recorded(event)
        if makers:
            await self._read()

    def _serve(self) -> None:
        for server in self._serving.serve(self._sorted):
            self._tell(server, LIST_CHANGED, {})

    def is_served(self, offer: Offer) -> bool:
        return offer.state is State.OFFERED and offer.name in self._registry

    # --- operators ---

    def offers(self) -> tuple[Offer, ...]:
        """Every tool of every server, by its name."""
        return tuple(sorted(self._sorted, key=lambda offer: (offer.server, offer.name)))

    async def accept(self, actor: Principal, name: str, sha256: str, access: Access | None = None) -> Offer | Refused:
        """Offer a tool as it was found, and in no other form: `sha256` says what was looked at. Raises LogUnavailable:
        nothing was accepted."""
        async with self._working:
            offer = self._named(actor, name)
            if isinstance(offer, Refused):
                return offer
            if offer.state is State.REFUSED:
                return Refused(ReasonCode.CONFLICT, f"it cannot be offered: {offer.why}")
            subject = reviewed(offer).get(sha256)
            if subject is None:
                return Refused(ReasonCode.CONFLICT, "that is not what its server describes now: look at it again")
            check = self._workshop.check(sha256, strict_json.parse(subject)["tool"])
            if isinstance(check, str):
                return Refused(ReasonCode.CONFLICT, f"it cannot be offered: {visible(check)}")
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
            self._heard.forget(offer)  # heard before this; it may be heard again
        return await self._after(offer)

    async def reject(self, actor: Principal, name: str) -> Offer | Refused:
        """Do not offer a tool, whatever was accepted before. Raises LogUnavailable: nothing was rejected."""
        async with self._working:
            offer = self._named(actor, name)
            if isinstance(offer, Refused):
                return offer
            sha256, subject = next(iter(reviewed(offer).items()), ("", b"null"))
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
