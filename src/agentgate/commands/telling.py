"""Commands about webhooks: who is told of things, and whether it arrives."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer
from rich.table import Table

from agentgate.commands.gateway import ApiKey, AsJson, Url, the_gateway
from agentgate.commands.terminal import (
    Config,
    DataDir,
    Status,
    die,
    err,
    or_die,
    out,
    safe,
    say_json,
    settings_of,
    wide,
)

cli = typer.Typer(help="Who is told of kills, approvals and refusals.", no_args_is_help=True)


@cli.command("list")
def list_webhooks(
    as_json: AsJson = False, url: Url = None, key: ApiKey = None, config: Config = None, data_dir: DataDir = None
) -> None:
    """Every endpoint: how far it is, and what went wrong last. Needs an operator of all tenants."""
    with the_gateway(url, key, config, data_dir, needs="operator") as remote:
        found = remote.webhooks()
    if as_json:
        say_json(found)
        return
    if not found:
        err.print("nobody is told of anything: the configuration has no webhooks")
        return
    table = Table("name", "kind", "to", "events", "behind", "failures", "last error", box=None, pad_edge=False)
    for one in found:
        row = (one["name"], one["kind"], one["url"], " ".join(one["events"]), one["behind"], one["failures"])
        table.add_row(*(safe(value) for value in (*row, one["last_error"] or "")))
    wide().print(table)


@cli.command("test")
def send_ping(
    only: Annotated[
        str | None,
        typer.Option("--only", "--url", help="Only the endpoint of this name, or at this scheme, host and port"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Send one signed `ping` to every endpoint of the configuration, from here and not from a running gateway.

    Exit status: 0; 1 when one was not taken; 2 when there is none.
    """
    from agentgate.offline import ping_webhooks  # the HTTP client is for who has a webhook

    settings = settings_of(config, {"data_dir": data_dir})
    with or_die(Status.START):
        said = asyncio.run(ping_webhooks(settings, only))
    if not said:
        which = f"that is named {only} or at {only}, as scheme, host and port" if only is not None else "to be told"
        die(f"there is no webhook in the configuration {which}", Status.USAGE)
    if as_json:
        say_json([{"name": name, "taken": failure is None, "detail": failure or ""} for name, failure in said])
    else:
        for name, failure in said:
            out.print(f"{safe(name)}: " + ("[green]taken[/]" if failure is None else f"[red]{safe(failure)}[/]"))
    if any(failure is not None for _, failure in said):
        raise typer.Exit(Status.REFUSED)
