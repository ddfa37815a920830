"""`agentgate keys`: API keys of agents and people."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Column, Table

from agentgate import keyfile
from agentgate.commands.ending import why
from agentgate.commands.terminal import Config, DataDir, Status, die, err, or_die, say_json, settings_of, wide
from agentgate.core.call import Role, key_sha256
from agentgate.core.errors import AgentGateError
from agentgate.settings import Key, Settings

cli = typer.Typer(help="API keys of agents and people. A running gateway takes every change within a second.",
                  no_args_is_help=True)  # fmt: skip

KeyId = Annotated[str, typer.Argument(metavar="KEY_ID", help="As `agentgate keys list` shows it")]
_SPAN: Final = re.compile(r"(\d{1,6})([smhd]?)")
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_TIMES: Final = ("created", "expires")
_ROOM_FOR_CREATED: Final = 110
"""From this width of a terminal on."""
_LONGEST_OVERLAP: Final = timedelta(days=30)


class _CannotChange(Exception):
    """The key cannot become what was asked. The text says why."""


@cli.command("create")
def create_key(
    agent: Annotated[str | None, typer.Option("--agent", help="The agent that the key stands for")] = None,
    person: Annotated[str | None, typer.Option("--person", help="The person that the key stands for")] = None,
    role: Annotated[list[Role] | None, typer.Option("--role", help="May be repeated; default agent")] = None,
    tenant: Annotated[str, typer.Option("--tenant", help="Whose agent or person it is")] = "default",
    tier: Annotated[str | None, typer.Option("--tier", help="Whose limits count for it (`tiers` in data.json)")] = None,
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="An operator or auditor of all tenants")] = False,
    expires_in_days: Annotated[float | None, typer.Option("--expires-in-days", min=0.0, help="Default: never")] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once; only its SHA-256 is kept."""
    if (agent is None) == (person is None):
        die("say whom the key is for: --agent NAME or --person NAME", Status.USAGE)
    roles = tuple(dict.fromkeys(role or [Role.AGENT]))
    if person is not None and roles == (Role.AGENT,) and not role:
        die("a person's key needs its roles: --role operator, approver, auditor or admin", Status.USAGE)
    settings = settings_of(config, {"data_dir": data_dir})
    secret, now = _new_secret(), _now()
    try:
        key = Key(
            id=_new_id(),
            sha256=key_sha256(secret),
            agent=agent,
            person=person,
            roles=roles,
            tenant=tenant,
            all_tenants=all_tenants,
            tier=tier,
            created=now,
            expires=_in_days(now, expires_in_days),
        )
        keyfile.add_key(keyfile.key_file(settings.data_dir), key)
    except ValueError as error:
        die(f"not a key: {_last_line(error)}", Status.USAGE)
    except (AgentGateError, OSError) as error:
        die(why(error, keyfile.key_file(settings.data_dir)), Status.START)
    _show_once(key, secret)
    if tier is not None:
        _warn_of_unknown(tier, settings)


@cli.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON")] = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """All keys: whose they are, what they may, and whether they are good now. Never a key, nor its digest."""
    settings = settings_of(config, {"data_dir": data_dir})
    with or_die(Status.START):
        made = keyfile.read_keys(keyfile.key_file(settings.data_dir))
    rows = [*_rows(settings.auth.keys, "configuration"), *_rows(made, "key file")]
    if as_json:
        say_json({"keys": rows})
        return
    if not rows:
        err.print(f"there are no keys: {_who_comes_without(settings)}; `agentgate keys create` makes one")
        return
    console = wide()
    heads = ["id", "whom", "roles", "tenant", "tier", "created", "expires", "state"]
    if console.width < _ROOM_FOR_CREATED:
        heads.remove("created")
    # whole in a narrow terminal, too: half of an id is none
    columns = (Column(head, overflow="fold", no_wrap=head in ("id", "state")) for head in heads)
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        tenant = "all" if row["all_tenants"] else row["tenant"]
        times = (str(row[name] or "–").replace("+00:00", "Z").replace("T", " ") for name in _TIMES if name in heads)
        state = f"{row['state']} by {row['replaced_by']}" if row["state"] == "replaced" else row["state"]
        table.add_row(row["id"], row["whom"], " ".join(row["roles"]), tenant, row["tier"] or "–", *times, state)
    console.print(table)


def _who_comes_without(settings: Settings) -> str:
    if settings.auth.oauth:
        return "agents come with tokens of " + ", ".join(part.issuer for part in settings.auth.oauth)
    if settings.auth.mtls is not None:
        return "agents come with certificates that a proxy has checked"
    return "every caller on this machine is the agent `local`"


@cli.command("disable")
def disable_key(key_id: KeyId, config: Config = None, data_dir: DataDir = None) -> None:
    """Refuse a key until it is enabled again. What its holder runs goes on: `agentgate kill agent` cuts it."""
    _change(config, data_dir, key_id, lambda key: (key.model_copy(update={"disabled": True}),))
    err.print(f"key {key_id} is disabled")


@cli.command("enable")
def enable_key(key_id: KeyId, config: Config = None, data_dir: DataDir = None) -> None:
    """Take a disabled key again."""
    _change(config, data_dir, key_id, lambda key: (key.model_copy(update={"disabled": False}),))
    err.print(f"key {key_id} is enabled")


@cli.command("delete")
def delete_key(key_id: KeyId, config: Config = None, data_dir: DataDir = None) -> None:
    """Forget a key. Its id stays in the log."""
    _change(config, data_dir, key_id, lambda _: ())
    err.print(f"key {key_id} is deleted")


@cli.command("rotate")
def rotate_key(
    key_id: KeyId,
    overlap: Annotated[str, typer.Option("--overlap", help="How long the old one goes on: 0, 30m, 24h, 7d")] = "24h",
    expires_in_days: Annotated[
        float | None, typer.Option("--expires-in-days", min=0.0, help="Default: as long as the old one was made for")
    ] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Make another key for the same principal. It is shown once; the old one works until the overlap is over."""
    span = _span(overlap)
    secret, now = _new_secret(), _now()
    pair: list[Key] = []

    def rotated(key: Key) -> tuple[Key, ...]:
        if key.sha256 is None:
            raise _CannotChange("is one that signs: put its new key into the configuration beside the old one")
        state = key.state(now)
        if state != "active":
            raise _CannotChange(f"is {state}: rotate an active one, or make another with `agentgate keys create`")
        expires = _in_days(now, expires_in_days)
        if key.expires is not None and expires is None:
            if key.created is None:
                raise _CannotChange("expires, and nobody knows how long it was made for: say --expires-in-days")
            expires = now + (key.expires - key.created)
        fresh = key.model_copy(
            update={"id": _new_id(), "sha256": key_sha256(secret), "created": now, "expires": expires}
        )
        ends = now + span if key.expires is None else min(key.expires, now + span)
        pair[:] = [key.model_copy(update={"expires": ends, "replaced_by": fresh.id}), fresh]
        return tuple(pair)

    _change(config, data_dir, key_id, rotated)
    former, fresh = pair
    when = f"in {overlap}" if span else "now"
    if former.expires is not None and former.expires < now + span:
        when = f"at {former.expires.astimezone(UTC):%Y-%m-%d %H:%M:%SZ}, as it would have"
    err.print(f"key {key_id} ends {when}")
    _show_once(fresh, secret)


def _change(config: Path | None, data_dir: Path | None, key_id: str, change: Callable[[Key], Iterable[Key]]) -> None:
    """Put what `change` makes of one key in its place, or end with a sentence."""
    settings = settings_of(config, {"data_dir": data_dir})

    def changed(keys: tuple[Key, ...]) -> Iterable[Key]:
        if all(key.id != key_id for key in keys):
            raise _CannotChange(_where_else(settings, key_id))
        return [new for key in keys for new in (change(key) if key.id == key_id else (key,))]

    try:
        keyfile.change_keys(keyfile.key_file(settings.data_dir), changed)
    except _CannotChange as error:
        die(f"key {key_id} {error}", Status.REFUSED)
    except (AgentGateError, OSError) as error:
        die(why(error, keyfile.key_file(settings.data_dir)), Status.START)


def _where_else(settings: Settings, key_id: str) -> str:
    if any(key.id == key_id for key in settings.auth.keys):
        return "is in the configuration (auth.keys): change it there, and start the gateway again"
    return "is not known; `agentgate keys list` shows them all"


def _rows(keys: Sequence[Key], source: str) -> list[dict[str, Any]]:
    now = _now()
    return [
        {
            "id": key.id,
            "whom": key.whom,
            "roles": [str(role) for role in key.roles],
            "tenant": key.tenant,
            "all_tenants": key.all_tenants,
            "tier": key.tier,
            "created": key.created.isoformat() if key.created is not None else None,
            "expires": key.expires.isoformat() if key.expires is not None else None,
            "state": key.state(now),
            "replaced_by": key.replaced_by,
            "source": source,
        }
        for key in keys
    ]


def _show_once(key: Key, secret: str) -> None:
    kind, _, name = key.whom.partition(":")
    err.print(f"key {key.id} for {kind} {name}, roles {', '.join(key.roles)}; shown once:")
    print(secret)


def _new_secret() -> str:
    return f"agk_{secrets.token_urlsafe(32)}"


def _new_id() -> str:
    return f"k-{secrets.token_hex(4)}"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _warn_of_unknown(tier: str, settings: Settings) -> None:
    """A key may come before its tier, and the policy may be elsewhere: so this is a word and no refusal."""
    from agentgate import rulings  # reads policies, which keys without a tier need not wait for

    try:
        known = asyncio.run(rulings.tiers_of(settings))
    except AgentGateError:
        return
    if tier not in known:
        names = ", ".join(sorted(known)) or "none at all"
        err.print(f"the policy has no tier {tier} ({names}): until it does, every call with this key is refused")


def _in_days(now: datetime, days: float | None) -> datetime | None:
    if days == 0:
        die("--expires-in-days 0 would be a key that is over at once; say how many days, or leave it out", Status.USAGE)
    try:
        return now + timedelta(days=days) if days is not None else None
    except OverflowError:
        die("--expires-in-days is too long", Status.USAGE)


def _span(text: str) -> timedelta:
    found = _SPAN.fullmatch(text)
    span = timedelta(seconds=int(found[1]) * _UNITS[found[2]]) if found else None
    if span is None or span > _LONGEST_OVERLAP:
        die("--overlap is a time such as 0, 90s, 30m, 24h or 7d, up to 30d", Status.USAGE)
    return span


def _last_line(error: ValueError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line.split(" [type=")[0] for line in lines if "[type=" in line), lines[0])
    return said.removeprefix("Value error, ")
