"""The command `serve`, and a command line that has no other: what the others load would be a tenth of a start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentgate import serving
from agentgate.commands.ending import NAME, CommandLine
from agentgate.commands.terminal import Config, DataDir, Status, die, settings_of

Host = Annotated[str | None, typer.Option("--host", help="Address to listen on (AGENTGATE_HOST, default 127.0.0.1)")]
Port = Annotated[
    int | None, typer.Option("--port", help="Port to listen on; 0 picks one (AGENTGATE_PORT, default 8000)")
]


def command_line() -> typer.Typer:
    """Without commands."""
    return typer.Typer(
        name=NAME,
        cls=CommandLine,
        help="A containment gateway for AI agents: every tool call decided, recorded, and stoppable while it runs.",
        no_args_is_help=False,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )


cli = command_line()


@cli.callback()
def root() -> None:
    """With a callback a lone command keeps its name."""


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
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when the code, the policy or the configuration changes")
    ] = False,
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
    failure = serving.run(settings, config, places, reload=reload)
    if failure is not None:
        die(failure, Status.START)
