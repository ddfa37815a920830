"""YAML in which no name of a mapping is there twice: of two sections of one name the first would count for nothing."""

from __future__ import annotations

from typing import Any

import yaml


class NamedTwice(yaml.constructor.ConstructorError):
    """A mapping has a name twice."""


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe one, and of libyaml where that is there: ten thousand keys are read in a second, not in ten."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: set[tuple[str, str]] = set()
        for name, _ in node.value:
            if isinstance(name, yaml.ScalarNode) and (name.tag, name.value) in names:
                raise NamedTwice(problem="a name is there twice", problem_mark=name.start_mark)
            names.add((name.tag, str(name.value)))
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def load_yaml(text: str) -> Any:
    """Raises yaml.YAMLError, ValueError (a date or a number that is none), RecursionError."""
    return yaml.load(text, _Loader)  # noqa: S506  # made of the safe one
