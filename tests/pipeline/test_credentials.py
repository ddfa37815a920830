"""A call and its credential: asked for what was decided, and nothing is sent, said or left running without it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, Outcome
from agentgate.pipeline.calls.run import Route
from agentgate.ports.credentials import CredentialRefused
from agentgate.ports.upstreams import Credential, Delivered
from tests.contracts.credential_source import broker_of
from tests.fakes import ALLOW, a_call
from tests.pipeline.conftest import House, a_moment, until
from tests.pipeline.test_broker import FakeIssuer


class Guarded(House):
    """A house whose upstream wants the credential `a`."""

    def __init__(self, **issuer: Any) -> None:
        super().__init__()
        self.issuer = FakeIssuer(**issuer)
        self.broker = broker_of({"a": self.issuer}, clock=self.clock)
        self.broker.meter = self.meter
        self.runner._routes = {"demo": Route(self.upstream, "a", self.broker)}
        self.replica.on_cut = self.broker.drop


@pytest.fixture
async def guarded() -> Guarded:
    return Guarded()


async def test_the_source_hears_the_scope_and_the_lifetime_that_policy_allowed(guarded: Guarded) -> None:
    guarded.engine.answer = guarded.engine.answer._replace(
        value={**ALLOW, "allowed_scope": "tickets:read", "credential_ttl": 60}
    )
    call = a_call()
    await guarded.gate.pass_through(call)
    ((ask, _),) = guarded.issuer.asks
    assert (ask.alias, ask.scope, ask.ttl_s, ask.call) == ("a", "tickets:read", 60, call)


async def test_the_upstream_is_shown_what_was_issued_for_the_call(guarded: Guarded) -> None:
    assert (await guarded.gate.pass_through(a_call())).success
    assert guarded.upstream.shown == [Credential("a", "secret-1")]


async def test_without_its_credential_a_call_is_not_sent_and_the_record_says_which(guarded: Guarded) -> None:
    guarded.issuer.error = CredentialRefused("down")
    answer = await guarded.gate.pass_through(a_call())
    assert (answer.reason_code, answer.outcome) == (ReasonCode.CREDENTIAL_UNAVAILABLE, Outcome.NOT_SENT)
    assert guarded.upstream.sent == []
    (finished,) = guarded.log.of(Kind.FINISHED)
    assert (finished["outcome"], finished["reason_code"], finished["credential"]) == (
        "not_sent",
        "credential_unavailable",
        "a",
    )
    assert guarded.meter.counts["credentials_unavailable", "a"] == 1


async def test_a_kill_ends_the_wait_for_a_credential(guarded: Guarded) -> None:
    guarded.issuer.free.clear()
    task = asyncio.create_task(guarded.gate.pass_through(a_call()))
    await until(lambda: guarded.issuer.asks)
    drain = await guarded.killed()
    assert drain.is_drained
    answer = await task
    assert (answer.reason_code, answer.outcome) == (ReasonCode.KILLED, Outcome.NOT_SENT)
    assert guarded.upstream.sent == []
    guarded.issuer.free.set()
    await until(lambda: guarded.issuer.revoked == ["lease-1"])


async def test_a_kill_takes_back_what_a_running_call_was_given(guarded: Guarded) -> None:
    task = await guarded.running()
    await guarded.killed()
    assert (await task).reason_code is ReasonCode.KILLED
    await until(lambda: guarded.issuer.revoked == ["lease-1"])


async def test_a_kill_does_not_wait_for_a_source_that_takes_nothing_back(guarded: Guarded) -> None:
    guarded.issuer.failures = 1_000_000
    task = await guarded.running()
    drain = await guarded.killed()
    assert drain.is_drained
    await task
    await until(lambda: guarded.meter.counts.get(("credential_revocations_failed", "a")))


async def test_a_source_that_goes_away_leaves_a_running_call_alone(guarded: Guarded) -> None:
    task = await guarded.running()
    guarded.issuer.error = CredentialRefused("down")
    guarded.issuer.free.clear()
    guarded.clock.move(99)  # what it was given is about to expire
    guarded.upstream.let_go()
    answer = await task
    assert (answer.reason_code, answer.outcome) == (ReasonCode.OK, Outcome.OK)
    assert len(guarded.issuer.asks) == 1


async def test_a_call_that_is_given_up_while_it_waits_is_recorded_as_not_sent(guarded: Guarded) -> None:
    guarded.issuer.free.clear()
    task = asyncio.create_task(guarded.gate.pass_through(a_call()))
    await until(lambda: guarded.issuer.asks)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await a_moment()
    (finished,) = guarded.log.of(Kind.FINISHED)
    assert (finished["outcome"], finished["reason_code"]) == ("not_sent", "shutting_down")


async def test_every_value_of_a_credential_is_taken_out_of_the_answer(guarded: Guarded) -> None:
    issue = guarded.issuer.issue

    async def several(*asked: Any) -> Any:
        issued = await issue(*asked)
        values = {"username": "v-role-user", "password": issued.credential.secret}
        return replace(issued, credential=replace(issued.credential, values=values))

    guarded.issuer.issue = several  # type: ignore[method-assign]
    guarded.upstream.answer = Delivered({"who": "v-role-user", "with": "secret-1", "as": "somebody"})
    answer = await guarded.gate.pass_through(a_call())
    assert answer.result_json == b'{"as":"somebody","who":"[redacted]","with":"[redacted]"}'
