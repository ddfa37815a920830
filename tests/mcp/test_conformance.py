"""The conformance suites of MCP against the gateway, with the Python SDK's everything-server behind it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway import GatewayProcess, until
from tests.mcp.peers import SUITES, Scenario, Suite, everything_server, run_suite

PAGE = Path(__file__).parents[2] / "docs" / "mcp.md"


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayProcess]:
    """One MCP upstream, transparent, all of it readable: what the suites call is what the server offers."""
    with everything_server() as url:
        upstream = {"kind": "mcp", "url": url, "transparent": True, "trust": "first_use", "access": "read"}
        config = {"upstreams": {"everything": upstream}, "server": {"refusals_per_second": 1_000_000}}
        with GatewayProcess(config=config) as process:
            until(lambda: process.call("test_simple_text")["success"])  # the server has been heard
            yield process


@pytest.mark.parametrize("suite", SUITES, ids=[suite.mark for suite in SUITES])
def test_every_scored_scenario_passes(gateway: GatewayProcess, suite: Suite, tmp_path: Path) -> None:
    status, scenarios, said = run_suite(suite, gateway.url + "/mcp", tmp_path)
    failing = {name: told.failures for name, told in scenarios.items() if told.scored and told.failures}
    assert (status, failing) == (0, {}), f"{failing}\n{gateway.stderr[-4000:]}\n{said[-2000:]}"
    assert _row(suite, scenarios) in _documented(), f"docs/mcp.md must say:\n{_row(suite, scenarios)}"


def _row(suite: Suite, scenarios: dict[str, Scenario]) -> str:
    """The suite's line in the table of docs/mcp.md."""
    scored = [told for told in scenarios.values() if told.scored]
    others = [told for told in scenarios.values() if not told.scored]
    return (
        f"| {suite.mark} | {sum(not told.failures for told in scored)} of {len(scored)} "
        f"| {sum(told.passed for told in scored)} "
        f"| {sum(not told.failures for told in others)} of {len(others)} |"
    )


def _documented() -> list[str]:
    section = re.search(
        r"^## Conformance\n(.*?)(?=^## |\Z)", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert section is not None, "docs/mcp.md has a section on conformance"
    return section[1].splitlines()
