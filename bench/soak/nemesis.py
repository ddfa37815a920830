"""What happens to the house while it is called: kills and releases all the time, one other thing after the other."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import orjson

from bench.line import Line
from bench.soak.house import ADMIN_KEY, House
from bench.soak.load import Load, request

KILL_EVERY_S = 5.0
DEAD_S = 2.0
"""How long callers go on calling a session whose kill has drained."""
DRAINED_WITHIN_S = 90.0
"""A worker that was killed may have to be given up first, which takes a minute."""
RECOVERED_WITHIN_S = 60.0
KEY_KNOWN_WITHIN_S = 10.0
CUT_WITHIN_S = 20.0
EVERY_S = {"reload": 60.0, "rotate": 120.0, "redis": 180.0, "opa": 240.0}
FEWEST = 3
"""Of each in a run that is too short for these times."""
WORKER_KILLS = 3
WORKERS_UNTIL = 0.4
"""Of the run: afterwards processes live long enough to see whether their memory grows."""


class Nemesis:
    def __init__(self, house: House, load: Load, *, seconds: float) -> None:
        self.house = house
        self.load = load
        self.done: Counter[str] = Counter()
        self.broken: list[str] = []
        """Steps that did not do what they should."""
        self.recovered_s: dict[str, list[float]] = {}
        self._seconds = seconds
        self._kills = itertools.count(1)
        self._policies = itertools.count(1)
        self._client = httpx.AsyncClient(base_url=house.server.url, headers={"X-API-Key": ADMIN_KEY}, timeout=100)
        self._steps: dict[str, Callable[[], Awaitable[None]]] = {
            "reload": self._reload,
            "rotate": self._rotate,
            "redis": lambda: self._restart("redis", house.restart_redis),
            "opa": lambda: self._restart("opa", house.restart_opa),
            "worker": lambda: self._restart("worker", house.kill_worker),
        }

    def plan(self) -> list[tuple[float, str]]:
        """When what is done, in seconds from now."""
        plan = [
            (at, name)
            for name, every_s in EVERY_S.items()
            for at in _times(min(every_s, self._seconds / (FEWEST + 1)), self._seconds)
        ]
        last_s = WORKERS_UNTIL * self._seconds
        plan += [((number + 1) * last_s / WORKER_KILLS, "worker") for number in range(WORKER_KILLS)]
        return sorted(plan)

    async def run(self) -> None:
        """Until cancelled."""
        began_s = time.monotonic()
        async with self._client, asyncio.TaskGroup() as group:
            group.create_task(self._kill_and_release(group))
            for at_s, name in self.plan():
                await asyncio.sleep(max(0.0, began_s + at_s - time.monotonic()))
                await self._do(name, self._steps[name])

    async def _do(self, name: str, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except (httpx.HTTPError, TimeoutError, AssertionError, OSError) as error:
            self.broken.append(f"{name} at {time.strftime('%H:%M:%S')}: {type(error).__name__} {error}")
        else:
            self.done[name] += 1

    # --- one after the other ------------------------------------------------------------------------------

    async def _reload(self) -> None:
        before = await self._revision()
        await asyncio.to_thread(self.house.change_policy, next(self._policies) % 100 + 1)
        answer = await self._client.post("/admin/policies/reload")
        assert answer.status_code == 200, f"{answer.status_code} {answer.text}"
        assert answer.json()["policy_revision"] != before, "the reload enforces what was enforced before"

    async def _revision(self) -> str:
        return str((await self._client.get("/health")).json()["policy_revision"])

    async def _rotate(self) -> None:
        """A new key for the callers, and the old one is good no more."""
        old = self.house.key
        new = await asyncio.to_thread(self.house.new_key)
        await self._until(lambda: self._is_good(new.secret), KEY_KNOWN_WITHIN_S)
        self.house.key, self.load.key = new, new.secret
        await asyncio.sleep(1.0)  # calls that have the old one are over
        await asyncio.to_thread(self.house.drop_key, old)
        await self._until(lambda: self._is_refused(old.secret), KEY_KNOWN_WITHIN_S)

    async def _is_good(self, key: str) -> bool:
        """Twice as often as there are workers: each reads the key file for itself."""
        return all([(await self._listed(key)) == 200 for _ in range(8)])

    async def _is_refused(self, key: str) -> bool:
        return all([(await self._listed(key)) == 401 for _ in range(8)])

    async def _listed(self, key: str) -> int:
        """Over a connection that is not kept, for the next may lead to another worker. Not by a client of its own: each
        reads all authorities' certificates, 30 ms in which this process calls nobody and notes no answer."""
        headers = {"X-API-Key": key, "Connection": "close"}
        return (await self._client.get("/tools/list", headers=headers)).status_code

    async def _restart(self, name: str, how: Callable[[], None]) -> None:
        with self.load.disturbance():
            await asyncio.to_thread(how)
            took_s = await self.load.recover(RECOVERED_WITHIN_S)
        self.recovered_s.setdefault(name, []).append(took_s)

    @staticmethod
    async def _until(claim: Callable[[], Awaitable[bool]], within_s: float) -> None:
        async with asyncio.timeout(within_s):
            while not await claim():  # noqa: ASYNC110 - another process's state is polled
                await asyncio.sleep(0.1)

    # --- kills, all the time ------------------------------------------------------------------------------

    async def _kill_and_release(self, group: asyncio.TaskGroup) -> None:
        while True:
            await asyncio.sleep(min(KILL_EVERY_S, self._seconds / 20))
            number = next(self._kills)
            group.create_task(self._do("kill", lambda number=number: self._kill(number)))  # type: ignore[misc]

    async def _kill(self, number: int) -> None:
        """One session, with a call of it that runs; half of the killed are released."""
        place = random.choice(self.load.sessions)
        session = place.name
        if not session or session in self.load.asked_to_die:
            return
        self.load.asked_to_die.add(session)
        running = asyncio.create_task(self._run_slowly(session))
        await asyncio.sleep(0.2)
        order = {"scope": "session", "target": session, "reason": "soak", "id": f"soak-kill-{number}-{session}"}
        kill = await self._drained(order)
        self.load.dead[session] = number
        said = await asyncio.wait_for(running, CUT_WITHIN_S)
        await asyncio.sleep(DEAD_S)
        del self.load.dead[session]
        assert said != "ok", f"a call of session {session} ran on beside its kill"
        if number % 2:
            self.load.replace(place)
            return
        answer = await self._persistently("POST", f"/kills/{kill}/release", {})
        assert answer.status_code == 200, f"the release was answered {answer.status_code} {answer.text}"
        self.done["release"] += 1

    async def _run_slowly(self, session: str) -> str:
        """A call of 30 s; what it was told. A gateway that dies with it tells nothing."""
        line = Line(self.house.server)
        body = {"session_id": session, "tool_name": "slow", "arguments": {"seconds": 30}}
        try:
            answer = await line.ask(request(self.load.key, "/tools/call", body))
        except OSError:
            return "nothing"
        finally:
            line.close()
        return str(orjson.loads(answer.body).get("reason_code"))

    async def _drained(self, order: dict[str, str]) -> str:
        """Kill, and wait until it has drained; its id. An order that was not answered is repeated: it is one kill."""
        answer = await self._persistently("POST", "/kills", order)
        assert answer.status_code in (200, 202), f"the kill was answered {answer.status_code} {answer.text}"
        said = answer.json()
        deadline_s = time.monotonic() + DRAINED_WITHIN_S
        while not said["drained"]:
            assert time.monotonic() < deadline_s, f"kill {said['id']} has not drained: {said}"
            await asyncio.sleep(0.2)
            answer = await self._persistently("GET", f"/kills/{order['id']}", None)
            said = answer.json() if answer.status_code == 200 else said
        return order["id"]

    async def _persistently(self, method: str, path: str, body: Any) -> httpx.Response:
        """Again while nobody answers, or 503 says that something is down."""
        deadline_s = time.monotonic() + RECOVERED_WITHIN_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                answer = await self._client.request(method, path, json=body)
                if answer.status_code != 503 or time.monotonic() > deadline_s:
                    return answer
            assert time.monotonic() < deadline_s, f"{path} was not answered for {RECOVERED_WITHIN_S:.0f} s"
            await asyncio.sleep(0.2)


def _times(every_s: float, seconds: float) -> list[float]:
    return [
        number * every_s for number in range(1, int(seconds / every_s) + 1) if number * every_s < seconds - every_s / 2
    ]
