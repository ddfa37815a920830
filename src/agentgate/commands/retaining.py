"""Commands about what is kept and for how long: `agentgate retention`, `agentgate hold`."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from agentgate.commands.answers import Abandoned, Answer, Unanswered
from agentgate.commands.gateway import ApiKey, AsJson, Reason, Url, the_gateway
from agentgate.commands.remote import Remote
from agentgate.commands.terminal import Config, DataDir, Status, ask, die, err, out, safe, say_json, tell, wide
from agentgate.commands.typed import check_ids, check_own_id, moment
from agentgate.commands.words import counted, named, plain
from agentgate.core.retention import MAX_HOLD_REASON_CHARS

cli = typer.Typer(help="For how long arguments, contexts and texts are kept.", no_args_is_help=True)
holds_cli = typer.Typer(help="Legal holds: what must not be pruned.", no_args_is_help=True)

ANSWER_S: Final = 120.0
"""A part of a prune rewrites what it takes something out of."""


# --- retention ------------------------------------------------------------------------------------------------


@cli.command("status")
def status(
    as_json: AsJson = False, url: Url = None, key: ApiKey = None, config: Config = None, data_dir: DataDir = None
) -> None:
    """What is kept for how long, what is due now, and what keeps it from going. Needs an auditor.

    Exit status: 0; 4 when something is due that cannot go; 1 refused or failed.
    """
    with the_gateway(url, key, config, data_dir, needs="auditor") as remote:
        found = remote.retention()
    tell(found, as_json, _say_status)
    is_stuck = found["due"] and (found["cannot_delete"] or found["clock"])
    raise typer.Exit(Status.NOT_YET if is_stuck else 0)


def _say_status(found: Answer) -> None:
    by_itself = "once a day, by itself" if found["automatic"] else "only when somebody says so"
    out.print(f"bodies are kept for {found['days']} days, and pruned {by_itself}")
    if found["below_floor"]:
        out.print(f"[yellow]that is below the floor of {found['floor_days']} days, as configured[/]")
    at_least = "" if found["counted_all"] else "at least "
    kept = [f"{at_least}{counted(found[name], 'session')} {name}" for name in ("due", "held", "open")]
    out.print(f"{', '.join(kept)} of those without an event since {safe(found['before'][:10])}")
    if found["oldest"] is not None:
        out.print(f"the oldest session of which nothing was pruned began {safe(found['oldest'][:10])}")
    if "bodies" in found:
        bodies = found["bodies"]
        segments = counted(bodies["segments"], "segment")
        out.print(f"{bodies['single']} bodies, and {bodies['compressed']} compressed in {segments}")
    for name in ("cannot_delete", "clock", "trouble"):
        if found[name]:
            out.print(f"[yellow]{safe(plain(found[name]))}[/]")


@cli.command("prune")
def prune(
    days: Annotated[
        int | None, typer.Option("--days", min=0, help="Keep so many days, instead of what is configured")
    ] = None,
    before: Annotated[str | None, typer.Option("--before", help="Prune what is older than this time, instead")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Even below the configured days or the floor, or with a clock in doubt")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and change nothing")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Force without being asked")] = False,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Give up the bodies of sessions that are due, now instead of tonight. Needs an admin of all tenants.

    Arguments, contexts and texts go for good; leaves stay, and every proof with them. Each session's prune is an event
    with your name. Sessions on legal hold and those with an open call stay.

    \b
      agentgate retention prune --dry-run
      agentgate retention prune --days 200 --force

    Exit status: 0 done; 1 refused or failed; 2 not an order. Ctrl-C stops it: what is pruned by then stays so, and
    saying it again goes on.
    """
    if days is not None and before is not None:
        die("say --days or --before", Status.USAGE)
    if force and not dry_run and not yes:
        _ask()
    order = {"force": force, "dry_run": dry_run} | {
        name: value for name, value in (("days", days), ("before", moment(before))) if value is not None
    }
    with the_gateway(url, key, config, data_dir, needs="admin", answer_s=ANSWER_S) as remote:
        done = _prune(remote, order)
    tell(done, as_json, partial(_say_pruned, dry_run=dry_run))


def _ask() -> None:
    err.print(
        "Forced, this may delete what is to be kept for longer: the configured days, the floor of six months and the "
        "doubt about the clock do not count. It cannot be undone, and the log keeps that it was you.",
        soft_wrap=False,
    )
    ask("Do you want that?")


def _prune(remote: Remote, order: dict[str, Any]) -> dict[str, Any]:
    """All parts of a prune, one after the other."""
    done: dict[str, Any] = {"sessions": 0, "bodies": 0, "held": 0, "open": 0, "next": None, "before": ""}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    total = None if "days" in order or "before" in order else _due(remote)
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("sessions", total=total)
        while True:
            part = _part(remote, order, done)
            for name in ("sessions", "bodies", "held", "open"):
                done[name] += part[name]
            done["before"], done["next"] = part["before"], part["next"]
            progress.advance(task, part["sessions"])
            if part["next"] is None:
                return done
            order["after"] = part["next"]


def _due(remote: Remote) -> int | None:
    found = remote.retention()
    return found["due"] if found["counted_all"] else None


def _part(remote: Remote, order: dict[str, Any], done: dict[str, Any]) -> Answer:
    """The next part. Where nobody answers any more, the sentence says what is done by then."""
    try:
        return remote.prune(order)
    except Abandoned:
        die(f"stopped; {_so_far(done)}. Saying it again goes on", Status.REFUSED)
    except Unanswered as silence:
        if not silence.may_have_arrived and not done["sessions"]:
            raise
        die(f"{remote.url}: {silence}; {_so_far(done)}, and perhaps more. Saying it again goes on", Status.REFUSED)


def _so_far(done: dict[str, Any]) -> str:
    return f"{counted(done['sessions'], 'session')} pruned"


def _say_pruned(done: Answer, *, dry_run: bool) -> None:
    sessions, bodies = counted(done["sessions"], "session"), done["bodies"]
    of = f"{bodies} {'body' if bodies == 1 else 'bodies'} of {sessions}"
    out.print(f"{'would prune' if dry_run else 'pruned'} {of}, without an event since {safe(done['before'][:10])}")
    for name, why in (("held", "on legal hold"), ("open", "with an open call")):
        if done[name]:
            out.print(f"{counted(done[name], 'session')} {why} stay{'s' if done[name] == 1 else ''}")


# --- holds ----------------------------------------------------------------------------------------------------


@holds_cli.command("add")
def add(
    session: Annotated[
        str,
        typer.Argument(metavar="[SESSION]", help="The session to keep; none for a whole tenant", show_default=False),
    ] = "",
    reason: Reason = "",
    tenant: Annotated[str | None, typer.Option("--tenant", help="If not your own")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Keep everything of all tenants")] = False,
    hold_id: Annotated[
        str | None, typer.Option("--id", help="A name of your choice: the same id again is the same hold")
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Keep a session, a tenant or everything from being pruned, until an admin releases it. Needs an auditor.

    \b
      agentgate hold add s-1 --reason "case 4711"
      agentgate hold add --tenant acme --reason "audit 2026" --id audit-2026

    Exit status: 0 held; 1 refused or failed; 2 not an order.
    """
    if not reason or len(reason) > MAX_HOLD_REASON_CHARS:
        die(f"say why with --reason, in up to {MAX_HOLD_REASON_CHARS} characters", Status.USAGE)
    if everything and (session or tenant):
        die("--all takes neither a session nor --tenant", Status.USAGE)
    check_ids(session=session or None, tenant=tenant or None, hold=hold_id or None)
    order: dict[str, Any] = {"id": hold_id or f"hold-{secrets.token_hex(5)}", "reason": reason}
    order |= {name: value for name, value in (("session", session), ("tenant", tenant)) if value}
    if everything:
        order["all_tenants"] = True
    with the_gateway(url, key, config, data_dir, needs="auditor") as remote:
        hold = _held(remote, order)
    tell(hold, as_json, lambda hold: out.print(f"hold [bold]{safe(hold['id'])}[/] keeps {safe(_what(hold))}"))


def _held(remote: Remote, order: dict[str, Any]) -> Answer:
    try:
        return remote.hold(order)
    except Unanswered as silence:
        if not silence.may_have_arrived:
            raise
        again = f"say it again with --id {order['id']}: the same id is one hold"
        die(f"{remote.url}: {silence}. Whether it is held is not known; {again}", Status.REFUSED)


@holds_cli.command("list")
def list_holds(
    as_json: AsJson = False, url: Url = None, key: ApiKey = None, config: Config = None, data_dir: DataDir = None
) -> None:
    """What is held, by whom, since when and why. Needs an auditor."""
    with the_gateway(url, key, config, data_dir, needs="auditor") as remote:
        holds = remote.holds()
    if as_json:
        say_json({"holds": holds})
    elif holds:
        wide().print(holds_table(holds))
    else:
        out.print("nothing is held")


def holds_table(holds: Sequence[Answer]) -> Table:
    # an id whole in a narrow terminal, too: half of one releases nothing
    table = Table(Column("hold", no_wrap=True), "keeps", "since", "by", "reason", box=None, pad_edge=False)
    for hold in holds:
        cells = (hold["id"], _what(hold), hold["at"][:10], hold["actor"], hold["reason"])
        table.add_row(*(safe(plain(cell)) for cell in cells))
    return table


@holds_cli.command("release")
def release(
    hold_id: Annotated[str, typer.Argument(help="An id from `agentgate hold list`")],
    reason: Reason = "",
    as_json: AsJson = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """End a hold: what it kept goes when it is due. Needs an admin.

    Exit status: 0 released; 1 refused or failed; 2 not an id.
    """
    check_own_id("hold", hold_id)
    if len(reason) > MAX_HOLD_REASON_CHARS:
        die(f"the reason has {len(reason)} characters; at most {MAX_HOLD_REASON_CHARS} fit", Status.USAGE)
    with the_gateway(url, key, config, data_dir, needs="admin") as remote:
        hold = remote.release_hold(hold_id, reason)
    tell(hold, as_json, lambda hold: out.print(f"released {safe(hold['id'])}, which kept {safe(_what(hold))}"))


def _what(hold: Answer) -> str:
    tenant, session = hold.get("tenant"), hold.get("session_id")
    if tenant is None:
        return "everything"
    return f"session {named(tenant, session)}" if session else f"tenant {plain(tenant)}"
