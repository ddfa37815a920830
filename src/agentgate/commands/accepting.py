"""Commands about what tool servers bring: `agentgate tools`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from agentgate.commands.answers import Answer
from agentgate.commands.gateway import ApiKey, AsJson, Url, the_gateway
from agentgate.commands.remote import Remote
from agentgate.commands.terminal import Config, DataDir, Status, ask, die, err, out, safe, say_json, tell, wide
from agentgate.core.call import Access
from agentgate.core.pin import shown
from agentgate.core.visible import visible

cli = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="TOOL", help="As `agentgate tools` shows it: SERVER__TOOL")]
Agent = Annotated[str, typer.Option("--agent", help="Say what policy says of the tools for this agent")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]

_WAITING: Final = ("new", "quarantined")
_COLOURS: Final[Mapping[str, str]] = {
    "offered": "green", "new": "yellow", "quarantined": "red", "rejected": "dim", "refused": "red", "missing": "yellow",
}  # fmt: skip


@cli.callback(invoke_without_command=True)
def tools(
    context: typer.Context,
    agent: Agent = "agent",
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """What tool servers list, and which of it is offered. Without a command: as `list`."""
    if context.invoked_subcommand is None:
        list_tools(agent, as_json, url, key, config, data_dir)


@cli.command("list")
def list_tools(
    agent: Agent = "agent",
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Every tool with its state, and whether policy lets an agent call it. Needs an operator.

    offered: can be called, as it was accepted. new: nobody has accepted it. quarantined: its server describes it
    otherwise now. refused: it cannot be offered. missing: its server does not list it any more.

    Exit status: 0; 4 when a tool waits for somebody to look at it; 1 refused or failed.
    """
    with the_gateway(url, key, config, data_dir, needs="operator") as remote:
        found = remote.tools({"agent": agent})
    tell(found, as_json, _say_all)
    is_waiting = any(tool["state"] in _WAITING for tool in found["tools"])
    raise typer.Exit(Status.NOT_YET if is_waiting else 0)


def _say_all(found: Answer) -> None:
    table = Table("tool", "state", "access", "policy", "", box=None, pad_edge=False, header_style="bold")
    for tool in found["tools"]:
        state = tool["state"]
        notes = [tool["why"], *_counted(tool.get("changes", ()))]
        table.add_row(
            safe(tool["name"]),
            f"[{_COLOURS.get(state, 'default')}]{safe(state)}[/]",
            safe(tool["access"]),
            safe(tool["policy"]),
            safe("; ".join(note for note in notes if note)),
        )
    wide().print(table)
    for server, state in found["servers"].items():
        if not state["up"]:
            out.print(f"[yellow]{safe(server)} is down: {safe(state['detail'])}[/]")
    _say_trouble(found)


def _counted(changes: Sequence[str]) -> list[str]:
    return [f"{len(changes)} change{'s' if len(changes) > 1 else ''}"] if changes else []


def _say_trouble(found: Answer) -> None:
    if found.get("trouble"):
        out.print(f"[yellow]accepted tools are not served yet: {safe(found['trouble'])}[/]")


@cli.command("show")
def show(
    name: Name,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """One tool: what its server says of it, and how that differs from what was accepted. Needs an operator."""
    with the_gateway(url, key, config, data_dir, needs="operator") as remote:
        tool = _one(remote, name)
    tell(tool, as_json, _say)


@cli.command("accept")
def accept(
    name: Annotated[str, typer.Argument(metavar="TOOL", help="SERVER__TOOL; with --all-new, SERVER")],
    all_new: Annotated[bool, typer.Option("--all-new", help="Accept every new tool of a server")] = False,
    access: Annotated[Access | None, typer.Option("--access", help="What the tool does to the world")] = None,
    sha256: Annotated[str | None, typer.Option("--sha256", help="Accept only what has this digest")] = None,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Offer a tool as its server describes it now, and in no other form. Needs an operator of all tenants.

    Shows what you accept, and asks. What you are shown is what is accepted: if its server says something else by then,
    nothing is.

    \b
      agentgate tools accept files__read
      agentgate tools accept files --all-new --access read

    Exit status: 0 accepted; 4 accepted, but not served yet; 1 refused or failed; 2 not an order.
    """
    if all_new and sha256 is not None:
        die("--sha256 is of one tool", Status.USAGE)
    with the_gateway(url, key, config, data_dir, needs="operator of all tenants") as remote:
        chosen = _new_of(remote, name) if all_new else [_one(remote, name)]
        if sha256 is not None and _digest(chosen[0]) != sha256:
            die(f"{name}: what its server describes now is {_digest(chosen[0]) or 'nothing'}", Status.REFUSED)
        if not yes:
            for tool in chosen:
                _say(tool, to_err=True)
            ask(f"Offer {'these ' + str(len(chosen)) + ' tools' if all_new else visible(name)}?")
        order: dict[str, Any] = {"access": access.value} if access is not None else {}
        done = [remote.accept_tool(tool["name"], {"sha256": _digest(tool), **order}) for tool in chosen]
    if as_json:
        say_json(done if all_new else done[0])
    else:
        for tool in done:
            out.print(f"accepted {safe(tool['name'])} ({safe(tool['access'])}): {safe(_standing(tool))}")
    raise typer.Exit(0 if all(tool["served"] for tool in done) else Status.NOT_YET)


def _digest(tool: Answer) -> str:
    return str(tool["found"] or tool["pin"] or "")


def _standing(tool: Answer) -> str:
    if tool["served"]:
        return f"served; for an agent, policy says {tool['policy']}"
    return f"not served yet: {tool.get('trouble') or tool['why'] or tool['state']}"


@cli.command("reject")
def reject(
    name: Name,
    yes: Yes = False,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Do not offer a tool any more, or at all; it can be accepted later. Needs an operator of all tenants."""
    with the_gateway(url, key, config, data_dir, needs="operator of all tenants") as remote:
        if not yes:
            _say(_one(remote, name), to_err=True)
            ask(f"Take {visible(name)} away from everybody?")
        done = remote.reject_tool(name)
    tell(done, as_json, lambda done: out.print(f"rejected {safe(done['name'])}"))


def _one(remote: Remote, name: str) -> Answer:
    found = [dict(tool) for tool in remote.tools({"name": name})["tools"] if tool["name"] == name]
    if not found:
        die(f"there is no tool {visible(name)} of a server; `agentgate tools` lists them", Status.REFUSED)
    return found[0]


def _new_of(remote: Remote, server: str) -> list[Answer]:
    found = remote.tools({})
    if server not in found["servers"]:
        die(f"there is no tool server {visible(server)}", Status.REFUSED)
    names = [tool["name"] for tool in found["tools"] if tool["server"] == server and tool["state"] == "new"]
    if not names:
        die(f"{server} has no new tools", Status.REFUSED)
    return [_one(remote, name) for name in names]


def _say(tool: Answer, *, to_err: bool = False) -> None:
    """All of a tool that a model or a client would be shown, with nothing hidden in it."""
    say = (err if to_err else out).print
    state = tool["state"]
    say(f"[bold]{safe(tool['name'])}[/]  [{_COLOURS.get(state, 'default')}]{safe(state)}[/]  {safe(tool['why'])}")
    say(f"  access {safe(tool['access'])}; for an agent, policy says {safe(tool['policy'])}")
    if tool["pin"] is not None:
        who = tool["by"] or "trust on first use: nobody has looked at it"
        say(f"  accepted {safe(tool['pin'])} at {safe(tool['at'])} by {safe(who)}")
    if tool["found"] is not None and tool["found"] != tool["pin"]:
        say(f"  found    {safe(tool['found'])}")
    if tool["changes"]:
        say("  since it was accepted:")
        for line in tool["changes"]:
            say(f"    {safe(line)}")
    definition = tool["found_definition"] or tool["definition"] or {}
    say("  its server says:" if tool["found_definition"] else "  as it was accepted:")
    for member, value in definition.items():
        say(f"    {safe(member)}: {safe(shown(value))}")
