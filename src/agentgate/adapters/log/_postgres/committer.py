"""Commits batches to PostgreSQL, one transaction each, and comes back after faults.

Several processes append to one log. The head row is what they take turns by: whoever appends locks it first, and what
was looked up before is looked up again. A process that has lately been alone does without the lock: it appends on the
condition that the head is as it left it, which is one message to the server instead of four.

Only what was committed is answered with a receipt. Whether a failed commit persisted is unknown until one looks, under
the lock, after the server has ended the connection of before: nothing that was sent there arrives any more. What is
found is believed once a commit of ours after it stands, at the standbys too.
"""

from __future__ import annotations

import contextlib
from typing import Final

import asyncpg  # type: ignore[import-untyped]  # see connection.py

from agentgate.adapters.log._intake import REOPEN_AFTER_S, Answer, refuse_all, told
from agentgate.adapters.log._ledger import Item, Ledger, Plan
from agentgate.adapters.log._postgres.connection import FAULTS, deadline, unavailable
from agentgate.adapters.log._postgres.store import Backend, Found, PostgresStore, Questions
from agentgate.core.decision import Receipt
from agentgate.core.errors import AgentGateError, LogBroken, LogUnavailable, UnsafeConfiguration

_TRANSACTION_WITHIN_S: Final = 2.0
"""Callers are answered before; this is when the connection is given up."""
_LOOK_EVERY_S: Final = 1.0
_ALONE_AFTER: Final = 4
"""So many transactions that nobody came between, and the next one goes without the lock."""
_OF_ONE_EVENT: Final = ("22", "23", "54")
"""Classes of SQLSTATE: the data, a constraint, a limit."""


class Committer:
    """`trouble`, `size` and `position` say how the log stands, as far as this process knows."""

    def __init__(self, url: str, log_id: str) -> None:
        self.trouble: AgentGateError | None = LogUnavailable("the log is not open")
        self.size = 0
        self.position = 0
        self._url = url
        self._log_id = log_id
        self._store: PostgresStore | None = None
        self._given_up: Backend | None = None
        """The server's end of our last connection, where what was sent on it may be yet to arrive."""
        self._was_open = False
        self._ledger = Ledger(log_id)
        self._undisturbed = 0
        """Transactions of ours that nobody else came between. At 0, what the ledger remembers is worth nothing."""
        self._attempt: Plan | None = None
        """What was sent to be committed and is not known to be."""
        self._last: tuple[int, bytes] | None = None
        """Index and leaf hash of the last event that this process has appended."""
        self._failures = 0

    # --- batches ------------------------------------------------------------------------------------------

    async def commit(self, items: list[Item]) -> list[tuple[Item, Answer]]:
        """Append what can be appended; the answers to all."""
        await self.open()
        store = self._store
        if store is None:
            return refuse_all(items, self.trouble)
        self._attempt = None
        try:
            with deadline(store.connection, _TRANSACTION_WITHIN_S):
                plan = await self._append(store, items)
        except LogBroken as error:
            self.distrust(error)
            return refuse_all(items, error)
        except UnsafeConfiguration as error:
            self._leave()
            self._fail(error)
            return refuse_all(items, self.trouble)
        except (*FAULTS, LogUnavailable) as error:
            return await self._recover(store, items, error)
        return list(plan.outcomes)

    async def _append(self, store: PostgresStore, items: list[Item]) -> Plan:
        await store.prepare_for(items)
        if self._undisturbed >= _ALONE_AFTER:
            plan = await self._append_alone(store, items)
            if plan is not None:
                return plan
        return await self._append_locked(store, items)

    async def _append_alone(self, store: PostgresStore, items: list[Item]) -> Plan | None:
        """Without the lock; None if somebody else has appended since our last look, and nothing was done."""
        questions = self._questions(items)
        found = await store.look(questions) if questions.any() else None
        if found is not None and found.size != self.size:
            self._undisturbed = 0
            return None
        plan = self._attempt = self._planned(items, questions, found)
        if plan.ids and not await store.write(plan, self._ledger, locked=False):
            self._undisturbed, self._attempt = 0, None
            return None
        self._publish(plan)
        return plan

    async def _append_locked(self, store: PostgresStore, items: list[Item]) -> Plan:
        if self._undisturbed == 0:
            self._ledger.move(self.size, self.position)
        await store.lock()
        questions = self._questions(items)
        found = await store.look(questions)
        self._check(found)
        if found.size == self.size:
            self._undisturbed += 1
        else:
            asked_for_all = self._undisturbed == 0
            self._undisturbed = 0
            self._ledger.move(found.size, found.position)
            if not asked_for_all:
                questions = self._questions(items)
                found = await store.look(questions)
        plan = self._planned(items, questions, found)
        if plan.ids:
            self._attempt = plan
            await store.write(plan, self._ledger, locked=True)
        else:
            await store.rollback()
        self._publish(plan)
        return plan

    def _questions(self, items: list[Item]) -> Questions:
        ledger = self._ledger
        return Questions(
            ledger.unknown_sessions(items),
            ledger.wanted(items),
            ledger.unknown_members(items),
            ledger.wants_holds(items),
        )

    def _planned(self, items: list[Item], questions: Questions, found: Found | None) -> Plan:
        ledger = self._ledger
        if found is None:
            return ledger.plan(items, set())
        for key, session in found.sessions:
            ledger.learn(key, session)
        if questions.deciders is not None:
            ledger.learn_members((member, standing) for _, member, standing in found.members)
        return ledger.plan(items, found.spent, found.holds)

    def _check(self, found: Found) -> None:
        """Raise when the log must not be appended to: it is not the one that this process knows, or not kept safely."""
        if found.unsafe is not None:
            raise UnsafeConfiguration(f"the log cannot be written now: {found.unsafe}")
        if found.size < self.size:
            raise LogBroken(
                f"the log had {self.size} events and has {found.size} now: the database lost what was acknowledged "
                "(an older copy, or a standby that had not followed)"
            )
        if found.size == self.size and found.position != self.position:
            raise LogBroken(f"the kill position was {self.position} and is {found.position} now, without an event")

    def _publish(self, plan: Plan) -> None:
        self.size, self.position = self._ledger.size, self._ledger.position
        if plan.ids:
            self._last = (plan.first + len(plan.ids) - 1, plan.events[-1])
        self._attempt = None

    async def _recover(
        self, store: PostgresStore, items: list[Item], error: BaseException
    ) -> list[tuple[Item, Answer]]:
        """Answer a batch whose transaction failed."""
        self._undisturbed = 0
        if not store.is_closed and await self._rolled_back(store):
            if _is_of_one_event(error):
                if len(items) > 1:  # one event must not refuse its neighbours
                    half = len(items) // 2
                    return await self.commit(items[:half]) + await self.commit(items[half:])
                self._leave()
                await self._open(None)  # is it the event, or the log?
                receipt = await self._receipt(items[0])
                if receipt is not None:
                    return [(items[0], receipt)]
            return refuse_all(items, self.trouble or LogUnavailable(f"not recorded: {told(error)}"))
        plan = self._attempt
        self._leave()
        if await self._open(plan) and plan is not None:
            return list(plan.outcomes)
        return refuse_all(items, self.trouble or LogUnavailable(f"not recorded: {told(error)}"))

    async def _receipt(self, item: Item) -> Receipt | None:
        """What an earlier attempt to append the same event has made durable, if it did."""
        if self._store is None:
            return None
        try:
            with deadline(self._store.connection, _TRANSACTION_WITHIN_S):
                return await self._store.receipt(item.event)
        except FAULTS:
            return None

    async def _rolled_back(self, store: PostgresStore) -> bool:
        """Whether it is certain that nothing was committed: the server answers, and that there is nothing to commit."""
        try:
            with deadline(store.connection, _TRANSACTION_WITHIN_S):
                await store.rollback()
        except FAULTS:
            return False
        return True

    # --- the store ----------------------------------------------------------------------------------------

    @property
    def patience_s(self) -> float | None:
        """How long to wait for work before the store is looked after; None while there is no reason to."""
        if isinstance(self.trouble, LogBroken):
            return None
        if self._store is not None:
            return _LOOK_EVERY_S
        return REOPEN_AFTER_S[min(self._failures, len(REOPEN_AFTER_S)) - 1]

    async def open(self) -> None:
        """Open the store unless it is. `trouble` says why it cannot be."""
        if isinstance(self.trouble, LogBroken) or (self._store is not None and not self._store.is_closed):
            return
        self._leave()
        await self._open(None)

    async def _open(self, plan: Plan | None) -> bool:
        """Open the store; whether it has `plan`, whose commit failed."""
        store: PostgresStore | None = None
        try:
            store = await PostgresStore.open(self._url, self._log_id)
            with deadline(store.connection, _TRANSACTION_WITHIN_S):
                await store.lock()
                if self._given_up is not None:  # under the lock: not while a commit of its own waits for a standby
                    await store.end(self._given_up)
                found = await store.look(Questions())
                count = await store.next_index()
                self._check_continues(found, count, await store.leaf_hash(self._last[0]) if self._last else None)
                persisted = plan is not None and bool(plan.ids) and await store.has(plan)
                await store.confirm()
        except (*FAULTS, LogBroken, UnsafeConfiguration) as error:
            _drop(store)
            self._fail(error if isinstance(error, AgentGateError) else unavailable(error))
            return False
        if isinstance(self.trouble, LogBroken):  # somebody else has found it so meanwhile
            _drop(store)
            return False
        self._store, self._was_open, self._given_up = store, True, None
        self._failures, self.trouble = 0, None
        self._ledger.move(found.size, found.position)
        self._undisturbed = 0
        if persisted and plan is not None:
            self._last = (plan.first + len(plan.ids) - 1, plan.events[-1])
        self.size, self.position = found.size, found.position
        return persisted

    def _check_continues(self, found: Found, count: int, leaf_hash: bytes | None) -> None:
        """A log that is opened must agree with itself, and have what was acknowledged."""
        if found.size != count:
            raise LogBroken(f"the head row counts {found.size} events, and {count} are stored; run `log verify`")
        if found.size != self.size:  # of the position nothing can be said then
            self._check(found)
        if self._last is not None and leaf_hash != self._last[1]:
            raise LogBroken(f"event {self._last[0]} is not the one that was written: this is another database")

    def _fail(self, trouble: AgentGateError) -> None:
        self._failures += 1
        if isinstance(self.trouble, LogBroken):
            return
        # once it runs, a server that must not be written to is an outage: it may be put right without a restart
        is_outage = self._was_open and isinstance(trouble, UnsafeConfiguration)
        self.trouble = LogUnavailable(str(trouble)) if is_outage else trouble

    def _leave(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            self._given_up = store.backend
        _drop(store)

    def distrust(self, trouble: LogBroken) -> None:
        """Refuse everything from here on, until somebody has looked and starts anew."""
        self._leave()
        self.trouble = trouble

    async def aclose(self) -> None:
        store, self._store = self._store, None
        self.trouble = self.trouble or LogUnavailable("the log is closed")
        if store is not None:
            with contextlib.suppress(*FAULTS):
                await store.close()


def _drop(store: PostgresStore | None) -> None:
    if store is not None:
        store.connection.terminate()


def _is_of_one_event(error: BaseException) -> bool:
    """Whether it is about an event's content, which another event need not share."""
    if isinstance(error, asyncpg.PostgresError):
        return (error.sqlstate or "")[:2] in _OF_ONE_EVENT
    return isinstance(error, asyncpg.InterfaceError)  # asyncpg could not encode it
