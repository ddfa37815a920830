"""A quick look at a whole document, which spares most of its texts a closer one."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from agentgate.core.redaction import layers, reading, sensitive
from agentgate.core.redaction.sensitive import Detector

_MAX_RUNS: Final = 64


class Seen(NamedTuple):
    """What a look at a whole text found: what it saw nothing of need not be looked for in its parts."""

    detectors: tuple[Detector, ...]
    """Those that saw something, in the text as it is or folded."""
    inner: Seen | None
    """What was seen in what is encoded in it; None if that has to be found out: then as much is looked for
    as was in the text itself."""
    folds: bool = True
    """Whether there may be something in letters that only look like others."""
    named: bool = True
    """Whether there may be secret names, or numbers that are cards."""
    closely: bool = False
    """Whether it was a small text, so that its parts need no look of their own."""
    runs: tuple[str, ...] | None = None
    """The base64 and hex that may hold something, where it is not too many to be looked for one by one."""
    plain: Mapping[str, str] = MappingProxyType({})
    """The texts of the document that are not in ASCII, where they are known, each with what it is folded."""

    def may_open(self, text: str) -> bool:
        """Whether there may be something in what is encoded in a part of what was looked at."""
        if self is NOTHING or self.inner is NOTHING:
            return False
        if self.runs is None or "%" in text or "\\" in text:
            return True
        for run in self.runs:  # noqa: SIM110 - `any` over a generator costs three times as much
            if run in text:
                return True
        return False

    @property
    def beneath(self) -> Seen:
        """What may be in what is encoded in it."""
        return self.inner or self

    def look(
        self,
        texts: list[str],
        depth: int = layers.MAX_LAYERS,
        *,
        text: str | None = None,
        is_whole: bool = False,
        closely: bool = False,
    ) -> Seen:
        """A quick look at a whole document, or at a part of one that was looked at; `NOTHING` only if a redaction would
        find nothing in any part of it. Most calls stop here (a property test holds it). `text` is all texts in one, if
        no control characters are in them.
        Of each run in a whole document it is asked whether it holds something: that spares the others a second look."""
        if text is None:
            text = "\n".join(texts)
            is_plain = sensitive.is_plain(text)
        else:
            is_plain = text.isascii()
        both, known = text, self.plain
        if self.folds and not is_plain:
            foreign = [one for one in texts if not sensitive.is_plain(one)]
            plain = reading.folded(foreign, known)
            if plain != foreign:
                both = "\n".join([text, *plain])
            if is_whole:
                known = dict(zip(foreign, plain, strict=True))
        detectors = tuple([one for one in self.detectors if not one.is_local or any(one.find(both))])
        named = self.named and (sensitive.holds_secret_name(both) or sensitive.holds_card_number(text))
        folds = both is not text and (detectors != () or named)
        inner, runs = NOTHING, None
        if depth and self.may_open(text):
            inner, runs = self._look_inside(texts, text, depth - 1, is_whole=is_whole)
        if detectors or inner is not NOTHING:
            return Seen(detectors, inner, folds, named, closely, runs, known)
        return BY_NAME._replace(folds=folds) if named else NOTHING

    def _look_inside(
        self, texts: list[str], text: str, depth: int, *, is_whole: bool
    ) -> tuple[Seen, tuple[str, ...] | None]:
        """What may be in what is encoded in a text, and the runs that may hold it, where `Seen.runs` can name them."""
        found = layers.runs(text)
        opened = [inside for run in found for inside in run.texts] + reading.rewritten(texts, text)
        inner = self.beneath._at(opened, depth) if opened else NOTHING
        if inner is NOTHING or any("\n" in text[run.start : run.end] for run in found):
            return inner, None  # of lines, one's end may be another's
        if is_whole and len(found) > 1:
            found = [run for run in found if inner._at(run.texts, depth) is not NOTHING]
        return inner, tuple([text[run.start : run.end] for run in found]) if len(found) <= _MAX_RUNS else None

    def _at(self, opened: list[str], depth: int) -> Seen:
        return self.look(opened + reading.escaped(opened, depth), depth)


NOTHING: Final = Seen((), None, folds=False, named=False)
BY_NAME: Final = Seen((), NOTHING, folds=False, closely=True)
"""Nothing but secret names and numbers that are cards, which are seen in passing. Where it was seen folded, so is
what is looked at next."""
