"""Patterns with look-ahead at their beginning, on the linear-time engine.

`^(?!A)(?=B)C` is what generators write for e-mail addresses, host names and passwords. At the beginning of a text a
look-ahead is nothing but another pattern, so this one holds exactly where `^B` and `^C` are found and `^A` is not. No
step is taken back, so nothing can be made to hang. A backtracking engine with a limit is no way out: each of its steps
may read the whole text, and what a limit cuts short below `not` would count as held.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Finder = Callable[[str], bool]
"""Whether a pattern is found somewhere in a text."""


def keyword(linear: Callable[[str], Finder]) -> type:
    """JSON Schema's `pattern`, for jsonschema-rs. `linear` compiles for the linear engine, and raises ValueError."""

    class Pattern:
        def __init__(self, _schema: dict[str, Any], pattern: str, _path: list[str | int]) -> None:
            self._pattern = pattern
            self._branches = [[(linear(part), is_wanted) for part, is_wanted in _parts(one)] for one in _split(pattern)]

        def validate(self, instance: Any) -> None:
            if isinstance(instance, str) and not any(
                all(found(instance) is is_wanted for found, is_wanted in branch) for branch in self._branches
            ):
                raise ValueError(self._pattern)

    return Pattern


def _parts(branch: str) -> Iterator[tuple[str, bool]]:
    """The patterns that stand for one branch, and whether each is to be found."""
    if not branch.startswith("^"):
        yield branch, True
        return
    rest = branch[1:]
    while rest.startswith(("(?=", "(?!")):
        end = next((at for at, depth, one in _walk(rest) if one == ")" and depth == 0), None)
        if end is None:
            raise ValueError("a group is not closed")
        yield f"^(?:{rest[3:end]})", rest[2] == "="
        rest = rest[end + 1 :]
    yield f"^(?:{rest})", True


def _split(pattern: str) -> list[str]:
    """The branches of an alternation that no group is around."""
    bars = [at for at, depth, one in _walk(pattern) if one == "|" and depth == 0]
    return [pattern[start + 1 : end] for start, end in zip([-1, *bars], [*bars, len(pattern)], strict=True)]


def _walk(pattern: str) -> Iterator[tuple[int, int, str]]:
    """Every character that is not escaped and not in a class, with its place and the groups that are open after it.

    Raises:
        ValueError: a class that not all engines read alike.
    """
    at = depth = 0
    while at < len(pattern):
        one = pattern[at]
        if one == "\\":
            at += 2
            continue
        if one == "[":
            at = _end_of_class(pattern, at)
        depth += (one == "(") - (one == ")")
        yield at, depth, one
        at += 1


def _end_of_class(pattern: str, start: int) -> int:
    at = first = start + 1 + pattern.startswith("^", start + 1)
    while at < len(pattern):
        one = pattern[at]
        if one == "[" or (one == "]" and at == first):
            break
        if one == "]":
            return at
        at += 2 if one == "\\" else 1
    raise ValueError("a class of characters is not closed, empty, or holds another")
