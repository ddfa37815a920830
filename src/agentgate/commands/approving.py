"""Commands of people who approve: approvals, approve, deny."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agentgate.commands.gateway import ApiKey, AsJson, Reason, Url, the_gateway
from agentgate.commands.remote import Answer, Refusal, Remote, Unanswered
from agentgate.commands.terminal import Config, DataDir, Status, die, err, out, safe, say_json, wide
from agentgate.commands.words import ago, duration, seconds_since
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.core.visible import visible

cli = typer.Typer(invoke_without_command=True)
answers_cli = typer.Typer()

WATCH_EVERY_S: Final = 1.0
_MOST_SHOWN: Final = 60
"""Characters of arguments in the table."""

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
        if as_json or watch or any(option is not None for option in (url, key, config, data_dir)):
            die(f"options of `approvals {context.invoked_subcommand}` go behind its name", Status.USAGE)
        return
    with the_gateway(url, key, config, data_dir, needs="approver") as remote:
        if watch and out.is_terminal and not as_json:
            _watch(remote, state)
            return
        found = _all(remote, state)
    if as_json:
        say_json({"approvals": found})
    elif found:
        wide().print(_table(found))
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
                    shown: Table | Text = _table(_all(remote, state))
                except Unanswered as silence:
                    shown = Text(f"the gateway does not answer: {silence}", "yellow")
                live.update(shown, refresh=True)
                time.sleep(WATCH_EVERY_S)
        except KeyboardInterrupt:
            return


def _table(found: list[Answer]) -> Table:
    now = datetime.now(UTC)
    table = Table("ID", "STATE", "TOOL", "ARGUMENTS", "BY", "AGE", "EXPIRES", box=None, pad_edge=False)
    for one in found:
        left_s = -seconds_since(one["expires_at"], now)
        is_open = one["state"] in ("pending", "approved") and left_s > 0
        text = visible(one["arguments_text"] or "")
        table.add_row(
            safe(one["id"]),
            _standing(one),
            safe(one["tool_name"]),
            Text(text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 1] + "…"),
            safe(one["requested_by"]),
            ago(seconds_since(one["requested_at"], now)),
            f"in {duration(left_s)}" if is_open else "–",
        )
    return table


def _standing(one: Answer) -> str:
    if one["state"] == "pending" and one["quorum"] > 1:
        return f"pending {len(one['votes'])}/{one['quorum']}"
    return safe(f"{one['state']} ({one['why']})" if one["state"] == "void" and one["why"] else one["state"])


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
    if as_json:
        say_json(one)
    else:
        _say(one)


def _say(one: Answer) -> None:
    wanted = f"{one['quorum']} of " + (", ".join(one["approvers"]) or "whoever has the role approver")
    votes = ", ".join(f"{vote['by']} ({vote['at']})" for vote in one["votes"]) or "nobody yet"
    rows: dict[str, object] = {
        "approval": one["id"],
        "state": _plain_state(one),
        "asked by": one["requested_by"] + (f" for {one['on_behalf_of']}" if one["on_behalf_of"] else ""),
        "asked at": one["requested_at"],
        "expires": one["expires_at"],
        "session": one["session_id"],
        "tool": one["tool_name"],
        "definition": one["tool_sha256"],
        "policy": one["policy_revision"],
        "wants": wanted,
        "said yes": votes,
        "decided by": one["decided_by"] or "–",
        "trace": one["trace_id"],
        "edited from": one["edited_from"],
        "edited to": one["edited_to"],
    }
    for name, value in rows.items():
        if value is not None:
            out.print(f"{name:<12} {safe(value)}", soft_wrap=True)
    if one["executes"]:
        out.print("             the gateway makes the call itself once it is approved")
    _say_call("arguments", one["call"], "arguments")
    if one["call"] is not None and one["call"]["context"]:
        _say_call("context", one["call"], "context")
    if one.get("original") is not None:
        _say_call("as the agent sent it", one["original"], "arguments")


def _plain_state(one: Answer) -> str:
    return f"{one['state']}, {one['why']}" if one["why"] else str(one["state"])


def _say_call(title: str, call: Mapping[str, Any] | None, member: str) -> None:
    if call is None:
        out.print(f"{title}: not kept any more")
        return
    out.print(f"{title}:")
    # line by line: what is to be read is JSON, and what hides in it is written out
    for line in json.dumps(call[member], indent=2, ensure_ascii=False, sort_keys=True).split("\n"):
        out.print(f"  {safe(line)}", soft_wrap=True)


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
    out.print(f"edited: [bold]{safe(done['id'])}[/] is about the call now, and {_standing(done)}")
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
    if as_json:
        say_json(done)
    else:
        out.print(f"void [bold]{safe(done['id'])}[/]: {_what(done)}")


def _arguments(given: str) -> dict[str, Any]:
    try:
        raw = Path(given[1:]).read_bytes() if given.startswith("@") else given.encode()
        value = parse(raw)
    except OSError as error:
        die(f"{given[1:]}: {error.strerror}", Status.USAGE)
    except NotStrictJson as error:
        die(f"--arguments is not JSON: {error}", Status.USAGE)
    if not isinstance(value, dict):
        die("--arguments is no JSON object", Status.USAGE)
    return value


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
        out.print(f"approved [bold]{safe(done['id'])}[/]: {_what(done)}")
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
    if as_json:
        say_json(done)
    else:
        out.print(f"denied {safe(done['id'])}: {_what(done)}")


def _what(one: Answer) -> str:
    return safe(f"{one['tool_name']}, asked by {one['requested_by']}")


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
