"""`agentgate audit`: what happened, from a running gateway or from the log itself."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import typer
from rich.markup import escape

from agentgate.commands.gateway import ApiKey, Url, the_gateway
from agentgate.commands.picture import Lines
from agentgate.commands.pushing import Collector, NotTaken
from agentgate.commands.remote import NotAGateway, Refusal, Remote, Unanswered
from agentgate.commands.terminal import Config, Status, die, err, or_die, out, settings_of
from agentgate.commands.typed import check_ids, moment, principal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, Outcome
from agentgate.core.query import Query
from agentgate.settings import Settings

cli = typer.Typer()

USUAL: Final = 100
"""So many events a table shows unless it is told otherwise."""
FOLLOW_EVERY_S: Final = 1.0
FIRST_FOLLOWED: Final = 10
_PAGE: Final = 1_000


class Form(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    OSCAL = "oscal"
    OTLP = "otlp"


class Decision(StrEnum):
    ALLOW = "ALLOW"
    DENY = "DENY"
    REQUIRE_APPROVAL = "REQUIRE_APPROVAL"


@cli.command("audit")
def audit(
    session: Annotated[str | None, typer.Option("--session", help="Its id")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Its name; a person is `person:NAME`")] = None,
    tool: Annotated[str | None, typer.Option("--tool", help="Its name")] = None,
    decision: Annotated[Decision | None, typer.Option("--decision", help="What was decided")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Reason code, such as killed or policy_deny")] = None,
    outcome: Annotated[Outcome | None, typer.Option("--outcome", help="How an allowed call ended")] = None,
    kind: Annotated[
        list[Kind] | None,
        typer.Option("--kind", metavar="KIND", help="decided, finished, killed, policy, …; may be repeated"),
    ] = None,
    trace_id: Annotated[str | None, typer.Option("--trace-id", help="One call's")] = None,
    since: Annotated[str | None, typer.Option("--since", help="A time, or how long ago: 15m, 2h, 7d")] = None,
    until: Annotated[str | None, typer.Option("--until", help="A time, or how long ago; not itself included")] = None,
    text: Annotated[str | None, typer.Option("--text", help="Is in arguments, reasons or errors, in any case")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of all tenants that you see, this one")] = None,
    form: Annotated[Form, typer.Option("--format", help="How to write them")] = Form.TABLE,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many; a table shows 100")] = None,
    everything: Annotated[bool, typer.Option("--all", help="A table of all that fits")] = False,
    newest: Annotated[bool, typer.Option("--newest", help="The newest first")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens; Ctrl-C ends it")] = False,
    otlp_endpoint: Annotated[
        str | None, typer.Option("--otlp-endpoint", help="Send them to this OpenTelemetry collector (OTLP/HTTP)")
    ] = None,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: Annotated[
        Path | None, typer.Option("--data-dir", help="Read the log there instead of asking a gateway")
    ] = None,
    database_url: Annotated[
        str | None, typer.Option("--database-url", help="Read the log in this database instead of asking a gateway")
    ] = None,
) -> None:
    """What happened: every event that fits all that is said. Times are UTC.

    Asks the running gateway, with the key of an auditor; with --data-dir or --database-url it reads the log itself,
    beside a gateway or without one. A table shows the newest 100 events; other formats write all of them, and are
    themselves recorded when a gateway gives them.

    \b
      agentgate audit --session s-1
      agentgate audit --agent research-bot --decision DENY --since 2h
      agentgate audit --text "customers.csv" --all
      agentgate audit --follow --reason killed
      agentgate audit --format csv --since 2026-11-01 --until 2026-12-01 > november.csv
      agentgate audit --format oscal > assessment-results.json
      agentgate audit --otlp-endpoint http://collector:4318

    Exit status: 0, whether anything fits or not; 1 refused or failed; 2 not a question.
    """
    check_ids(session=session, agent=agent, tenant=tenant)
    for name, value in (("tool", tool), ("reason", reason), ("trace-id", trace_id), ("text", text)):
        if value is not None and not (value.isprintable() and 0 < len(value) <= 256):
            die(f"--{name} is something that one can see, at most 256 characters", Status.USAGE)
    if reason is not None and reason not in set(ReasonCode):
        die(f"there is no reason code {reason!r}; docs/reasons.md lists them", Status.USAGE)
    query = Query(
        tenant=tenant,
        session=session,
        agent=principal(agent) if agent is not None else None,
        tool=tool,
        decision=decision,
        reason_code=reason,
        outcome=outcome,
        kinds=tuple(kind) if kind else None,
        trace_id=trace_id,
        since=moment(since),
        until=moment(until),
        text=text,
    )
    if otlp_endpoint is not None:
        form = Form.OTLP
    if follow and (form not in (Form.TABLE, Form.JSONL) or newest or everything):
        die("--follow writes a table or --format jsonl, as it happens", Status.USAGE)
    with _asked(query, url, key, config, data_dir, database_url) as source:
        if follow:
            _follow(source, _writer(form), limit or FIRST_FOLLOWED)
        elif otlp_endpoint is not None:
            _push(source, otlp_endpoint, limit, newest)
        elif form is Form.TABLE:
            _table(source, None if everything else limit or USUAL, newest, is_limited=limit is not None)
        else:
            for part in source.export(form, limit=limit, newest=newest):
                _write(part)


# --- where events come from -------------------------------------------------------------------------------------

Event = dict[str, Any]


class Source(Protocol):
    """A log, asked one question."""

    def events(self, *, newest: bool, first: int = 0) -> Iterator[Event]:
        """What fits, as it is read."""
        ...

    def export(self, form: Form, *, limit: int | None, newest: bool) -> Iterator[bytes]: ...

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

    def export(self, form: Form, *, limit: int | None, newest: bool) -> Iterator[bytes]:
        asked = {**self._asked, "format": form.value, "order": "desc" if newest else "asc"}
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

    def export(self, form: Form, *, limit: int | None, newest: bool) -> Iterator[bytes]:
        found = self._offline.search_log(self._settings, self._query, form.value, limit=limit, newest=newest)
        return _sync(found)

    def after(self, first: int) -> tuple[list[Event], int]:
        size = self.size()
        return [event for event in self.events(newest=False, first=first) if event["index"] < size], size

    def size(self) -> int:
        return asyncio.run(self._offline.log_size(self._settings))


@contextmanager
def _asked(
    query: Query, url: str | None, key: str | None, config: Path | None, data_dir: Path | None, database_url: str | None
) -> Iterator[Source]:
    if data_dir is None and database_url is None:
        with the_gateway(url, key, config, None, needs="auditor") as remote:
            yield GatewaySource(remote, query)
        return
    if url is not None or key is not None:
        die("--url and --key are for a gateway; --data-dir and --database-url read the log without one", Status.USAGE)
    with or_die(Status.REFUSED):
        yield LogSource(settings_of(config, {"data_dir": data_dir, "log.url": database_url}), query)


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


# --- what is done with them -------------------------------------------------------------------------------------


def _table(source: Source, limit: int | None, newest: bool, *, is_limited: bool) -> None:
    """A table that begins before all of it was read. Without --newest it ends with the newest, as a log does."""
    lines = Lines(out)
    if limit is None:
        for event in source.events(newest=newest):
            lines.print(event)
        return
    found = list(islice(source.events(newest=True), limit + 1))
    shown = found[:limit]
    for event in shown if newest else reversed(shown):
        lines.print(event)
    if not found:
        err.print("nothing fits")
    elif len(found) > limit and not is_limited:
        err.print(f"the newest {limit} events; --all shows all that fit")


def _follow(source: Source, write: Callable[[Event], None], shown: int) -> None:
    """The last few, and from then on whatever comes, until Ctrl-C. A gateway that is away for a while is waited for."""
    try:
        first = source.size()
        for event in reversed(list(islice((e for e in source.events(newest=True) if e["index"] < first), shown))):
            write(event)
        is_away = False
        while True:
            try:
                found, first = source.after(first)
            except (Unanswered, NotAGateway, Refusal) as silence:
                if isinstance(silence, Refusal) and silence.status != 503:
                    raise
                if not is_away:
                    err.print(f"agentgate: {escape(str(silence))}; trying again")
                is_away, found = True, []
            else:
                is_away = False
            for event in found:
                write(event)
            time.sleep(FOLLOW_EVERY_S)
    except KeyboardInterrupt:
        return


def _writer(form: Form) -> Callable[[Event], None]:
    if form is Form.TABLE:
        return Lines(out).print
    return lambda event: _write(json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")


def _push(source: Source, endpoint: str, limit: int | None, newest: bool) -> None:
    try:
        collector = Collector(endpoint)
    except ValueError as error:
        die(str(error), Status.USAGE)
    with collector:
        for request in _lines(source.export(Form.OTLP, limit=limit, newest=newest)):
            try:
                collector.take(request)
            except NotTaken as error:
                die(f"{collector.url}: {error}; it has taken {collector.taken} events", Status.REFUSED)
    err.print(f"{collector.taken} events sent to {escape(collector.url)}")


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines of what comes in pieces."""
    rest = b""
    for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _write(part: bytes) -> None:
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()
