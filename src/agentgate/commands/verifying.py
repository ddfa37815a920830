"""`agentgate verify` and `agentgate log`: checks that need no running gateway."""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agentgate import settings as configuration
from agentgate.commands.terminal import Config, DataDir, Status, die, or_die, out, safe, say_json, settings_of
from agentgate.commands.words import plain
from agentgate.core.audit.report import Report as LogReport
from agentgate.core.verification.findings import Report, Standing
from agentgate.core.verification.seals import NoKey, Trust, read_trust
from agentgate.core.verification.verify import is_view, verify_view
from agentgate.core.verification.verify import verify as verify_pack

cli = typer.Typer()
log_cli = typer.Typer(help="The append-only log.", no_args_is_help=True)


_MAX_BYTES = 4 << 30
"""A pack is read into memory as a whole."""
_MAX_STREAM_BYTES = 1 << 28
"""The same of a pipe or a device, which do not say how much comes."""


@cli.command("verify")
def verify(
    pack: Annotated[Path, typer.Argument(metavar="PACK", help="An evidence pack: zip, JSON, HTML or PDF")],
    key: Annotated[
        list[str] | None, typer.Option("--key", help="HMAC key, may be repeated; default AGENTGATE_SIGNING_KEY")
    ] = None,
    trust: Annotated[
        list[Path] | None, typer.Option("--trust", help="Public key you trust: PEM, or a log's vkey; may be repeated")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="A checkpoint of the log that you have kept from earlier")
    ] = None,
    hmac: Annotated[
        Path | None, typer.Option("--hmac", help="HMAC of an HTML or PDF pack; default PACK.hmac, if it is there")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Findings as JSON")] = False,
) -> None:
    """Check an evidence pack offline. Exit 0 verified, 1 broken or missing, 2 no key of yours covers it."""
    raw = _read(pack)
    trusted = _trust(key or [], trust or [])
    earlier = _read(checkpoint) if checkpoint is not None else None
    if is_view(raw):
        beside = hmac or pack.with_name(f"{pack.name}.hmac")
        report = verify_view(raw, _read(beside) if hmac is not None or _exists(beside) else None, trusted, earlier)
    else:
        report = verify_pack(raw, trusted, earlier)
    if as_json:
        rows = [
            {"check": f.check, "standing": f.standing, "fault": f.fault, "detail": f.detail} for f in report.findings
        ]
        say_json({"exit_status": report.exit_status, "findings": rows})
    else:
        _print_findings(report)
        out.print(f"{safe(plain(pack))}: {_VERDICTS[report.exit_status]}")
    raise typer.Exit(report.exit_status)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            size = max(os.fstat(file.fileno()).st_size, _MAX_STREAM_BYTES)
            raw = file.read(size + 1) if size <= _MAX_BYTES else b""
    except OSError as error:
        die(f"{plain(path)} cannot be read: {error.strerror}", 1)
    if size > _MAX_BYTES or len(raw) > size:
        die(f"{plain(path)} has more bytes than any pack, or does not end", 1)
    return raw


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a folder that is not ours
        return False


def _trust(keys: list[str], files: list[Path]) -> Trust:
    if not keys and (from_environment := configuration.signing_key_from_environment()):
        keys = [from_environment]
    # $(cat a-file-that-is-not-there) is an empty key, and with that anybody can sign
    if any(len(key.encode(errors="surrogateescape")) < configuration.MIN_HMAC_KEY_BYTES for key in keys):
        die(f"an HMAC key has at least {configuration.MIN_HMAC_KEY_BYTES} bytes: the one that you gave is cut off", 1)
    trusted = Trust(hmac_keys=tuple(key.encode(errors="surrogateescape") for key in keys))
    for path in files:
        try:
            trusted |= read_trust(_read(path))
        except NoKey as error:
            die(f"{plain(path)}: {error}", 1)
    return trusted


_MARKS = {Standing.HOLDS: "[green]✓[/]", Standing.BROKEN: "[red]✗[/]", Standing.NOT_CHECKED: "[yellow]–[/]"}
_VERDICTS = {
    0: "[green]verified[/]",
    1: "[red]BROKEN[/]",
    2: "[yellow]not verified: nothing is wrong with it, but no key that you gave vouches for it[/]",
}


def _print_findings(report: Report) -> None:
    for found in report.findings:
        fault = f"{found.fault}: " if found.fault is not None else ""
        out.print(f"{_MARKS[found.standing]} {found.check:<10} {safe(plain(fault + found.detail))}")


@log_cli.command("verify")
def verify_log(
    data_dir: DataDir = None,
    database_url: Annotated[str | None, typer.Option("--database-url", help="AGENTGATE_DATABASE_URL")] = None,
    config: Config = None,
    checkpoint: Annotated[
        list[Path] | None, typer.Option("--checkpoint", help="A checkpoint that you have kept; may be repeated")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="What was found, as JSON")] = False,
) -> None:
    """Re-derive the whole log from its database. Exit 0 when everything holds, 1 naming the first that does not."""
    settings = settings_of(config, {"data_dir": data_dir, "log.url": database_url})
    from agentgate.offline import audit_log  # the databases' drivers, for who needs them

    with or_die(Status.REFUSED):
        report = asyncio.run(audit_log(settings, [_read(path) for path in checkpoint or []]))
    if as_json:
        say_json({**asdict(report), "root": report.root.hex(), "ok": report.ok})
    else:
        _print_log(report)
    raise typer.Exit(0 if report.ok else 1)


def _print_log(report: LogReport) -> None:
    for finding in report.findings:
        out.print(f"[red]✗[/] {safe(finding)}")
    for note in report.notes:
        out.print(f"[yellow]–[/] {safe(note)}")
    out.print(
        f"{report.size} events, {report.signed} of them signed, {report.checkpoints} checkpoints hold, "
        f"kill position {report.kill_position}, {report.pruned} bodies pruned, "
        f"{report.open_intents} calls without an outcome"
    )
    out.print(f"root {report.root.hex()}")
    out.print("[green]the log holds[/]" if report.ok else "[red]the log is BROKEN[/]")


@log_cli.command("sign")
def sign_log(
    data_dir: DataDir = None,
    database_url: Annotated[str | None, typer.Option("--database-url", help="AGENTGATE_DATABASE_URL")] = None,
    config: Config = None,
) -> None:
    """Sign events that no checkpoint is over, after you have looked at them: a start on too many is refused."""
    settings = settings_of(config, {"data_dir": data_dir, "log.url": database_url})
    from agentgate.offline import sign_log as sign  # as above

    with or_die(Status.START):
        size = asyncio.run(sign(settings))
    out.print(f"{size} events are signed")


@log_cli.command("migrate")
def migrate_log(
    database_url: Annotated[str | None, typer.Option("--database-url", help="AGENTGATE_DATABASE_URL")] = None,
    config: Config = None,
    to: Annotated[str, typer.Option("--to", help="A revision; `head` is the newest, `base` none")] = "head",
    drop_events: Annotated[bool, typer.Option("--drop-events", help="Going back may destroy a log")] = False,
) -> None:
    """Make or change the schema of a PostgreSQL log: all of it, or nothing."""
    settings = settings_of(config, {"log.url": database_url})
    from agentgate.offline import prepare_log  # as above

    with or_die(Status.START):
        done = asyncio.run(prepare_log(settings, to=to, drop_events=drop_events))
    for step in done or ["nothing to do"]:
        out.print(safe(step))
