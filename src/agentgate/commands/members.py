"""`agentgate members`: the processes that carry out calls and kills, and that one of them is gone for good."""

from __future__ import annotations

from typing import Annotated

import typer

from agentgate.commands.gateway import ApiKey, AsJson, Url, the_gateway
from agentgate.commands.tables.containment import members_table
from agentgate.commands.terminal import Config, DataDir, ask, err, none_before, out, safe, say_json, wide
from agentgate.commands.typed import check_ids

cli = typer.Typer(invoke_without_command=True)


@cli.callback()
def list_members(
    context: typer.Context,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """The processes that carry out calls and kills. Also who of them was not heard for how long. Needs an operator."""
    if context.invoked_subcommand is not None:
        none_before(f"members {context.invoked_subcommand}", as_json, url, key, config, data_dir)
        return
    with the_gateway(url, key, config, data_dir, needs="operator") as remote:
        members = remote.members()
    if as_json:
        say_json({"members": members})
    else:
        wide().print(members_table(members))
        if any(member["presence"] == "gone" for member in members):
            out.print("gone: not heard for too long. Once its host is destroyed: agentgate members gone MEMBER")


@cli.command("gone")
def attest_gone(
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="Its id from `agentgate members`")],
    yes: Annotated[bool, typer.Option("--yes", help="Attest without being asked")] = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Attest that a member's host is destroyed, so that kills need not wait for it. Needs an admin of all tenants."""
    check_ids(member=member)
    if not yes:
        err.print(
            f"You attest that the process of member [bold]{safe(member)}[/] has ended for good: its host is switched "
            "off or destroyed. Kills then count as drained without it. If it still runs somewhere, calls that were "
            "killed may run on there, and nobody will be told. The log keeps that it was you who said so.",
            soft_wrap=False,
        )
        ask("Do you know that?")
    with the_gateway(url, key, config, data_dir, needs="admin") as remote:
        answer = remote.attest_gone(member)
    out.print(f"{safe(answer['member'])} is {safe(answer['presence'])}: kills no longer wait for it")
