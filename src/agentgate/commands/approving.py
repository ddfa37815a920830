"""Commands of people who approve: approvals, approve, deny."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentgate.commands.answers import Answer, Refusal, Unanswered
from agentgate.commands.gateway import ApiKey, AsJson, Reason, Url, the_gateway
from agentgate.commands.remote import Remote
from agentgate.commands.tables.approvals import approvals_table, in_full, in_short, standing
from agentgate.commands.terminal import Config, DataDir, Status, die, err, none_before, out, safe, say_json, tell, wide
from agentgate.commands.typed import json_object
from agentgate.core.visible import visible

cli = typer.Typer(invoke_without_command=True)
answers_cli = typer.Typer()

WATCH_EVERY_S: Final = 1.0

Which = Annotated[str, typer.Argument(metavar="ID", help="From `agentgate approvals`; its beginning is enough")]


class Shown(StrEnum):
    """Which approvals to list."""

    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    SPENT = "spent"
    VOID = "void"
    EXPIRED = "expired"
    ALL = "all"


@cli.callback()
def list_approvals(
    context: typer.Context,
    state: Annotated[Shown, typer.Option("--state", help="Which ones")] = Shown.PENDING,
    watch: Annotated[bool, typer.Option("--watch", help="Live; Ctrl-C ends it")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Calls that wait for a person, the oldest first. Needs an approver.

    \b
      agentgate approvals
      agentgate approvals show apr-3f9c
      agentgate approve apr-3f9c --reason "as agreed with Ada"
      agentgate deny apr-3f9c
      agentgate approvals edit apr-3f9c --arguments '{"amount": 10}' --approve
      agentgate approvals void apr-3f9c --reason "not now"

    Exit status: 0; 4 when something waits; 1 refused or failed.
    """
    if context.invoked_subcommand is not None:
        none_before(f"approvals {context.invoked_subcommand}", as_json, watch, url, key, config, data_dir)
        return
    with the_gateway(url, key, config, data_dir, needs="approver") as remote:
        if watch and out.is_terminal and not as_json:
            _watch(remote, state)
            return
        found = _all(remote, state)
    if as_json:
        say_json({"approvals": found})
    elif found:
        wide().print(approvals_table(found))
    else:
        out.print("nothing waits" if state is Shown.PENDING else "there are none")
    raise typer.Exit(Status.NOT_YET if any(one["state"] == "pending" for one in found) else 0)


def _all(remote: Remote, state: Shown) -> list[Answer]:
    asked: dict[str, Any] = {"limit": 1_000} | ({"state": state.value} if state is not Shown.ALL else {})
    found: list[Answer] = []
    while True:
        page = remote.approvals(asked)
        found += page["approvals"]
        if page["next"] is None:
            return found
        asked["after"] = page["next"]


def _watch(remote: Remote, state: Shown) -> None:
    """The table, again and again. Silence is shown, and ends nothing."""
    with Live(console=out, screen=True, auto_refresh=False) as live:
        try:
            while True:
                try:
                    shown: Table | Text = approvals_table(_all(remote, state))
                except Unanswered as silence:
                    shown = Text(visible(f"the gateway does not answer: {silence}"), "yellow")
                live.update(shown, refresh=True)
                time.sleep(WATCH_EVERY_S)
        except KeyboardInterrupt:
            return


@cli.command("show")
def show(
    approval_id: Which,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Everything about one: the whole call with whatever hides in it written out, who voted, what policy wants."""
    with the_gateway(url, key, config, data_dir, needs="approver") as remote:
        one = remote.approval(_id_of(remote, approval_id))
    tell(one, as_json, _say)


def _say(one: Answer) -> None:
    for line in in_full(one):
        out.print(line, soft_wrap=True)


@cli.command("edit")
def edit(
    approval_id: Which,
    arguments: Annotated[str, typer.Option("--arguments", help="All arguments, as JSON, or @FILE")],
    approve_it: Annotated[bool, typer.Option("--approve", help="Say yes to them as well")] = False,
    reason: Reason = "",
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Change a pending call's arguments. Policy decides on them anew; the old approval is void.

    The agent repeats its own call as it was, and what runs is the edited one. Without --approve the edited call waits
    for a yes like any other.

    Exit status: 0 edited (and approved); 4 edited, and it waits; 1 refused or failed; 2 no JSON object.
    """
    order: dict[str, Any] = {"arguments": _arguments(arguments), "reason": reason, "approve": approve_it}
    with the_gateway(url, key, config, data_dir, needs="approver") as remote:
        done = remote.answer_approval(_id_of(remote, approval_id), "edit", order)
    out.print(f"edited: [bold]{safe(done['id'])}[/] is about the call now, and {standing(done)}")
    if done.get("approval_token"):
        _say_token(done)
    raise typer.Exit(0 if done["state"] == "approved" else Status.NOT_YET)


@cli.command("void")
def void(
    approval_id: Which,
    reason: Reason = "",
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Take back what waits, or a yes that nobody has used yet. The call may be asked for again; `deny` says no.

    Exit status: 0 it carries no call any more; 1 refused or failed, or it was used before.
    """
    with the_gateway(url, key, config, data_dir, needs="approver") as remote:
        done = remote.answer_approval(_id_of(remote, approval_id), "void", {"reason": reason})
    tell(done, as_json, lambda done: out.print(f"void [bold]{safe(done['id'])}[/]: {in_short(done)}"))


def _arguments(given: str) -> dict[str, Any]:
    try:
        raw = Path(given[1:]).read_bytes() if given.startswith("@") else given
    except OSError as error:
        die(f"{given[1:]}: {error.strerror}", Status.USAGE)
    return json_object(raw, "--arguments")


@answers_cli.command("approve")
def approve(
    approval_id: Which,
    reason: Reason = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not show the call and ask")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Let exactly one call run, once. Needs an approver, who is not its requester.

    In front of a terminal it shows the whole call and asks.

    Exit status: 0 approved; 4 noted, but more persons have to say yes; 1 refused or failed.
    """
    with the_gateway(url, key, config, data_dir, needs="approver") as remote:
        found = _id_of(remote, approval_id)
        if not yes and not as_json and sys.stdin.isatty():
            _say(remote.approval(found))
            typer.confirm("Approve this call?", abort=True, err=True)
        done = remote.answer_approval(found, "approve", {"reason": reason})
    if as_json:
        say_json(done)
    elif done["state"] == "approved":
        out.print(f"approved [bold]{safe(done['id'])}[/]: {in_short(done)}")
        _say_token(done)
    else:
        out.print(f"noted: {safe(done['id'])} has {len(done['votes'])} of {done['quorum']} persons' yes")
    raise typer.Exit(0 if done["state"] in ("approved", "spent") else Status.NOT_YET)


@answers_cli.command("deny")
def deny(
    approval_id: Which,
    reason: Reason = "",
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say no: the same call is denied until the approval expires.

    Exit status: 0 denied; 1 refused or failed.
    """
    with the_gateway(url, key, config, data_dir, needs="approver") as remote:
        done = remote.answer_approval(_id_of(remote, approval_id), "deny", {"reason": reason})
    tell(done, as_json, lambda done: out.print(f"denied {safe(done['id'])}: {in_short(done)}"))


def _say_token(done: Answer) -> None:
    if done["executes"]:
        err.print("the gateway makes the call now; its agent fetches the answer, and needs no token:")
    else:
        err.print("the agent repeats its call, or sends the token, which is told only now:")
    print(done["approval_token"])


def _id_of(remote: Remote, given: str) -> str:
    """The one approval whose id begins so; `apr-` may be left out."""
    if not given:
        die("an empty id is no id", Status.USAGE)
    prefix = given if given.startswith("ap") else f"apr-{given}"
    found = [one["id"] for one in remote.approvals({"prefix": prefix, "limit": 2})["approvals"]]
    if len(found) > 1 and prefix not in found:
        die(f"more than one approval's id begins with {prefix!r}: say more of it", Status.USAGE)
    if not found:
        raise Refusal(404, "not_found", f"no approval's id begins with {prefix}")
    return prefix if prefix in found else str(found[0])
