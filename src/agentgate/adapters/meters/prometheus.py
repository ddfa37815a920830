"""Prometheus metrics: v0.2's names, and the parts of a call's latency.

Label values are bounded: a tool label is a declared tool or `other`, a rule label one of the first
`MAX_RULES` seen, so that no caller can grow the series.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from agentgate.ports import Meter

MAX_RULES = 100
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_STEPS = ("admission", "policy", "append", "upstream")
_COUNTERS = {
    "log_unavailable": "Appends that were not known to be durable",
    "kill_state_unknown": "Calls refused or kills not pushed because the kill store did not answer",
    "faults": "Requests that failed inside the gateway",
}


class PrometheusMeter:
    """One registry for one process. `labels()` is bound once per value: it costs more than the count itself."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, tools: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        self._tools = frozenset(tools)
        self._rules: set[str] = set()
        self._calls = self._counter("tool_calls", "Tool calls by tool and decision", ("tool", "decision"))
        self._evaluations = self._counter("policy_evaluations", "Policy evaluations", ("result", "rule"))
        self._rate_limited = self._counter("rate_limit_hits", "Calls over their limit", ("tool",))
        self._kills = self._counter("kill_switch_activations", "Kills by scope", ("level",))
        self._exports = self._counter("evidence_exports", "Evidence exports", ("format",))
        self._plain = {name: self._counter(name, text, ()) for name, text in _COUNTERS.items()}
        self._duration = Histogram(
            "agentgate_request_duration_seconds",
            "Whole time of a tool call",
            ("endpoint",),
            registry=self.registry,
            buckets=_BUCKETS,
        ).labels("tools_call")
        steps = Histogram(
            "agentgate_step_duration_seconds",
            "Time of one step of a call",
            ("step",),
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._steps = {step: steps.labels(step) for step in _STEPS}
        self.active_sessions = Gauge("agentgate_active_sessions", "Sessions with a call in flight", registry=self.registry)
        self._health = Gauge(
            "agentgate_health_status", "1 when a dependency answers", ("dependency",), registry=self.registry
        )
        self._bound: dict[tuple[str, ...], Counter] = {}

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"agentgate_{name}", text, labels, registry=self.registry)

    def call_finished(self, tool: str, decision: str, seconds: float) -> None:
        self._child("calls", self._calls, self._tool(tool), decision).inc()
        self._duration.observe(seconds)

    def step(self, name: Literal["admission", "policy", "append", "upstream"], seconds: float) -> None:
        self._steps[name].observe(seconds)

    def policy_evaluated(self, result: str, rule: str) -> None:
        if rule not in self._rules:
            if len(self._rules) >= MAX_RULES:
                rule = "other"
            self._rules.add(rule)
        self._child("evaluations", self._evaluations, result, rule).inc()

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        if name == "rate_limited":
            self._rate_limited.labels(self._tool(label)).inc(by)
        elif name == "kills":
            self._kills.labels(label).inc(by)
        elif name == "exports":
            self._exports.labels(label).inc(by)
        else:
            self._plain[name].inc(by)

    def health(self, dependency: str, *, is_well: bool) -> None:
        self._health.labels(dependency).set(1 if is_well else 0)

    def render(self) -> bytes:
        return generate_latest(self.registry)

    def register(self, collector: Collector) -> None:
        self.registry.register(collector)

    def _tool(self, tool: str) -> str:
        return tool if tool in self._tools else "other"

    def _child(self, family: str, counter: Counter, *labels: str) -> Counter:
        key = (family, *labels)
        child = self._bound.get(key)
        if child is None:
            child = self._bound[key] = counter.labels(*labels)
        return child


_: type[Meter] = PrometheusMeter
