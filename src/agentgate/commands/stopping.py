"""Commands that stop and release, and that show what is stopped: kill, kills, release, resume, members, watch."""

from __future__ import annotations

import json
import re
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.markup import escape

from agentgate import settings as configuration
from agentgate.commands import watching
from agentgate.commands.remote import ANSWER_S, Answer, NotAGateway, Refusal, Remote, Unanswered
from agentgate.commands.terminal import (
    EXIT_NOT_YET,
    EXIT_REFUSED,
    EXIT_USAGE,
    Config,
    DataDir,
    die,
    err,
    out,
    settings_of,
    wide,
)
from agentgate.core.call import is_id
from agentgate.core.containment import MAX_REASON_CHARS, Scope
from agentgate.settings import Settings

cli = typer.Typer()
members_cli = typer.Typer(invoke_without_command=True)

Url = Annotated[
    str | None, typer.Option("--url", help="The gateway (AGENTGATE_URL; else as configured, http://127.0.0.1:8000)")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--key", help="Your key; better AGENTGATE_KEY. Else AGENTGATE_ADMIN_API_KEY, or DATA_DIR/admin.key"),
]
AsJson = Annotated[bool, typer.Option("--json", help="What the gateway answered, as JSON")]
Force = Annotated[bool, typer.Option("--force", help="Even if it has not drained; its event says so")]


# --- kills ------------------------------------------------------------------------------------------------

FOLLOW_EVERY_S: Final = 0.2
SILENT_S: Final = 2.0
GIVE_UP_S: Final = 60.0
"""A kill that nobody can say anything of for so long is not waited for."""


class Stop(StrEnum):
    """What can be stopped, as one types it: `all` and `global` are one."""

    SESSION = "session"
    AGENT = "agent"
    TOOL = "tool"
    SERVER = "server"
    TENANT = "tenant"
    ALL = "all"
    GLOBAL = "global"


@cli.command("kill")
def kill(
    scope: Annotated[Stop, typer.Argument(metavar="SCOPE", help="session, agent, tool, server, tenant or all")],
    target: Annotated[
        str, typer.Argument(metavar="[TARGET]", help="Its id or name; none for `all`", show_default=False)
    ] = "",
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record: up to 500 characters")] = "",
    tenant: Annotated[str | None, typer.Option("--tenant", help="Of a session or agent, if not your own")] = None,
    expires: Annotated[str | None, typer.Option("--expires", help="How long it holds: 90s, 15m, 2h, 1d")] = None,
    kill_id: Annotated[
        str | None, typer.Option("--id", help="A name of your choice: the same id again is the same kill")
    ] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not follow it until it has drained")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Stop a session, agent, tool, server, tenant or everything.

    What runs of it is cut, what comes is refused. The command returns when no replica runs anything of it any more: it
    has drained. It holds until it is released, or for as long as --expires says.

    \b
      agentgate kill session s-1 --reason "loops on the order table"
      agentgate kill agent research-bot --expires 15m
      agentgate kill tool db_insert --id incident-42
      agentgate kill all --reason "stop everything"

    Exit status: 0 in force and drained; 4 in force, not drained; 1 refused or failed; 2 not an order.
    """
    order = _order(scope, target, reason, tenant, expires, kill_id)
    with the_gateway(url, key, config, data_dir, needs="operator") as remote:
        answer = _given(remote, order)
        if not answer["drained"] and not no_wait:
            answer = _follow(remote, answer)
    if as_json:
        print(json.dumps(answer, indent=2))
    else:
        _say_kill(answer)
    if not answer.get("active", True):
        raise typer.Exit(EXIT_REFUSED)
    raise typer.Exit(0 if answer["drained"] else EXIT_NOT_YET)


def _order(
    scope: Stop, target: str, reason: str, tenant: str | None, expires: str | None, kill_id: str | None
) -> dict[str, Any]:
    """The order as the gateway takes it. It always has an id, so that it can be repeated."""
    is_global = scope in (Stop.ALL, Stop.GLOBAL)
    if is_global == bool(target):
        die("`kill all` takes no target" if is_global else f"say which {scope}", EXIT_USAGE)
    if len(reason) > MAX_REASON_CHARS:
        die(f"the reason has {len(reason)} characters; at most {MAX_REASON_CHARS} fit", EXIT_USAGE)
    order: dict[str, Any] = {
        "id": kill_id if kill_id is not None else f"kill-{secrets.token_hex(5)}",
        "scope": Scope.GLOBAL.value if is_global else scope.value,
        "target": target,
        "reason": reason,
    }
    if tenant is not None:
        order["tenant"] = tenant
    if expires is not None:
        order["expires_in_s"] = _seconds(expires)
    return order


def _given(remote: Remote, order: dict[str, Any]) -> Answer:
    """The answer to an order. Where it is not known whether it is in force, the sentence says how to make sure."""
    again = f"say it again with --id {order['id']}: the same id is one kill"
    try:
        return remote.kill(order)
    except KeyboardInterrupt:
        die(f"the answer was not waited for: whether the kill is in force is not known; {again}", EXIT_REFUSED)
    except Unanswered as silence:
        if not silence.may_have_arrived:
            raise
        die(f"{remote.url}: {silence}. Whether the kill is in force is not known; {again}", EXIT_REFUSED)
    except Refusal as refusal:
        if refusal.reason != "log_unavailable":
            raise
        die(
            f"{refusal.status} {refusal.reason}: the kill is not on record. What it covers was cut in the replica that "
            "answered, which starts nothing while its log is silent; other replicas have not heard of it. "
            f"Once the log is back, {again}",
            EXIT_REFUSED,
        )


_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def _seconds(text: str) -> float:
    """`90s`, `15m`, `1h30m`; seconds where no unit is said."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if parts and "".join(number + unit for number, unit in parts) == text:
        return sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not re.fullmatch(r"\d+(\.\d+)?", text):
        die(f"{text!r} is not a length of time, such as 90s, 15m, 2h or 1d", EXIT_USAGE)
    return float(text)


def _follow(remote: Remote, kill: Answer) -> Answer:
    """The kill once it has drained as far as it can; as far as it is with Ctrl-C, or when nobody answers any more.

    A replica that is silent is declared gone by the others after a while, so this ends.
    """
    began = heard = time.monotonic()
    if not err.is_terminal:
        err.print("in force, waiting until it has drained")
    with err.status("in force") as status:
        try:
            while watching.is_under_way(kill):
                for_s, silent_s = time.monotonic() - began, time.monotonic() - heard
                if silent_s > GIVE_UP_S:
                    err.print(
                        f"the gateway has not answered for {watching.duration(silent_s)}; the kill stays in force"
                    )
                    break
                silence = ", the gateway does not answer now" if silent_s > SILENT_S else ""
                status.update(f"in force, draining for {for_s:.0f} s: {watching.drain_state(kill)}{silence}")
                time.sleep(FOLLOW_EVERY_S)
                if (now := _looked_at(remote, kill["id"])) is not None:
                    kill, heard = now, time.monotonic()
        except KeyboardInterrupt:
            err.print("not waiting any longer; the kill stays in force")
    return kill


def _looked_at(remote: Remote, kill_id: str) -> Answer | None:
    """The kill now; None while nobody can say."""
    try:
        return remote.progress(kill_id)
    except Unanswered:
        return None
    except Refusal as refusal:
        if refusal.status != 503:
            raise
        return None


def _say_kill(kill: Answer) -> None:
    reason = f" ({watching.plain(kill['reason'])})" if kill["reason"] else ""
    standing = "is in force" if kill.get("active", True) else "was in force"
    out.print(f"kill [bold]{escape(kill['id'])}[/] {standing}: {escape(watching.what_it_stops(kill))}{escape(reason)}")
    for line in watching.outcome_of(kill):
        out.print(line)
    for line in watching.verdict_on(kill):
        out.print(line)


@cli.command("kills")
def list_kills(
    as_json: AsJson = False, url: Url = None, key: ApiKey = None, config: Config = None, data_dir: DataDir = None
) -> None:
    """What is in force, since when, and how far it has come.

    Exit status: 0, whether there are any or not; 1 when the gateway does not answer or refuses.
    """
    with the_gateway(url, key, config, data_dir, needs="operator") as remote:
        kills = remote.kills().kills
    if as_json:
        print(json.dumps({"kills": kills}, indent=2))
    elif kills:
        width = out.width if out.is_terminal else 0
        wide().print(watching.kills_table(kills, datetime.now(UTC), width=width))
    else:
        out.print("no kill is in force")


@cli.command("release")
def release(
    kill_ids: Annotated[
        list[str], typer.Argument(metavar="KILL_ID", help="Ids from `agentgate kills`; `all` is `resume`")
    ],
    force: Force = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """End kills. What they cut stays cut. Needs an admin, or as many persons as `containment.release_quorum` says.

    \b
      agentgate release kill-3f9c2a7b1d
      agentgate release all               ends `kill all`; narrower kills stay

    Exit status: 0 released; 4 noted, but other persons have to ask for it as well; 1 refused or failed.
    """
    statuses = []
    with the_gateway(url, key, config, data_dir, needs="admin") as remote:
        for kill_id in dict.fromkeys(kill_ids):
            try:
                statuses.append(_release_all(remote, force) if kill_id == "all" else _release(remote, kill_id, force))
            except Refusal as refusal:
                if refusal.status in (401, 403):
                    raise
                err.print(f"agentgate: {escape(watching.plain(f'{kill_id}: {refusal.detail}'))}")
                statuses.append(EXIT_REFUSED)
    raise typer.Exit(EXIT_REFUSED if EXIT_REFUSED in statuses else max(statuses))


@cli.command("resume")
def resume(
    force: Force = False, url: Url = None, key: ApiKey = None, config: Config = None, data_dir: DataDir = None
) -> None:
    """End `kill all`: the same as `release all`."""
    release(["all"], force, url, key, config, data_dir)


def _release(remote: Remote, kill_id: str, force: bool) -> int:
    if not is_id(kill_id):
        die(f"{kill_id!r} is not the id of a kill", EXIT_USAGE)
    answer = remote.release(kill_id, force=force)
    if answer["status"] == "pending":
        return _say_pending(answer)
    out.print(f"released {escape(answer['id'])}, which stopped {escape(watching.what_it_stops(answer))}")
    return 0


def _release_all(remote: Remote, force: bool) -> int:
    answer = remote.resume(force=force)
    if answer["status"] == "pending":
        return _say_pending(answer)
    released = ", ".join(answer["released"])
    out.print(f"released {escape(released)}: calls run again" if released else "nothing was paused")
    if left := remote.kills(1).total:
        out.print(f"{watching.counted(left, 'other kill')} in force: agentgate kills")
    return 0


def _say_pending(answer: Answer) -> int:
    asked = ", ".join(watching.plain(person) for person in answer["asked_by"])
    out.print(
        f"[yellow]not released yet[/]: {escape(answer['id'])} needs {answer['quorum']} persons, "
        f"and {len(answer['asked_by'])} asked so far ({escape(asked)})"
    )
    return EXIT_NOT_YET


# --- members and the live view ------------------------------------------------------------------------------


@members_cli.callback()
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
        if as_json or any(option is not None for option in (url, key, config, data_dir)):
            die(f"options of `members {context.invoked_subcommand}` go behind its name", EXIT_USAGE)
        return
    with the_gateway(url, key, config, data_dir, needs="operator") as remote:
        members = remote.members()
    if as_json:
        print(json.dumps({"members": members}, indent=2))
    else:
        wide().print(watching.members_table(members))
        if any(member["presence"] == "gone" for member in members):
            out.print("gone: not heard for too long. Once its host is destroyed: agentgate members gone MEMBER")


@members_cli.command("gone")
def attest_gone(
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="Its id from `agentgate members`")],
    yes: Annotated[bool, typer.Option("--yes", help="Attest without being asked")] = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Attest that a member's host is destroyed, so that kills need not wait for it. Needs an admin of all tenants."""
    if not is_id(member):
        die(f"{member!r} is not the id of a member", EXIT_USAGE)
    if not yes:
        err.print(
            f"You attest that the process of member [bold]{escape(member)}[/] has ended for good: its host is switched "
            "off or destroyed. Kills then count as drained without it. If it still runs somewhere, calls that were "
            "killed may run on there, and nobody will be told. The log keeps that it was you who said so.",
            soft_wrap=False,
        )
        if not sys.stdin.isatty():
            die("nobody is here to be asked; say --yes", EXIT_USAGE)
        typer.confirm("Do you know that?", abort=True, err=True)
    with the_gateway(url, key, config, data_dir, needs="admin") as remote:
        answer = remote.attest_gone(member)
    out.print(f"{escape(answer['member'])} is {escape(answer['presence'])}: kills no longer wait for it")


@cli.command("watch")
def watch(
    as_json: Annotated[bool, typer.Option("--json", help="One snapshot as JSON")] = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Calls in flight, kills and members, live; Ctrl-C ends it. Into a file or a pipe: one snapshot."""
    with the_gateway(url, key, config, data_dir, needs="operator", answer_s=watching.ANSWER_S) as remote:
        if out.is_terminal and not as_json:
            watching.watch(remote, out)
            return
        board = watching.Board(remote)
        board.look()
        if not board.is_answered:
            raise Unanswered(board.silence, may_have_arrived=False)
        if as_json:
            print(json.dumps(board.as_json(), indent=2))
        else:
            wide().print(board.picture())


# --- where, and with which key ------------------------------------------------------------------------------

_ELSEWHERE: Final = "say where the gateway is with --url or AGENTGATE_URL"
_NOT_THERE: Final = f"start it with `agentgate serve`, or {_ELSEWHERE}"


@contextmanager
def the_gateway(
    url: str | None,
    key: str | None,
    config: Path | None,
    data_dir: Path | None,
    *,
    needs: str,
    answer_s: float = ANSWER_S,
) -> Iterator[Remote]:
    """The gateway that a command talks to; what it does not get ends in one sentence. `needs` names the role."""
    given = configuration.environment()
    url, key = url or given.get("AGENTGATE_URL"), key or given.get("AGENTGATE_KEY")
    if not url or not key:
        settings = settings_of(config, {"data_dir": data_dir})
        url, key = url or _url_of(settings), key or _admin_key_of(settings)
    try:
        remote = Remote(url, key, answer_s=answer_s)
    except ValueError as error:
        die(str(error), EXIT_USAGE)
    if remote.is_clear_text:
        err.print(f"agentgate: your key goes to {escape(remote.url)} in clear text")
    try:
        with remote:
            yield remote
    except Unanswered as silence:
        die(f"the gateway {remote.url} does not answer: {silence}; {_NOT_THERE}", EXIT_REFUSED)
    except NotAGateway as error:
        die(f"{remote.url} answers {error}; {_ELSEWHERE}", EXIT_REFUSED)
    except Refusal as refusal:
        is_told = f"needs {needs}" in refusal.detail
        also = f"; this wants a key with the role {needs}" if refusal.status in (401, 403) and not is_told else ""
        die(f"{refusal.status} {refusal.reason}: {watching.plain(refusal.detail)}{also}", EXIT_REFUSED)


def _url_of(settings: Settings) -> str:
    """Where a gateway with these settings is reached."""
    server = settings.server
    if server.base_url is not None:
        return server.base_url
    if server.port == 0:
        die("the configured port is 0: say with --url where the gateway is", EXIT_USAGE)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - compared with
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def _admin_key_of(settings: Settings) -> str:
    """The configured admin key, or the one that the first start left in the data directory."""
    if settings.auth.admin_key is not None:
        return settings.auth.admin_key
    path = settings.data_dir / "admin.key"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        hint = "set AGENTGATE_KEY, or say --key, or --data-dir where a gateway of this machine keeps its own"
        die(f"no key: {hint} ({path}: {error.strerror})", EXIT_USAGE)
