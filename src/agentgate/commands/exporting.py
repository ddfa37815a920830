"""`agentgate evidence`: take a pack from a running gateway, and the public keys that packs are checked with."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, BinaryIO, Final

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from agentgate.commands.gateway import ApiKey, Url, the_gateway
from agentgate.commands.remote import Download, Remote
from agentgate.commands.terminal import Config, DataDir, Status, die, err, or_die, out, safe, settings_of
from agentgate.commands.typed import Since, Until, check_ids, moment, principal
from agentgate.commands.words import counted
from agentgate.core.dsse import PublicKey
from agentgate.core.event import Kind
from agentgate.core.note import NoteInvalid, checkpoint_of

cli = typer.Typer(help="Evidence packs, and the public keys to check them with.", no_args_is_help=True)

ANSWER_S: Final = 600.0
"""A large pack is made before its first byte comes."""
_SEALED: Final = b'"signature_algorithm":"hmac-sha256"'
"""In a JSON pack that has an HMAC; within a text its quotes would be escaped."""


class Form(StrEnum):
    ZIP = "zip"
    JSON = "json"
    HTML = "html"
    PDF = "pdf"


OneForm = Annotated[
    Form | None,
    typer.Option("--format", help="Default: as FILE ends, else zip; only a zip convinces who has no key of yours"),
]
Allowed = Annotated[bool, typer.Option("--allow-empty", help="Take a pack, too, of whom nothing is on record")]


@cli.command("pull")
def pull(
    session: Annotated[
        str | None, typer.Argument(metavar="[SESSION]", help="A session; without one, the whole tenant or --agent")
    ] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="What this agent did; a person is `person:NAME`")] = None,
    tenant: Annotated[str | None, typer.Option("--tenant", help="Another tenant than the key's own")] = None,
    since: Since = None,
    until: Until = None,
    form: OneForm = None,
    file: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Where it goes; default evidence-NAME.FORMAT")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option("--checkpoint", help="One that you keep: the zip proves that the log continues it")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file")] = False,
    allow_empty: Allowed = False,
    url: Url = None,
    key: ApiKey = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Take an evidence pack. Needs an auditor. That it was taken is recorded.

    \b
      agentgate evidence pull s-1
      agentgate evidence pull --agent research-bot --since 2026-11-01 -o november.zip
      agentgate evidence pull --tenant acme --format pdf

    Exit status: 0 written; 1 refused or failed, and nothing is written; 2 not a question.
    """
    check_ids(session=session, agent=agent, tenant=tenant)
    if session is not None and agent is not None:
        die("a pack is of a session or of an agent: name one of them", Status.USAGE)
    form = form or _form_of(file)
    asked = {"session": session, "agent": agent, "tenant": tenant, "format": form.value}
    asked |= {"since": moment(since), "until": moment(until), "checkpoint_size": _size_of(checkpoint)}
    named = (session or agent or tenant or "tenant").replace(":", "-")
    path = file or Path(f"evidence-{named}.{form}")
    _check_place(path, force)
    wanted = {name: value for name, value in asked.items() if value is not None}
    with the_gateway(url, key, config, data_dir, needs="auditor", answer_s=ANSWER_S) as remote:
        if not allow_empty and not _is_on_record(remote, wanted):
            nothing = f"nothing is on record of {named} in this time; --allow-empty takes a pack that says so"
            die(nothing, Status.REFUSED)
        said = _take(remote, wanted, path)
    _say(path, form, said)


def _form_of(file: Path | None) -> Form:
    """What a file of this name is taken for by whoever opens it."""
    ending = "" if file is None else file.suffix[1:].lower()
    return next((form for form in Form if form == ending), Form.ZIP)


def _check_place(path: Path, force: bool) -> None:
    """A pack takes the place of what is there: of no device, pipe or link, such as /dev/stdout, whatever is said."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        die(f"{path} is not a plain file; name one of its own for the pack", Status.USAGE)
    if path.exists() and not force:
        die(f"{path} is there already; say --force to overwrite it", Status.USAGE)


def _is_on_record(remote: Remote, asked: Mapping[str, str]) -> bool:
    """Whether anything but that packs were taken is known of a session, an agent or a tenant."""
    query: dict[str, object] = {
        name: asked[name] for name in ("session", "agent", "tenant", "since", "until") if name in asked
    }
    if "agent" in asked:
        query["agent"] = principal(asked["agent"])
    kinds = [kind.value for kind in Kind if kind is not Kind.EXPORTED]
    return bool(remote.events({**query, "kind": kinds, "limit": 1})["events"])


def _say(path: Path, form: Form, said: Download) -> None:
    """What was taken, and how it is verified."""
    out.print(f"{safe(path)}: {counted(said.events, 'event')}, {said.size} bytes")
    out.print(f"pack {safe(said.pack_id)}")
    check = f"[bold]agentgate verify {safe(path)}"
    if form is Form.ZIP:
        out.print(f"{check} --trust log.vkey --trust envelope.pub.pem[/]")
        out.print("the two keys, from who runs the gateway: agentgate evidence keys --out .")
    elif said.hmac is not None or (form is Form.JSON and _SEALED in path.read_bytes()):
        out.print(f"{check} --key KEY[/], with the gateway's AGENTGATE_SIGNING_KEY for KEY")
    else:
        out.print("[yellow]nothing vouches for it: the gateway has no AGENTGATE_SIGNING_KEY; --format zip is signed[/]")


def _size_of(path: Path | None) -> str | None:
    """The size of a log when a checkpoint of it was kept."""
    try:
        return None if path is None else str(checkpoint_of(path.read_bytes()).size)
    except OSError as error:
        die(f"{path} cannot be read: {error.strerror}", Status.USAGE)
    except NoteInvalid as error:
        die(f"{path} is no checkpoint: {error}", Status.USAGE)


def _take(remote: Remote, asked: Mapping[str, str], path: Path) -> Download:
    """Write what comes beside `path`, and put it there when it is whole; then its HMAC, if it has one, beside it."""
    with ExitStack() as stack:
        with err.status("the gateway makes the pack"):
            said = stack.enter_context(remote.pack(asked))
        file = stack.enter_context(_replacing(path))
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeElapsedColumn())
        bar = stack.enter_context(Progress(*columns, console=err, transient=True, disable=not err.is_terminal))
        task = bar.add_task(counted(said.events, "event"), total=said.size)
        for part in said.parts:
            file.write(part)
            bar.advance(task, len(part))
    if said.hmac is not None:
        with _replacing(path.with_name(f"{path.name}.hmac")) as beside:
            beside.write(f"{said.hmac}\n".encode())
    return said


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file beside `path`, for its owner only, that takes its name once it is whole and safe; else it is gone. Nobody
    has put it there before, nor does another command write it."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        die(f"{path} cannot be written: {error.strerror}", Status.REFUSED)
    finally:
        part.unlink(missing_ok=True)


@cli.command("keys")
def public_keys(
    folder: Annotated[Path | None, typer.Option("--out", help="Write them there, for `verify --trust`")] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """The public keys of this gateway, to be handed to auditors in a way that they trust. Reads its data directory."""
    settings = settings_of(config, {"data_dir": data_dir})
    from agentgate.offline import public_keys_of  # the databases' drivers come with it, for who needs them

    with or_die(Status.START):
        files = public_keys_of(settings)
    for name, content in files.items():
        if name.endswith(".vkey"):
            out.print(f"{safe(name)}  the log's key\n  {safe(content.decode().strip())}")
        else:
            key = PublicKey.from_pem(content)
            out.print(f"{safe(name)}  {key.algorithm}, SHA-256 of its DER form\n  {key.key_id}")
        if folder is not None:
            _keep(folder / Path(name).name, content)


def _keep(path: Path, content: bytes) -> None:
    """Write a public key, but never over another one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.read_bytes() != content:
            die(f"{path} is another key; take it away first", Status.REFUSED)
        path.write_bytes(content)
    except OSError as error:
        die(f"{path} cannot be written: {error.strerror}", Status.REFUSED)
