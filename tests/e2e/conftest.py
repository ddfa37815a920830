"""One gateway for all tests that need no other, which keep out of each other's way by session ids of their own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.gateway import GatewayProcess

SIGNING_KEY = "a-signing-key-for-tests-3f8c-91d2"
STATIC_TOKEN = "a-static-token-for-tests-77"
MANY_REFUSALS = {"server": {"refusals_per_second": 1_000_000}}

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayProcess]:
    """Keyless, with v0.2's static token and signed evidence, and no limit on refusals."""
    env = {"AGENTGATE_SIGNING_KEY": SIGNING_KEY, "AGENTGATE_APPROVAL_TOKEN": STATIC_TOKEN}
    with GatewayProcess(env=env, config=MANY_REFUSALS) as process:
        yield process


@pytest.fixture
def released(gateway: GatewayProcess) -> Iterator[None]:
    """What a test killed does not outlive it."""
    yield
    admin = gateway.admin()
    for kill in admin.get("/kills").json()["kills"]:
        admin.post(f"/kills/{kill['id']}/release", json={"force": True})


@pytest.fixture
def session() -> str:
    """An id that no other test uses."""
    return f"session-{next(_numbers)}"
