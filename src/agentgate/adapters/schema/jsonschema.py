"""JSON Schema on jsonschema-rs: compiled once, 0.1 µs a call, and nothing foreign gets to run.

Schemas are configuration, but arguments are hostile: patterns run on the linear-time engine, no `$ref` is
ever fetched, and a refusal never repeats what the caller sent (it may be a secret, and refusals are written
down). Names are told only if the schema itself declares them. `format` is asserted, not just noted: who
writes `format: ipv4` into a declaration wants it enforced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, NoReturn

import jsonschema_rs

from agentgate.adapters.schema import _lookahead
from agentgate.core.call import ArgumentCheck
from agentgate.core.strict_json import NotStrictJson, canonical, check

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS: Final = {
    _DIALECT: jsonschema_rs.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema_rs.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
}
"""Each is read as what it says it is. Most MCP servers say draft 7."""
_MAX_PATTERN_BYTES: Final = 1 << 20
"""Compiled size of one regular expression; a pattern that needs more is refused at start."""
_MAX_SHOWN_CHARS: Final = 120


class JsonSchemas:
    """Implements `Schemas`."""

    def compile(self, schema: Mapping[str, Any]) -> ArgumentCheck:
        """A check of arguments against `schema`.

        Raises:
            ValueError: with a sentence: not a schema, an older draft, a `$ref` that is not inside it, or a
                pattern that the linear engine cannot run (back-references; look-around but at its beginning).
        """
        document = dict(schema)
        _check_document(document)
        try:
            validator = _validator(document)
        except jsonschema_rs.ValidationError as error:
            try:
                validator = _validator(document, pattern=_lookahead.keyword(_linear))
            except jsonschema_rs.ValidationError:
                raise ValueError(f"not a usable JSON Schema: {_first_line(error.message)}") from None
        declared = frozenset(_declared_names(document))

        def misfit(arguments: Mapping[str, Any]) -> str | None:
            if validator.is_valid(arguments):
                return None
            return _sentence(next(iter(validator.iter_errors(arguments))), declared)

        return misfit


def _check_document(document: dict[str, Any]) -> None:
    try:
        check(document)
    except NotStrictJson as error:
        raise ValueError(f"the schema is not strict JSON: {error}") from None
    if _dialect(document) not in _DRAFTS:
        # Read as one of these, another draft's keywords would be ignored silently: a hole, not a convenience.
        raise ValueError(f"the schema's $schema must be {_DIALECT}, draft 2019-09, draft 7, or left out")


def _validator(document: dict[str, Any], **keywords: type) -> jsonschema_rs.Validator:
    return _DRAFTS[_dialect(document)](
        document,
        validate_formats=True,
        retriever=_fetch_nothing,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=_MAX_PATTERN_BYTES),
        keywords=keywords,
    )


def _linear(pattern: str) -> _lookahead.Finder:
    """Raises ValueError."""
    return _validator({"pattern": pattern}).is_valid


def _dialect(document: Mapping[str, Any]) -> str:
    return str(document.get("$schema", _DIALECT)).rstrip("#")


def _fetch_nothing(uri: str) -> NoReturn:
    raise ValueError("only references inside the schema itself are followed")


def _first_line(text: str) -> str:
    return text.splitlines()[0][:300] if text else "no reason given"


def _declared_names(schema: Any) -> Iterator[str]:
    """Property names that the schema's own text spells out: the only ones a refusal may repeat."""
    pending = [schema]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            properties = item.get("properties")
            if isinstance(properties, dict):
                yield from properties
            required = item.get("required")
            if isinstance(required, list):
                yield from (name for name in required if isinstance(name, str))
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)


def _sentence(error: jsonschema_rs.ValidationError, declared: frozenset[str]) -> str:
    """`arguments.customer.email: must be a string`, from the path, the rule and the schema alone."""
    keyword = error.kind.name
    details = error.kind.as_dict()
    if keyword == "required":
        return f"{_place([*error.instance_path, details['property']], declared)}: is required"
    rule = _RULES.get(keyword)
    text = rule(details) if rule else f"does not satisfy {keyword}"
    return f"{_place(error.instance_path, declared)}: {text}"


def _place(path: list[str | int], declared: frozenset[str]) -> str:
    text = "arguments"
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{step}" if step in declared else ".(an undeclared name)"
    return text


def _shown(value: Any) -> str:
    """A value out of the schema (never out of the arguments), as JSON."""
    text = canonical(value).decode()
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"


def _types(details: dict[str, Any]) -> str:
    article = {"array": "an array", "object": "an object", "integer": "an integer", "null": "null"}
    return "must be " + " or ".join(article.get(kind, f"a {kind}") for kind in details["types"])


_Rule = Callable[[dict[str, Any]], str]

_RULES: Final[dict[str, _Rule]] = {
    "type": _types,
    "additionalProperties": lambda _: "has a property that its schema does not declare",
    "unevaluatedProperties": lambda _: "has a property that its schema does not declare",
    "propertyNames": lambda _: "has a property name that its schema does not allow",
    "enum": lambda d: f"must be one of {_shown(d['options'])}",
    "const": lambda d: f"must be {_shown(d['expected_value'])}",
    "pattern": lambda d: f"must match the pattern {_shown(d['pattern'] if 'pattern' in d else d['message'])}",
    "format": lambda d: f"must be a valid {d['format']}",
    "minLength": lambda d: f"must have at least {d['limit']} characters",
    "maxLength": lambda d: f"must have at most {d['limit']} characters",
    "minimum": lambda d: f"must be at least {d['limit']}",
    "maximum": lambda d: f"must be at most {d['limit']}",
    "exclusiveMinimum": lambda d: f"must be more than {d['limit']}",
    "exclusiveMaximum": lambda d: f"must be less than {d['limit']}",
    "multipleOf": lambda d: f"must be a multiple of {d['multiple_of']}",
    "minItems": lambda d: f"must have at least {d['limit']} items",
    "maxItems": lambda d: f"must have at most {d['limit']} items",
    "uniqueItems": lambda _: "must not have the same item twice",
    "minProperties": lambda d: f"must have at least {d['limit']} properties",
    "maxProperties": lambda d: f"must have at most {d['limit']} properties",
}
