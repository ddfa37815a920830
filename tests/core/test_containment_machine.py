"""Kills, releases, members and their restarts in any order: the pure rules against a naive book-keeping.

The book-keeping writes down everything that happened and counts it out anew each time; the rules go step by step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agentgate.core.containment import Kill, KillChange, KillChanges, KillId, KillState, Lease, Scope
from agentgate.core.members import Hearing, Presence, Progress, progress
from tests.fakes import a_call, a_kill

SCOPES = [(Scope.SESSION, "s-1"), (Scope.SESSION, "s-2"), (Scope.TOOL, "db_query"), (Scope.GLOBAL, "")]
CALL = a_call()
OVER_CALL = ["global", "tool/db_query", "session/default/s-1"]
"""Flags of `SCOPES` that cover the call, widest first."""
MANY = st.integers(0, 1_000_000)


class Book:
    """Every kill and release in the order of their positions, as a log keeps them."""

    def __init__(self) -> None:
        self.entries: list[Kill | KillId] = []

    @property
    def position(self) -> int:
        return len(self.entries)

    def kill(self, where: tuple[Scope, str]) -> Kill:
        position = self.position + 1
        self.entries.append(a_kill(*where, position=position, id=f"k{position}"))
        return self.kills(position)[-1]

    def release(self, kill_id: KillId) -> None:
        self.entries.append(kill_id)

    def kills(self, upto: int) -> list[Kill]:
        return [entry for entry in self.entries[:upto] if isinstance(entry, Kill)]

    def released_at(self, kill: Kill, upto: int) -> int | None:
        return self.entries.index(kill.id) + 1 if kill.id in self.entries[:upto] else None

    def in_force(self, upto: int) -> dict[KillId, Kill]:
        return {kill.id: kill for kill in self.kills(upto) if self.released_at(kill, upto) is None}

    def flags(self, upto: int) -> dict[str, KillId]:
        first: dict[str, KillId] = {}
        for kill in self.in_force(upto).values():
            first.setdefault(kill.flag, kill.id)
        return first

    def changes(self, since: int, upto: int) -> KillChanges:
        """What `Log.kills_since` answers while the log is at `upto`."""
        every = [KillChange(kill, self.released_at(kill, upto)) for kill in self.kills(upto)]
        if since < 0:
            return KillChanges(since, upto, tuple(change for change in every if change.released_at is None))
        new = [change for change in every if change.kill.position > since or (change.released_at or 0) > since]
        return KillChanges(since, upto, tuple(reversed(new)))


@dataclass
class Member:
    """A replica under one name, and by whom its calls were cut."""

    name: str
    joined_at: int
    state: KillState
    cut_by: set[KillId] = field(default_factory=set)
    acked: int | None = None
    presence: Presence = Presence.HERE

    def advance(self, changes: KillChanges) -> None:
        """As `Replica.advance` does."""
        before, self.state = self.state, self.state.advanced(changes)
        if self.state is not before:
            self.cut_by |= {kill.id for kill in changes.given() if kill.position > before.position}


@dataclass
class Waiting:
    """Whom a kill waits for, moved about by hand whenever something happens to one of them."""

    kill: Kill
    members: list[str]
    unheard: set[str]
    excepted: set[str] = field(default_factory=set)
    attested: set[str] = field(default_factory=set)

    def drop(self, member: str) -> None:
        for some in (self.unheard, self.excepted, self.attested):
            some.discard(member)

    @property
    def drained(self) -> bool:
        return not self.unheard | self.excepted


class Containment(RuleBasedStateMachine):
    """One log, some members that come and go, and a fast path that only follows."""

    def __init__(self) -> None:
        super().__init__()
        self.book = Book()
        self.members: dict[str, Member] = {}
        self.waits: list[Waiting] = []
        self.store_position, self.store = 0, dict[str, KillId]()

    def _any(self, members: list[Member], seed: int) -> Member | None:
        return members[seed % len(members)] if members else None

    def _present(self) -> list[Member]:
        """Whose process runs, whatever the log says of it."""
        return [member for member in self.members.values() if member.presence in (Presence.HERE, Presence.GONE)]

    def _progress(self, waiting: Waiting) -> Progress:
        standing = {member.name: member.presence for member in self.members.values()}
        acks = {member.name: member.acked for member in self.members.values() if member.acked is not None}
        return progress(waiting.members, standing, acks, waiting.kill.position)

    # --- people ---

    @rule(where=st.sampled_from(SCOPES))
    def kill(self, where: tuple[Scope, str]) -> None:
        kill = self.book.kill(where)
        there = [member.name for member in self.members.values() if member.presence is not Presence.LEFT]
        waiting = Waiting(kill, there, set(there))
        for name in there:
            self._stands(waiting, self.members[name])
        self.waits.append(waiting)

    @precondition(lambda self: self.book.in_force(self.book.position))
    @rule(seed=MANY)
    def release(self, seed: int) -> None:
        in_force = list(self.book.in_force(self.book.position))
        self.book.release(in_force[seed % len(in_force)])

    @rule()
    def expire(self) -> None:
        """Every kill that has drained ends at once; the others do not expire."""
        in_force = self.book.in_force(self.book.position)
        for waiting in self.waits:
            if waiting.kill.id in in_force and self._progress(waiting).drained:
                self.book.release(waiting.kill.id)

    # --- members ---

    @initialize(count=st.integers(1, 3))
    def begin(self, count: int) -> None:
        for _ in range(count):
            self.join()

    @rule()
    def join(self) -> None:
        drained = [self._progress(waiting) for waiting in self.waits]
        here, name = self.book.position, f"m{len(self.members)}"
        changes = self.book.changes(-1, here)
        self.members[name] = Member(name, here, KillState(-1, {}).advanced(changes))
        assert [self._progress(waiting) for waiting in self.waits] == drained

    @rule(seed=MANY, since=MANY, upto=MANY)
    def catch_up(self, seed: int, since: int, upto: int) -> None:
        """From the position that it has or one before, by an answer of the log that may be late."""
        member = self._any(self._present(), seed)
        if member is not None:
            before = member.state.position
            since, upto = since % (before + 1), upto % (self.book.position + 1)
            member.advance(self.book.changes(since, max(since, upto)))
            assert member.state.position == max(before, upto)

    @rule(seed=MANY)
    def catch_up_whole(self, seed: int) -> None:
        member = self._any(self._present(), seed)
        if member is not None:
            member.advance(self.book.changes(member.state.position, self.book.position))
            assert member.state.position == self.book.position

    @rule(seed=MANY, behind=st.integers(1, 3))
    def read_after_a_gap(self, seed: int, behind: int) -> None:
        """Changes that begin later than what is applied must not be jumped to."""
        member = self._any(self._present(), seed)
        if member is not None and member.state.position + behind <= self.book.position:
            changes = self.book.changes(member.state.position + behind, self.book.position)
            assert member.state.advanced(changes) is member.state

    @rule(seed=MANY)
    def ack(self, seed: int) -> None:
        member = self._any(self._present(), seed)
        if member is not None:
            member.acked = member.state.position
            for waiting in self.waits:
                if waiting.kill.position <= member.acked:
                    waiting.drop(member.name)

    def _becomes(self, member: Member, presence: Presence) -> None:
        member.presence = presence
        for waiting in self.waits:
            self._stands(waiting, member)

    def _stands(self, waiting: Waiting, member: Member) -> None:
        where = {Presence.GONE: waiting.excepted, Presence.ATTESTED: waiting.attested, Presence.HERE: waiting.unheard}
        if member.name in waiting.unheard | waiting.excepted | waiting.attested:
            waiting.drop(member.name)
            if member.presence in where:
                where[member.presence].add(member.name)

    @rule(seed=MANY)
    def presumed_gone(self, seed: int) -> None:
        member = self._any([member for member in self._present() if member.presence is Presence.HERE], seed)
        if member is not None:
            self._becomes(member, Presence.GONE)

    @rule(seed=MANY)
    def attested(self, seed: int) -> None:
        member = self._any(self._present(), seed)
        if member is not None:
            self._becomes(member, Presence.ATTESTED)

    @rule(seed=MANY)
    def left(self, seed: int) -> None:
        member = self._any([m for m in self.members.values() if m.presence is not Presence.LEFT], seed)
        if member is not None:
            self._becomes(member, Presence.LEFT)

    @rule(seed=MANY)
    def restart(self, seed: int) -> None:
        """A new process, or an incarnation that was given up: the old member leaves, a new one joins."""
        self.left(seed)
        self.join()

    # --- the fast path ---

    @rule(seed=MANY)
    def tell_store_all(self, seed: int) -> None:
        member = self._any(self._present(), seed)
        if member is not None and member.state.position > self.store_position:
            self.store_position, self.store = member.state.position, member.state.flags()

    @rule(seed=MANY)
    def tell_store_change(self, seed: int) -> None:
        """A delta is applied by a store that is exactly where it begins, and by no other."""
        member = self._any(self._present(), seed)
        if member is None or not 0 <= self.store_position <= member.state.position < self.book.position:
            return
        changes = self.book.changes(self.store_position, self.book.position)
        member.advance(changes)
        change = member.state.flag_change(changes)
        assert not change.dead.keys() & set(change.alive)
        if change.since == self.store_position:
            self.store |= change.dead
            for flag in change.alive:
                self.store.pop(flag, None)
            self.store_position = change.position

    @rule()
    def lose_store(self) -> None:
        self.store_position, self.store = -1, {}

    # --- what always holds ---

    @invariant()
    def members_have_exactly_the_kills_in_force_where_they_are(self) -> None:
        for member in self.members.values():
            state, at = member.state, member.state.position
            assert dict(state.active) == self.book.in_force(at)
            assert state.flags() == self.book.flags(at)
            assert state.on == KillState(at, state.active).on
            over = next((flag for flag in OVER_CALL if flag in state.flags()), None)
            assert state.over(CALL) == (None if over is None else state.active[state.flags()[over]])

    @invariant()
    def members_were_cut_by_every_kill_that_they_passed(self) -> None:
        """Those that were released in between too, each once it was passed and not before."""
        for member in self.members.values():
            passed = self.book.kills(member.state.position)
            assert member.cut_by == {kill.id for kill in passed if kill.position > member.joined_at}

    @invariant()
    def store_has_exactly_the_flags_of_its_position(self) -> None:
        assert self.store == (self.book.flags(self.store_position) if self.store_position >= 0 else {})

    @invariant()
    def kills_wait_for_whom_they_must_and_for_nobody_else(self) -> None:
        for waiting in self.waits:
            found = self._progress(waiting)
            assert set(found.unheard) == waiting.unheard
            assert set(found.excepted) == waiting.excepted
            assert set(found.attested) == waiting.attested
            assert found.drained is waiting.drained
            assert found.is_waiting is bool(waiting.unheard)

    @invariant()
    def drained_stays_drained_and_needs_everybody_who_was_there(self) -> None:
        for waiting in self.waits:
            for name in waiting.members if self._progress(waiting).drained else ():
                member = self.members[name]
                has_acked = member.acked is not None and member.acked >= waiting.kill.position
                assert has_acked or member.presence in (Presence.LEFT, Presence.ATTESTED)


TestContainment = Containment.TestCase
TestContainment.settings = settings(max_examples=300, stateful_step_count=40)


@st.composite
def books(draw: st.DrawFn) -> Book:
    book = Book()
    for choice in draw(st.lists(st.integers(0, 7), max_size=25)):
        in_force = list(book.in_force(book.position))
        if choice < len(SCOPES) or not in_force:
            book.kill(SCOPES[choice % len(SCOPES)])
        else:
            book.release(in_force[choice % len(in_force)])
    return book


@given(books(), st.lists(MANY, max_size=6), MANY)
def test_advancing_in_any_steps_is_advancing_at_once(book: Book, stops: list[int], start: int) -> None:
    start %= book.position + 1
    state = at_once = KillState(-1, {}).advanced(book.changes(-1, start))
    for stop in sorted(stop % (book.position + 1) for stop in stops):
        state = state.advanced(book.changes(state.position, max(state.position, stop)))
    state = state.advanced(book.changes(state.position, book.position))
    at_once = at_once.advanced(book.changes(start, book.position))
    assert state == at_once == KillState(-1, {}).advanced(book.changes(-1, book.position))
    assert state.on == at_once.on


@given(books(), MANY, MANY)
def test_what_is_older_or_the_same_changes_nothing(book: Book, one: int, other: int) -> None:
    early, late = sorted((one % (book.position + 1), other % (book.position + 1)))
    state = KillState(-1, {}).advanced(book.changes(-1, late))
    assert state.advanced(book.changes(-1, early)) is state
    assert state.advanced(book.changes(0, early)) is state
    assert state.advanced(book.changes(late, late)) is state


@given(books(), MANY)
def test_released_kill_is_among_those_given_to_who_comes_late(book: Book, since: int) -> None:
    since %= book.position + 1
    given_since = book.changes(since, book.position).given()
    assert list(given_since) == [kill for kill in book.kills(book.position) if kill.position > since]


@given(books())
def test_first_read_takes_no_released_kill_for_one_in_force(book: Book) -> None:
    everything = tuple(KillChange(kill, book.released_at(kill, book.position)) for kill in book.kills(book.position))
    state = KillState(-1, {}).advanced(KillChanges(-1, book.position, everything))
    assert dict(state.active) == book.in_force(book.position)


def test_member_that_nothing_is_known_of_is_waited_for() -> None:
    assert progress(["m"], {}, {}, 1) == Progress(("m",), (), ())


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10)), max_size=20))
def test_silence_is_counted_only_while_the_observer_listened(looks: list[tuple[bool, float]]) -> None:
    hearing, now_s, beat, silent_s = Hearing(), 100.0, 0, 0.0
    hearing.hear({"other": beat}, now_s)
    for was_heard, pause_s in looks:
        before_s, now_s = now_s, now_s + pause_s
        beat += was_heard
        passed_s = now_s - before_s
        silent_s = 0.0 if was_heard else silent_s + (passed_s if passed_s <= Hearing.MOST_BETWEEN_S else 0.0)
        hearing.hear({"other": beat}, now_s)
        assert abs(hearing.silent_s("other") - silent_s) < 1e-6
    assert hearing.silent_for(silent_s + 1) == []


@given(st.lists(st.floats(0, 1000), max_size=10), st.floats(0, 1000), st.floats(0.1, 10))
def test_lease_counts_from_the_newest_question(asked_at_s: list[float], now_s: float, length_s: float) -> None:
    lease = Lease(length_s)
    for moment in asked_at_s:
        lease.renew(moment)
    newest = max(asked_at_s, default=None)
    assert lease.holds(now_s) is (newest is not None and newest <= now_s and now_s - newest <= length_s)
