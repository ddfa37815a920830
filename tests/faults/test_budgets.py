"""Budgets over two gateways on one log and one Redis, which loses what was used (a runaway agent, A67)."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from tests.faults.conftest import DATABASE, ROOT, Backends, Gate, needs_cluster
from tests.gateway import until

pytestmark = needs_cluster

LIMIT = 1_000
TOOL = "rate_limited_tool"


@dataclass(slots=True)
class Pair:
    gateways: tuple[Gate, Gate]
    backends: Backends

    def flood(self, session: str, calls: int, *, at_once: int = 16, lose_after: int | None = None) -> Counter[str]:
        """So many calls, half at each gateway; what they came to. Redis is emptied after the first `lose_after`."""
        return asyncio.run(self._flood(session, calls, at_once, lose_after))

    async def _flood(self, session: str, calls: int, at_once: int, lose_after: int | None) -> Counter[str]:
        said: Counter[str] = Counter()
        left = iter(range(calls))
        body = {"session_id": session, "tool_name": TOOL, "arguments": {"n": 1}}

        async def caller(client: aiohttp.ClientSession, url: str) -> None:
            for number in left:
                if number == lose_after:
                    await asyncio.to_thread(self.backends.redis.command, "FLUSHALL")
                while True:
                    async with client.post(f"{url}/tools/call", json=body) as answer:
                        reason = (await answer.json())["reason_code"]
                    if reason not in ("kill_state_unknown", "budget_unknown"):
                        break
                    await asyncio.sleep(0.02)  # until the kills in force are back, and what was used is known again
                said[reason] += 1

        async with aiohttp.ClientSession() as client:
            await asyncio.gather(*(caller(client, self.gateways[n % 2].url) for n in range(at_once)))
        return said

    def used(self, session: str) -> Mapping[str, str]:
        """What Redis says that a session has used."""
        (key,) = self.backends.redis.command("KEYS", f"{{ag:*}}:used:session/*/{session}/*")  # type: ignore[misc]
        words = iter(self.backends.redis.command("HGETALL", key))  # type: ignore[arg-type]
        return dict(zip(words, words, strict=True))  # type: ignore[arg-type]

    def refusals(self) -> float:
        """How many calls were one too many for their session."""
        return sum(one.sum("agentgate_budget_refusals_total", budget="session_calls") for one in self.gateways)


@pytest.fixture(scope="module")
def pair(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    policies = tmp_path_factory.mktemp("budgets") / "policies"
    shutil.copytree(ROOT / "policies", policies)
    data = json.loads((policies / "data.json").read_text())
    data |= {"rate_limits": {}, "tiers": {"default": {"per_session": {"calls": LIMIT}, "per_day": {"calls": 100_000}}}}
    (policies / "data.json").write_text(json.dumps(data))
    config: dict[str, Any] = {
        "policy": {"path": str(policies)},
        "log": {"checkpoint_key": {"file": str(backends.folder / "log-key.pem")}},
    }
    env = {"AGENTGATE_DATABASE_URL": backends.postgres.url(DATABASE), "AGENTGATE_REDIS_URL": backends.redis.tcp_url}
    with ExitStack() as stack:
        one, two = (stack.enter_context(Gate(env=env, config=config)) for _ in range(2))
        for gateway in (one, two):
            gateway.probe = TOOL
            gateway.until_works(session="ready")
        yield Pair((one, two), backends)


def test_after_redis_was_emptied_the_1001st_call_is_refused(pair: Pair, victim: str) -> None:
    before = pair.refusals()
    assert pair.flood(victim, 600) == Counter(ok=600)
    pair.backends.redis.command("FLUSHALL")
    said = pair.flood(victim, 500)
    assert said == Counter(ok=LIMIT - 600, budget_spent=100)
    assert sum(gateway.sum("agentgate_budget_recounts_total") for gateway in pair.gateways) >= 2
    assert pair.refusals() == before + 100


def test_over_two_replicas_a_budget_lets_exactly_its_limit_through(pair: Pair, victim: str) -> None:
    said = pair.flood(victim, LIMIT + 200, at_once=64)
    assert said == Counter(ok=LIMIT, budget_spent=200)


def test_a_loss_in_the_middle_of_traffic_loses_no_call_of_the_count(pair: Pair, victim: str) -> None:
    """Not even those that were between their admission and their record at that moment."""
    said = pair.flood(victim, LIMIT + 300, at_once=32, lose_after=LIMIT - 100)
    assert said == Counter(ok=LIMIT, budget_spent=300)
    until(lambda: pair.used(victim)["calls"] == str(LIMIT))


def test_a_restarted_redis_is_not_believed_before_the_log_was_counted(pair: Pair, victim: str) -> None:
    """Even with its append-only file: up to a second of it may be missing."""
    assert pair.flood(victim, 100) == Counter(ok=100)
    before = pair.used(victim)
    pair.backends.redis.command("HSET", *_key(pair, victim), "calls", "3")  # as if its last second were lost
    pair.backends.redis.stop()
    pair.backends.redis.start()
    assert pair.flood(victim, 10) == Counter(ok=10)
    until(lambda: pair.used(victim)["calls"] == "110")
    assert pair.used(victim)["term"] != before["term"]


def test_a_budget_of_the_wrong_type_refuses_its_session_and_no_other(pair: Pair, victim: str) -> None:
    assert pair.flood(victim, 2) == Counter(ok=2)
    (key,) = _key(pair, victim)
    pair.backends.redis.command("DEL", key)
    pair.backends.redis.command("SET", key, "nonsense")
    said = pair.gateways[0].say(TOOL, victim)
    assert (said.status, said.reason) == (503, "kill_state_unknown")
    assert pair.gateways[0].say(TOOL, "whole").ok
    pair.backends.redis.command("DEL", key)  # as whoever repairs it by hand
    assert pair.flood(victim, 1) == Counter(ok=1)
    until(lambda: pair.used(victim)["calls"] == "3")


def _key(pair: Pair, session: str) -> list[str]:
    found = pair.backends.redis.command("KEYS", f"{{ag:*}}:used:session/*/{session}/*")
    assert isinstance(found, list)
    return [str(key) for key in found]
