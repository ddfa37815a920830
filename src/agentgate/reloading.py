"""`agentgate serve --reload`, for developers: a fresh process whenever a file changes that the last one came from.

uvicorn's own reloader looks at `*.py` alone unless a further library is installed, so what is looked at is said here.
The base of it starts the processes, one after another on the same sockets, and ends them.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn
from uvicorn.supervisors.basereload import BaseReload

from agentgate import worker
from agentgate.core.errors import AgentGateError
from agentgate.kinds import policy_path
from agentgate.settings import Settings
from agentgate.supervising import set_up_logging

logger = logging.getLogger("agentgate")

_CODE: Final = ("*.py", "*.lua")
_POLICY: Final = ("*.rego", "*.json", "*.wasm")


def serve(
    settings: Settings,
    listeners: list[socket.socket],
    *,
    again: Callable[[], Settings],
    config: Path | None,
    on_ready: Callable[[Settings, Sequence[socket.socket]], None],
) -> None:
    """Serve until told to stop, always on the same sockets. Each process gets its settings from `again`, which reads
    `config`, and calls `on_ready` with them: both are pickled."""
    files = partial(_files, policy_path(settings), config)
    target = partial(_serve_once, again, on_ready)
    _Reloader(uvicorn.Config("agentgate.app:create_app", log_config=None), target, listeners, files=files).run()


def _files(policy: Path, config: Path | None) -> list[Path]:
    of_code = (path for pattern in _CODE for path in Path(__file__).parent.rglob(pattern))
    of_policy = (path for pattern in _POLICY for path in policy.rglob(pattern))
    return [*of_code, *of_policy, *([] if config is None else [config])]


class _Reloader(BaseReload):
    def __init__(self, *given: Any, files: Callable[[], list[Path]]) -> None:
        super().__init__(*given)
        self._files = files
        self._seen = self._times()

    def should_restart(self) -> list[Path] | None:
        """After a moment, what came, went or was written since the last time."""
        self.pause()
        before, self._seen = self._seen, self._times()
        changed = sorted({path for path, _ in before.items() ^ self._seen.items()})
        if changed:
            logger.info("starting anew: changed is %s", ", ".join(map(str, changed)))
        return changed or None

    def _times(self) -> dict[Path, int]:
        found = {}
        for path in self._files():
            try:
                found[path] = path.stat().st_mtime_ns
            except OSError:  # between two writings it may be gone
                continue
        return found


def _serve_once(
    again: Callable[[], Settings],
    on_ready: Callable[[Settings, Sequence[socket.socket]], None],
    sockets: list[socket.socket],
) -> None:
    """What the fresh process does. One that cannot start says why, and the next change may mend it."""
    try:
        settings = again()
    except AgentGateError as error:
        set_up_logging("INFO")
        failure: str | None = str(error)
    else:
        set_up_logging(settings.server.log_level)
        failure = worker.serve(settings, partial(on_ready, settings), sockets).failure
    if failure is not None:
        logger.error("%s; it is started anew when a file changes", failure)
