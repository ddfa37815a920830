"""The notifier of a gateway that has no webhook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentgate.ports.notices import Notifier


class SilentNotifier:
    """Nobody asked to be told."""

    def notify(self, kind: str, payload: Mapping[str, Any]) -> None: ...

    async def aclose(self) -> None: ...


_: type[Notifier] = SilentNotifier
