"""`agentgate verify` and `agentgate log`: checks that need no running gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from agentgate import settings as configuration
from agentgate.commands.terminal import EXIT_START, Config, DataDir, die, out, settings_of
from agentgate.core.errors import AgentGateError
from agentgate.core.evidence import Standing
from agentgate.core.evidence import verify as verify_pack

cli = typer.Typer()
log_cli = typer.Typer(help="The append-only log.", no_args_is_help=True)


@cli.command("verify")
def verify(
    pack: Annotated[Path, typer.Argument(help="An evidence pack (JSON)")],
    key: Annotated[str | None, typer.Option("--key", help="HMAC key; default AGENTGATE_SIGNING_KEY")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON")] = False,
) -> None:
    """Check an evidence pack offline. Exit 0 verified, 1 broken or missing, 2 nothing could be checked."""
    try:
        raw = pack.read_bytes()
    except OSError as error:
        die(f"{pack} cannot be read: {error.strerror}", 1)
    secret = key or configuration.signing_key_from_environment()
    report = verify_pack(raw, secret.encode() if secret else None)
    if as_json:
        rows = [{"check": f.check, "standing": f.standing.value, "detail": f.detail} for f in report.findings]
        print(json.dumps({"exit_status": report.exit_status, "findings": rows}, indent=2))
    else:
        _print_findings([(f.check, f.standing, f.detail) for f in report.findings])
        verdict = {0: "[green]verified[/]", 1: "[red]BROKEN[/]", 2: "[yellow]nothing could be checked[/]"}
        out.print(f"{escape(str(pack))}: {verdict[report.exit_status]}")
    raise typer.Exit(report.exit_status)


_MARKS = {Standing.HOLDS: "[green]✓[/]", Standing.BROKEN: "[red]✗[/]", Standing.NOT_CHECKED: "[yellow]–[/]"}


def _print_findings(findings: list[tuple[str, Standing, str]]) -> None:
    for check, standing, detail in findings:
        out.print(f"{_MARKS[standing]} {check:<10} {escape(detail)}")


@log_cli.command("verify")
def verify_log(
    data_dir: DataDir = None,
    database_url: Annotated[str | None, typer.Option("--database-url", help="AGENTGATE_DATABASE_URL")] = None,
    config: Config = None,
) -> None:
    """Re-derive the whole log from its database. Exit 0 when everything holds, 1 naming the first that does not."""
    settings = settings_of(config, {"data_dir": data_dir, "log.url": database_url})
    from agentgate.offline import audit_log  # the databases' drivers, for who needs them

    try:
        report = asyncio.run(audit_log(settings))
    except AgentGateError as error:
        die(str(error), 1)
    for finding in report.findings:
        out.print(f"[red]✗[/] {escape(str(finding))}")
    for note in report.notes:
        out.print(f"[yellow]–[/] {escape(note)}")
    out.print(
        f"{report.size} events, {report.checkpoints} checkpoints hold, kill position {report.kill_position}, "
        f"{report.pruned} bodies pruned, {report.open_intents} calls without an outcome"
    )
    out.print(f"root {report.root.hex()}")
    out.print("[green]the log holds[/]" if report.ok else "[red]the log is BROKEN[/]")
    raise typer.Exit(0 if report.ok else 1)


@log_cli.command("migrate")
def migrate_log(
    database_url: Annotated[str | None, typer.Option("--database-url", help="AGENTGATE_DATABASE_URL")] = None,
    config: Config = None,
    to: Annotated[str, typer.Option("--to", help="A revision; `head` is the newest, `base` none")] = "head",
    drop_events: Annotated[bool, typer.Option("--drop-events", help="Going back may destroy a log")] = False,
) -> None:
    """Make or change the schema of a PostgreSQL log: all of it, or nothing."""
    settings = settings_of(config, {"log.url": database_url})
    from agentgate.offline import prepare_log  # as above

    try:
        done = asyncio.run(prepare_log(settings, to=to, drop_events=drop_events))
    except AgentGateError as error:
        die(str(error), EXIT_START)
    for step in done or ["nothing to do"]:
        out.print(escape(step))
