"""A gateway with keys of every kind, in two tenants; agents of this machine need none of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentgate.core.call import Role
from tests.gateway import GatewayProcess, key_entry

ONE_TENANTS_OPERATOR = "key-operator-of-default-alone"
ROLES = ("operator", "approver", "auditor", "admin", "opa")


def key_of(role: str, tenant: str = "default") -> str:
    """The key of a person with one role (`default`: of all tenants), or of an agent."""
    return f"key-{role}-{tenant}"


def _entries() -> list[dict[str, object]]:
    entries = [
        key_entry(key_of(role, tenant), person=f"{role}-{tenant}", roles=[role], tenant=tenant, all_tenants=whole)
        for tenant, whole in (("default", True), ("b", False))
        for role in ROLES
    ]
    agents = [
        key_entry(key_of(Role.AGENT, tenant), agent=f"bot-{tenant}", tenant=tenant) for tenant in ("default", "b")
    ]
    one_tenants = key_entry(ONE_TENANTS_OPERATOR, person="ann", roles=["operator"])
    return [*entries, *agents, one_tenants]


@pytest.fixture(scope="session")
def gateway() -> Iterator[GatewayProcess]:
    config = {
        "server": {
            "refusals_per_second": 1_000_000,
            "hosts": ["gate.example.org", "2001:DB8:0::1"],
            "origins": ["https://ops.example.org"],
        },
        "auth": {"keys": _entries()},
    }
    with GatewayProcess(config=config) as process:
        yield process


@pytest.fixture(scope="module")
def limited() -> Iterator[GatewayProcess]:
    """Two agents and the refusal limit that ships."""
    with GatewayProcess(config={"auth": {"keys": [key_entry(f"key-{name}", agent=name) for name in "ab"]}}) as process:
        yield process
