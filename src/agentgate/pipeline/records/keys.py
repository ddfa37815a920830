"""Which keys a running gateway has taken over, for the log: who was given access, and when."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace

from agentgate.core.call import KnownKey
from agentgate.core.events.keeping import keys_changed
from agentgate.core.strict_json import canonical_plain
from agentgate.pipeline.records.record import Recorder

Keys = Mapping[str, KnownKey]
"""By their ids."""


class KeyBook:
    """Tells each change of the keys once. What was taken over counts at once; the log is told when it can be.

    All processes that read one file see its changes, perhaps not the same steps: each tells those that it took over,
    and of those that took over the same step one does.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._told: Keys | None = None
        self._now: Keys = {}
        self._version = ""

    def take(self, keys: Iterable[KnownKey], version: str) -> None:
        """These count from now on. The first ones are where it starts, and no change.

        `version` is that of the file they are in, the same for everybody who read that.
        """
        self._now = {key.principal.key_id: key for key in keys if key.principal.key_id is not None}
        self._version = version
        if self._told is None:
            self._told = self._now

    async def tell(self) -> None:
        """Raises LogUnavailable: what has changed since the last time that was told is told the next time."""
        now, told = self._now, self._told
        if told is None or now is told:
            return
        ids = difference(told, now)
        if any(ids.values()):
            change = hashlib.sha256(canonical_plain({"version": self._version, **ids})).hexdigest()
            event = keys_changed(self._recorder.origin(), ids, change)
            await self._recorder.write(event)  # or another process has
        self._told = now


def difference(before: Keys, after: Keys) -> dict[str, list[str]]:
    """The ids of keys that were added, removed, disabled, enabled, or altered in whose they are, what they may, or how
    long. One that comes disabled was added and disabled."""
    both = sorted(before.keys() & after.keys())
    return {
        "added": sorted(after.keys() - before.keys()),
        "removed": sorted(before.keys() - after.keys()),
        "disabled": sorted(one for one in after if after[one].disabled and not _was_disabled(before.get(one))),
        "enabled": [one for one in both if before[one].disabled and not after[one].disabled],
        "altered": [one for one in both if _is_altered(before[one], after[one])],
    }


def _is_altered(before: KnownKey, after: KnownKey) -> bool:
    return before != after and replace(before, disabled=after.disabled) != after


def _was_disabled(key: KnownKey | None) -> bool:
    return key is not None and key.disabled
