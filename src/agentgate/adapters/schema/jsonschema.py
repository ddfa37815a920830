"""JSON Schema on jsonschema-rs: compiled once, 0.1 µs a call, and nothing foreign gets to run.

Schemas are configuration, but arguments are hostile: patterns run on the linear-time engine, references are followed
only so often (`_steps`) and so far (`_chains`), no `$ref` is ever fetched, and a refusal never repeats what the caller
sent (it may be a secret, and refusals are written down). Names are told only if the schema itself declares them.
`format` is asserted, not just noted: who writes `format: ipv4` into a declaration wants it enforced.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final, NoReturn

import jsonschema_rs

from agentgate.adapters.schema import _chains, _lookahead, _steps
from agentgate.adapters.schema._patterns import MAX_PATTERN_BYTES, Patterns
from agentgate.core.call import ArgumentCheck
from agentgate.core.strict_json import NotStrictJson, canonical, check

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DRAFTS: Final = {
    _DIALECT: jsonschema_rs.Draft202012Validator,
    "https://json-schema.org/draft/2019-09/schema": jsonschema_rs.Draft201909Validator,
    "http://json-schema.org/draft-07/schema": jsonschema_rs.Draft7Validator,
}
"""Each is read as what it says it is. Most MCP servers say draft 7."""
_MOST_STEPS: Final = 1_000_000
_FREE_STEPS: Final = 50_000
_STEPS_PER_VALUE: Final = 32
"""A union of thirty kinds of things asks that of each value in a thing. Some 0.3 µs a step."""
_MOST_COUNTED: Final = (_MOST_STEPS - _FREE_STEPS) // _STEPS_PER_VALUE
_MOST_TOLD_STEPS: Final = 4_000
"""What it may take to say what is wrong, once it is known that something is: some 15 µs a step."""
_MOST_TOLD_CONTAINERS: Final = 4_000
"""Of arguments with more objects and arrays, which an error may repeat all, it is said which of them does not fit."""
_UNTOLD: Final = "and it would take too long to say where"
_OF_MEMBERS: Final = ("$schema", "$id", "$defs", "definitions", "properties")
"""What is kept of a schema to ask single arguments."""
_MAX_SHOWN_CHARS: Final = 120


class JsonSchemas:
    """Implements `Schemas`."""

    def compile(self, schema: Mapping[str, Any]) -> ArgumentCheck:
        """A check of arguments against `schema`.

        Raises:
            ValueError: with a sentence: not a schema, an older draft, a `$ref` that is not inside it, more than one
                value can be asked (`_chains`), or a pattern that the linear engine cannot run (back-references;
                look-around but at its beginning).
        """
        document = dict(schema)
        with _panics_refused():
            _check_document(document)
            _chains.weigh(document)
            patterns = Patterns(_linear)
            patterns.weigh(document)
            return _Check(document, patterns).misfit

    def examine(self, schema: Mapping[str, Any]) -> None:
        """As the port says: to compile patterns may take seconds, and to follow references some of one."""
        with _panics_refused():
            _check_document(dict(schema))


class _Check:
    """One compiled schema."""

    def __init__(self, document: dict[str, Any], patterns: Patterns) -> None:
        """Raises ValueError."""
        self._document = document
        self._patterns = patterns
        self._steps = _steps.Steps() if _steps.needs_counting(document) else None
        self._is_long = _steps.has_unions(document)
        self._is_unclear = _steps.has_bases(document)
        self._declared = frozenset(_declared_names(document))
        self._validator = self._compile(document)

    def _compile(self, document: dict[str, Any]) -> jsonschema_rs.Validator:
        keywords: dict[str, type] = {}
        if self._steps is not None:
            document = _steps.counted(document, _dialect(document))
            keywords[_steps.KEYWORD] = self._steps.keyword()
        try:
            return _validator(document, keywords=keywords)
        except jsonschema_rs.ValidationError as error:
            try:
                keywords["pattern"] = _lookahead.keyword(self._patterns.linear)
                return _validator(document, keywords=keywords)
            except jsonschema_rs.ValidationError:
                raise _unusable(error) from None

    def misfit(self, arguments: Mapping[str, Any]) -> str | None:
        """`core.call.ArgumentCheck`."""
        try:
            return self._misfit(arguments)
        except BaseException as error:  # of all these only a panic is taken
            if not _is_panic(error):
                raise
            return "arguments: cannot be checked against this schema"

    def _misfit(self, arguments: Mapping[str, Any]) -> str | None:
        if self._steps is not None:
            self._steps.left = _allowed(arguments)
        is_valid = self._validator.is_valid(arguments)
        if self._steps is not None and self._steps.left < 0:  # whatever it says
            return "arguments: take too many steps to check against this schema"
        return None if is_valid else self._told(arguments)

    def _told(self, arguments: Mapping[str, Any]) -> str:
        """What is wrong with arguments that do not fit."""
        if self._is_long_to_tell(arguments):
            return f"{_place(self._member(arguments), self._declared)}: does not fit, {_UNTOLD}"
        if self._steps is not None:
            self._steps.left = _allowed(arguments)  # once more: this remembers nothing of what it has asked
        try:
            self._validator.validate(arguments)
        except jsonschema_rs.ValidationError as error:
            if error.kind.name != _steps.KEYWORD:
                return _sentence(error, self._declared)
        return f"arguments: do not fit, {_UNTOLD}"

    def _is_long_to_tell(self, arguments: Mapping[str, Any]) -> bool:
        if _steps.count_containers(arguments, _MOST_TOLD_CONTAINERS) == _MOST_TOLD_CONTAINERS:
            return True
        return self._is_long and (self._is_unclear or not _steps.is_brief(self._document, arguments, _MOST_TOLD_STEPS))

    def _member(self, arguments: Mapping[str, Any]) -> list[str | int]:
        """The path to an argument that does not fit by itself, or to all of them."""
        validator = self._of_members
        if validator is None:
            return []
        if self._steps is not None:
            self._steps.left = _allowed(arguments)
        found = next((name for name, value in arguments.items() if not validator.is_valid({name: value})), None)
        if found is None or (self._steps is not None and self._steps.left < 0):
            return []
        return [found]

    @cached_property
    def _of_members(self) -> jsonschema_rs.Validator | None:
        """What asks single arguments: made for the first who needs it, for it may take long."""
        try:
            return self._compile({name: value for name, value in self._document.items() if name in _OF_MEMBERS})
        except ValueError:  # a reference to what is left out
            return None


def _is_panic(error: BaseException) -> bool:
    """What is thrown where Rust panics is no `Exception`: unseen, it would end the process."""
    return type(error).__name__ == "PanicException"


@contextlib.contextmanager
def _panics_refused() -> Iterator[None]:
    """Raises ValueError."""
    try:
        yield
    except BaseException as error:  # of all these only a panic is taken
        if not _is_panic(error):
            raise
        raise ValueError("not a usable JSON Schema: it cannot be compiled") from None


def _allowed(arguments: Mapping[str, Any]) -> int:
    return _FREE_STEPS + _STEPS_PER_VALUE * _steps.count_values(arguments, _MOST_COUNTED)


def _unusable(error: jsonschema_rs.ValidationError) -> ValueError:
    return ValueError(f"not a usable JSON Schema: {_first_line(error.message)}")


def _check_document(document: dict[str, Any]) -> None:
    try:
        check(document)
    except NotStrictJson as error:
        raise ValueError(f"the schema is not strict JSON: {error}") from None
    if _dialect(document) not in _DRAFTS:
        # Read as one of these, another draft's keywords would be ignored silently: a hole, not a convenience.
        raise ValueError(f"the schema's $schema must be {_DIALECT}, draft 2019-09, draft 7, or left out")
    try:
        jsonschema_rs.meta.validate(document)
    except jsonschema_rs.ValidationError as error:
        raise _unusable(error) from None


def _validator(
    document: dict[str, Any], *, max_pattern_bytes: int = MAX_PATTERN_BYTES, keywords: Mapping[str, type] | None = None
) -> jsonschema_rs.Validator:
    return _DRAFTS[_dialect(document)](
        document,
        validate_formats=True,
        retriever=_fetch_nothing,
        pattern_options=jsonschema_rs.RegexOptions(size_limit=max_pattern_bytes),
        keywords=dict(keywords or {}),
    )


def _linear(pattern: str, max_bytes: int) -> _lookahead.Finder:
    """Raises ValueError."""
    return _validator({"pattern": pattern}, max_pattern_bytes=max_bytes).is_valid


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
    if keyword == "required":
        return f"{_place([*error.instance_path, error.kind.as_dict()['property']], declared)}: is required"
    rule = _RULES.get(keyword)
    text = rule(error.kind.as_dict()) if rule else f"does not satisfy {keyword}"
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
