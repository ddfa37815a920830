"""`agentgate credentials`: the secrets that upstreams are given, by alias."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer
from rich.table import Table

from agentgate import credentials
from agentgate.commands.terminal import Config, DataDir, Status, die, err, or_die, safe, say_json, settings_of, wide

cli = typer.Typer(help="The secrets that upstreams are given, by alias.", no_args_is_help=True)


@cli.command("set")
def set_credential(
    alias: Annotated[str, typer.Argument(metavar="ALIAS", help="A credential of kind encrypted_file")],
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Read a secret from standard input, or ask for it, and write it into its encrypted file. A running gateway takes
    it with the next call."""
    settings = settings_of(config, {"data_dir": data_dir})
    with or_die(Status.START):
        credentials.encrypted(settings, alias)  # before anybody types a secret
    if sys.stdin.isatty():
        secret = typer.prompt(f"The secret of {alias}", hide_input=True, confirmation_prompt=True, err=True)
    else:
        secret = _given().removesuffix("\n").removesuffix("\r")
    if not secret:
        die("there is no secret on standard input", Status.USAGE)
    with or_die(Status.START):
        credentials.put(settings, alias, secret)
    err.print(f"credential {alias} is set", highlight=False)


def _given() -> str:
    try:
        return sys.stdin.read()
    except UnicodeDecodeError:
        die("the secret on standard input is not UTF-8; encode it, such as with base64", Status.USAGE)


@cli.command("check")
def check_credentials(
    scope: Annotated[str | None, typer.Option("--scope", help="An allowed_scope of policy to ask with")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say for each alias whether there is a credential now. None is shown, and what was given for this is taken back.
    Exit 1 when one cannot be had."""
    settings = settings_of(config, {"data_dir": data_dir})
    with or_die(Status.START):
        found = asyncio.run(credentials.check(settings, scope))
    kinds = {alias: settings.credentials[alias].kind for alias in found}
    if as_json:
        rows = [
            {"alias": alias, "kind": kinds[alias], "there": one.is_there, "detail": one.text}
            for alias, one in found.items()
        ]
        say_json({"credentials": rows})
    elif found:
        table = Table("alias", "kind", "now", box=None)
        for alias, (is_there, text) in found.items():
            table.add_row(*map(safe, (alias, kinds[alias], f"not there: {text}" if is_there is False else text)))
        wide().print(table)
    else:
        err.print("there are no credentials: the configuration names none")
    if any(finding.is_there is False for finding in found.values()):
        raise typer.Exit(Status.REFUSED)
