"""Faults: what is done to a cluster in the middle of a history, and for how long.

Each is a function that brings the fault about, tells the history when it was complete, holds it and ends it. Servers
run again when it returns; `Cluster.heal` undoes the rest. Blocking steps run in threads: callers go on meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from tests.containment.cluster import Client, Cluster, Replica
from tests.containment.history import Window


@dataclass(frozen=True, slots=True)
class Fault:
    """What to do, to which replica, when after the start, and for how long."""

    kind: str
    at_s: float
    hold_s: float
    victim: int = 0


@dataclass(slots=True)
class Scene:
    """What a fault works on."""

    cluster: Cluster
    client: Client
    fault: Fault

    @property
    def victim(self) -> Replica:
        return self.cluster.replicas[self.fault.victim % len(self.cluster.replicas)]

    @property
    def others(self) -> list[Replica]:
        return [one for one in self.cluster.replicas if one is not self.victim]

    @contextlib.asynccontextmanager
    async def window(self, blinds: str = "", replica: str = "") -> AsyncIterator[None]:
        """From here to the end of the block the fault is complete."""
        started = time.monotonic_ns()
        try:
            yield
        finally:
            window = Window(self.fault.kind, started, time.monotonic_ns(), replica, blinds)
            self.client.history.windows.append(window)

    async def hold(self, blinds: str = "", *, of_all: bool = False) -> None:
        async with self.window(blinds, "" if of_all else self.victim.name):
            await asyncio.sleep(self.fault.hold_s)


Nemesis = Callable[[Scene], Awaitable[None]]


async def bring(scene: Scene) -> None:
    """Wait for the fault's time, and let it happen."""
    await asyncio.sleep(scene.fault.at_s)
    await FAULTS[scene.fault.kind](scene)


# --- processes ----------------------------------------------------------------------------------------------


async def pause(scene: Scene) -> None:
    """The process is frozen; calls and kills go on around it."""
    scene.victim.pause()
    await scene.hold()
    scene.victim.resume()


async def crash(scene: Scene) -> None:
    """The process dies, and a successor starts in its place."""
    scene.victim.kill9()
    await scene.hold()
    scene.victim.start()


async def stop_in_order(scene: Scene) -> None:
    """The process is told to end, and a successor starts in its place."""
    await asyncio.to_thread(scene.victim.stop)
    scene.victim.start()


async def silence(scene: Scene) -> None:
    """Frozen for so long that the others give it up; then it wakes, with whatever it was about to do."""
    scene.victim.pause()
    async with scene.window(replica=scene.victim.name):
        await _until_given_up(scene)
        await asyncio.sleep(scene.fault.hold_s)
    scene.victim.resume()


async def destroy(scene: Scene) -> None:
    """The host is lost; an admin attests that, and later another one starts in its place."""
    me = next((one["member"] for one in await scene.client.members(scene.victim) if one["is_me"]), None)
    scene.victim.kill9()
    async with scene.window(replica=scene.victim.name):
        await _until_given_up(scene)
        if me is not None:
            await scene.client.attest(scene.others[0], me)
        await asyncio.sleep(scene.fault.hold_s)
    scene.victim.start()


async def isolate(scene: Scene) -> None:
    """It reaches neither Redis nor the log for longer than its lease, and runs on."""
    scene.victim.redis.cut()
    scene.victim.log.cut()
    async with scene.window("redis", scene.victim.name), scene.window("log", scene.victim.name):
        await asyncio.sleep(3.5 + scene.fault.hold_s)
    scene.victim.log.heal()
    scene.victim.redis.heal()


async def _until_given_up(scene: Scene) -> None:
    for _ in range(80):
        members = await scene.client.members(scene.others[0])
        if any(one["presence"] != "here" for one in members):
            return
        await asyncio.sleep(0.1)


# --- Redis --------------------------------------------------------------------------------------------------


async def cut_redis(scene: Scene) -> None:
    scene.victim.redis.cut()
    await scene.hold("redis")
    scene.victim.redis.heal()


async def mute_redis(scene: Scene) -> None:
    scene.victim.redis.mute()
    await scene.hold("redis")
    scene.victim.redis.heal()


async def slow_redis(scene: Scene) -> None:
    """Every answer comes later than K4 allows."""
    scene.victim.redis.delay(250)
    await scene.hold("redis")
    scene.victim.redis.heal()


async def lagging_redis(scene: Scene) -> None:
    """Every answer comes late, and in time."""
    scene.victim.redis.delay(40)
    await scene.hold()
    scene.victim.redis.heal()


async def freeze_redis(scene: Scene) -> None:
    scene.cluster.primary.pause()
    await scene.hold("redis", of_all=True)
    scene.cluster.primary.resume()


async def restart_redis(scene: Scene) -> None:
    """It dies and comes back with what it had on disk."""
    await asyncio.to_thread(scene.cluster.primary.kill9)
    await scene.hold("redis", of_all=True)
    await asyncio.to_thread(scene.cluster.primary.start)


async def empty_redis(scene: Scene) -> None:
    """It dies and comes back with nothing."""
    await asyncio.to_thread(scene.cluster.primary.kill9)
    shutil.rmtree(scene.cluster.primary.directory / "appendonlydir", ignore_errors=True)
    await scene.hold("redis", of_all=True)
    await asyncio.to_thread(scene.cluster.primary.start)


async def fail_over(scene: Scene) -> None:
    """The standby gets nothing any more, and a while later everybody talks to it: it has missed what was between."""
    scene.cluster.promote()
    await scene.hold(of_all=True)
    scene.cluster.fail_over()
    scene.cluster.swap()


async def two_primaries(scene: Scene) -> None:
    """The standby takes over for the victim alone, then for the others; until then they believe in the deposed one."""
    scene.cluster.promote()
    await asyncio.sleep(scene.fault.hold_s / 4)
    scene.cluster.fail_over([scene.victim])
    await scene.hold(of_all=True)
    scene.cluster.fail_over(scene.others)
    scene.cluster.swap()


# --- the log ------------------------------------------------------------------------------------------------


async def cut_log(scene: Scene) -> None:
    scene.victim.log.cut()
    await scene.hold("log")
    scene.victim.log.heal()


async def mute_log(scene: Scene) -> None:
    scene.victim.log.mute()
    await scene.hold("log")
    scene.victim.log.heal()


async def lagging_log(scene: Scene) -> None:
    scene.victim.log.delay(60)
    await scene.hold()
    scene.victim.log.heal()


async def restart_log(scene: Scene) -> None:
    await asyncio.to_thread(scene.cluster.postgres.stop)
    await scene.hold("log", of_all=True)
    await asyncio.to_thread(scene.cluster.postgres.start)


async def crash_log(scene: Scene) -> None:
    """PostgreSQL loses everything that was not durable."""
    await asyncio.to_thread(scene.cluster.postgres.kill9)
    await scene.hold("log", of_all=True)
    await asyncio.to_thread(scene.cluster.postgres.start)


async def freeze_log(scene: Scene) -> None:
    scene.cluster.postgres.pause()
    await scene.hold("log", of_all=True)
    scene.cluster.postgres.resume()


FAULTS: dict[str, Nemesis] = {
    nemesis.__name__: nemesis
    for nemesis in (
        pause,
        crash,
        stop_in_order,
        silence,
        destroy,
        isolate,
        cut_redis,
        mute_redis,
        slow_redis,
        lagging_redis,
        freeze_redis,
        restart_redis,
        empty_redis,
        fail_over,
        two_primaries,
        cut_log,
        mute_log,
        lagging_log,
        restart_log,
        crash_log,
        freeze_log,
    )
}
LONG = frozenset({"silence", "destroy", "isolate"})
"""Those that take seconds: a history has at most one, and only some have."""
OF_THE_STORE = frozenset({"freeze_redis", "restart_redis", "empty_redis", "fail_over", "two_primaries"})
OF_THE_LOG = frozenset({"restart_log", "crash_log", "freeze_log"})
"""Two that change the same server do not go together."""
