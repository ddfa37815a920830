from __future__ import annotations

import re

from agentgate.adapters.meters.prometheus import MAX_RULES, PrometheusMeter
from tests.contracts.meter import MeterContract


class TestPrometheus(MeterContract):
    meter = PrometheusMeter(["db_query"])


def series(meter: PrometheusMeter) -> dict[str, float]:
    lines = (line for line in meter.render().decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_has_v02_names() -> None:
    meter = PrometheusMeter(["db_query"])
    meter.call_finished("db_query", "ALLOW", 0.003)
    meter.policy_evaluated("ALLOW", "read_only_tools")
    meter.count("rate_limited", "db_query")
    meter.count("kills", "session")
    meter.count("exports", "json")
    meter.health("opa", is_well=True)
    now = series(meter)
    assert now['agentgate_tool_calls_total{decision="ALLOW",tool="db_query"}'] == 1
    assert now['agentgate_policy_evaluations_total{result="ALLOW",rule="read_only_tools"}'] == 1
    assert now['agentgate_rate_limit_hits_total{tool="db_query"}'] == 1
    assert now['agentgate_kill_switch_activations_total{level="session"}'] == 1
    assert now['agentgate_evidence_exports_total{format="json"}'] == 1
    assert now['agentgate_health_status{dependency="opa"}'] == 1
    assert now["agentgate_active_sessions"] == 0


def test_histogram_is_cumulative_once() -> None:
    """The peer cumulated twice: its last bucket was larger than +Inf."""
    meter = PrometheusMeter([])
    for _ in range(17):
        meter.call_finished("x", "DENY", 0.004)
    counts = [v for name, v in series(meter).items() if name.startswith("agentgate_request_duration_seconds_bucket")]
    assert counts == sorted(counts)
    assert max(counts) == 17


def test_100_000_tool_names_and_rules_add_no_series() -> None:
    meter = PrometheusMeter(["db_query"])
    for number in range(100_000):
        meter.call_finished(f"tool-{number}", "DENY", 0.001)
        if number < 1000:
            meter.policy_evaluated("DENY", f"rule-{number}")
    names = series(meter)
    assert names['agentgate_tool_calls_total{decision="DENY",tool="other"}'] == 100_000
    rules = [name for name in names if name.startswith("agentgate_policy_evaluations_total")]
    assert len(rules) <= MAX_RULES + 1


def test_a_label_cannot_forge_a_series() -> None:
    meter = PrometheusMeter(['x"} 1\nevil_metric 1\n#'])
    meter.call_finished('x"} 1\nevil_metric 1\n#', "DENY", 0.001)
    assert not re.search(rb"^evil_metric", meter.render(), re.MULTILINE)
