"""What is done with a log, or with the configuration, without a gateway or beside one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from agentgate.adapters.ambient.system import SystemClock, SystemEntropy
from agentgate.core.audit.report import Report
from agentgate.core.dsse import PublicKey
from agentgate.core.errors import LogUnavailable
from agentgate.core.query import Query
from agentgate.evidence import envelope_key_path, make_envelope_signer, make_public_keys
from agentgate.kinds import EXPORTS
from agentgate.logs import (
    check_log,
    has_log_key,
    log_key_path,
    log_keys,
    make_log,
    make_log_signer,
    migrate_log,
    read_log,
)
from agentgate.notices import ping
from agentgate.pipeline.records.audit import written
from agentgate.settings import Settings


async def audit_log(config: Settings, kept: Sequence[bytes] = ()) -> Report:
    """`agentgate log verify`: read-only, beside a running gateway or without one. `kept` are checkpoints of earlier.

    Raises:
        AgentGateError: there is no log to read.
    """
    if not has_log_key(config):
        raise LogUnavailable(f"there is no log key at {log_key_path(config)}: nothing to verify the log with")
    return await check_log(config, log_keys(config), kept)


async def sign_log(config: Settings) -> int:
    """`agentgate log sign`: a checkpoint over all that is there, which somebody answers for; how many events.

    Raises:
        AgentGateError: there is no log, it is not to be signed, or a gateway has it.
    """
    await log_size(config)  # to open one for writing may be to make it
    log = await make_log(config, make_log_signer(config, anew=False), is_vouched_for=True)
    try:
        await log.integrate()
        return await log.size()
    finally:
        await log.aclose()


async def search_log(
    config: Settings, query: Query, form: str, *, first: int = 0, limit: int | None = None, newest: bool = False
) -> AsyncIterator[bytes]:
    """An export of what fits, as a gateway gives it, read-only. It leaves no event: who has the files has them.

    Raises:
        AgentGateError: there is no log to read, or no more of it.
    """
    reader = read_log(config)
    try:
        records = reader.search(query, first=first, newest=newest)
        async for part in written(EXPORTS[form](query), records, limit):
            yield part
    finally:
        await reader.aclose()


async def log_size(config: Settings) -> int:
    """How many events there are. Raises AgentGateError."""
    reader = read_log(config)
    try:
        return await reader.size()
    finally:
        await reader.aclose()


async def prepare_log(config: Settings, *, to: str, drop_events: bool) -> list[str]:
    """`agentgate log migrate`. Raises AgentGateError."""
    return await migrate_log(config, to=to, drop_events=drop_events)


def public_keys_of(config: Settings) -> dict[str, bytes]:
    """What zips of this gateway have in `keys/`. Makes no key.

    Raises:
        AgentGateError: there is none yet, or it cannot be read.
    """
    made_at_start = [
        *([] if has_log_key(config) else [log_key_path(config)]),
        *([envelope_key_path(config)] if config.evidence.signing.key is None else []),
    ]
    for path in made_at_start:
        if not path.is_file():
            raise LogUnavailable(f"there is no key at {path}; the first start of the gateway makes it")
    return make_public_keys(config, PublicKey(make_envelope_signer(config).spki))


async def ping_webhooks(config: Settings, only: str | None) -> list[tuple[str, str | None]]:
    """`agentgate webhooks test`: of each endpoint what went wrong, None if it has taken the ping.

    Raises:
        UnsafeConfiguration
    """
    said = await ping(config, SystemClock(), SystemEntropy(), only)
    return [(name, failure.detail if failure is not None else None) for name, failure in said]
