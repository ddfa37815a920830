"""What the doors for calls have in common: how a body is read, and what a call is made with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from agentgate.core.call import TraceId
from agentgate.edges.wire import Receive, Request, read_body
from agentgate.pipeline.records.record import new_trace_id
from agentgate.ports.ambient import Entropy, Worker, beside

_Read = TypeVar("_Read")


@dataclass(frozen=True, slots=True)
class Intake:
    entropy: Entropy
    worker: Worker
    """Reads what is large."""
    digest_key: bytes
    max_body_bytes: int

    async def body(self, request: Request, receive: Receive) -> bytes:
        """Raises Problem: 413 or 400."""
        return await read_body(request, receive, self.max_body_bytes)

    async def read(self, body: bytes, parse: Callable[[], _Read]) -> _Read:
        """What `parse` makes of a body; of a large one while other calls go on. Raises what it raises."""
        return await beside(self.worker, len(body), parse)

    def trace_id(self) -> TraceId:
        return new_trace_id(self.entropy)
