"""Takes secrets and personal data out of what is written down.

Redaction happens before an event exists, so nothing has to be found and removed later. It looks through three layers
of JSON in strings, base64, hex, URL encoding and escapes. `docs/redaction.md` says what it finds and what it misses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from agentgate.core.redaction import layers, reading, sensitive
from agentgate.core.redaction.look import NOTHING, Seen
from agentgate.core.redaction.marks import Marks, Mode, Place, merged, outside
from agentgate.core.redaction.sensitive import CARD, SECRET, Detector, Span
from agentgate.core.strict_json import canonical, parse

FAILED_TEXT: Final = "[redaction failed]"
FAILED: Final = b'{"redaction":"failed"}'
"""What is recorded instead of what could not be redacted: nothing of it."""

_REMEMBERED: Final = 1024
_MAX_REMEMBERED_CHARS: Final = 256
_LOOK_CHARS: Final = 4096
"""Parts of a document up to this size are looked at as one before each of their texts is."""


class Redactor:
    """Redacts as configured. Never raises: what cannot be redacted is not kept at all."""

    def __init__(self, marks: Marks | None = None, detectors: Sequence[Detector] = (), *, own: bool = True) -> None:
        """`own`: whether secret names, and numbers that are cards, count as well."""
        self.marks = marks or Marks(Mode.REDACT)
        self.detectors = tuple(detectors)
        self.own = own
        self.shortest = min((detector.shortest for detector in self.detectors), default=0)
        self.everything = Seen(self.detectors, None, named=own)
        """What has to be looked for in a text that nobody looked at yet."""
        self._clean: set[str] = set()
        """Texts that were found to hold nothing; never one that did."""
        self._names: dict[str, bool] = {}
        """Member names that hold nothing, and whether what they name is secret."""

    def json(self, raw: bytes) -> bytes:
        """Canonical JSON redacted; the very same bytes when there is nothing to redact. `FAILED` when a detector
        failed."""
        if len(raw) < 7:  # `{}` and the like: too short to hold one
            return raw
        try:
            if b"\\" not in raw and b"\x7f" not in raw:  # then there are no control characters
                text = raw.decode()
                in_one = "%" not in text and (text.isascii() or len(text) <= _LOOK_CHARS)
                seen = self.everything.look([text] if in_one else reading.strings(text), text=text, is_whole=True)
                if seen is NOTHING:
                    return raw
                value = parse(raw)
            else:  # what is escaped in it has to be seen as it is
                value = parse(raw)
                seen = self.everything.look(reading.of_value(value, layers.MAX_LAYERS) or [], is_whole=True)
                if seen is NOTHING:
                    return raw
            clean = _Pass(self).value(value, layers.MAX_LAYERS, seen)
            return raw if clean == value else canonical(clean)
        except Exception:  # noqa: BLE001 - whatever a detector raises, nothing that it did not read is kept
            return FAILED

    def classes(self, raw: bytes) -> frozenset[str] | None:
        """The classes of data that are found in canonical JSON; None when a detector failed."""
        try:
            value = parse(raw)
            if self.everything.look(reading.of_value(value, layers.MAX_LAYERS) or [], is_whole=True) is NOTHING:
                return frozenset()
            one = _Pass(self)
            one.value(value, layers.MAX_LAYERS, self.everything)
            return one.classes
        except Exception:  # noqa: BLE001 - whatever a detector raises, what it did not read may hold anything
            return None

    def text(self, text: str) -> str:
        """`text` redacted, or `FAILED_TEXT`. Clean short ones are remembered: policy gives the same few reasons."""
        if text in self._clean:
            return text
        try:
            redacted = _Pass(self).text(text, layers.MAX_LAYERS)
        except Exception:  # noqa: BLE001 - as above
            return FAILED_TEXT
        if redacted == text and len(text) <= _MAX_REMEMBERED_CHARS and len(self._clean) < _REMEMBERED:
            self._clean.add(text)
        return redacted

    def names_secret(self, name: str) -> bool | None:
        """Whether a member of this name is secret; None if the name was not seen before, or holds something."""
        return self._names.get(name)

    def remember(self, name: str, *, is_secret: bool) -> None:
        if len(name) <= _MAX_REMEMBERED_CHARS and len(self._names) < _REMEMBERED:
            self._names[name] = is_secret


_ESCAPED_QUOTE: Final = re.compile(r"\\[\"'`]")
_ROUNDS: Final = 8
"""How often what is glued to a secret is looked at again."""


class _Pass:
    """One redaction, and what was found so far."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._everything = redactor.everything
        self._mark = redactor.marks.mark
        self._own = redactor.own
        self._shortest = redactor.shortest
        self._found: list[tuple[str, str]] = []
        self._written: set[str] = set()

    @property
    def classes(self) -> frozenset[str]:
        """Those of what was replaced."""
        return frozenset(kind for kind, _ in self._found)

    def value(self, value: Any, depth: int, seen: Seen) -> Any:
        """`value` with secret members, and what is secret in its texts, replaced."""
        kind = type(value)
        if kind is str:
            return self.text(value, depth, seen)
        if (kind is dict or kind is list) and not seen.closely:
            texts = reading.of_value(value, depth, _LOOK_CHARS)
            if texts is not None:
                seen = seen.look(texts, depth, closely=True)
                if seen is NOTHING:
                    return value
        if kind is dict:
            return self._members(value, depth, seen)
        if kind is list:
            items: list[Any] = []
            is_next = False
            for item in value:  # no comprehension: nesting costs one frame a level
                is_text = type(item) is str
                is_secret = is_next and is_text and not item.startswith("-")
                items.append(self._secret(item) if is_secret else self.value(item, depth, seen))
                is_next = is_text and self._own and sensitive.is_secret_option(item)
            return items
        if (kind is int or kind is float) and self._own and sensitive.is_card_number(value):
            return self._replace(CARD, str(abs(int(value))))
        return value

    def _members(self, value: dict[str, Any], depth: int, seen: Seen) -> dict[str, Any]:
        members: dict[str, Any] = {}
        named = sensitive.named_values(value) if self._own else ()
        for name, item in value.items():
            is_secret = self._redactor.names_secret(name)
            shown = name
            if is_secret is None:
                shown = self.text(name, depth, seen)
                is_secret = self._own and sensitive.is_secret_name(name)
                if shown == name and depth == layers.MAX_LAYERS:  # deeper down less of it was looked at
                    self._redactor.remember(name, is_secret=is_secret)
            is_secret = is_secret or name in named
            while shown in members:
                shown += "'"  # two names that were secrets: neither member hides the other
            members[shown] = (
                self._secret(item)
                if is_secret and sensitive.may_be_secret(name, item)
                else self.value(item, depth, seen)
            )
        return members

    def _secret(self, item: Any) -> str:
        """What stands for the value of a secret member: of the class that all of it is, if it is of one."""
        if isinstance(item, int):
            item = str(item)
        if not isinstance(item, str):
            return self._replace(SECRET, canonical(item).decode())
        if item in self._written:
            return item
        whole = [span for span in self._spans(item, self._everything) if span.end - span.start == len(item)]
        return self._replace(whole[0].kind if whole else SECRET, item)

    # --- texts ---

    def text(self, text: str, depth: int, seen: Seen | None = None, rounds: int = _ROUNDS) -> str:
        """`text` redacted. `seen` is what a look at all that it is a part of found."""
        if len(text) < self._shortest:
            return text
        seen = seen or self._everything
        if depth and (nested := reading.document(text)) is not None:
            clean = self.value(nested, depth - 1, seen)
            said = text if clean == nested else canonical(clean).decode()
            return self._replace(SECRET, text) if self._is_left(text, seen, said) else said
        opens = depth > 0 and seen.may_open(text)
        if opens:
            if "%" in text:
                text = self._rewritten(text, layers.unquoted, depth - 1, seen)
            if "\\" in text:
                text = self._with_quotes(text, seen)
                text = self._rewritten(text, layers.unescaped, depth - 1, seen)
        places = self._places(text, seen)
        if opens:
            places += self._opened(text, depth - 1, seen.beneath)
        if not places:
            return text
        parts: list[str] = []
        at = 0
        for place in merged(places, text):
            left = self._beside(text[at : place.start], depth, rounds, is_behind=at > 0, is_before=True)
            parts += (left, self._replace(place.kind, place.value))
            at = place.end
        return "".join((*parts, self._beside(text[at:], depth, rounds, is_behind=True, is_before=False)))

    def _beside(self, part: str, depth: int, rounds: int, *, is_behind: bool, is_before: bool) -> str:
        """What is left beside a secret. Where it was glued to one it may be one, too: nothing could tell where it
        begins or ends before. Of a longer chain than anybody writes the rest goes as a whole."""
        is_glued = part and ((is_behind and part[0].isalnum()) or (is_before and part[-1].isalnum()))
        if not is_glued:
            return part
        return self.text(part, depth, rounds=rounds - 1) if rounds else self._replace(SECRET, part)

    def _with_quotes(self, text: str, seen: Seen) -> str:
        """`text` without what is secret and has an escaped quote in it: decoded, nobody sees where it ends."""
        if not _ESCAPED_QUOTE.search(text):
            return text
        parts: list[str] = []
        at = 0
        for place in merged(self._places(text, seen), text):
            if _ESCAPED_QUOTE.search(place.value):
                parts += (text[at : place.start], self._replace(place.kind, place.value))
                at = place.end
        return "".join((*parts, text[at:]))

    def _rewritten(self, text: str, decode: Callable[[str], str], depth: int, seen: Seen) -> str:
        """`text`, or what it decodes to, redacted, if there was something to be seen in that."""
        plain = decode(text)
        if plain == text:
            return text
        clean = self.text(plain, depth, seen.beneath)
        if clean == plain:
            return text
        found = [text[span.start : span.end] for span in self._spans(text, seen)]
        if any(said in clean or decode(said) in clean for said in found) or self._is_left(text, seen, clean, plain):
            return self._replace(SECRET, text)  # it says one thing as it stands, and another when it is decoded
        return clean

    def _is_left(self, text: str, seen: Seen, clean: str, plain: str = "") -> bool:
        """Whether a known secret, as it stands in `text`, is in `clean`, or was changed on the way to `plain`, where
        nobody could find it any more. Of other detectors' finds there is nothing to tell them by."""
        if self._own:
            return False
        found = {text[span.start : span.end] for span in self._spans(text, seen)}
        return any(said in clean or (plain and plain.count(said) < text.count(said)) for said in found)

    def _spans(self, text: str, seen: Seen) -> list[Span]:
        """Where something can be seen that is no mark: in what was decoded, they stand already."""
        return outside(self._written, text, [span for detector in seen.detectors for span in detector.find(text)])

    def _places(self, text: str, seen: Seen) -> list[Place]:
        """Where something can be seen, also by who takes letters for those that they look like."""
        places = [Place(*span, text[span.start : span.end]) for span in self._spans(text, seen)]
        if not seen.folds or sensitive.is_plain(text):
            return places
        [plain] = reading.folded([text], seen.plain)
        if plain != text and (spans := self._spans(plain, self._everything)):
            original = sensitive.Folded(text).original
            places += [Place(*original(span), plain[span.start : span.end]) for span in spans]
        return places

    def _opened(self, text: str, depth: int, seen: Seen) -> list[Place]:
        """Where something is encoded that holds something."""
        places: list[Place] = []
        for run in layers.runs(text):
            before = len(self._found)
            if any(self.text(inner, depth, seen) != inner for inner in run.texts):
                found = self._found[before:]
                del self._found[before:]
                kind, value = found[0] if len(found) == 1 else (SECRET, text[run.start : run.end])
                places.append(Place(run.start, run.end, kind, value))
        return places

    def _replace(self, kind: str, value: str) -> str:
        self._found.append((kind, value))
        mark = self._mark(kind, value)
        self._written.add(mark)
        return mark
