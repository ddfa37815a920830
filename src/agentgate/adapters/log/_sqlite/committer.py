"""The thread that owns the writing connection: takes what waits, commits it, answers; and comes back after faults.

Only what was committed is answered with a receipt. Whether a failed COMMIT persisted is unknown until one looks:
so after every error the store is opened anew and asked for the batch's event ids.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final, NamedTuple

from agentgate.adapters.log._intake import MAX_BATCH, REOPEN_AFTER_S, Answer, again, in_time, refuse_all
from agentgate.adapters.log._ledger import Item, Ledger, Plan
from agentgate.adapters.log._sqlite.store import SqliteStore
from agentgate.core.decision import Receipt
from agentgate.core.errors import AgentGateError, LogBroken, LogUnavailable, UnsafeConfiguration

# A log that contradicts itself stays refused until somebody has looked: more writing could only hide the trace.
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_OF_ONE_EVENT: Final = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.DataError)


class Job(NamedTuple):
    """Something else than an append that the thread is asked to do between two batches."""

    run: Callable[[SqliteStore], object]
    done: Callable[[object, BaseException | None], None]


class Committer(threading.Thread):
    """`tell` and `ended` are called in this thread. `trouble`, `size` and `position` may be read in any."""

    def __init__(
        self,
        connect: Callable[[], SqliteStore],
        tell: Callable[[list[tuple[Item, Answer]]], None],
        ended: Callable[[], None],
    ) -> None:
        # A daemon: a disk that never answers must not keep the process from ending.
        super().__init__(name="agentgate-log", daemon=True)
        self.queue: SimpleQueue[list[Item] | Job | None] = SimpleQueue()
        self.trouble: AgentGateError | None = None
        self.size = 0
        self.position = 0
        self._connect = connect
        self._tell = tell
        self._ended = ended
        self._store: SqliteStore | None = None
        self._ledger: Ledger | None = None
        self._possible_sizes: tuple[int, ...] = ()
        """Which sizes a reopened log may have: with and without a batch whose commit failed."""
        self._last_leaf_hash: bytes | None = None
        self._failures = 0

    def run(self) -> None:
        try:
            self._open(None)
            while self._turn():
                pass
        finally:
            self.trouble = self.trouble or LogUnavailable("the log is closed")
            self._leave()
            self._refuse_the_rest()
            self._ended()

    def _turn(self) -> bool:
        """Do what is there to do; False once the end was asked for."""
        try:
            work = self.queue.get(timeout=self._patience_s())
        except Empty:
            self._open(None)
            return True
        items: list[Item] = []
        while work is not None:
            if isinstance(work, Job):
                self._commit(items)
                items = []
                self._do(work)
            else:
                items += work
            if len(items) >= MAX_BATCH or self.queue.empty():
                break
            work = self.queue.get()
        self._commit(items)
        return work is not None

    def _refuse_the_rest(self) -> None:
        """Jobs that came too late. Items are answered by whoever hears `ended`."""
        while not self.queue.empty():
            work = self.queue.get()
            if isinstance(work, Job):
                work.done(None, again(self.trouble))

    def _patience_s(self) -> float | None:
        """How long to wait for work before the store is tried again; None while there is no reason to."""
        if self._store is not None or isinstance(self.trouble, LogBroken | UnsafeConfiguration):
            return None
        return REOPEN_AFTER_S[min(self._failures, len(REOPEN_AFTER_S)) - 1]

    def _do(self, job: Job) -> None:
        if self._store is None:
            job.done(None, again(self.trouble))
            return
        try:
            result = job.run(self._store)
        except (sqlite3.Error, OSError) as error:
            job.done(None, LogUnavailable(f"the log: {error}"))
        except AgentGateError as error:
            if isinstance(error, LogBroken):
                self._break(error)
            job.done(None, error)
        else:
            job.done(result, None)

    def _commit(self, items: list[Item]) -> None:
        if not items:
            return
        wanted, answers = in_time(items)
        self._tell(answers + self._try(wanted))
        if self._store is not None:
            self._tidy(self._store)

    def _try(self, items: list[Item]) -> list[tuple[Item, Answer]]:
        store, ledger = self._store, self._ledger
        if store is None or ledger is None:
            return refuse_all(items, self.trouble)
        plan: Plan | None = None
        try:
            for key, session in store.sessions(ledger.unknown_sessions(items)):
                ledger.learn(key, session)
            wanted = ledger.wanted(items)
            holds = store.holds() if ledger.wants_holds(items) else None
            plan = ledger.plan(items, store.spent(wanted) if wanted else set(), holds)
            if plan.ids:
                store.write(plan, ledger)
        except sqlite3.Error as error:
            return self._recover(items, plan, error)
        if plan.ids:
            self._publish(ledger, plan.events[-1])
        return list(plan.outcomes)

    def _publish(self, ledger: Ledger, last_leaf_hash: bytes | None) -> None:
        self._last_leaf_hash = last_leaf_hash
        self.size = ledger.size
        self.position = ledger.position

    def _recover(self, items: list[Item], plan: Plan | None, error: sqlite3.Error) -> list[tuple[Item, Answer]]:
        """Answer a batch whose transaction failed: from what a new connection sees."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _CORRUPT:
            self._break(LogBroken(f"the database is damaged ({error}); run `log verify`"))
            return refuse_all(items, self.trouble)
        self._leave()
        added = len(plan.ids) if plan is not None else 0
        self._possible_sizes = (self.size, self.size + added)
        persisted = self._open(plan)
        if persisted and plan is not None:
            return list(plan.outcomes)
        if self._store is not None and isinstance(error, _OF_ONE_EVENT):
            if len(items) > 1:  # one event that the store refuses must not refuse its neighbours
                return [answer for item in items for answer in self._try([item])]
            receipt = self._receipt(items[0])
            if receipt is not None:
                return [(items[0], receipt)]
            return refuse_all(items, LogUnavailable(f"the store refuses this event: {error}"))
        return refuse_all(items, self.trouble or LogUnavailable(f"not recorded: {error}"))

    def _receipt(self, item: Item) -> Receipt | None:
        """What an earlier attempt to append the same event has made durable, if it did."""
        try:
            return None if self._store is None else self._store.receipt(item.event)
        except sqlite3.Error:
            return None

    def _open(self, plan: Plan | None) -> bool:
        """Open the store and load its state; whether it has `plan`, whose commit failed. Sets `trouble`."""
        store: SqliteStore | None = None
        try:
            store = self._connect()
            ledger = store.load()
            last_leaf_hash = store.leaf_hash(ledger.size - 1)
            self._check_continues(store, ledger)
            store.probe()
            persisted = plan is not None and bool(plan.ids) and store.has(plan)
        except (sqlite3.Error, OSError, LogBroken, UnsafeConfiguration) as error:
            if store is not None:
                store.abandon()
            self._failures += 1
            unwritten = LogUnavailable(f"the log cannot be written: {error}")
            self.trouble = error if isinstance(error, AgentGateError) else unwritten
            return False
        self._store, self._ledger = store, ledger
        self._failures, self.trouble = 0, None
        self._possible_sizes = ()
        self._publish(ledger, last_leaf_hash)
        return persisted

    def _check_continues(self, store: SqliteStore, ledger: Ledger) -> None:
        """A store that is opened again must have what was acknowledged, and nothing that we did not send."""
        if self._last_leaf_hash is None:
            return
        if ledger.size not in (self._possible_sizes or (self.size,)):
            raise LogBroken(f"the log had {self.size} events and has {ledger.size} now: somebody else writes to it")
        if store.leaf_hash(self.size - 1) != self._last_leaf_hash:
            raise LogBroken(f"event {self.size - 1} is not the one that was written")

    def _leave(self) -> None:
        store, self._store, self._ledger = self._store, None, None
        if store is not None:
            store.abandon()

    def _break(self, trouble: LogBroken) -> None:
        self._leave()
        self.trouble = trouble

    def _tidy(self, store: SqliteStore) -> None:
        # The commits stand without it; if the disk is really gone, the next one will say so.
        with contextlib.suppress(sqlite3.Error):
            store.tidy()
