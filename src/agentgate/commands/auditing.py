"""`agentgate audit`: what happened, from a running gateway or from the log itself."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Annotated, Final

import typer

from agentgate.commands.answers import NotAGateway, Refusal, Unanswered
from agentgate.commands.gateway import ApiKey, Url
from agentgate.commands.pushing import Collector, NotTaken
from agentgate.commands.sources import USUAL, LogDir, LogUrl, Source, source_of
from agentgate.commands.tables.events import Event, Lines
from agentgate.commands.terminal import Config, Status, die, err, out, safe
from agentgate.commands.typed import Since, Until, check_ids, moment, principal
from agentgate.core.decision import Verdict
from agentgate.core.errors import LogBroken, LogUnavailable, ReasonCode
from agentgate.core.event import Kind, Outcome
from agentgate.core.query import Query
from agentgate.core.visible import visible

cli = typer.Typer()

FOLLOW_EVERY_S: Final = 1.0
FIRST_FOLLOWED: Final = 10

Kinds = Annotated[
    list[Kind] | None,
    typer.Option("--kind", metavar="KIND", help="decided, finished, killed, policy, …; may be repeated"),
]
OtlpEndpoint = Annotated[
    str | None, typer.Option("--otlp-endpoint", help="Send them to this OpenTelemetry collector (OTLP/HTTP)")
]


class Form(StrEnum):
    TABLE = "table"
    JSONL = "jsonl"
    CSV = "csv"
    OSCAL = "oscal"
    OTLP = "otlp"


@cli.command("audit")
def audit(
    session: Annotated[str | None, typer.Option("--session", help="Its id")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Its name; a person is `person:NAME`")] = None,
    tool: Annotated[str | None, typer.Option("--tool", help="Its name")] = None,
    decision: Annotated[Verdict | None, typer.Option("--decision", help="What was decided")] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Reason code, such as killed or policy_deny")] = None,
    outcome: Annotated[Outcome | None, typer.Option("--outcome", help="How an allowed call ended")] = None,
    kind: Kinds = None,
    trace_id: Annotated[str | None, typer.Option("--trace-id", help="One call's")] = None,
    since: Since = None,
    until: Until = None,
    text: Annotated[str | None, typer.Option("--text", help="Is in arguments, reasons or errors, in any case")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of all tenants that you see, this one")] = None,
    form: Annotated[Form, typer.Option("--format", help="How to write them")] = Form.TABLE,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="At most so many; a table shows 100")] = None,
    everything: Annotated[bool, typer.Option("--all", help="A table of all that fits")] = False,
    newest: Annotated[bool, typer.Option("--newest", help="The newest first")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens; Ctrl-C ends it")] = False,
    otlp_endpoint: OtlpEndpoint = None,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: LogDir = None,
    database_url: LogUrl = None,
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
    query = _question(tenant, session, agent, tool, decision, reason, outcome, kind, trace_id, since, until, text)
    if otlp_endpoint is not None:
        form = Form.OTLP
    if follow and (form not in (Form.TABLE, Form.JSONL) or newest or everything):
        die("--follow writes a table or --format jsonl, as it happens", Status.USAGE)
    with source_of(query, url, key, config, data_dir, database_url) as source:
        if follow:
            _follow(source, _writer(form), limit or FIRST_FOLLOWED)
        elif otlp_endpoint is not None:
            _push(source, otlp_endpoint, limit, newest)
        elif form is Form.TABLE:
            _table(source, None if everything else limit or USUAL, newest, is_limited=limit is not None)
        else:
            _write(source.export(form, limit=limit, newest=newest))


def _question(
    tenant: str | None,
    session: str | None,
    agent: str | None,
    tool: str | None,
    decision: Verdict | None,
    reason: str | None,
    outcome: Outcome | None,
    kinds: list[Kind] | None,
    trace_id: str | None,
    since: str | None,
    until: str | None,
    text: str | None,
) -> Query:
    """As the log takes it; ends with a sentence when it is none."""
    check_ids(session=session, agent=agent, tenant=tenant)
    for name, value in (("tool", tool), ("reason", reason), ("trace-id", trace_id), ("text", text)):
        if value is not None and not (value.isprintable() and 0 < len(value) <= 256):
            die(f"--{name} is something that one can see, at most 256 characters", Status.USAGE)
    if reason is not None and reason not in set(ReasonCode):
        die(f"there is no reason code {reason!r}; docs/reasons.md lists them", Status.USAGE)
    return Query(
        tenant=tenant,
        session=session,
        agent=principal(agent) if agent is not None else None,
        tool=tool,
        decision=decision,
        reason_code=reason,
        outcome=outcome,
        kinds=tuple(kinds) if kinds else None,
        trace_id=trace_id,
        since=moment(since),
        until=moment(until),
        text=text,
    )


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
            except (Unanswered, NotAGateway, Refusal, LogUnavailable) as silence:
                if isinstance(silence, LogBroken) or (isinstance(silence, Refusal) and silence.status != 503):
                    raise
                if not is_away:
                    err.print(f"agentgate: {safe(silence)}; trying again")
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
    return lambda event: _write([json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"])


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
    err.print(f"{collector.taken} events sent to {safe(collector.url)}")


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Whole lines of what comes in pieces."""
    rest = b""
    for part in parts:
        *whole, rest = (rest + part).split(b"\n")
        yield from whole
    if rest:
        yield rest


def _shown(line: bytes) -> bytes:
    return visible(line.decode(errors="replace").removesuffix("\r")).encode() + b"\n"


def _write(parts: Iterable[bytes]) -> None:
    """Byte for byte into a file or a pipe; for a terminal with what it would obey written out."""
    if sys.stdout.isatty():
        parts = map(_shown, _lines(parts))
    for part in parts:
        sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
