"""Carries out a plan on a cluster and answers what happened, when everything has come right again."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from random import Random

from tests.containment.cluster import Client, Cluster
from tests.containment.history import History, KillOp, LogRecord
from tests.containment.nemesis import Scene, bring
from tests.containment.plan import Plan, PlannedCall, PlannedKill

SETTLE_S = 20.0
"""For how long a healed cluster may take to drain every kill and to write every outcome."""
GIVE_UP_S = 10.0
"""A caller waits so long for an answer after the end; a frozen replica has been woken by then."""


class Running:
    """One plan, on its way. What is known of the log before it is handed on from run to run."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._first = 0
        self._before: list[LogRecord] = []

    async def run(self, plan: Plan) -> History:
        """Raises AssertionError when the cluster does not come back at all."""
        history = History(plan.name, before=list(self._before))
        async with Client(history) as client:
            await self._act(client, plan)
            await self.cluster.ready()
            await self._settle(client, plan)
            await self._probe(client, plan)
            history.records = await self._outcomes(history)
        history.sends = self.cluster.sends()
        self._first += len(history.records)
        self._before += [one for one in history.records if one.kind in ("joined", "left", "gone")]
        return history

    # --- while it lasts ---

    async def _act(self, client: Client, plan: Plan) -> None:
        over = asyncio.Event()
        callers = [asyncio.create_task(self._caller(client, agent, calls, over)) for agent, calls in plan.callers]
        operators = [asyncio.create_task(self._operator(client, kill, over)) for kill in plan.kills]
        faults = [asyncio.create_task(bring(Scene(self.cluster, client, fault))) for fault in plan.faults]
        await asyncio.sleep(plan.length_s)
        over.set()
        await asyncio.gather(*faults)
        await asyncio.to_thread(self.cluster.heal)
        _, late = await asyncio.wait([*callers, *operators], timeout=GIVE_UP_S)
        for task in late:
            task.cancel()
        if late:
            client.history.stuck.append(f"{len(late)} callers were not answered within {GIVE_UP_S} s")
        await asyncio.gather(*callers, *operators, return_exceptions=bool(late))

    async def _caller(self, client: Client, agent: str, calls: tuple[PlannedCall, ...], over: asyncio.Event) -> None:
        for number in count():
            if over.is_set():
                return
            call = calls[number % len(calls)]
            replica = self.cluster.replicas[call.replica]
            op = await client.call(replica, agent, call.session, call.tool, ms=call.ms, linger_ms=call.linger_ms)
            await asyncio.sleep(call.pause_s if op.reason == "ok" else 0.01 + call.pause_s)

    async def _operator(self, client: Client, kill: PlannedKill, over: asyncio.Event) -> None:
        await asyncio.sleep(kill.at_s)
        orders = [self._order(client, kill, kill.replica)]
        if kill.again:
            orders.append(self._order(client, kill, kill.replica + 1))
        op, *_ = await asyncio.gather(*orders)
        rng = Random(kill.id)
        while not op.drained and not over.is_set() and not (op.status in (200, 202) and kill.forced):
            await asyncio.sleep(0.05)
            op = await client.look(rng.choice(self.cluster.replicas), kill.id)
        if kill.release_after_s is not None and op.status in (200, 202):
            await asyncio.sleep(kill.release_after_s)
            await client.release(rng.choice(self.cluster.replicas), kill.id, force=kill.forced)

    async def _order(self, client: Client, kill: PlannedKill, replica: int) -> KillOp:
        return await client.kill(
            self.cluster.replicas[replica % len(self.cluster.replicas)],
            kill.scope,
            kill.target,
            kill_id=kill.id,
            tenant=kill.tenant,
            expires_in_s=kill.expires_in_s,
        )

    # --- and afterwards ---

    async def _settle(self, client: Client, plan: Plan) -> None:
        """Every kill that is in the log drains, and is released so that the next history begins without kills."""
        await asyncio.gather(*(self._end(client, kill.id) for kill in plan.kills))

    async def _end(self, client: Client, kill_id: str) -> None:
        deadline = time.monotonic() + SETTLE_S
        forced = False
        while True:
            op = await client.look(self.cluster.replicas[0], kill_id)
            if op.status == 404 or not op.active:
                return
            waits = set(op.unheard) - set(op.excepted) - set(op.attested)
            if op.drained or (op.excepted and not waits):
                forced = not op.drained
                break
            if time.monotonic() > deadline:
                said = f"status {op.status}, unheard {op.unheard}, excepted {op.excepted}, running {op.running}"
                client.history.stuck.append(f"kill {kill_id} did not drain within {SETTLE_S} s: {said}")
                forced = True
                break
            await asyncio.sleep(0.03)
        while (release := await client.release(self.cluster.replicas[0], kill_id, force=forced)).status not in (
            200,
            404,
        ):
            if time.monotonic() > deadline + SETTLE_S:
                client.history.stuck.append(f"kill {kill_id} could not be released: {release.status}")
                return
            await asyncio.sleep(0.03)

    async def _probe(self, client: Client, plan: Plan) -> None:
        """A replica that says it is ready must let a call through."""
        deadline = time.monotonic() + SETTLE_S
        for replica in self.cluster.replicas:
            while (op := await client.call(replica, "a1", f"{plan.name}-probe", "read-a", ms=0)).reason != "ok":
                if time.monotonic() > deadline:
                    client.history.stuck.append(f"{replica.name} lets nothing through: {op.status} {op.reason}")
                    break
                await asyncio.sleep(0.05)

    async def _outcomes(self, history: History) -> list[LogRecord]:
        """The records, once every allowed call among them has its outcome."""
        deadline = time.monotonic() + SETTLE_S
        while True:
            records = await self.cluster.records(self._first)
            ended = {one.fields["trace_id"] for one in records if one.kind == "finished"}
            allowed = (one for one in records if one.kind == "decided" and one.fields["decision"] == "ALLOW")
            if all(one.fields["trace_id"] in ended for one in allowed) or time.monotonic() > deadline:
                return records  # what is missing is for the checker to say
            await asyncio.sleep(0.03)
