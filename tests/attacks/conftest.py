"""One gateway for all attacks: two agents with keys, people with one role each, limits out of the way."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.gateway import GatewayProcess, key_entry

BOT, OTHER, OPERATOR, APPROVER, AUDITOR = "key-bot", "key-other", "key-operator", "key-approver", "key-auditor"
NEWCOMER = "key-newcomer"
"""Of an agent that has not called before."""
STATIC_TOKEN = "a-static-token-for-attacks"

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayProcess]:
    keys = [
        key_entry(BOT, agent="bot"),
        key_entry(OTHER, agent="other"),
        key_entry(NEWCOMER, agent="newcomer"),
        key_entry(OPERATOR, person="olga", roles=["operator"], all_tenants=True),
        key_entry(APPROVER, person="ada", roles=["approver"]),
        key_entry(AUDITOR, person="art", roles=["auditor"]),
    ]
    config = {
        "auth": {"keys": keys},
        "server": {"refusals_per_second": 1_000_000, "log_level": "DEBUG"},
        "containment": {"rate_window_s": 0.001},
        "approvals": {"static_token": STATIC_TOKEN},
    }
    with GatewayProcess(config=config) as process:
        yield process


@pytest.fixture
def session() -> str:
    return f"attack-{next(_numbers)}"


def reached(gateway: GatewayProcess, session: str) -> int:
    """How many calls of a session were sent to a tool."""
    pack = gateway.client(gateway.admin_key).get(f"/sessions/{session}/evidence").json()
    return sum(entry["outcome"] is not None for entry in pack["timeline"])
