"""The command line: serve, kill, release, watch, keys, verify, demo. `agentgate --help` says the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentgate import __version__
from agentgate import demo as scenes
from agentgate.commands import (
    accepting,
    approving,
    auditing,
    bridging,
    credentials,
    exporting,
    keys,
    members,
    monitoring,
    policing,
    retaining,
    stopping,
    telling,
    verifying,
    watching,
)
from agentgate.commands.terminal import Config, DataDir, none_before, out
from agentgate.starting import Host, Port, command_line, serve

cli = command_line()
cli.command()(serve)
# in the order in which `--help` lists them: stop, approve, connect, look, prove, keep, set up
cli.add_typer(stopping.cli)
cli.add_typer(watching.cli)
cli.add_typer(members.cli, name="members")
cli.add_typer(approving.cli, name="approvals")
cli.add_typer(approving.answers_cli)
cli.add_typer(accepting.cli, name="tools")
cli.add_typer(bridging.cli)
cli.add_typer(auditing.cli)
cli.add_typer(exporting.cli, name="evidence")
cli.add_typer(verifying.cli)
cli.add_typer(verifying.log_cli, name="log")
verifying.log_cli.add_typer(monitoring.cli)
cli.add_typer(retaining.cli, name="retention")
cli.add_typer(retaining.holds_cli, name="hold")
cli.add_typer(keys.cli, name="keys")
cli.add_typer(credentials.cli, name="credentials")
cli.add_typer(policing.cli, name="policy")
cli.add_typer(telling.cli, name="webhooks")


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
        none_before(context.invoked_subcommand, demo, host, port, config, data_dir)
        return
    if demo:
        run_demo()
    else:
        serve(host=host, port=port, config=config, data_dir=data_dir)


@cli.command("version")
def say_version() -> None:
    """Say the version."""
    out.print(f"agentgate {__version__}")


@cli.command("demo")
def run_demo(
    out_dir: Annotated[Path, typer.Option("--out", help="Where the evidence pack goes")] = Path("demo/out"),
) -> None:
    """Start a gateway and play six scenes against it over HTTP."""
    raise typer.Exit(scenes.play(out_dir))
