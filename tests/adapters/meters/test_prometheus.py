from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from agentgate.adapters.meters.prometheus import MAX_RULES, PrometheusMeter
from tests.contracts.meter import MeterContract


class TestPrometheus(MeterContract):
    meter = PrometheusMeter(["db_query"])


class TestOfSeveralWorkers(MeterContract):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.meter = PrometheusMeter(["db_query"], tmp_path / "metrics" / "0.json")


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


CALLS = 'agentgate_tool_calls_total{decision="ALLOW",tool="db_query"}'
KILLS = 'agentgate_kill_switch_activations_total{level="session"}'
OPA = 'agentgate_health_status{dependency="opa"}'


def worker(folder: Path, number: int) -> PrometheusMeter:
    return PrometheusMeter(["db_query"], folder / "metrics" / f"{number}.json")


def test_whoever_is_scraped_answers_for_all_workers(tmp_path: Path) -> None:
    workers = [worker(tmp_path, number) for number in range(3)]
    for number, meter in enumerate(workers):
        for _ in range(number + 1):
            meter.call_finished("db_query", "ALLOW", 0.003)
            meter.count("kills", "session")
        meter.publish()
    for meter in workers:
        now = series(meter)
        assert (now[CALLS], now[KILLS]) == (6, 6)
        assert now['agentgate_request_duration_seconds_bucket{endpoint="tools_call",le="0.005"}'] == 6
        assert now['agentgate_request_duration_seconds_sum{endpoint="tools_call"}'] == pytest.approx(0.018)


def test_tools_in_quarantine_are_counted_once_for_all_workers(tmp_path: Path) -> None:
    workers = [worker(tmp_path, number) for number in range(3)]
    for meter in workers:
        meter.quarantined.set(2)
        meter.publish()
    assert series(workers[0])["agentgate_quarantined_tools"] == 2


def test_a_tool_that_comes_later_gets_its_own_label() -> None:
    tools = {"db_query"}
    meter = PrometheusMeter(tools)
    tools.add("files__read")
    meter.call_finished("files__read", "ALLOW", 0.001)
    assert series(meter)['agentgate_tool_calls_total{decision="ALLOW",tool="files__read"}'] == 1


def test_one_worker_alone_says_the_same_as_a_process_alone(tmp_path: Path) -> None:
    meters = [PrometheusMeter(["db_query"]), worker(tmp_path, 0)]
    for meter in meters:
        meter.call_finished("db_query", "ALLOW", 0.003)
        meter.count("faults")
        meter.health("opa", is_well=True)
    alone, shared = ({k: v for k, v in series(meter).items() if "_created" not in k} for meter in meters)
    assert alone == shared


def test_no_total_ever_falls_whoever_is_scraped_and_whoever_dies(tmp_path: Path) -> None:
    """Prometheus would take a fall for a restart, and count everything again."""
    workers = [worker(tmp_path, number) for number in range(3)]
    shown = 0.0
    for turn in range(30):
        workers[turn % 3].call_finished("db_query", "ALLOW", 0.003)
        if turn % 7 == 6:  # it dies, and what it had not told is lost; another one takes its place
            workers[turn % 3] = worker(tmp_path, turn % 3)
        now = series(workers[(turn * 2) % 3]).get(CALLS, 0.0)
        assert now >= shown
        shown = now
    assert shown >= 20


def test_a_dead_workers_gauges_do_not_count(tmp_path: Path) -> None:
    dead, living = worker(tmp_path, 0), worker(tmp_path, 1)
    dead.active_sessions.set(3)
    dead.health("opa", is_well=False)
    dead.call_finished("db_query", "ALLOW", 0.003)
    dead.publish()
    living.active_sessions.set(2)
    living.health("opa", is_well=True)
    now = series(living)
    assert (now["agentgate_active_sessions"], now[OPA]) == (5, 0)
    os.utime(tmp_path / "metrics" / "0.json", (0, 0))
    now = series(living)
    assert (now["agentgate_active_sessions"], now[OPA], now[CALLS]) == (2, 1, 1)


def test_a_full_disk_stops_no_worker(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    meter = worker(tmp_path, 0)
    (tmp_path / "metrics" / "0.new").mkdir()
    meter.publish()
    assert "cannot be told" in caplog.text
