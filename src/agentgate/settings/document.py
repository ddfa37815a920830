"""YAML in which no name of a mapping is there twice: of two sections of one name the first would count for nothing."""

from __future__ import annotations

from typing import Any, Final

import yaml

_C_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class NamedTwice(yaml.constructor.ConstructorError):
    """A mapping has a name twice."""


class _Strict:
    """Looks at each mapping as it is written, before what it merges is put into it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)  # type: ignore[call-arg]
        self._seen: set[int] = set()

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        if id(node) not in self._seen:
            self._seen.add(id(node))
            _check(node)
            super().flatten_mapping(node)  # type: ignore[misc]


class _Loader(_Strict, yaml.SafeLoader):
    """The one in Python: nesting without end is a RecursionError, and not the end of the process."""


class _QuickLoader(_Strict, _C_LOADER):  # type: ignore[misc, valid-type]
    """That of libyaml, where it is there: ten thousand keys are read in a second, not in ten."""


def _check(node: yaml.MappingNode) -> None:
    names: set[tuple[str, str]] = set()
    for name, _ in node.value:
        if isinstance(name, yaml.ScalarNode) and (name.tag, name.value) in names:
            raise NamedTwice(problem="a name is there twice", problem_mark=name.start_mark)
        names.add((name.tag, str(name.value)))


def load_yaml(text: str, *, quickly: bool = False) -> Any:
    """`quickly` is for what nobody else writes. Raises yaml.YAMLError, ValueError (a date or a number that is none),
    RecursionError."""
    try:
        return yaml.load(text, _QuickLoader if quickly else _Loader)  # noqa: S506  # made of the safe ones
    # what the loaders make of `!!timestamp x`, `!!bool x`, `!!int ''`, and of `1:1:…:1.0`, which is to the base of 60
    except (AttributeError, LookupError, OverflowError) as error:
        raise ValueError("a value is not what its tag says") from error
