"""A gateway's life: how it begins, what runs beside its calls, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Coroutine, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Final

from agentgate import settings as configuration
from agentgate.adapters.policy.opa import OpaPolicyEngine
from agentgate.adapters.policy.wasm import WasmPolicyEngine
from agentgate.core.errors import LogUnavailable, PolicyInvalid, PolicyNotEnforced
from agentgate.core.event import Kind
from agentgate.core.query import Query
from agentgate.gateway import Gateway
from agentgate.pipeline.records.books import Books

logger = logging.getLogger("agentgate")

SERVERS_WITHIN_S: Final = 2.0


async def begin(gateway: Gateway, predecessors: Sequence[str] | None) -> None:
    """Join the log, apply kills, enforce the policy; what a killed process has left is signed first, and a new log
    before anybody is served, so that nothing that is not signed is old. `predecessors` as for `Membership.join`.

    Raises:
        UnsafeConfiguration, LogUnavailable, PolicyInvalid
    """
    configuration.refuse_public_without_keys(gateway.config, has_agent_keys=not gateway.callers.takes_local)
    newest = await gateway.log.record(await gateway.log.size() - 1)
    if newest is not None:
        gateway.steady.not_before(datetime.fromisoformat(newest.fields["at"]))
        with contextlib.suppress(LogUnavailable):  # once a second it is tried again
            await gateway.log.integrate()
    await gateway.admission.start()
    gateway.admission.listen(gateway.replica.woken)
    closed = await gateway.membership.join(predecessors)
    if closed:
        logger.warning("%d calls of an earlier process had no outcome; they are recorded as unknown", closed)
    await gateway.answers.recount()
    await _name_key(gateway)
    await gateway.notices.start()
    await gateway.pins.start()
    if isinstance(gateway.engine, WasmPolicyEngine):
        await gateway.policy.start()
        await gateway.pins.settle()
    else:
        await gateway.policy.prepare()
    if gateway.tokens is not None:
        await gateway.tokens.verifier.start()
    if await gateway.log.checkpoint() is None:
        await gateway.log.integrate()


@contextlib.asynccontextmanager
async def alive(gateway: Gateway) -> AsyncIterator[None]:
    """With all that runs beside the calls. From the end on nothing new is let through."""
    tasks = [asyncio.create_task(one) for one in _beside_the_calls(gateway)]
    if isinstance(gateway.engine, OpaPolicyEngine):
        tasks.append(asyncio.create_task(_enforce_remote(gateway)))
    for task in tasks:
        task.add_done_callback(partial(stop_unless_asked, gateway))
    try:
        await _hear_servers(gateway)
        yield
    finally:
        gateway.gate.closing = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _name_key(gateway: Gateway) -> None:
    """The log names each key that takes another's place. That one is over checkpoints does not show that it was named:
    `log sign` signs as well, and so does a start that goes no further."""
    key, *former = gateway.log.keys
    named = former[0].text if former else key.text
    async for record in gateway.log.search(Query(kinds={Kind.KEYED}), newest=True):
        if record.fields["use"] == "checkpoints":
            named = record.fields["public"]
            break
    if named != key.text:
        await Books(gateway.recorder).checkpoints_keyed(key)


async def end(gateway: Gateway) -> None:
    """Say everything that is left to say, and leave the log."""
    await gateway.deferred.aclose()
    await gateway.limits.aclose()
    await gateway.acknowledger.aclose()
    await gateway.notices.stop()
    await gateway.membership.leave(partial(_last_words, gateway))
    gateway.meter.publish()
    for worker in (gateway.worker, gateway.side):
        await worker.aclose()
    if gateway.timestamps is not None:
        await gateway.timestamps.aclose()
    if gateway.tokens is not None:
        await gateway.tokens.verifier.aclose()


async def _last_words(gateway: Gateway) -> None:
    """What only this process knows: of its calls, and of keys that have counted here. Raises LogUnavailable."""
    await gateway.upkeep.last_words()
    await gateway.keys.book.tell()


def _beside_the_calls(gateway: Gateway) -> list[Coroutine[Any, Any, None]]:
    """What runs beside the calls for as long as the process lives."""
    return [
        gateway.membership.look_after(),
        gateway.membership.watch_lease(),
        _look_after(gateway),
        _follow_keys(gateway),
        _keep_policy(gateway),
        gateway.deferred.look_after(lambda: gateway.membership.is_eldest),
        gateway.voids.look_after(lambda: gateway.membership.is_eldest),
        gateway.notices.run(),
        gateway.mcp_door.run(),
        gateway.pins.announce(),
        *(server.run(gateway.pins) for server in gateway.tool_servers.values()),
        gateway.retention.look_after(lambda: gateway.membership.is_eldest),
    ]


async def _look_after(gateway: Gateway) -> None:
    """Once a second, until cancelled."""
    while True:
        await asyncio.sleep(1)
        await gateway.upkeep.tick()
        await gateway.health.tell()
        gateway.meter.webhooks_wait(gateway.notices.lags())
        gateway.meter.publish()
        with contextlib.suppress(LogUnavailable):  # the next round tries again
            await gateway.keys.book.tell()


async def _follow_keys(gateway: Gateway) -> None:
    """Once a second, until cancelled; by itself: a disabled key must not live on because a log does not answer."""
    while True:
        await asyncio.sleep(1)
        gateway.keys.read()


async def _keep_policy(gateway: Gateway) -> None:
    """Once a second, until cancelled; by itself, because an OPA may let it wait."""
    while True:
        await asyncio.sleep(1)
        with contextlib.suppress(LogUnavailable):  # the next round tries again
            await gateway.pins.settle()  # first: what another member has accepted is in the policy that it enforces
            await gateway.policy.settle()


def stop_unless_asked(gateway: Gateway, task: asyncio.Task[None]) -> None:
    """Without its heartbeat a member hears no kill that nobody wakes it for, and without upkeep no kill expires:
    better no gateway, and a restart."""
    if task.cancelled() or task.exception() is None:
        return
    logger.critical("heartbeat or upkeep ended, so the gateway ends too", exc_info=task.exception())
    gateway.gate.closing = True
    signal.raise_signal(signal.SIGTERM)


async def _hear_servers(gateway: Gateway) -> None:
    """Have the tools of servers that are up before the first client asks. One that is down holds nobody up long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SERVERS_WITHIN_S):
            while not all(server.state().is_up for server in gateway.tool_servers.values()):  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.02)


async def _enforce_remote(gateway: Gateway) -> None:
    """An OPA server pulls its bundle from this very process, so it can only be waited for once we serve."""
    while True:
        try:
            await gateway.policy.start()
        except (PolicyNotEnforced, LogUnavailable) as error:
            logger.warning("%s; trying again", error)
            await asyncio.sleep(1)
        except PolicyInvalid as error:
            logger.error("the policy is not enforced: %s", error)
            await asyncio.sleep(5)
        else:
            return
