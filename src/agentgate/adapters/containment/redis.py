"""Admission through Redis, for several workers and replicas: one script, one round trip for each call.

Redis is the fast path and never the authority: whatever it loses is refused on until `apply` has put it back from
the log. Its user needs no rights but those that docs/configuration.md lists.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final

from agentgate.adapters.containment._answers import verdict
from agentgate.adapters.containment._common import US_PER_S, budget_key, facts_fields, life_s, limit_key
from agentgate.adapters.containment._flights import Flights
from agentgate.adapters.containment._link import OPEN_S, Link
from agentgate.adapters.containment._resp import Connection, NoAnswer, Word, explain
from agentgate.adapters.containment._script import Script
from agentgate.adapters.containment._url import parse_url
from agentgate.adapters.containment._wake import MOST_DIGITS, Ear
from agentgate.core.budget import Period, Tally
from agentgate.core.call import Call, TraceId, is_id
from agentgate.core.containment import FlagChange, KillId, KillState, flags_over
from agentgate.core.errors import KillStateUnknown, ReasonCode, UnsafeConfiguration
from agentgate.ports.containment import UNDECIDED_S, Admitted, InFlight, NotAdmitted, Quota, Spent, Uncounted

_log = logging.getLogger(__name__)

CHECK_EVERY_S: Final = 2.0
APPLY_S_PER_FLAG: Final = 50e-6
"""`apply` of 10,000 kills is a megabyte: each flag adds this to its deadline (it takes a tenth of it)."""
MOST_UNSETTLED: Final = 100_000
"""Budgets that are to be forgotten while Redis does not answer. Beyond that they are kept, and may hold too much."""


class RedisAdmission:
    """Implements `Admission`. All members that share a log share one Redis and `log_id`."""

    def __init__(
        self, url: str, *, log_id: str = "0", member: str, deadline_s: float = 0.1, settled_s: float = UNDECIDED_S
    ) -> None:
        """`settled_s` after a loss everything that was admitted before it is recorded or refused.

        Raises:
            UnsafeConfiguration: `url` cannot be read.
        """
        if not is_id(log_id):
            raise UnsafeConfiguration(f"log id {log_id!r} is not a name")
        self._deadline_s = deadline_s
        self._kills = f"{{ag:{log_id}}}:kills"
        self._rate = f"{{ag:{log_id}}}:rate:"
        self._used = f"{{ag:{log_id}}}:used:"
        self._kept = f"{{ag:{log_id}}}:kept"
        self._settled_s = settled_s
        self._wake = f"{{ag:{log_id}}}:wake"
        self._held: dict[TraceId, Quota] = {}
        """What calls in flight were charged to budgets."""
        self._unsettled: dict[str, None] = {}
        """Budgets that could not be told what a call came to: they are forgotten, and counted from the log again."""
        self._settling: set[asyncio.Task[bool]] = set()
        self._run_id = ""
        """Of the server that was last found fit for use."""
        self._warned_of_loss = False
        self._link = Link(parse_url(url), deadline_s=deadline_s, check=self._check, check_every_s=CHECK_EVERY_S)
        self._admit = Script("admit.lua", self._link, deadline_s)
        self._apply = Script("apply.lua", self._link, deadline_s)
        self._settle = Script("settle.lua", self._link, deadline_s)
        self._restore = Script("restore.lua", self._link, deadline_s)
        self._flights = Flights(self._link, f"{{ag:{log_id}}}:flight", member)
        self._ear = Ear(self._link, self._wake, self.position)

    async def start(self) -> None:
        """Connect. A Redis that is not there yet is waited for in the background, and calls are refused until then.

        Raises:
            UnsafeConfiguration: this Redis may evict flags, or is a cluster.
        """
        await self._link.start()

    @property
    def trouble(self) -> str:
        """Why everything is refused now, in a sentence; empty while Redis is connected."""
        return self._link.trouble

    # --- the port ---

    async def admit(self, call: Call, quota: Quota | None, seen: int) -> Admitted | NotAdmitted:
        entry = self._flights.begin(call)
        if quota is not None and quota.budgets:
            self._held[call.trace_id] = quota
        try:
            answer = await self._admit.run(*self._question(call, quota, seen, entry))
        except asyncio.CancelledError:
            self.release(call)
            raise
        said = verdict(answer, quota, seen)
        if isinstance(said, Admitted):
            self._flights.mine[call.trace_id] = entry
        elif said.reason is ReasonCode.KILL_STATE_UNKNOWN:
            # It may have been registered, or may yet be: commands are carried out in order, so this comes after.
            self.release(call)
        else:
            del self._flights.mine[call.trace_id]
            self._held.pop(call.trace_id, None)
        return said

    def rename(self, member: str) -> None:
        """From now on this process's calls are shown as those of `member`."""
        self._flights.member = member

    def release(self, call: Call, spent: Spent | None = None) -> None:
        self._flights.end(call)
        if self._held and (quota := self._held.pop(call.trace_id, None)) is not None:
            self._telling(call, quota, spent)

    async def settle(self, call: Call, spent: Spent) -> bool:
        quota = self._held.pop(call.trace_id, None)
        # a caller that goes away must not keep it from being told
        return quota is None or await asyncio.shield(self._telling(call, quota, spent))

    async def restore(self, call: Call, uncounted: Uncounted, tally: Tally) -> bool:
        key = self._used + budget_key(call, uncounted.period)
        fields: dict[str, str | int] = dict(tally.used._asdict())
        if uncounted.period is Period.SESSION:
            fields |= facts_fields(tally)
        words: tuple[Word, ...] = (1, key, uncounted.epoch, life_s(uncounted.period) * 1000)
        return await self._restore.run(*words, tally.through, *chain.from_iterable(fields.items())) == 1

    async def apply(self, state: KillState, change: FlagChange | None = None) -> None:
        if change is not None:
            at = await self._write(change.position, str(change.since), change.dead, change.alive)
            if at is not None and at >= state.position:
                return
        at = await self._write(state.position, "", state.flags())
        if at is None or at < state.position:
            raise KillStateUnknown("the kill store did not take the kills in force")

    def listen(self, on_wake: Callable[[int], None]) -> None:
        self._ear.add(on_wake)

    async def position(self) -> int | None:
        connection = self._link.current() or await self._link.wait()
        answer = None if isinstance(connection, NoAnswer) else await connection.command("HGET", self._kills, "#")
        if not isinstance(answer, bytes) or not answer.isdigit() or len(answer) > MOST_DIGITS:
            return None
        return int(answer)

    async def aclose(self) -> None:
        if self._settling:
            await asyncio.wait(self._settling, timeout=self._deadline_s)
        for settling in tuple(self._settling):
            settling.cancel()
        await self._ear.aclose()
        await self._link.aclose()

    async def in_flight(self) -> list[InFlight]:
        return await self._flights.all()

    async def forget(self, member: str) -> None:
        await self._flights.forget(member)

    # --- inside ---

    def _question(self, call: Call, quota: Quota | None, seen: int, entry: bytes) -> tuple[Word, ...]:
        """Number of keys, keys and arguments of admit.lua."""
        flags = flags_over(call)
        if quota is None:
            return (2, self._kills, self._flights.key, seen, call.trace_id, entry, len(flags), *flags)
        limits, budgets = quota.limits, quota.budgets
        keys = [self._rate + limit_key(call, limit) for limit in limits]
        if budgets:
            keys += [self._used + budget_key(call, budget.period) for budget in budgets]
            keys.append(self._kept)
        words: list[Word] = [2 + len(keys), self._kills, self._flights.key, *keys, seen, call.trace_id, entry]
        words += [len(flags), *flags, len(limits)]
        for limit in limits:
            words += [limit.limit, round(limit.window_s * 1e6)]
        if budgets:
            words += [self._run_id, int(quota.wants_facts), quota.charge.bytes, quota.charge.cost]
            words.append(round(self._settled_s * 1e6))
        for budget in budgets:
            words += [budget.period.seconds * US_PER_S, life_s(budget.period) * 1000, *budget.limit, *budget.alert]
        return tuple(words)

    def _telling(self, call: Call, quota: Quota, spent: Spent | None) -> asyncio.Task[bool]:
        settling = asyncio.create_task(self._tell(call, quota, spent))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        return settling

    async def _tell(self, call: Call, quota: Quota, spent: Spent | None) -> bool:
        """Let settle.lua add what a call came to, or take back what it was charged; whether it certainly did."""
        periods = [budget.period for budget in quota.budgets]
        keys = [self._used + budget_key(call, period) for period in periods]
        words: list[Word] = [len(keys), *keys, call.trace_id]
        if spent is None:
            words += [-1, -1, quota.charge.bytes, quota.charge.cost, 0, 0, ""]
        else:
            words += [spent.allowed_at, -1 if spent.ended_at is None else spent.ended_at]
            words += [quota.charge.bytes, quota.charge.cost, spent.result_bytes, spent.more_cost]
            words.append(call.tool_name if spent.is_ok else "")
        for period in periods:
            words += [period.seconds * US_PER_S, life_s(period) * 1000]
        answer = await self._settle.run(*words, *(spent.labels if spent is not None else ()))
        if answer == 1:
            return True
        self._link.fire("DEL", *keys)  # before whatever is asked next here, if it arrives; else the next check does it
        if len(self._unsettled) < MOST_UNSETTLED:
            self._unsettled |= dict.fromkeys(keys)
            _log.warning("Redis was not told what a call came to: what its budgets hold is counted from the log again")
        return False

    async def _forget_unsettled(self, connection: Connection) -> None:
        """Raises KillStateUnknown: they may still be there, so this connection is of no use."""
        if not self._unsettled:
            return
        keys, self._unsettled = self._unsettled, {}
        answer = None
        try:
            answer = await connection.command("DEL", *keys, deadline_s=OPEN_S)
        finally:  # also when the time to connect is over before
            if not isinstance(answer, int):
                self._unsettled |= keys
        if not isinstance(answer, int):
            raise KillStateUnknown(explain(answer))

    async def _begin_term(self, connection: Connection, run_id: str) -> None:
        """Whoever comes from another server has been charged there: what this one kept meanwhile lacks that, also where
        it was up all the time. Raises KillStateUnknown."""
        if self._run_id not in ("", run_id):
            answer = await connection.command("DEL", self._kept, deadline_s=OPEN_S)
            if not isinstance(answer, int):
                raise KillStateUnknown(explain(answer))
        self._run_id = run_id

    async def _write(
        self, position: int, since: str, dead: Mapping[str, KillId], alive: Sequence[str] = ()
    ) -> int | None:
        """Let apply.lua do it: the position that is in force afterwards. Raises KillStateUnknown."""
        pairs: Iterator[str] = chain.from_iterable(dead.items())
        deadline_s = self._deadline_s + (len(dead) + len(alive)) * APPLY_S_PER_FLAG
        words: tuple[Word, ...] = (1, self._kills, position, self._wake, since, len(dead), *pairs, *alive)
        answer = await self._apply.run(*words, deadline_s=deadline_s)
        if not isinstance(answer, int | None):
            raise KillStateUnknown(explain(answer))
        return answer

    async def _check(self, connection: Connection) -> None:
        """At every connect and every few seconds: may this Redis be relied on, and is the display right?

        Raises:
            UnsafeConfiguration, KillStateUnknown
        """
        answer = await connection.command("INFO", deadline_s=OPEN_S)
        if not isinstance(answer, bytes):
            raise KillStateUnknown(explain(answer))
        info = dict(line.split(":", 1) for line in answer.decode(errors="replace").splitlines() if ":" in line)
        _refuse_unsafe(info)
        if info.get("role") == "slave":
            # It takes no writes, and what it answers is as old as it likes.
            raise KillStateUnknown("this Redis is a replica of another, which may know of newer kills")
        await self._forget_unsettled(connection)
        await self._begin_term(connection, info.get("run_id", ""))
        if info.get("aof_enabled") == "0" and not self._warned_of_loss:
            self._warned_of_loss = True
            _log.warning(
                "Redis keeps no append-only file: after a restart of Redis calls are refused until the kills are put "
                "back from the log, and limits start anew. Set `appendonly yes`."
            )
        await self._flights.correct(connection)


def _refuse_unsafe(info: Mapping[str, str]) -> None:
    """INFO says all that is needed, and is allowed where CONFIG is not (hosted services)."""
    if info.get("cluster_enabled") == "1":
        raise UnsafeConfiguration(
            "this Redis is a cluster: its fail-over may lose a kill in one shard while another goes on. "
            "Give the gateway a single Redis, with replicas if you like."
        )
    if info.get("redis_mode") == "sentinel":
        raise UnsafeConfiguration("this is a Sentinel and no Redis: write redis+sentinel://host:port/service.")
    policy = info.get("maxmemory_policy")
    if info.get("maxmemory") != "0" and policy != "noeviction":
        raise UnsafeConfiguration(
            f"this Redis may throw kills away when its memory is full (maxmemory-policy is {policy}). "
            "Set `maxmemory-policy noeviction`."
        )
