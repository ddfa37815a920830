"""What is done with a log without a gateway, or beside one."""

from __future__ import annotations

from agentgate.adapters.signers.ed25519 import Ed25519Signer
from agentgate.core.audit import Report
from agentgate.core.errors import LogUnavailable
from agentgate.core.note import NoteKey
from agentgate.kinds import check_log, log_key_path, migrate_log
from agentgate.settings import Settings


async def audit_log(config: Settings) -> Report:
    """`agentgate log verify`: read-only, beside a running gateway or without one.

    Raises:
        AgentGateError: there is no log to read.
    """
    key_path = log_key_path(config)
    if not key_path.is_file():
        raise LogUnavailable(f"there is no log key at {key_path}: nothing to verify the log with")
    return await check_log(config, NoteKey(config.log.origin, Ed25519Signer.from_file(key_path).public_key))


async def prepare_log(config: Settings, *, to: str, drop_events: bool) -> list[str]:
    """`agentgate log migrate`. Raises AgentGateError."""
    return await migrate_log(config, to=to, drop_events=drop_events)
