"""What every kind of upstream promises (ports.Upstream)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, cast

import pytest

from agentgate.core import strict_json
from agentgate.core.call import (
    Access,
    AgentId,
    Call,
    Door,
    Principal,
    PrincipalKind,
    Role,
    SessionId,
    TenantId,
    Tool,
    ToolName,
    TraceId,
)
from agentgate.core.decision import Decision, Grant, Receipt, Verdict, grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Delivered, Undelivered, Upstream

_CALLER = Principal(
    PrincipalKind.AGENT, AgentId("tester"), TenantId("default"), frozenset({Role.AGENT}), auth_method="test"
)


def make_tool(name: str, *, access: Access = Access.READ, options: Mapping[str, Any] | None = None) -> Tool:
    return Tool(ToolName(name), "under-test", access, {"type": "object"}, options=options or {})


def granted(tool: Tool, arguments: Mapping[str, Any]) -> Grant:
    """A grant as the gate makes it: from an ALLOW and the receipt of its record."""
    call = Call(
        trace_id=TraceId("00000000-0000-4000-8000-000000000001"),
        door=Door.REST,
        caller=_CALLER,
        session=SessionId("s1"),
        tool_name=tool.name,
        tool=tool,
        arguments=arguments,
        context={},
    )
    decision = Decision(Verdict.ALLOW, ReasonCode.POLICY_ALLOW, "a test allows it", "test")
    receipt = Receipt(event_id="e1", index=0, kill_position=0, digest=call.digest)
    made = grant(call, decision, receipt, applied_position=0)
    assert isinstance(made, Grant)
    return made


class UpstreamContract:
    """Subclasses give the fixtures `upstream`, and grants of calls: `good` is answered, `bad` is refused by the
    tool or service, and `endless` does not end by itself within the test."""

    async def test_it_answers_with_strict_json(self, upstream: Upstream, good: Grant) -> None:
        answer = await upstream.send(good, None)
        assert isinstance(answer, Delivered)
        strict_json.check(answer.value)

    async def test_an_error_is_a_value(self, upstream: Upstream, bad: Grant) -> None:
        answer = await upstream.send(bad, None)
        assert isinstance(answer, Undelivered)
        assert answer.reason is ReasonCode.UPSTREAM_ERROR
        assert answer.detail

    async def test_cancellation_ends_the_call_and_leaves_nothing_running(
        self, upstream: Upstream, good: Grant, endless: Grant
    ) -> None:
        await upstream.send(good, None)
        before = asyncio.all_tasks()
        call = asyncio.create_task(upstream.send(endless, None))
        await asyncio.sleep(0.05)  # lets it get as far as it can; there is no event that says "now it hangs"
        assert not call.done()
        started = time.monotonic()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert time.monotonic() - started < 0.25
        assert {task for task in asyncio.all_tasks() - before if not self.is_of_the_service(task)} == set()

    def is_of_the_service(self, task: asyncio.Task[Any]) -> bool:
        """Whether a task belongs to the test's own server, which runs in the same loop."""
        return False

    async def test_it_still_answers_after_a_cancelled_call(
        self, upstream: Upstream, good: Grant, endless: Grant
    ) -> None:
        call = asyncio.create_task(upstream.send(endless, None))
        await asyncio.sleep(0)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert isinstance(await upstream.send(good, None), Delivered)

    async def test_nothing_is_sent_without_a_real_grant(self, upstream: Upstream, good: Grant) -> None:
        with pytest.raises(TypeError, match="made by core"):
            Grant(good.call, good.decision, good.receipt, cast(Any, object()))
        for forged in (None, good.call, _LooksLikeAGrant(good)):
            answer = await upstream.send(cast(Any, forged), None)
            assert isinstance(answer, Undelivered)
            assert answer.reached is False

    async def test_a_closed_upstream_refuses_with_a_value(self, upstream: Upstream, good: Grant) -> None:
        await upstream.send(good, None)
        await upstream.aclose()
        await upstream.aclose()
        answer = await upstream.send(good, None)
        assert isinstance(answer, Undelivered)
        assert answer.reached is False


class _LooksLikeAGrant:
    def __init__(self, real: Grant) -> None:
        self.call, self.decision, self.receipt = real.call, real.decision, real.receipt
