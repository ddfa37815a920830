"""The log of the configuration and the keys of its checkpoints: to write to, to read, to verify and to migrate."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from agentgate import settings as configuration
from agentgate.adapters.log._checkpoints.anchors import Places
from agentgate.adapters.log._checkpoints.exchange import Webhook, Witness
from agentgate.adapters.log._checkpoints.followers import Standing
from agentgate.adapters.log._checkpoints.integrator import CheckpointSigner, Lag
from agentgate.adapters.log._reading.reader import Reader
from agentgate.adapters.log.sqlite import SqliteLog
from agentgate.adapters.log.sqlite import open_reader as read_sqlite
from agentgate.adapters.log.sqlite import verify as verify_sqlite
from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.audit.report import Report
from agentgate.core.errors import LogUnavailable, UnsafeConfiguration
from agentgate.core.note import NoteInvalid, NoteKey, parse_key, parse_witness_key
from agentgate.ports.log import Bodies, Bookmarks, Log, LogReader, Tree
from agentgate.settings import Settings


class LogStore(Log, LogReader, Tree, Protocol):
    """A log that is opened."""

    def patient(self) -> AbstractContextManager[None]:
        """For a start, while no caller waits: within it an append may take longer before it is given up on."""
        ...

    @property
    def is_shared(self) -> bool:
        """Whether other processes may append to it at the same time."""
        ...

    @property
    def bodies(self) -> Bodies: ...

    @property
    def bookmarks(self) -> Bookmarks: ...

    @property
    def keys(self) -> tuple[NoteKey, ...]:
        """The key that signs checkpoints, then former ones."""
        ...

    @property
    def witnesses(self) -> tuple[NoteKey, ...]:
        """The keys of those who cosign."""
        ...

    @property
    def lag(self) -> Lag:
        """How far the signed tree is behind."""
        ...

    @property
    def standings(self) -> list[Standing]:
        """How it stands with those who keep checkpoints."""
        ...


async def make_log(config: Settings, signer: CheckpointSigner, *, is_vouched_for: bool = False) -> LogStore:
    """The log at `log.url`, opened. `is_vouched_for`: somebody answers for what no checkpoint is over.

    Raises:
        UnsafeConfiguration, LogBroken, LogUnavailable: it cannot be used; the text says why.
    """
    part = config.log
    match part.kind:
        case "sqlite":
            path = _sqlite_path(config)
            places, former = _places(config), former_keys(config)
            return await SqliteLog.open(
                path, signer, part.origin, places=places, former_keys=former, is_vouched_for=is_vouched_for
            )
        case "postgresql":
            from agentgate.adapters.log.postgresql import PostgresLog  # its driver is for who has PostgreSQL

            witness = config.data_dir / "log.checkpoint"
            return await PostgresLog.open(
                part.url or "",
                signer,
                part.origin,
                witness=witness,
                places=_places(config),
                former_keys=former_keys(config),
                retention_url=part.retention_url,
                is_vouched_for=is_vouched_for,
            )
        case _:
            raise configuration.unknown_kind("log", part.kind, ("postgresql", "sqlite"))


def _places(config: Settings) -> Places:
    """Where checkpoints are kept besides the database. Raises UnsafeConfiguration."""
    part = config.log
    hook = part.checkpoint_webhook
    return Places(
        files=() if part.checkpoint_file is None else (part.checkpoint_file,),
        webhook=None if hook is None else Webhook(hook.url, hook.secret, hook.every_s, hook.optional),
        witnesses=tuple(Witness(one.url, key) for one, key in zip(part.witnesses, _witness_keys(config), strict=True)),
    )


def _witness_keys(config: Settings) -> list[NoteKey]:
    try:
        return [parse_witness_key(one.vkey) for one in config.log.witnesses]
    except NoteInvalid as error:
        raise UnsafeConfiguration(f"log.witnesses: {error}") from None


def former_keys(config: Settings) -> tuple[NoteKey, ...]:
    """The keys that have signed checkpoints before. Raises UnsafeConfiguration."""
    try:
        found = tuple(map(parse_key, config.log.former_keys))
    except NoteInvalid as error:
        raise UnsafeConfiguration(f"log.former_keys: {error}") from None
    for key in found:
        if key.name != config.log.origin:
            raise UnsafeConfiguration(f"log.former_keys: {key.name} is another log than {config.log.origin}")
    return found


def make_log_signer(config: Settings, *, anew: bool) -> Ed25519Signer:
    """The key that signs checkpoints; with `anew` the first start makes one. Raises UnsafeConfiguration."""
    ref = config.log.checkpoint_key
    if isinstance(ref, configuration.EnvRef):
        text = configuration.secret_of("log.checkpoint_key", ref, configuration.environment())
        return Ed25519Signer.from_text(text, ref.env)
    path = log_key_path(config)
    return Ed25519Signer.from_file_or_new(path) if anew else Ed25519Signer.from_file(path)


def log_keys(config: Settings) -> tuple[NoteKey, ...]:
    """The keys that checkpoints are verified with: that in use, then former ones. Raises UnsafeConfiguration."""
    current = NoteKey(config.log.origin, make_log_signer(config, anew=False).public_key)
    return (current, *former_keys(config))


def containment_id(config: Settings, signer: CheckpointSigner) -> str:
    """What the Redis of this log is known by: its first key, so that it stays the same when keys change."""
    first = next(iter(reversed(former_keys(config))), None)
    return hashlib.sha256(signer.public_key if first is None else first.public).hexdigest()[:8]


def read_log(config: Settings) -> Reader:
    """The log at `log.url`, only for reading, with or without gateways that write to it.

    Raises:
        LogUnavailable, UnsafeConfiguration: there is no log, or none of a known kind.
    """
    part = config.log
    match part.kind:
        case "sqlite":
            return read_sqlite(_existing_sqlite(config))
        case "postgresql":
            from agentgate.adapters.log import postgresql  # as in `make_log`

            return postgresql.open_reader(part.url or "")
        case _:
            raise configuration.unknown_kind("log", part.kind, ("postgresql", "sqlite"))


async def check_log(config: Settings, keys: Sequence[NoteKey], kept: Sequence[bytes] = ()) -> Report:
    """Derive the log at `log.url` again, with or without gateways that write to it, and hold it against the checkpoints
    that were `kept` elsewhere and the one that this host has kept.

    Raises:
        LogUnavailable, UnsafeConfiguration: there is no log, or it cannot be read.
    """
    part = config.log
    other = part.checkpoint_file
    kept = (*kept, other.read_bytes()) if other is not None and other.is_file() else kept
    match part.kind:
        case "sqlite":
            return await verify_sqlite(_existing_sqlite(config), part.origin, keys, kept=kept)
        case "postgresql":
            from agentgate.adapters.log import postgresql  # as in `make_log`

            ours = config.data_dir / "log.checkpoint"
            kept = (*kept, ours.read_bytes()) if ours.is_file() else kept
            return await postgresql.verify(part.url or "", part.origin, keys, kept=kept)
        case _:
            raise configuration.unknown_kind("log", part.kind, ("postgresql", "sqlite"))


async def migrate_log(config: Settings, *, to: str, drop_events: bool) -> list[str]:
    """Bring the schema of a PostgreSQL log to a revision; what was done. Raises UnsafeConfiguration, LogUnavailable."""
    if config.log.kind != "postgresql":
        raise UnsafeConfiguration(
            "only a log in PostgreSQL is migrated (SQLite makes its schema itself); name the database: --database-url postgresql://…"
        )
    from agentgate.adapters.log._postgres.migrate import migrate  # as in `make_log`

    return await migrate(config.log.url or "", to=to, drop_events=drop_events)


def _sqlite_path(config: Settings) -> Path:
    url = config.log.url
    if url is None:
        return config.data_dir / "log.db"
    path = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not path.name:
        raise UnsafeConfiguration("log.url: a SQLite file is named as sqlite:///PATH")
    return path


def _existing_sqlite(config: Settings) -> Path:
    path = _sqlite_path(config)
    if not path.is_file():
        raise LogUnavailable(f"there is no log at {path}")
    return path


def log_key_path(config: Settings) -> Path:
    """Where the key of checkpoints is, unless it comes from the environment."""
    ref = config.log.checkpoint_key
    return ref.file if isinstance(ref, configuration.FileRef) else config.data_dir / "log-key.pem"


def has_log_key(config: Settings) -> bool:
    """Whether there is a key for checkpoints already, or one that the environment is to have."""
    return isinstance(config.log.checkpoint_key, configuration.EnvRef) or log_key_path(config).is_file()
