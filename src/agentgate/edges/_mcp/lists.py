"""What a caller is shown: its tools, and the resources and prompts of all servers, put together.

Everything that comes from a server is asked for through the gate. A server that refuses, fails or is silent is left
out, and so is an item that is not what the protocol says.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from sys import getsizeof
from typing import Any, Final

import orjson
from mcp.shared.uri_template import InvalidUriTemplate, UriTemplate
from mcp.types import Prompt, Resource, ResourceTemplate
from pydantic import BaseModel, ValidationError

from agentgate.core.call import Access, Tool
from agentgate.edges._mcp import results
from agentgate.edges._mcp.calls import Calls, Target
from agentgate.edges._mcp.parts import OPERATIONS, Parts, definition_of, in_their_name, operation_of
from agentgate.edges._mcp.peer import ClientPeer

_MOST_PAGES: Final = 100
_MOST_ITEMS: Final = 10_000
_MOST_TEMPLATES: Final = 500
"""Of one server. An unknown URI is held against each."""
_MOST_PARTS: Final = 200
"""Of one item, in all lists that are judged: arguments, icons. Who judges an item writes up the faults of each."""
_MOST_BYTES: Final = 8 << 20
"""Of one list of one server, as of its tools."""
_MOST_VARIABLES: Final = 12
_MAX_URI_CHARS: Final = 2_048
"""Of a URI or a template whose server is looked for; a longer one is known only where there is one server."""
_MOST_CALLERS: Final = 1000
_MOST_KNOWN: Final = 64 << 20
"""Bytes of URIs and templates of all callers together."""
_ENTRY: Final = 100
"""Bytes of an entry beside its text."""
_ASK_AGAIN_S: Final = 5.0
"""Between two readings of all lists for the sake of unknown URIs: who makes them up costs every server no more."""
_CAPABILITY: Final = {"resources": "resources", "prompts": "prompts", "completion": "completions", "logging": "logging"}
"""Of a server, by the first word of the method."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One server's answer to one method."""

    server: str
    prefix: str
    tool: Tool

    def target(self, arguments: Mapping[str, Any]) -> Target:
        return Target(self.tool.name, self.tool, arguments)


def target_of(operation: Operation | None, method: str, arguments: Mapping[str, Any]) -> Target:
    """Of what no server has as well: then it goes by the method alone, and is refused and recorded as unknown."""
    return operation.target(arguments) if operation is not None else Target(OPERATIONS[method], None, arguments)


@dataclass(slots=True)
class Kind:
    """One kind of thing that servers list."""

    method: str
    key: str
    model: type[BaseModel]
    most: int = _MOST_ITEMS


RESOURCES: Final = Kind("resources/list", "resources", Resource)
TEMPLATES: Final = Kind("resources/templates/list", "resourceTemplates", ResourceTemplate, _MOST_TEMPLATES)
PROMPTS: Final = Kind("prompts/list", "prompts", Prompt)


@dataclass(slots=True)
class _Known:
    """Which server a caller's URIs belong to, as the lists said that this caller was shown."""

    uris: dict[str, str] = field(default_factory=dict)
    templates: dict[str, str] = field(default_factory=dict)
    asked_at_s: float = -_ASK_AGAIN_S
    """When the gateway itself last read the lists, to find a URI."""
    size: int = 0
    """Bytes that all this takes."""

    def measure(self) -> None:
        self.size = sum(_ENTRY + getsizeof(uri) for ways in (self.uris, self.templates) for uri in ways)


class Lists:
    """Lists, and the ways that they teach."""

    def __init__(self, parts: Parts, calls: Calls) -> None:
        self._parts = parts
        self._calls = calls
        self._known: OrderedDict[tuple[str, str], _Known] = OrderedDict()

    async def tools(self, peer: ClientPeer) -> list[dict[str, Any]] | None:
        """Definitions of what the caller may ever call; None when policy does not say."""
        visible = await self._parts.policy.visible_to(peer.caller)
        if visible is None:
            return None
        found = map(self._parts.tools.get, visible)
        return [_shown(tool) for tool in found if tool and tool.quarantine is None and operation_of(tool) is None]

    def operations(self, method: str) -> list[Operation]:
        """Of every connected server that declares what `method` needs."""
        declared = self._parts.catalogue.capabilities()
        capability = _CAPABILITY[method.partition("/")[0]]
        return [
            Operation(tool.upstream, tool.name.removesuffix(OPERATIONS[method]), tool)
            for tool in self._parts.tools.values()
            if operation_of(tool) == method and capability in declared.get(tool.upstream, {})
        ]

    async def allowed(self, peer: ClientPeer, method: str) -> list[Operation]:
        """Those that the caller may call at once: asking for the others would only fill the log with refusals, and the
        desk with approvals that nobody wants."""
        visible = await self._parts.policy.visible_to(peer.caller)
        return [one for one in self.operations(method) if visible is None or visible.get(one.tool.name) == "allow"]

    def by_prefix(self, method: str, name: str) -> tuple[Operation, str] | None:
        """Whose `name` is, and its name there."""
        fitting = [one for one in self.operations(method) if name.startswith(one.prefix)]
        if not fitting:
            return None
        best = max(fitting, key=lambda one: len(one.prefix))
        return best, name.removeprefix(best.prefix)

    async def by_uri(self, peer: ClientPeer, method: str, uri: str) -> Operation | None:
        """Whose `uri` is: as the lists say, then as a template fits, then as there is only one server."""
        servers = {one.server: one for one in self.operations(method)}
        if len(servers) < 2:
            return next(iter(servers.values()), None)
        server = self._owner(peer, uri)
        known, now_s = self._of(peer), self._parts.clock.boot_s()
        if server is None and now_s >= known.asked_at_s + _ASK_AGAIN_S:
            known.asked_at_s = now_s  # another worker may have shown it, or nobody has asked for a list yet
            await asyncio.gather(self.whole(peer, RESOURCES), self.whole(peer, TEMPLATES))
            server = self._owner(peer, uri)
        return servers.get(server) if server is not None else None

    def _owner(self, peer: ClientPeer, uri: str) -> str | None:
        known = self._of(peer)
        if uri in known.uris:
            return known.uris[uri]
        if uri in known.templates:  # completion names the template itself
            return known.templates[uri]
        for template, server in known.templates.items():
            if uri.startswith(template.partition("{")[0]):  # most are not worth a parser
                parsed = _parsed(template)
                if parsed is not None and parsed.match(uri, max_uri_length=_MAX_URI_CHARS) is not None:
                    return server
        return None

    async def whole(self, peer: ClientPeer, kind: Kind) -> dict[str, Any]:
        """One list, whole and without a cursor, of what every server that may be asked has."""
        operations = await self.allowed(peer, kind.method)
        pages = await asyncio.gather(*(self._all_of(peer, one, kind) for one in operations))
        items: list[dict[str, Any]] = []
        ttl_ms: int | None = None
        for operation, (found, ttl) in zip(operations, pages, strict=True):
            items += found
            ttl_ms = ttl if ttl_ms is None else min(ttl_ms, ttl)
            self._learn(peer, operation.server, kind, found)
        return {"resultType": "complete", kind.key: items, "ttlMs": ttl_ms or 0, "cacheScope": "private"}

    async def _all_of(self, peer: ClientPeer, operation: Operation, kind: Kind) -> tuple[list[dict[str, Any]], int]:
        """Every page of one server's list, and for how long it says that is good."""
        items: list[dict[str, Any]] = []
        ttl_ms, cursor, size, looked_at = None, None, 0, 0
        for _ in range(_MOST_PAGES):
            answer = await self._calls.once(peer, operation.target({"cursor": cursor} if cursor else {}))
            raw = answer.result_json if answer.success and answer.result_json is not None else b"null"
            said = orjson.loads(raw)
            value = in_their_name(said, raw) if isinstance(said, dict) else {}
            page = value.get(kind.key)
            if not isinstance(page, list):
                return [], 0
            size += len(raw)
            if size > _MOST_BYTES:
                break
            page = page[: kind.most - looked_at]
            looked_at += len(page)
            items += [_named(item, operation.prefix, kind) for item in page if _fits(item, kind)]
            given = value.get("ttlMs")
            ttl = given if type(given) is int and given >= 0 else 0
            ttl_ms = ttl if ttl_ms is None else min(ttl_ms, ttl)
            cursor = value.get("nextCursor")
            if not isinstance(cursor, str) or not cursor or looked_at >= kind.most:
                break
        return items, ttl_ms or 0

    def _learn(self, peer: ClientPeer, server: str, kind: Kind, items: list[dict[str, Any]]) -> None:
        if kind is PROMPTS:
            return
        known = self._of(peer)
        ways, key = (known.uris, "uri") if kind is RESOURCES else (known.templates, "uriTemplate")
        for uri in [uri for uri, owner in ways.items() if owner == server]:
            del ways[uri]
        for item in items:
            if len(item[key]) <= _MAX_URI_CHARS:
                ways.setdefault(item[key], server)
        known.measure()
        while len(self._known) > 1 and sum(one.size for one in self._known.values()) > _MOST_KNOWN:
            self._known.popitem(last=False)

    def _of(self, peer: ClientPeer) -> _Known:
        key = (peer.caller.tenant, peer.caller.id)
        known = self._known.setdefault(key, _Known())
        self._known.move_to_end(key)
        if len(self._known) > _MOST_CALLERS:
            self._known.popitem(last=False)
        return known


@lru_cache(maxsize=4096)
def _parsed(template: str) -> UriTemplate | None:
    try:
        return UriTemplate.parse(template, max_variables=_MOST_VARIABLES)
    except InvalidUriTemplate:
        return None


def _shown(tool: Tool) -> dict[str, Any]:
    """A tool's definition as clients see it: the accepted one under its name here, or one made of its declaration."""
    definition = definition_of(tool)
    if definition is not None:
        return in_their_name({**definition, "name": tool.name}, None)
    shown: dict[str, Any] = {"name": tool.name, "inputSchema": {"type": "object", **tool.input_schema}}
    if tool.description:
        shown["description"] = tool.description
    if tool.access is Access.READ:
        shown["annotations"] = {"readOnlyHint": True}
    return shown


def _fits(item: Any, kind: Kind) -> bool:
    if not isinstance(item, dict):
        return False
    members = (field.alias or name for name, field in kind.model.model_fields.items())
    judged = {name: item[name] for name in members if name in item}  # any other is an extension's, of any form
    if results.is_long(judged, _MOST_PARTS):
        return False
    try:
        kind.model.model_validate(judged, by_name=False)
    except ValidationError:
        return False
    return True


def _named(item: dict[str, Any], prefix: str, kind: Kind) -> dict[str, Any]:
    return {**item, "name": prefix + item["name"]} if kind is PROMPTS else item
