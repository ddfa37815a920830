"""Who is told elsewhere of what. The peer documented five notices and sent one."""

from __future__ import annotations

from agentgate.core.containment import Scope
from agentgate.core.decision import Ruling
from agentgate.core.errors import ReasonCode
from agentgate.pipeline.orders import Order
from agentgate.ports.containment import LimitState, NotAdmitted
from tests.fakes import ADMIN, DENY, REVISION, a_call
from tests.pipeline.conftest import House


async def test_a_kill_is_told(house: House) -> None:
    await house.containment.kill(ADMIN, Order(Scope.SESSION, "s-1", "loops"))
    kind, payload = house.notifier.told[0]
    assert kind == "kill_switch.activated"
    assert (payload["level"], payload["target"], payload["reason"]) == ("session", "s-1", "loops")


async def test_a_denial_is_told_and_an_allowed_call_is_not(house: House) -> None:
    await house.gate.pass_through(a_call())
    assert house.notifier.told == []
    house.engine.answer = Ruling(DENY, REVISION)
    answer = await house.gate.pass_through(a_call())
    assert house.notifier.told[0][0] == "policy.denied"
    assert house.notifier.told[0][1]["trace_id"] == answer.call.trace_id


async def test_a_used_up_limit_is_told(house: House) -> None:
    house.admission.refusal = NotAdmitted(ReasonCode.RATE_LIMITED, limit=LimitState(10, 0, 1))
    await house.gate.pass_through(a_call())
    assert house.notifier.told[0][0] == "rate_limit.exceeded"
    assert house.meter.counts[("rate_limited", "db_query")] == 1
