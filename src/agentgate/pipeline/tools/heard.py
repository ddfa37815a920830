"""What servers have said of their tools, beside what was accepted of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from agentgate.core import strict_json
from agentgate.core.event import Event, Kind
from agentgate.core.events.tools import OfTool, tool_accepted, tool_quarantined
from agentgate.core.pin import Pin, PinState, changes
from agentgate.pipeline.records.record import EventMaker
from agentgate.pipeline.tools.offers import MAX_TOOLS, Found, Offer, State
from agentgate.pipeline.tools.serving import Served
from agentgate.ports.upstreams import Listing

_MAX_QUARANTINES: Final = 8
"""For one acceptance so many different descriptions are recorded: a server must not write our log full."""
_MAX_CHANGES: Final = 50
_MAX_CHANGE_CHARS: Final = 1_000

Pins = Mapping[tuple[str, str], Pin]


class Heard:
    """What servers have listed since the start, in all their sessions."""

    def __init__(self, servers: Mapping[str, Served]) -> None:
        self._servers = servers
        self.found: dict[str, dict[str, Found]] = {}
        self._of_clients: dict[str, dict[str, Found]] = {}
        """Listed to a client in its own session, and not by the server's own connection."""
        self._owed: dict[tuple[str, str], tuple[int, Found]] = {}
        """Changes that were heard and are not in the log yet, with the acceptance they are of: taken back or not, they
        are to be recorded, and until then the tool stays in quarantine."""
        self._first: dict[str, frozenset[str]] = {}
        """What each server listed when it was heard for the first time, if nothing of it was in the log then."""
        self._said: set[tuple[int, str]] = set()
        """Quarantines that are in the log: the acceptance they are of, and what was found."""
        self.about: dict[str, tuple[Mapping[str, Any], str]] = {}

    def take(self, listing: Listing, found: dict[str, Found], pins: Pins) -> None:
        """`found` is what `listing` says, read."""
        server = listing.server
        if listing.of_client:
            others = self._of_clients.setdefault(server, {})
            for name, one in found.items():
                if name in others or (server, name) in pins or len(others) < MAX_TOOLS:
                    others[name] = one
            return
        if server not in self._first:
            is_known = any(pin.server == server for pin in pins.values())
            self._first[server] = frozenset() if is_known else frozenset(found)
        self.found[server] = found
        self._of_clients.pop(server, None)  # it has just said what it offers now
        self.about[server] = (listing.capabilities, listing.instructions)

    def listed(self, pins: Pins) -> dict[str, dict[str, Found]]:
        """What the servers list, each in all its sessions. Where they differ, what differs from the pin counts."""
        whole = {server: dict(found) for server, found in self.found.items()}
        for server, others in self._of_clients.items():
            tools = whole.setdefault(server, {})
            for name, found in others.items():
                pin = pins.get((server, name))
                if name not in tools or (pin is not None and _differs(pin, found)):
                    tools[name] = found
        for (server, name), (accepted, found) in self._owed.items():
            pin = pins.get((server, name))
            if pin is not None and pin.state is PinState.ACCEPTED and pin.index == accepted:
                whole.setdefault(server, {})[name] = found
        return whole

    def forget(self, offer: Offer) -> None:
        """What clients were told of a tool in their own sessions."""
        self._of_clients.get(offer.server, {}).pop(offer.tool, None)

    def owe(self, offers: Iterable[Offer]) -> None:
        """Keep what differs from what was accepted, until it is recorded."""
        self._owed = {
            (offer.server, offer.tool): (pin.index, found)
            for offer in offers
            if (pin := offer.pin) is not None and pin.state is PinState.ACCEPTED
            if (found := offer.found) is not None and _differs(pin, found)
        }

    def due(self, offer: Offer) -> EventMaker | None:
        """What is to be recorded of a tool."""
        found, pin = offer.found, offer.pin
        if found is None:
            return None
        of = OfTool(offer.server, offer.tool, offer.name)
        if pin is None:
            trust = self._servers[offer.server].rules.trust
            is_first = trust == "first_use" and offer.tool in self._first.get(offer.server, ())
            if offer.state is not State.NEW or not is_first:
                return None
            return lambda origin: tool_accepted(
                origin, of, pin=found.sha256, access=offer.access.value, trust="first_use", subject=found.subject
            )
        is_known = found.mark in (pin.sha256, pin.found_sha256, pin.unpinned)
        is_said = is_known or (pin.index, found.mark) in self._said
        said = sum(1 for index, _ in self._said if index == pin.index)
        if offer.state is not State.QUARANTINED or is_said or said >= _MAX_QUARANTINES:
            return None
        told = [line[:_MAX_CHANGE_CHARS] for line in changes_of(offer)[:_MAX_CHANGES]]
        shown = found.subject or b"null"
        return lambda origin: tool_quarantined(
            origin, of, pin=pin.sha256, found=found.mark, accepted=pin.index, subject=shown, changes=told
        )

    def recorded(self, event: Event) -> None:
        """By this member, or by another one before."""
        if event.kind is Kind.TOOL_QUARANTINED:
            self._said.add((event.fields["accepted"], event.fields["found"]))


def _differs(pin: Pin, found: Found) -> bool:
    return found.sha256 != pin.sha256 or found.flaw is not None


def changes_of(offer: Offer) -> list[str]:
    """How what was found differs from what was accepted, for somebody to read."""
    pin, found = offer.pin, offer.found
    if pin is None or pin.subject is None:
        return []
    if found is not None and not found.subject:
        return [found.flaw or ""]
    now = strict_json.parse(found.subject) if found is not None else pin.found
    return changes(pin.subject, now) if now is not None else []


def reviewed(offer: Offer) -> dict[str, bytes]:
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
