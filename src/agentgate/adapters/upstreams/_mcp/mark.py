"""What tells errors of our own from a server's, where both travel the same way."""

from __future__ import annotations

import re
import secrets
from typing import Final


class Mark:
    """Texts for errors of our own that travel where a server's errors do: no server knows the mark."""

    def __init__(self) -> None:
        self._mark: Final = secrets.token_hex(16)
        self._pattern: Final = re.compile(self._mark + r":(\w+)(?:: ([^;]*))?;")

    def say(self, kind: str) -> str:
        """`kind` is a word, and may go on with `: ` and its cause."""
        return f"{self._mark}:{kind};"

    def heard(self, text: str) -> str | None:
        """The kind that `say` was given, where `text` has it."""
        found = self._pattern.search(text)
        return found[1] if found is not None else None

    def cause(self, text: str) -> str:
        """What `say` was given behind the kind; nothing where it was none."""
        found = self._pattern.search(text)
        return found[2] or "" if found is not None else ""
