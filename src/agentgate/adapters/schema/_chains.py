"""A limit to how much a schema asks of one and the same value: in a row, and all told.

References, `allOf`, `not` and their like lead to another schema for the same value. The library answers on the native
stack, deeper with each of these and with each level of the value, and a chain that is too long for it would end the
process. And where `unevaluatedProperties` stands, all that may have looked at a property before is written out when the
schema is compiled, over and over where references double. So both are measured before the library is asked.

Which resource a reference is read in is not worked out: one that may mean several schemas is taken to mean all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import unquote

from agentgate.adapters.schema._steps import LOOKS_TWICE, REFERENCES, names_in, repeats, walked

MAX_CHAIN: Final = 100
"""At some 200 bytes of stack for each link and level, and 64 levels, 1.3 MB of the 2 to 8 MB that a process has."""
_MOST_WRITTEN_OUT: Final = 10_000
"""Schemas: some 25 µs and 2 KB each."""
_MEMBERS_A_SCHEMA: Final = 16
"""So many that are named in one cost as much as another."""
_MOST_LINKS: Final = 100_000
"""From schema to schema, and looks for what a reference means."""
_SAME_VALUE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas", "dependencies")
_PARTS: Final = (
    *("properties", "patternProperties", "additionalProperties", "propertyNames", "unevaluatedProperties"),
    *("items", "prefixItems", "additionalItems", "contains", "unevaluatedItems"),
)
"""Lead to schemas for what is in the value."""
_OF_NAMES: Final = ("properties", "patternProperties", "dependentSchemas", "dependencies")
"""Their members are schemas under names that somebody chose."""
_ANCHORS: Final = ("$anchor", "$dynamicAnchor")
_METASCHEMAS: Final = ("http://json-schema.org/", "https://json-schema.org/")
"""The library brings them; nothing in them leads back to the same value."""


def weigh(document: Mapping[str, Any]) -> None:
    """Raises ValueError with a sentence if `document`, a schema by its form, asks too much of one value."""
    if not repeats(document):
        return  # it goes no further down than it is nested itself
    links = _Links(document)
    heights, sizes = _measured(links)
    circular = links.below.keys() - heights.keys()  # the library asks each of these at most once of a value
    if max(heights.values(), default=0) + len(circular) > MAX_CHAIN:
        raise ValueError(
            f"the schema has more than {MAX_CHAIN} of $ref, allOf, not and the like in a row for one value"
        )
    looking = [node for node, schema in links.schemas.items() if not schema.keys().isdisjoint(LOOKS_TWICE)]
    if not circular.isdisjoint(looking) or sum(sizes[node] for node in looking) > _MOST_WRITTEN_OUT:
        raise ValueError("the schema has unevaluatedProperties or unevaluatedItems over too many others")


class _Links:
    """All schemas that may be asked anything, and where each leads to without going into the value."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        """Raises ValueError."""
        self._places = _Places(document)
        self.schemas: dict[int, Mapping[str, Any]] = {}
        self.below: dict[int, list[int]] = {}
        count, pending = 0, [document]
        while pending:
            schema = pending.pop()
            if id(schema) in self.schemas:
                continue
            below: list[Any] = []
            for keyword, said in schema.items():
                if keyword in REFERENCES and isinstance(said, str):
                    below += self._places.targets(said)
                elif keyword in _SAME_VALUE:
                    below += _schemas_in(keyword, said)
                elif keyword in _PARTS:
                    pending += _schemas_in(keyword, said)
            self.schemas[id(schema)] = schema
            self.below[id(schema)] = [id(one) for one in below]
            pending += below
            count += len(below)
            if count + self._places.looks > _MOST_LINKS:
                raise ValueError("the schema refers to too much")


def _schemas_in(keyword: str, said: Any) -> list[Any]:
    if isinstance(said, dict) and keyword not in _OF_NAMES:
        return [said]
    several = said.values() if isinstance(said, dict) else said if isinstance(said, list) else ()
    return [one for one in several if isinstance(one, dict)]


def _measured(links: _Links) -> tuple[dict[int, int], dict[int, int]]:
    """The longest way down from each schema, and all that is below it, once for each way there; of those from which no
    way leads in a circle."""
    above: dict[int, list[int]] = {node: [] for node in links.below}
    for node, below in links.below.items():
        for one in below:
            above[one].append(node)
    open_ways = {node: len(below) for node, below in links.below.items()}
    ready = [node for node, count in open_ways.items() if count == 0]
    heights: dict[int, int] = {}
    sizes: dict[int, int] = {}
    while ready:
        node = ready.pop()
        below = links.below[node]
        heights[node] = 1 + max((heights[one] for one in below), default=-1)
        own = 1 + _count_members(links.schemas[node]) // _MEMBERS_A_SCHEMA
        size = own + sum(sizes[one] for one in below)
        sizes[node] = min(size, _MOST_WRITTEN_OUT + 1)
        for one in above[node]:
            open_ways[one] -= 1
            if open_ways[one] == 0:
                ready.append(one)
    return heights, sizes


def _count_members(schema: Mapping[str, Any]) -> int:
    said = (schema.get("properties"), schema.get("patternProperties"))
    return sum(len(members) for members in said if isinstance(members, dict))


class _Places:
    """What references may mean."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._resources: dict[str, list[Any]] = {"": [document]}
        self._anchors: dict[str, list[Any]] = {}
        self._known: dict[str, list[Any]] = {}
        self.looks = 0
        pending: list[Any] = [document]
        while pending:
            item = pending.pop()
            if isinstance(item, dict):
                self._index(item)
                pending.extend(item.values())
            elif isinstance(item, list):
                pending.extend(item)

    def _index(self, item: Mapping[str, Any]) -> None:
        if isinstance(item.get("$id"), str):
            address, _, fragment = item["$id"].partition("#")
            self._resources.setdefault(_last_part(address), []).append(item)
            self._anchors.setdefault(unquote(fragment), []).append(item)  # draft 7's
        for keyword in _ANCHORS:
            if isinstance(item.get(keyword), str):
                self._anchors.setdefault(item[keyword], []).append(item)

    def targets(self, reference: str) -> list[Any]:
        """Raises ValueError."""
        if reference not in self._known:
            found = self._found(reference)
            self._known[reference] = list({id(one): one for one in found if isinstance(one, dict)}.values())
        return self._known[reference]

    def _found(self, reference: str) -> list[Any]:
        is_here = reference.startswith("#")
        address, _, fragment = ("", "", reference[1:]) if is_here else reference.partition("#")
        if not address or "?" in address:
            resources = [one for several in self._resources.values() for one in several]
        else:
            resources = self._resources.get(_last_part(address), [])
        self.looks += len(resources)
        if fragment.startswith("/"):
            names = names_in(fragment)
            found = [one for resource in resources for one in self._at(resource, names)]
        else:
            found = self._anchors.get(unquote(fragment), []) if fragment else resources
        if not found and not address.startswith(_METASCHEMAS):
            raise ValueError(f"not a usable JSON Schema: nothing inside of it is {reference[:200]!r}")
        return found

    def _at(self, resource: Any, names: Sequence[str]) -> Iterator[Any]:
        with contextlib.suppress(LookupError, TypeError):
            for found in walked(resource, names):  # noqa: B007 - the last is it
                self.looks += 1
            yield found


def _last_part(address: str) -> str:
    """What all ways to write one address have in common, relative or not, percent-encoded or not."""
    last = unquote(address.rpartition("/")[2])
    return "" if last in (".", "..") else last
