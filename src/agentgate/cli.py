"""The command line: serve, kill, release, watch, keys, verify, demo. `agentgate --help` says the rest."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from agentgate import __version__, serving
from agentgate import demo as scenes
from agentgate.commands import auditing, exporting, keys, monitoring, retaining, stopping, verifying
from agentgate.commands.terminal import EXIT_START, EXIT_USAGE, Config, DataDir, die, out, settings_of

cli = typer.Typer(
    name="agentgate",
    help="A containment gateway for AI agents: every tool call decided, recorded, and stoppable while it runs.",
    no_args_is_help=False,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
cli.add_typer(keys.cli, name="keys")
cli.add_typer(verifying.log_cli, name="log")
verifying.log_cli.add_typer(monitoring.cli)
cli.add_typer(verifying.cli)
cli.add_typer(stopping.cli)
cli.add_typer(auditing.cli)
cli.add_typer(exporting.cli, name="evidence")
cli.add_typer(retaining.cli, name="retention")
cli.add_typer(retaining.holds_cli, name="hold")
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
    checkpoint_file: Annotated[
        Path | None, typer.Option("--checkpoint-file", help="Keep checkpoints there, too (AGENTGATE_CHECKPOINT_FILE)")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes (AGENTGATE_WORKERS, default 1)")] = None,
    reload: Annotated[bool, typer.Option("--reload", help="Start anew when the code or the policy changes")] = False,
) -> None:
    """Run the gateway until it is told to stop."""
    places = {
        "server.host": host,
        "server.port": port,
        "server.workers": workers,
        "data_dir": data_dir,
        "log.checkpoint_file": checkpoint_file,
    }
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


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without our marks still gets the words
    cli()
