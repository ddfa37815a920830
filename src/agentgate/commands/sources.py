"""Where the events of `agentgate audit` come from: a running gateway, or the log itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import typer

from agentgate.commands.gateway import the_gateway
from agentgate.commands.remote import Remote
from agentgate.commands.tables.events import Event
from agentgate.commands.terminal import Status, die, or_die, settings_of
from agentgate.core.query import Query
from agentgate.settings import Settings

LogDir = Annotated[Path | None, typer.Option("--data-dir", help="Read the log there instead of asking a gateway")]
LogUrl = Annotated[
    str | None, typer.Option("--database-url", help="Read the log in this database instead of asking a gateway")
]

USUAL: Final = 100
"""So many events a table shows unless it is told otherwise: a first page has them."""
_PAGE: Final = 1_000
_ANSWER_S: Final = 300.0
"""For a whole page of large events, on a slow line."""


class Source(Protocol):
    """A log, asked one question."""

    def events(self, *, newest: bool, first: int = 0) -> Iterator[Event]:
        """What fits, as it is read."""
        ...

    def export(self, form: str, *, limit: int | None, newest: bool) -> Iterator[bytes]: ...

    def after(self, first: int) -> tuple[list[Event], int]:
        """What fits and has this index or a higher one, and where to go on."""
        ...

    def size(self) -> int: ...


class GatewaySource:
    """The log of a running gateway."""

    def __init__(self, remote: Remote, query: Query) -> None:
        self._remote = remote
        self._asked: dict[str, Any] = {}
        for name, value in query.said().items():
            self._asked[{"reason_code": "reason", "kinds": "kind"}.get(name, name)] = value

    def events(self, *, newest: bool, first: int = 0) -> Iterator[Event]:
        for page in self._pages(newest=newest, first=first):
            yield from page["events"]

    def _pages(self, *, newest: bool, first: int) -> Iterator[Any]:
        asked = {**self._asked, "first": first, "order": "desc" if newest else "asc", "limit": USUAL}
        while True:
            page = self._remote.events(asked)
            yield page
            if page["next"] is None:
                return
            asked |= {"cursor": page["next"], "limit": _PAGE}

    def export(self, form: str, *, limit: int | None, newest: bool) -> Iterator[bytes]:
        asked = {**self._asked, "format": form, "order": "desc" if newest else "asc"}
        return self._remote.export(asked if limit is None else {**asked, "limit": limit})

    def after(self, first: int) -> tuple[list[Event], int]:
        pages = list(self._pages(newest=False, first=first))
        return [event for page in pages for event in page["events"]], pages[-1]["size"]

    def size(self) -> int:
        size: int = self._remote.events({"limit": 1, "order": "desc"})["size"]
        return size


class LogSource:
    """A log as it lies, in a file or a database."""

    def __init__(self, settings: Settings, query: Query) -> None:
        from agentgate import offline  # the databases' drivers, for who needs them

        self._offline = offline
        self._settings = settings
        self._query = query

    def events(self, *, newest: bool, first: int = 0) -> Iterator[Event]:
        parts = _sync(self._offline.search_log(self._settings, self._query, "jsonl", first=first, newest=newest))
        for part in parts:
            yield from map(json.loads, part.splitlines())

    def export(self, form: str, *, limit: int | None, newest: bool) -> Iterator[bytes]:
        found = self._offline.search_log(self._settings, self._query, form, limit=limit, newest=newest)
        return _sync(found)

    def after(self, first: int) -> tuple[list[Event], int]:
        size = self.size()
        return [event for event in self.events(newest=False, first=first) if event["index"] < size], size

    def size(self) -> int:
        return asyncio.run(self._offline.log_size(self._settings))


def _sync(parts: AsyncIterator[bytes]) -> Iterator[bytes]:
    """The same, without a loop of the reader's own."""
    with asyncio.Runner() as runner:
        try:
            while part := runner.run(_next(parts)):
                yield part
        finally:
            runner.run(parts.aclose())  # type: ignore[attr-defined]  # a generator, which an iterator need not be


async def _next(parts: AsyncIterator[bytes]) -> bytes:
    return await anext(parts, b"")


@contextmanager
def source_of(
    query: Query, url: str | None, key: str | None, config: Path | None, data_dir: Path | None, database_url: str | None
) -> Iterator[Source]:
    """The log itself where it is said, else the gateway."""
    if data_dir is None and database_url is None:
        with the_gateway(url, key, config, None, needs="auditor", answer_s=_ANSWER_S) as remote:
            yield GatewaySource(remote, query)
        return
    if url is not None or key is not None:
        die("--url and --key are for a gateway; --data-dir and --database-url read the log without one", Status.USAGE)
    with or_die(Status.REFUSED):
        yield LogSource(settings_of(config, {"data_dir": data_dir, "log.url": database_url}), query)
