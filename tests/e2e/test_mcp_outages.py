"""The MCP door while what the gateway needs is down: a refusal with its reason, in both eras, and nothing is run."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_mcp_door import BOT, OURS, connected, said
from tests.gateway import GatewayProcess, key_entry
from tests.redis_server import RedisServer

ERAS = pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
KEYS = [key_entry(BOT, agent="bot")]
QUERY = {"query": "SELECT 1"}


@contextlib.contextmanager
def locked(data_dir: Path) -> Iterator[None]:
    """Another program holds the write lock of the log's database."""
    with contextlib.closing(sqlite3.connect(data_dir / "log.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")


async def reason(gateway: GatewayProcess, era: Any) -> tuple[bool, str, str]:
    """Whether a call of a tool failed, why, and in which words."""
    async with connected(gateway, era) as client:
        answer = await client.call_tool("db_query", QUERY)
    return bool(answer.is_error), (answer.meta or {}).get(f"{OURS}reasonCode", ""), said(answer)


@ERAS
async def test_without_redis_no_call_is_let_through(era: str) -> None:
    with (
        RedisServer() as redis,
        GatewayProcess(config={"auth": {"keys": KEYS}}, env={"AGENTGATE_REDIS_URL": redis.url}) as gateway,
    ):
        assert (await reason(gateway, era))[0] is False
        redis.stop()
        failed, why, words = await reason(gateway, era)
        assert (failed, why) == (True, "kill_state_unknown"), words


@ERAS
async def test_without_its_log_nothing_runs(era: str) -> None:
    with GatewayProcess(config={"auth": {"keys": KEYS}}) as gateway:
        assert (await reason(gateway, era))[0] is False
        with locked(gateway.data_dir):
            failed, why, words = await reason(gateway, era)
        assert (failed, why) == (True, "log_unavailable"), words
        assert (await reason(gateway, era))[0] is False


@ERAS
async def test_without_its_policy_engine_nothing_is_allowed_and_nothing_is_listed(era: str, tmp_path: Path) -> None:
    policy = {"kind": "opa", "url": f"unix://{tmp_path / 'nobody.sock'}"}
    with GatewayProcess(config={"auth": {"keys": KEYS}, "policy": policy}) as gateway:
        failed, why, words = await reason(gateway, era)
        assert (failed, why) == (True, "policy_unavailable"), words
        async with connected(gateway, era) as client:
            with pytest.raises(Exception, match="Policy does not say"):
                await client.list_tools()
