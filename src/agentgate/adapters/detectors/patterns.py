"""An operator's own patterns, in RE2's syntax: linear in the text whatever they say."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

import re2  # type: ignore[import-untyped]

from agentgate.adapters.detectors._named import Regexp
from agentgate.adapters.detectors.known import KINDS, compiled, one_look
from agentgate.core.redaction.sensitive import Span

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
_MAX_PATTERNS: Final = 64
_BOUND: Final = re.compile(r"(?<!\[)\^|\$|\\[AzZ]")
"""What binds a pattern to the ends of a text or line, so that it has to be tried on each text by itself."""


class OwnPatterns:
    """What the operator calls secret or personal, by the operator's names for it."""

    shortest = 1

    def __init__(self, patterns: Mapping[str, str]) -> None:
        """Raises ValueError: naming the pattern and what is wrong with it, or with all of them together."""
        if len(patterns) > _MAX_PATTERNS:
            raise ValueError(f"there are {len(patterns)}; at most {_MAX_PATTERNS} can be")
        self.kinds = tuple(patterns)
        self.is_local = not any(_BOUND.search(pattern) for pattern in patterns.values())
        self._patterns = [(name, _compiled(name, pattern)) for name, pattern in patterns.items()]
        try:
            self._any = one_look(list(patterns.values()))
        except re2.error:
            raise ValueError("together they are too large; write fewer or shorter ones") from None

    def find(self, text: str) -> Iterator[Span]:
        raw = text.encode()
        for number in self._any(raw):
            name, pattern = self._patterns[number]
            for match in pattern.finditer(raw if len(raw) == len(text) else text):  # far quicker on bytes
                if match.end() > match.start():
                    yield Span(match.start(), match.end(), name)


def _compiled(name: str, pattern: str) -> Regexp:
    if _NAME.fullmatch(name) is None or name in KINDS:
        taken = ", ".join(KINDS)
        raise ValueError(f"{name!r} is no name for a pattern: lower-case letters, digits and _, and none of {taken}")
    try:
        found = compiled(pattern)
    except re2.error as error:
        reason = error.args[0].decode() if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{name} is no pattern that can be matched in linear time: {reason}") from None
    if found.search("") is not None:
        raise ValueError(f"{name} matches the empty text, and so everywhere")
    return found
