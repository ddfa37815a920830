"""Commands that stop and release, and that show what is stopped: kill, kills, release, resume."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from agentgate.commands.answers import Abandoned, Answer, Refusal, Unanswered
from agentgate.commands.gateway import ApiKey, AsJson, Reason, Url, the_gateway
from agentgate.commands.remote import Remote
from agentgate.commands.tables import containment
from agentgate.commands.terminal import Config, DataDir, Status, die, err, out, safe, say_json, tell, wide
from agentgate.commands.typed import check_ids, check_own_id, seconds
from agentgate.commands.words import counted, duration, plain
from agentgate.core.containment import MAX_REASON_CHARS, Scope

cli = typer.Typer()

Force = Annotated[bool, typer.Option("--force", help="Even if it has not drained; its event says so")]

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
    reason: Reason = "",
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
    tell(answer, as_json, _say_kill)
    if not answer.get("active", True):
        raise typer.Exit(Status.REFUSED)
    raise typer.Exit(0 if answer["drained"] else Status.NOT_YET)


def _order(
    scope: Stop, target: str, reason: str, tenant: str | None, expires: str | None, kill_id: str | None
) -> dict[str, Any]:
    """The order as the gateway takes it. It always has an id, so that it can be repeated."""
    is_global = scope in (Stop.ALL, Stop.GLOBAL)
    if is_global == bool(target):
        die("`kill all` takes no target" if is_global else f"say which {scope}", Status.USAGE)
    check_ids(kill=kill_id)
    if kill_id == "all":
        die("no kill is called all: `release all` ends every `kill all`", Status.USAGE)
    if len(reason) > MAX_REASON_CHARS:
        die(f"the reason has {len(reason)} characters; at most {MAX_REASON_CHARS} fit", Status.USAGE)
    order: dict[str, Any] = {
        "id": kill_id if kill_id is not None else f"kill-{secrets.token_hex(5)}",
        "scope": Scope.GLOBAL.value if is_global else scope.value,
        "target": target,
        "reason": reason.encode(errors="replace").decode(),  # a stop does not wait for a letter that is none
    }
    if tenant is not None:
        order["tenant"] = tenant
    if expires is not None:
        order["expires_in_s"] = seconds(expires)
    return order


def _given(remote: Remote, order: dict[str, Any]) -> Answer:
    """The answer to an order. Where it is not known whether it is in force, the sentence says how to make sure."""
    again = f"say it again with --id {order['id']}: the same id is one kill"
    try:
        return remote.kill(order)
    except Abandoned:
        die(f"the answer was not waited for: whether the kill is in force is not known; {again}", Status.REFUSED)
    except Unanswered as silence:
        if not silence.may_have_arrived:
            raise
        die(f"{remote.url}: {silence}. Whether the kill is in force is not known; {again}", Status.REFUSED)
    except Refusal as refusal:
        if refusal.reason != "log_unavailable":
            raise
        die(
            f"{refusal.status} {refusal.reason}: the kill is not on record. What it covers was cut in the replica that "
            "answered, which starts nothing while its log is silent; other replicas have not heard of it. "
            f"Once the log is back, {again}",
            Status.REFUSED,
        )


def _follow(remote: Remote, kill: Answer) -> Answer:
    """The kill once it has drained as far as it can; as far as it is with Ctrl-C, or when nobody answers any more.

    A replica that is silent is declared gone by the others after a while, so this ends.
    """
    began = heard = time.monotonic()
    if not err.is_terminal:
        err.print("in force, waiting until it has drained")
    with err.status("in force") as status:
        try:
            while containment.is_under_way(kill):
                for_s, silent_s = time.monotonic() - began, time.monotonic() - heard
                if silent_s > GIVE_UP_S:
                    err.print(f"the gateway has not answered for {duration(silent_s)}; the kill stays in force")
                    break
                silence = ", the gateway does not answer now" if silent_s > SILENT_S else ""
                status.update(f"in force, draining for {for_s:.0f} s: {containment.drain_state(kill)}{silence}")
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
    reason = f" ({plain(kill['reason'])})" if kill["reason"] else ""
    standing = "is in force" if kill.get("active", True) else "was in force"
    what = safe(containment.what_it_stops(kill) + reason)
    out.print(f"kill [bold]{safe(kill['id'])}[/] {standing}: {what}")
    for line in (*containment.outcome_of(kill), *containment.verdict_on(kill)):
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
        say_json({"kills": kills})
    elif kills:
        width = out.width if out.is_terminal else 0
        wide().print(containment.kills_table(kills, datetime.now(UTC), width=width))
    else:
        out.print("no kill is in force")


@cli.command("release")
def release(
    kill_ids: Annotated[
        list[str], typer.Argument(metavar="KILL_ID", help="Ids from `agentgate kills`; `all` is `resume`")
    ],
    force: Force = False,
    as_json: AsJson = False,
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
    wanted = list(dict.fromkeys(kill_ids))
    for kill_id in wanted:
        check_own_id("kill", kill_id)
    answers: list[Answer] = []
    try:
        with the_gateway(url, key, config, data_dir, needs="admin") as remote:
            for kill_id in wanted:
                answers.append(_released(remote, kill_id, force))
                if not as_json:
                    _say_release(remote, answers[-1])
    finally:
        if as_json:
            say_json({"releases": answers})
    statuses = [_RELEASES.get(answer["status"], 0) for answer in answers]
    raise typer.Exit(Status.REFUSED if Status.REFUSED in statuses else max(statuses))


@cli.command("resume")
def resume(
    force: Force = False,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """End `kill all`: the same as `release all`."""
    release(["all"], force, as_json, url, key, config, data_dir)


_RELEASES: Final = {"pending": Status.NOT_YET, "refused": Status.REFUSED}


def _released(remote: Remote, kill_id: str, force: bool) -> Answer:
    """What the gateway said to one release. A refusal of this one kill is an answer too: the others are released."""
    try:
        return remote.resume(force=force) if kill_id == "all" else remote.release(kill_id, force=force)
    except Refusal as refusal:
        if refusal.status in (401, 403):
            raise
        err.print(f"agentgate: {safe(plain(f'{kill_id}: {refusal.detail}'))}")
        return {"id": kill_id, "status": "refused", "reason_code": refusal.reason, "detail": refusal.detail}


def _say_release(remote: Remote, answer: Answer) -> None:
    if answer["status"] == "pending":
        _say_pending(answer)
    elif "released" in answer:
        released = ", ".join(answer["released"])
        out.print(f"released {safe(released)}: calls run again" if released else "nothing was paused")
        with suppress(Refusal):  # this was done, whatever keeps from saying what is left to do
            if left := remote.kills(1).total:
                out.print(f"{counted(left, 'other kill')} in force: agentgate kills")
    elif answer["status"] != "refused":
        out.print(f"released {safe(answer['id'])}, which stopped {safe(containment.what_it_stops(answer))}")


def _say_pending(answer: Answer) -> None:
    asked = ", ".join(plain(person) for person in answer["asked_by"])
    out.print(
        f"[yellow]not released yet[/]: {safe(answer['id'])} needs {answer['quorum']} persons, "
        f"and {len(answer['asked_by'])} asked so far ({safe(asked)})"
    )
