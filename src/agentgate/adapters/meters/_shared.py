"""Totals over the workers of a service: each tells its numbers in a file of its own, and who is scraped adds them up.

A counter must never fall, or Prometheus takes the fall for a restart and counts everything twice. So a scrape shows
what is in the files alone, a worker brings its own up to date first, and one that takes a dead worker's place goes on
from its numbers. prometheus_client's own multi-process mode would do the same with a locked write on every call.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

FRESH_S: Final = 5.0
"""A gauge that was told longer ago is of a worker that is dead or frozen, and says nothing about now."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Name and labels of a sample to its value."""
Families = dict[str, tuple[str, str, Samples]]
"""A metric's name to its type, its text and its samples."""


class SharedFile(Collector):
    """One worker's numbers, and those of its fellows beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._before = _without_gauges(_read(path)) if path.exists() else {}

    def publish(self, metrics: Iterable[Metric]) -> None:
        """Tell this worker's numbers. Raises OSError."""
        families = merged([self._before, taken(metrics)])
        told = [
            [name, kind, text, [[sample, labels, value] for (sample, labels), value in samples.items()]]
            for name, (kind, text, samples) in families.items()
        ]
        new = self._path.with_suffix(".new")
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(orjson.dumps(told))
        new.replace(self._path)

    def collect(self) -> Iterator[Metric]:
        """What all workers have told. Raises OSError."""
        told = []
        for path in sorted(self._path.parent.glob("*.json")):
            is_fresh = time.time() - path.stat().st_mtime <= FRESH_S
            families = _read(path)
            told.append(families if is_fresh else _without_gauges(families))
        for name, (kind, text, samples) in merged(told).items():
            metric = Metric(name, text, kind)
            for (sample, labels), value in samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def taken(metrics: Iterable[Metric]) -> Families:
    """Metrics as plain values, without the times at which their counters were made: those do not add up."""
    return {
        metric.name: (
            metric.type,
            metric.documentation,
            {
                (sample.name, tuple(sorted(sample.labels.items()))): sample.value
                for sample in metric.samples
                if not sample.name.endswith("_created")
            },
        )
        for metric in metrics
    }


def merged(several: Iterable[Families]) -> Families:
    """Everything added up; but the service is as well as the worker that is worst off."""
    whole: Families = {}
    for families in several:
        for name, (kind, text, samples) in families.items():
            _, _, sums = whole.setdefault(name, (kind, text, {}))
            for key, value in samples.items():
                if name.endswith("_health_status"):
                    sums[key] = min(sums.get(key, value), value)
                elif name.endswith("_quarantined_tools"):  # all workers count the same tools
                    sums[key] = max(sums.get(key, value), value)
                else:
                    sums[key] = sums.get(key, 0.0) + value
    return whole


def _without_gauges(families: Mapping[str, tuple[str, str, Samples]]) -> Families:
    return {name: family for name, family in families.items() if family[0] != "gauge"}


def _read(path: Path) -> Families:
    told: list[Any] = orjson.loads(path.read_bytes())
    return {
        name: (kind, text, {(sample, tuple((k, v) for k, v in labels)): value for sample, labels, value in samples})
        for name, kind, text, samples in told
    }
