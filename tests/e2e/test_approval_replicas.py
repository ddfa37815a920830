"""Approvals on two replicas with PostgreSQL and Redis: whichever one is asked, an approval is one thing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import approving, postgres_server, redis_server
from tests.approving import ADA, BOB, BOT, OLGA, body, prices, write
from tests.e2e.conftest import MANY_REFUSALS
from tests.gateway import GatewayProcess, run_cli, until
from tests.postgres_server import PostgresServer
from tests.redis_server import RedisServer

pytestmark = pytest.mark.skipif(
    not (postgres_server.is_installed() and redis_server.is_installed()), reason="needs PostgreSQL and redis-server"
)
Pair = tuple[GatewayProcess, GatewayProcess]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with PostgresServer() as database, RedisServer() as redis, contextlib.ExitStack() as stack:
        database.sql("CREATE DATABASE agentgate")
        url = database.url("agentgate")
        assert run_cli("log", "migrate", "--database-url", url).returncode == 0
        env = {"AGENTGATE_DATABASE_URL": url, "AGENTGATE_REDIS_URL": redis.url}
        env |= approving.policies(tmp_path_factory.mktemp("policies"))
        config = {**MANY_REFUSALS, "auth": {"keys": approving.KEYS}}
        data_dir: Path = tmp_path_factory.mktemp("data")
        one, other = (stack.enter_context(GatewayProcess(env=env, config=config, data_dir=data_dir)) for _ in range(2))
        yield one, other


def test_fifty_redemptions_at_both_replicas_run_one_write(pair: Pair, session: str) -> None:
    one, other = (replica.client(BOT) for replica in pair)
    url = write(one, session)["approval"]["url"]
    token = pair[1].client(ADA).post(url + "/approve").json()["approval_token"]
    with ThreadPoolExecutor(20) as pool:
        answers = list(
            pool.map(
                lambda n: write((one, other)[n % 2], session, **({"approval_token": token} if n % 3 else {})), range(50)
            )
        )
    assert sum(answer["success"] for answer in answers) == 1
    assert prices(one, session) == [1]


def test_votes_at_both_replicas_make_one_quorum(pair: Pair, session: str) -> None:
    terms = {"quorum": 2}
    url = write(pair[0].client(BOT), session, terms=terms)["approval"]["url"]
    voters = [(replica.client(key)) for replica in pair for key in (ADA, BOB)]
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda voter: voter.post(url + "/approve").status_code, voters))
    assert sorted(statuses) == [200, 200, 409, 409]
    assert write(pair[1].client(BOT), session, terms=terms)["success"] is True


def test_a_call_that_waits_hears_an_answer_that_was_given_elsewhere(pair: Pair, session: str) -> None:
    bot, ada = pair[0].client(BOT), pair[1].client(ADA)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(bot.post, "/tools/call", json=body(session), headers={"Prefer": "wait=30"})
        (asked,) = until(
            lambda: [
                one for one in ada.get("/approvals?state=pending").json()["approvals"] if one["session_id"] == session
            ]
        )
        ada.post(f"/approvals/{asked['id']}/approve")
        assert call.result(10).json()["success"] is True


def test_a_kill_at_one_replica_voids_what_the_other_would_redeem(pair: Pair, session: str) -> None:
    url = write(pair[0].client(BOT), session)["approval"]["url"]
    pair[0].client(ADA).post(url + "/approve")
    kill = pair[1].client(OLGA).post(f"/sessions/{session}/kill", json={"reason": "test"}).json()
    released = pair[1].admin().post(f"/kills/{kill['id']}/release", json={"force": True})
    assert released.status_code == 200, released.text
    assert not write(pair[0].client(BOT), session)["success"]
    found = until(lambda: one if (one := pair[0].client(ADA).get(url).json())["state"] == "void" else None)
    assert found["why"] == "killed"


def test_an_edit_at_one_replica_runs_at_the_other(pair: Pair, session: str) -> None:
    url = write(pair[0].client(BOT), session, price=500)["approval"]["url"]
    arguments = {"table": "products", "data": {"name": session, "price": 50}}
    edited = pair[0].client(ADA).post(url + "/edit", json={"arguments": arguments, "approve": True})
    assert edited.json()["state"] == "approved"
    ran = write(pair[1].client(BOT), session, price=500)
    assert (ran["success"], ran["approval"]["arguments"]) == (True, arguments)
