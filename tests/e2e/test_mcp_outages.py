"""The MCP door while what the gateway needs is down: a refusal with its reason, in both eras, and nothing is run."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_mcp_door import BOT, OURS, connected
from tests.edges.test_mcp import said
from tests.faults.conftest import Gate
from tests.faults.test_log import locked
from tests.gateway import GatewayProcess, key_entry, until
from tests.redis_server import RedisServer

ERAS = pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
KEYS = [key_entry(BOT, agent="bot")]
ECHOES = [sys.executable, str(Path(__file__).parents[1] / "adapters" / "upstreams" / "mcp_sdk_server.py")]
QUERY = {"query": "SELECT 1"}


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
    with Gate(config={"auth": {"keys": KEYS}}) as gateway:
        assert (await reason(gateway, era))[0] is False
        with locked(gateway):
            failed, why, words = await reason(gateway, era)
        assert (failed, why) == (True, "log_unavailable"), words
        async with asyncio.timeout(10):  # a log that failed is tried again after a while
            while (await reason(gateway, era))[0]:  # noqa: ASYNC110 - the log tells nobody
                await asyncio.sleep(0.05)


@ERAS
async def test_without_its_policy_engine_nothing_is_allowed_and_nothing_is_listed(era: str, tmp_path: Path) -> None:
    policy = {"kind": "opa", "url": f"unix://{tmp_path / 'nobody.sock'}"}
    with GatewayProcess(config={"auth": {"keys": KEYS}, "policy": policy}) as gateway:
        failed, why, words = await reason(gateway, era)
        assert (failed, why) == (True, "policy_unavailable"), words
        async with connected(gateway, era) as client:
            with pytest.raises(Exception, match="Policy does not say"):
                await client.list_tools()


async def test_a_server_that_says_nothing_holds_neither_the_start_nor_the_others_up() -> None:
    servers = {
        "silent": {"kind": "mcp", "command": ["sleep", "600"]},
        "good": {"kind": "mcp", "command": ECHOES, "trust": "first_use", "access": "read"},
    }
    with GatewayProcess(config={"auth": {"keys": KEYS}, "upstreams": servers}) as gateway:
        assert gateway.client().get("/health").json()["servers"]["silent"]["up"] is False
        until(lambda: gateway.client().get("/health").json()["servers"]["good"]["up"])
        async with connected(gateway, "2026-07-28") as client:
            assert "good__count" in {tool.name for tool in (await client.list_tools()).tools}
            assert not (await client.call_tool("good__count", {"n": 1})).is_error
        assert gateway.client().get("/readyz").status_code == 200
        states = gateway.client().get("/health").json()["servers"]
        assert {name: state["up"] for name, state in states.items()} == {"good": True, "silent": False}
