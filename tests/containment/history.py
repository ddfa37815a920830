"""What happened in one run, as it was seen from outside and from within the upstream, and as the log has it.

A history is a value: it can be kept as a file and judged again (`python -m tests.containment.check FILE`). Every time
is CLOCK_MONOTONIC in nanoseconds, which all processes of one machine share; `None` as an end means never, as an answer
that none came.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class CallOp:
    """A tool call as its caller saw it. `status` is None when the connection was lost."""

    invoked: int
    replica: str
    tenant: str
    agent: str
    session: str
    tool: str
    answered: int | None = None
    status: int | None = None
    reason: str = ""
    trace: str | None = None


@dataclass(slots=True)
class KillOp:
    """An answer about a kill: to the order itself, or to a later look (`is_order` is False)."""

    invoked: int
    replica: str
    id: str
    is_order: bool = True
    answered: int | None = None
    status: int | None = None
    scope: str = ""
    tenant: str = ""
    target: str = ""
    drained: bool = False
    unheard: tuple[str, ...] = ()
    """Members that have not acknowledged, whatever became of them."""
    excepted: tuple[str, ...] = ()
    attested: tuple[str, ...] = ()
    running: tuple[str, ...] = ()
    receipt: str | None = None
    """The event that says how it drained."""
    active: bool = True
    """False: a look said that it was released."""


@dataclass(slots=True)
class ReleaseOp:
    """A wish to end a kill."""

    invoked: int
    replica: str
    id: str
    force: bool = False
    answered: int | None = None
    status: int | None = None


@dataclass(slots=True)
class Send:
    """What the upstream inside a gateway process saw of one call: from its first instruction to its last."""

    trace: str
    replica: str
    started: int
    wanted_ms: int
    ended: int | None = None
    """None: it still ran when the history was closed. Of a process that was killed it is when that was dead."""
    how: str = ""
    """`done`, `cancelled`, or `died` with its process."""


@dataclass(slots=True)
class Window:
    """A fault, from when it was complete to when its end was begun."""

    fault: str
    started: int
    ended: int
    replica: str = ""
    """Empty: of all."""
    blinds: str = ""
    """`redis` or `log`: what this replica could certainly not reach in time."""


@dataclass(slots=True)
class LogRecord:
    """What the checker needs of a record. `at` is the writer's own clock, as monotonic nanoseconds."""

    index: int
    position: int
    kind: str
    at: int
    member: str
    fields: Mapping[str, Any]


@dataclass(slots=True)
class History:
    """Everything that is known of one run."""

    name: str
    calls: list[CallOp] = field(default_factory=list)
    kills: list[KillOp] = field(default_factory=list)
    releases: list[ReleaseOp] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    before: list[LogRecord] = field(default_factory=list)
    """Who joined, left and was gone before the first of `records`."""
    records: list[LogRecord] = field(default_factory=list)
    """Every record of this run, without a gap."""
    stuck: list[str] = field(default_factory=list)
    """What did not come right again after everything was healed, in sentences."""

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> History:
        return cls.from_json(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> History:
        lists = ("unheard", "excepted", "attested", "running")
        return cls(
            name=raw["name"],
            calls=[CallOp(**one) for one in raw["calls"]],
            kills=[KillOp(**{k: tuple(v) if k in lists else v for k, v in one.items()}) for one in raw["kills"]],
            releases=[ReleaseOp(**one) for one in raw["releases"]],
            sends=[Send(**one) for one in raw["sends"]],
            windows=[Window(**one) for one in raw["windows"]],
            before=[LogRecord(**one) for one in raw["before"]],
            records=[LogRecord(**one) for one in raw["records"]],
            stuck=list(raw["stuck"]),
        )
