"""The command line: serve, kill, release, watch, keys, verify, demo. `agentgate --help` says the rest."""

from __future__ import annotations

import asyncio
import json
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from agentgate import __version__, serving, stopping
from agentgate import demo as scenes
from agentgate import settings as configuration
from agentgate.core.call import Role, key_sha256
from agentgate.core.errors import AgentGateError
from agentgate.core.evidence import Standing
from agentgate.core.evidence import verify as verify_pack
from agentgate.settings import Key
from agentgate.terminal import EXIT_START, EXIT_USAGE, Config, DataDir, die, err, out, settings_of

cli = typer.Typer(
    name="agentgate",
    help="A containment gateway for AI agents: every tool call decided, recorded, and stoppable while it runs.",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
keys_cli = typer.Typer(help="API keys of agents and people.", no_args_is_help=True)
log_cli = typer.Typer(help="The append-only log.", no_args_is_help=True)
cli.add_typer(keys_cli, name="keys")
cli.add_typer(log_cli, name="log")
cli.add_typer(stopping.cli)
cli.add_typer(stopping.members_cli, name="members")
Host = Annotated[str | None, typer.Option("--host", help="Address to listen on (AGENTGATE_HOST, default 127.0.0.1)")]
Port = Annotated[
    int | None, typer.Option("--port", help="Port to listen on; 0 picks one (AGENTGATE_PORT, default 8000)")
]


@cli.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    host: Host = None,
    port: Port = None,
    config: Config = None,
    data_dir: DataDir = None,
    demo: Annotated[bool, typer.Option("--demo", help="Run the demo instead of the gateway")] = False,
    version: Annotated[bool, typer.Option("--version", "-v", help="Say the version and exit")] = False,
) -> None:
    """Without a command: serve, as v0.2 did."""
    if version:
        say_version()
        raise typer.Exit
    if context.invoked_subcommand is not None:
        if demo or any(option is not None for option in (host, port, config, data_dir)):
            die(f"options of `{context.invoked_subcommand}` go behind its name", EXIT_USAGE)
        return
    if demo:
        run_demo()
    else:
        serve(host=host, port=port, config=config, data_dir=data_dir)


@cli.command("version")
def say_version() -> None:
    """Say the version."""
    out.print(f"agentgate {__version__}")


# --- serve ------------------------------------------------------------------------------------------------


@cli.command()
def serve(
    host: Host = None,
    port: Port = None,
    config: Config = None,
    data_dir: DataDir = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes (AGENTGATE_WORKERS, default 1)")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start anew when the code or the policy changes")] = False,
) -> None:
    """Run the gateway until it is told to stop."""
    places = {"server.host": host, "server.port": port, "server.workers": workers, "data_dir": data_dir}
    settings = settings_of(config, places)
    failure = serving.run(settings, config, reload=reload)
    if failure is not None:
        die(failure, EXIT_START)


# --- demo -------------------------------------------------------------------------------------------------


@cli.command("demo")
def run_demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Where the evidence pack goes")] = Path("demo/out"),
) -> None:
    """Start a gateway and play six scenes against it over HTTP."""
    raise typer.Exit(scenes.play(out_dir))


# --- keys -------------------------------------------------------------------------------------------------


@keys_cli.command("create")
def create_key(
    agent: Annotated[str | None, typer.Option("--agent", help="The agent that the key stands for")] = None,
    person: Annotated[str | None, typer.Option("--person", help="The person that the key stands for")] = None,
    role: Annotated[list[Role] | None, typer.Option("--role", help="May be repeated; default agent")] = None,
    tenant: Annotated[str, typer.Option("--tenant")] = "default",
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="An operator or auditor of all tenants")] = False,
    expires_in_days: Annotated[float | None, typer.Option("--expires-in-days", min=0.0)] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once; only its SHA-256 is kept. A running gateway takes it within a second."""
    if (agent is None) == (person is None):
        die("say whom the key is for: --agent NAME or --person NAME", EXIT_USAGE)
    roles = tuple(role or [Role.AGENT])
    if person is not None and roles == (Role.AGENT,) and not role:
        die("a person's key needs its roles: --role operator, approver, auditor or admin", EXIT_USAGE)
    settings = settings_of(config, {"data_dir": data_dir})
    secret = f"agk_{secrets.token_urlsafe(32)}"
    expires = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days is not None else None
    try:
        key = Key(
            id=f"k-{secrets.token_hex(4)}",
            sha256=key_sha256(secret),
            agent=agent,
            person=person,
            roles=roles,
            tenant=tenant,
            all_tenants=all_tenants,
            expires=expires,
        )
        configuration.add_key(configuration.key_file(settings.data_dir), key)
    except ValueError as error:
        die(f"not a key: {_last_line(error)}", EXIT_USAGE)
    except AgentGateError as error:
        die(str(error), EXIT_START)
    err.print(
        f"key {key.id} for {'agent' if agent else 'person'} {agent or person}, roles {', '.join(roles)}; shown once:"
    )
    print(secret)


def _last_line(error: ValueError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line.split(" [type=")[0] for line in lines if "[type=" in line), lines[0])


# --- verify -----------------------------------------------------------------------------------------------


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
    from agentgate.app import audit_log  # as in `serve`

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
    from agentgate.app import prepare_log  # as in `serve`

    try:
        done = asyncio.run(prepare_log(settings, to=to, drop_events=drop_events))
    except AgentGateError as error:
        die(str(error), EXIT_START)
    for step in done or ["nothing to do"]:
        out.print(escape(step))


def main() -> None:
    """The console script."""
    cli()
