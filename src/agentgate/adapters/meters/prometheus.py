"""Prometheus metrics: v0.2's names, and the parts of a call's latency.

Label values are bounded: a tool label is a declared tool or `other`, a rule label one of the first `MAX_RULES`
seen, so that no caller can grow the series. What is told on every call is counted in plain numbers and turned into
samples when somebody scrapes: the library's own locked counters were a fifth of the gate's time.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from agentgate.adapters.meters._shared import SharedFile

logger = logging.getLogger("agentgate.metrics")

MAX_RULES = 100
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BOUNDS = (*map(str, _BUCKETS), "+Inf")
_PLAIN = {
    "log_unavailable": "Appends that were not known to be durable",
    "kill_state_unknown": "Calls refused or kills not pushed because the kill store did not answer",
    "budget_recounts": "Budgets that were counted from the log, because the kill store did not know what was used",
    "budget_recount_failures": "Budgets that could not be counted from the log",
    "redaction_failed": "Texts that could not be redacted and were not kept",
    "faults": "Requests that failed inside the gateway",
    "pruned_sessions": "Sessions whose bodies were given up",
    "retention_refused": "Prunes that were refused, and daily runs that could not go on",
    "exports_failed": "Packs that were asked for and not given",
    "timestamps_missing": "Packs whose time stamp authority gave no stamp",
}
_LABELLED = {
    "rate_limited": ("tool", "Calls over their limit"),
    "budget_spent": ("budget", "Calls over their budget"),
    "budget_unknown": ("budget", "Calls refused because nobody knew what was used"),
    "kills": ("level", "Kills by scope"),
    "exports": ("format", "Evidence exports"),
    "checkpoint_failures": ("place", "Checkpoints that a file, webhook or witness did not take"),
    "signatures_refused": ("reason", "Signatures that did not count"),
    "tokens_refused": ("reason", "Access tokens that were refused"),
    "credentials_unavailable": ("alias", "Calls whose credential could not be had"),
    "credentials_revoked": ("alias", "Credentials that were taken back"),
    "credential_revocations_failed": ("alias", "Attempts to take a credential back that failed"),
    "idempotency": ("what", "Calls whose idempotency key was used before, and kept answers handed out"),
    "webhook_deliveries": ("result", "Notices brought to webhooks, by what came of it"),
}
_CALLED = {
    "rate_limited": "rate_limit_hits",
    "budget_spent": "budget_refusals",
    "kills": "kill_switch_activations",
    "exports": "evidence_exports",
}
"""The metrics whose names are not what `count` calls them."""

BUDGETS = frozenset(
    {f"{period}_{what}" for period in ("action", "session", "hour", "day") for what in ("calls", "bytes", "cost")}
    | {"tier_unknown"}
)


class _Counts(Collector):
    """A counter family in a dict: label values to count."""

    def __init__(self, name: str, text: str, labels: tuple[str, ...]) -> None:
        self._family = (name, text, labels)
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, labels: tuple[str, ...]) -> None:
        self._counts[labels] = self._counts.get(labels, 0) + 1

    def collect(self) -> Iterator[Metric]:
        name, text, labels = self._family
        family = CounterMetricFamily(name, text, labels=labels)
        for values, count in list(self._counts.items()):
            family.add_metric(values, count)
        yield family


class _Durations(Collector):
    """A histogram family in lists: for each label value the count of every bucket, and the sum in seconds."""

    def __init__(self, name: str, text: str, label: str, values: Iterable[str]) -> None:
        self._family = (name, text, label)
        self._counts = {value: [0] * len(_BOUNDS) for value in values}
        self._sums = dict.fromkeys(self._counts, 0.0)

    def add(self, value: str, seconds: float) -> None:
        self._counts[value][bisect_left(_BUCKETS, seconds)] += 1
        self._sums[value] += seconds

    def collect(self) -> Iterator[Metric]:
        name, text, label = self._family
        family = HistogramMetricFamily(name, text, labels=(label,))
        for value, counts in self._counts.items():
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(_BOUNDS, counts, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric((value,), buckets, self._sums[value])
        yield family


class PrometheusMeter:
    """One registry for one process, which can be added to those of its fellow workers."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, tools: Container[str], shared: Path | None = None) -> None:
        """`tools` are the names that a label may have; a live set of them may grow. `shared` is this worker's file in
        the directory of all workers.

        Raises:
            OSError: that file cannot be made.
        """
        self.registry = CollectorRegistry()
        self._shared = SharedFile(shared) if shared is not None else None
        self._tools = tools
        self._rules: set[str] = set()
        self._calls = _Counts("agentgate_tool_calls", "Tool calls by tool and decision", ("tool", "decision"))
        self._evaluations = _Counts("agentgate_policy_evaluations", "Policy evaluations", ("result", "rule"))
        self._duration = _Durations(
            "agentgate_request_duration_seconds", "Whole time of a tool call", "endpoint", ("tools_call",)
        )
        self._steps = _Durations(
            "agentgate_step_duration_seconds",
            "Time of one step of a call",
            "step",
            ("admission", "policy", "append", "upstream"),
        )
        for collector in (self._calls, self._evaluations, self._duration, self._steps):
            self.registry.register(collector)
        self._plain = {name: self._counter(name, text) for name, text in _PLAIN.items()}
        self._labelled = {name: self._counter(name, text, label) for name, (label, text) in _LABELLED.items()}
        self.active_sessions = self._gauge("active_sessions", "Sessions with a call in flight")
        self.quarantined = self._gauge("quarantined_tools", "Tools that their servers describe otherwise than accepted")
        self._waiting = self._gauge(
            "webhook_lag_seconds", "For how long the oldest notice of a webhook waits", "endpoint"
        )
        self._health = self._gauge("health_status", "1 when a dependency answers", "dependency")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"agentgate_{_CALLED.get(name, name)}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"agentgate_{name}", text, labels, registry=self.registry)

    def call_finished(self, tool: str, decision: str, seconds: float) -> None:
        self._calls.add((self._tool(tool), decision))
        self._duration.add("tools_call", seconds)

    def step(self, name: Literal["admission", "policy", "append", "upstream"], seconds: float) -> None:
        self._steps.add(name, seconds)

    def policy_evaluated(self, result: str, rule: str) -> None:
        if rule not in self._rules:
            if len(self._rules) >= MAX_RULES:
                rule = "other"
            self._rules.add(rule)
        self._evaluations.add((result, rule))

    def count(self, name: str, label: str = "", by: int = 1) -> None:
        if name in self._plain:
            self._plain[name].inc(by)
            return
        if name == "rate_limited":
            label = self._tool(label)
        elif name in ("budget_spent", "budget_unknown") and label not in BUDGETS:
            label = "other"
        self._labelled[name].labels(label).inc(by)

    def health(self, dependency: str, *, is_well: bool) -> None:
        self._health.labels(dependency).set(1 if is_well else 0)

    def webhooks_wait(self, seconds: Mapping[str, float]) -> None:
        """Of each endpoint for how long its oldest notice waits. Their names are the configuration's."""
        for name, lag in seconds.items():
            self._waiting.labels(name).set(lag)

    def publish(self) -> None:
        """Once a second: let the fellow workers know the numbers of this one."""
        if self._shared is not None:
            try:
                self._shared.publish(self.registry.collect())
            except OSError as error:
                logger.warning("metrics cannot be told to the other workers: %s", error)

    def render(self) -> bytes:
        """The text that Prometheus scrapes. Raises OSError when the other workers' numbers cannot be read."""
        if self._shared is None:
            return generate_latest(self.registry)
        self.publish()
        whole = CollectorRegistry()
        whole.register(self._shared)
        return generate_latest(whole)

    def _tool(self, tool: str) -> str:
        return tool if tool in self._tools else "other"
