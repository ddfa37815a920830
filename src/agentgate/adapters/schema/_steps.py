"""A limit to what a check costs where schemas refer to themselves or to one another.

One value may be asked the same questions again and again then: each level of references can double them, and each level
of the arguments can. The library gives up nowhere. So every reference is counted on its way, and when too many were
followed, none is followed any further: what is left to do then fails at once, and the call is refused. What the library
compares slowly, number by number, counts as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, Final
from urllib.parse import unquote

KEYWORD: Final = "dev.agentgate/step"
"""What counts, in the schemas that `counted` makes."""
_MAPS: Final = ("properties", "patternProperties", "dependentSchemas", "dependencies", "$defs", "definitions")
"""Their members are schemas under names that somebody chose."""
REFERENCES: Final = ("$ref", "$dynamicRef", "$recursiveRef")
LOOKS_TWICE: Final = ("unevaluatedProperties", "unevaluatedItems")
"""They ask everything beside them once more."""
_DRAFT_7: Final = "http://json-schema.org/draft-07/schema"
_BESIDE_REFERENCES: Final = ("$schema", "$defs", "definitions")
"""Draft 7 ignores everything else that stands beside a reference."""
_UNIONS: Final = ("anyOf", "oneOf")
_BASES: Final = ("$id", "$anchor", "$dynamicAnchor", "$recursiveAnchor")
_COMPARED: Final = ("multipleOf", "enum", "const")
_STEPS_OF_FRACTION: Final = 3
"""To compare two takes 0.8 µs; of two integers, and of two texts, next to nothing."""
_FEW: Final = 8
"""Fewer take no longer than to count them."""
_TINY: Final = 1e-9
_LARGE: Final = 1e18
_STEPS_OF_EXTREME: Final = 10
"""So many times as much: the library writes such numbers out."""


class Steps:
    """How many references may yet be followed, and how much compared."""

    def __init__(self) -> None:
        self.left = 0

    def keyword(self) -> type:
        steps = self

        class Step:
            def __init__(self, _schema: dict[str, Any], weights: list[int], _path: list[str | int]) -> None:
                self._of_others, self._of_quick = weights

            def validate(self, instance: Any) -> None:
                weight = self._of_others if isinstance(instance, float | dict | list) else self._of_quick
                steps.left -= weight * _size(instance)
                if steps.left < 0:
                    raise ValueError(KEYWORD)

        return Step


def _size(instance: Any) -> int:
    if isinstance(instance, dict | list):
        return 1 + len(instance)
    return _STEPS_OF_EXTREME if isinstance(instance, float) and abs(instance) >= _LARGE else 1


def repeats(schema: Mapping[str, Any]) -> bool:
    """Otherwise no value is asked anything twice but what the schema spells out twice."""
    return not _keys(schema).isdisjoint((*REFERENCES, *LOOKS_TWICE))


def needs_counting(schema: Mapping[str, Any]) -> bool:
    return repeats(schema) or any(_weights(one)[0] for one in _objects(schema))


def counted(schema: Any, dialect: str) -> Any:
    """The same schema with a count before each reference, and before what is slow to compare. What else a pointer
    finds in it stays where it was.

    Raises:
        ValueError: with a sentence: a reference that nothing would count, or a schema of another draft inside of it.
    """
    if isinstance(schema, list):
        return [counted(one, dialect) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if isinstance(schema.get("$schema", dialect), str) and schema.get("$schema", dialect).rstrip("#") != dialect:
        raise ValueError("the schema has one of another draft inside of it")
    made = {keyword: _counted_value(keyword, value, dialect) for keyword, value in schema.items()}
    references = {keyword: made.pop(keyword) for keyword in REFERENCES if isinstance(made.get(keyword), str)}
    if references and dialect == _DRAFT_7:
        made = {keyword: made[keyword] for keyword in _BESIDE_REFERENCES if keyword in made}
    weight, of_quick = _weights(made)
    compared = {keyword: made.pop(keyword) for keyword in _COMPARED if weight and keyword in made}
    if references or any(keyword in made for keyword in LOOKS_TWICE):
        weight, of_quick = weight + 1, of_quick + 1
    if weight:
        count = {KEYWORD: [weight, of_quick]}
        made["allOf"] = [*made.get("allOf", []), count, *(one for one in (compared, references) if one)]
    return made


def _weights(schema: Mapping[str, Any]) -> tuple[int, int]:
    """How many steps it takes to compare one value with all that is said here, and how many where the value is an
    integer or a text: those are compared with integers and texts at once."""
    factor = schema.get("multipleOf")
    of_factor = of_values = 0
    if isinstance(factor, float):
        of_factor = _STEPS_OF_FRACTION * (_STEPS_OF_EXTREME if factor < _TINY else 1)
    pending = [value for value in (schema.get("enum"), schema.get("const")) if isinstance(value, list | dict)]
    while pending:
        for value in _within(pending.pop()):
            if isinstance(value, dict | list):
                pending.append(value)
            if value is not None and not isinstance(value, str | bool):
                of_values += _STEPS_OF_FRACTION if isinstance(value, float) else 1
    if of_values < _FEW:
        return of_factor, of_factor
    quick = sum(type(value) is int for value in schema.get("enum") or ())
    return of_factor + of_values, of_factor + of_values - quick


def _within(value: dict[str, Any] | list[Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _counted_value(keyword: str, value: Any, dialect: str) -> Any:
    if keyword in ("const", "enum"):
        if not _keys(value).isdisjoint(REFERENCES):
            raise ValueError(f"the schema has a reference inside of {keyword}")
        return value
    if keyword in _MAPS and isinstance(value, dict):
        if any(isinstance(value.get(name), str) for name in REFERENCES):  # for one that points here as to a schema
            raise ValueError(f"the schema has a reference inside of {keyword}")
        return {name: counted(one, dialect) for name, one in value.items()}
    return counted(value, dialect)


def _keys(value: Any) -> set[str]:
    """Of all objects in it."""
    return set().union(*_objects(value))


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            yield item
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


# --- what it takes to say what is wrong -------------------------------------------------------------------


def has_unions(schema: Mapping[str, Any]) -> bool:
    """Of each branch of them the library collects all that is wrong, in all of the value, and stops at nothing."""
    return not _keys(schema).isdisjoint(_UNIONS)


def has_bases(schema: Mapping[str, Any]) -> bool:
    """Whether a reference in it may start elsewhere than at its top."""
    return not _keys({name: one for name, one in schema.items() if name != "$id"}).isdisjoint(_BASES)


def is_brief(schema: Mapping[str, Any], value: Any, most: int) -> bool:
    """Whether asking everything that `schema` asks of `value` takes at most so many steps. No where that is unknown."""
    pending = [(schema, value)]
    target = cache(partial(_target, schema))  # a long one is asked of each of many values
    try:
        while pending:
            for asked in _asked(target, *pending.pop()):
                most -= 1
                if most < 0:
                    return False
                pending.append(asked)
    except (LookupError, TypeError, AttributeError):  # a reference that is none, or to what is no schema
        return False
    return True


def count_values(value: Any, most: int) -> int:
    """All that is in it, and itself; of more than `most`, so many."""
    count, pending = 0, [value]
    while pending and count < most:
        item = pending.pop()
        count += 1
        if isinstance(item, dict):
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
    return count


def count_containers(value: Any, most: int) -> int:
    """The objects and arrays that it is made of; of more than `most`, so many."""
    count, pending = 0, [value]
    while pending and count < most:
        item = pending.pop()
        count += 1
        inside = item.values() if isinstance(item, dict) else item
        pending.extend(one for one in inside if isinstance(one, dict | list))
    return count


def _asked(target: Callable[[str], Any], schema: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """Which schemas are asked of which values for the sake of this one."""
    for keyword, said in schema.items() if isinstance(schema, dict) else ():
        if keyword in REFERENCES:
            yield target(said), value
        elif keyword in ("allOf", *_UNIONS):
            yield from ((one, value) for one in said)
        elif keyword in ("not", "if", "then", "else"):
            yield said, value
        elif keyword in ("dependentSchemas", "dependencies"):
            yield from ((one, value) for one in said.values())
        elif isinstance(value, dict):
            yield from _asked_of_members(keyword, said, value)
        elif isinstance(value, list):
            yield from _asked_of_items(keyword, said, value)


def _asked_of_members(keyword: str, said: Any, value: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    if keyword == "properties":
        yield from ((said[name], value[name]) for name in said.keys() & value.keys())
    elif keyword == "patternProperties":
        yield from ((schema, one) for schema in said.values() for one in value.values())
    elif keyword in ("additionalProperties", "unevaluatedProperties"):
        yield from ((said, one) for one in value.values())
    elif keyword == "propertyNames":
        yield from ((said, name) for name in value)


def _asked_of_items(keyword: str, said: Any, value: list[Any]) -> Iterator[tuple[Any, Any]]:
    if keyword == "prefixItems" or (keyword == "items" and isinstance(said, list)):
        yield from zip(said, value, strict=False)
    elif keyword in ("items", "contains", "additionalItems", "unevaluatedItems"):
        yield from ((said, one) for one in value)


def _target(document: Any, reference: str) -> Any:
    """Raises LookupError or TypeError."""
    if reference not in ("", "#") and not reference.startswith("#/"):
        raise LookupError(reference)
    found = document
    for found in walked(document, names_in(reference.removeprefix("#"))):  # noqa: B007 - the last is it
        pass
    return found


def names_in(pointer: str) -> list[str]:
    """Of a pointer as the fragment of a reference, the names on its way."""
    return [part.replace("~1", "/").replace("~0", "~") for part in unquote(pointer).split("/")[1:]]


def walked(document: Any, names: Sequence[str]) -> Iterator[Any]:
    """What each of them finds in what the one before found. Raises LookupError or TypeError."""
    found = document
    for name in names:
        found = found[int(name) if isinstance(found, list) and name.isdecimal() else name]
        yield found
