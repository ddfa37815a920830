"""The checker accepts histories that keep a promise and finds each way of breaking one."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.containment.check import main
from tests.containment.checker import check, timings
from tests.containment.history import CallOp, History, KillOp, LogRecord, ReleaseOp, Send, Window

MS = 1_000_000
STEP = 10 * MS


class Story:
    """A history told step by step; every step happens 10 ms after the one before."""

    def __init__(self, *members: str) -> None:
        self.history = History("told")
        self.now = 0
        self.position = 0
        for member in members or ("a",):
            self.joins(member)

    def _tick(self) -> int:
        self.now += STEP
        return self.now

    def _record(self, kind: str, member: str = "a", **fields: Any) -> LogRecord:
        self.position += kind in ("killed", "released")
        records = self.history.records
        record = LogRecord(len(records), self.position, kind, self._tick(), member, fields)
        records.append(record)
        return record

    # --- what the log says ---

    def joins(self, member: str) -> None:
        self._record("joined", member, of=member)

    def leaves(self, member: str, said_by: str = "") -> None:
        self._record("left", said_by or member, of=member)

    def gone(self, member: str, why: str = "presumed") -> None:
        self._record("gone", "a", of=member, why=why)

    def decides(self, trace: str, member: str = "a", session: str = "s1", tool: str = "read") -> None:
        self._record(
            "decided",
            member,
            trace_id=trace,
            decision="ALLOW",
            tenant="acme",
            session=session,
            principal="agent:bot",
            tool=tool,
            server="up",
        )

    def finishes(self, trace: str, outcome: str = "ok", member: str = "a", kill: str | None = None) -> None:
        cut_by = {} if kill is None else {"kill_id": kill}
        self._record("finished", member, trace_id=trace, outcome=outcome, reason_code="ok", **cut_by)

    def kills(self, kill_id: str, scope: str = "session", target: str = "s1") -> None:
        tenant = {} if scope in ("tool", "server", "global") else {"tenant": "acme"}
        self._record("killed", kill_id=kill_id, scope=scope, target=target, **tenant)

    def acks(self, member: str = "a") -> None:
        self._record("acked", member, position=self.position)

    def drains(self, kill_id: str, *, drained: bool = True) -> None:
        self._record("drained", kill_id=kill_id, drained=drained)

    def releases(self, kill_id: str, *, forced: bool = False, why: str = "release") -> None:
        self._record("released", kill_id=kill_id, forced=forced, why=why)

    # --- what was seen ---

    def starts(self, trace: str, replica: str = "r1") -> None:
        self.history.sends.append(Send(trace, replica, self._tick(), 100))

    def ends(self, trace: str, how: str = "done") -> None:
        for send in self.history.sends:
            if send.trace == trace:
                send.ended, send.how = self._tick(), how

    def order(self, kill_id: str, scope: str = "session", target: str = "s1") -> KillOp:
        order = KillOp(self._tick(), "r1", kill_id, scope=scope, tenant="acme", target=target)
        self.history.kills.append(order)
        return order

    def answers(self, order: KillOp, status: int = 200, **said: Any) -> None:
        order.answered, order.status, order.drained = self._tick(), status, status == 200
        for name, value in said.items():
            setattr(order, name, value)

    def asks_release(self, kill_id: str, status: int | None = 200) -> None:
        self.history.releases.append(ReleaseOp(self._tick(), "r1", kill_id, answered=self._tick(), status=status))

    def call(self, trace: str | None, status: int | None = 200, reason: str = "ok", replica: str = "r1") -> None:
        self.history.calls.append(
            CallOp(self._tick(), replica, "acme", "bot", "s1", "read", self._tick(), status, reason, trace)
        )

    def broken(self) -> set[str]:
        return {violation.rule for violation in check(self.history)}


def a_cut_call(story: Story) -> None:
    """A call runs, is killed, is cut, and the kill drains."""
    story.decides("t1")
    story.starts("t1")
    order = story.order("k1")
    story.kills("k1")
    story.ends("t1", "cancelled")
    story.finishes("t1", "cancelled", kill="k1")
    story.acks()
    story.drains("k1")
    story.answers(order)


# --- K1 -----------------------------------------------------------------------------------------------------


def test_a_kill_that_waits_for_its_calls_keeps_every_promise() -> None:
    story = Story()
    a_cut_call(story)
    assert check(story.history) == []


def k1_runs_on(story: Story) -> None:
    """The member has left, so nobody acknowledges: what runs on is seen by its times alone."""
    story.decides("t1", member="b")
    story.starts("t1")
    order = story.order("k1")
    story.kills("k1")
    story.acks()
    story.leaves("b")
    story.drains("k1")
    story.answers(order)
    story.ends("t1", "cancelled")
    story.finishes("t1", "cancelled", member="b", kill="k1")


def k1_begins_afterwards(story: Story) -> None:
    story.decides("t1")
    a_drained_kill(story)
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1")


def a_drained_kill(story: Story, kill_id: str = "k1") -> None:
    order = story.order(kill_id)
    story.kills(kill_id)
    story.acks("a")
    story.acks("b")
    story.drains(kill_id)
    story.answers(order)


def k1_a_silent_member_is_left_out(story: Story) -> None:
    order = story.order("k1")
    story.kills("k1")
    story.acks("a")
    story.drains("k1")
    story.answers(order)


@pytest.mark.parametrize("told", [k1_runs_on, k1_begins_afterwards, k1_a_silent_member_is_left_out])
def test_k1_is_broken_by(told: Callable[[Story], None]) -> None:
    story = Story("a", "b")
    told(story)
    assert "K1" in story.broken()


def test_k1_excuses_the_members_that_the_answer_names() -> None:
    story = Story("a", "b")
    story.decides("t1", member="b")
    story.starts("t1", "r2")
    story.gone("b")
    order = story.order("k1")
    story.kills("k1")
    story.acks()
    story.drains("k1", drained=False)
    story.answers(order, 202, unheard=("b",), excepted=("b",))
    story.ends("t1")
    story.finishes("t1", "unknown")
    assert story.broken() == set()
    order.excepted = order.unheard = ("c",)
    assert "K1" in story.broken()


def test_k1_ends_as_the_release_is_asked_for() -> None:
    story = Story("a", "b")
    a_drained_kill(story)
    story.asks_release("k1")
    story.releases("k1")
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1")
    assert story.broken() == set()


# --- K2 and the record ----------------------------------------------------------------------------------------


def test_k2_an_answered_kill_must_be_in_the_log() -> None:
    story = Story()
    story.answers(story.order("k1"), 202, unheard=("a",))
    assert story.broken() == {"K2"}


def test_k2_a_202_names_somebody() -> None:
    story = Story()
    order = story.order("k1")
    story.kills("k1")
    story.answers(order, 202, running=("t1",), receipt="e1")
    assert story.broken() == set()
    order.running = ()
    assert story.broken() == {"K2"}


def record_not_decided(story: Story) -> None:
    story.starts("t1")
    story.ends("t1")


def record_sent_twice(story: Story) -> None:
    story.decides("t1")
    for _ in range(2):
        story.starts("t1")
    story.ends("t1")
    story.finishes("t1")


def record_no_outcome(story: Story) -> None:
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")


def record_two_outcomes(story: Story) -> None:
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1")
    story.finishes("t1", "cancelled")


def record_closed_by_a_stranger(story: Story) -> None:
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1", "unknown", member="b")


def record_not_sent_but_was(story: Story) -> None:
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1", "not_sent")


def record_answered_without_outcome(story: Story) -> None:
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1", "unknown")
    story.call("t1")


def record_has_a_gap(story: Story) -> None:
    story.joins("c")
    story.history.records[-1].index += 1


@pytest.mark.parametrize(
    "told",
    [
        record_not_decided,
        record_sent_twice,
        record_no_outcome,
        record_two_outcomes,
        record_closed_by_a_stranger,
        record_not_sent_but_was,
        record_answered_without_outcome,
        record_has_a_gap,
    ],
)
def test_the_record_is_broken_by(told: Callable[[Story], None]) -> None:
    story = Story("a", "b")
    told(story)
    assert story.broken() == {"record"}


def test_the_calls_of_a_dead_member_may_be_closed_by_another() -> None:
    story = Story("a", "b")
    story.decides("t1", member="b")
    story.starts("t1")
    story.ends("t1", "died")
    story.finishes("t1", "unknown")
    story.leaves("b", said_by="a")
    assert story.broken() == set()


# --- K3 -----------------------------------------------------------------------------------------------------


def test_k3_a_caller_is_told_that_its_call_was_cut() -> None:
    story = Story()
    a_cut_call(story)
    story.call("t1", 200, "killed")
    assert story.broken() == set()
    story.history.calls[-1].reason = "upstream_timeout"
    assert story.broken() == {"K3"}


def test_k3_a_cut_call_is_recorded_as_cut() -> None:
    story = Story()
    story.decides("t1")
    story.starts("t1")
    story.ends("t1", "cancelled")
    story.finishes("t1", "ok")
    assert story.broken() == {"K3"}


def test_k3_a_kill_cuts_what_it_covers_and_nothing_else() -> None:
    story = Story()
    story.decides("t1", session="another")
    story.starts("t1")
    story.kills("k1")
    story.ends("t1", "cancelled")
    story.finishes("t1", "cancelled", kill="k1")
    assert story.broken() == {"K3"}


def test_k3_an_acknowledgement_means_finished() -> None:
    story = Story()
    story.decides("t1")
    story.starts("t1")
    story.kills("k1")
    story.acks()
    story.ends("t1", "cancelled")
    story.finishes("t1", "cancelled", kill="k1")
    assert story.broken() == {"K3"}


# --- K4 -----------------------------------------------------------------------------------------------------


def blind(story: Story, started: int, replica: str = "r1") -> None:
    story.history.windows.append(Window("cut", started, story._tick(), replica, "redis"))


def test_k4_a_blind_replica_refuses() -> None:
    story = Story()
    started = story.now
    story.call(None, 503, "kill_state_unknown")
    story.call("t9", 200, "killed")
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1")
    story.call("t1", replica="r2")
    blind(story, started)
    assert story.broken() == set()


def test_k4_is_broken_by_a_call_that_is_let_through() -> None:
    story = Story()
    story.decides("t1")
    started = story.now
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1")
    story.call("t1")
    blind(story, started)
    assert story.broken() == {"K4"}


def test_k4_is_broken_by_another_answer_than_503() -> None:
    story = Story()
    started = story.now
    story.call(None, 200, "policy_deny")
    blind(story, started)
    assert story.broken() == {"K4"}


def test_k4_says_nothing_of_a_call_that_began_before() -> None:
    story = Story()
    story.decides("t1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1")
    story.call("t1")
    blind(story, story.now)
    assert story.broken() == set()


# --- K5 and K6 ----------------------------------------------------------------------------------------------


def sent(story: Story, trace: str, **about: str) -> None:
    story.decides(trace, **about)
    story.starts(trace)
    story.ends(trace)
    story.finishes(trace)


SCOPES = [("session", "s1"), ("agent", "bot"), ("tool", "read"), ("server", "up"), ("tenant", "acme"), ("global", "")]


@pytest.mark.parametrize(("scope", "target"), SCOPES)
def test_k5_nothing_decided_under_a_kill_is_sent(scope: str, target: str) -> None:
    story = Story()
    story.kills("k1", scope, target)
    sent(story, "t1")
    assert story.broken() == {"K5"}


@pytest.mark.parametrize(("scope", "target"), [("session", "s2"), ("agent", "s1"), ("tool", "up"), ("tenant", "other")])
def test_k5_leaves_others_alone(scope: str, target: str) -> None:
    story = Story()
    story.kills("k1", scope, target)
    if scope == "tenant":
        story.history.records[-1].fields = {**story.history.records[-1].fields, "tenant": target}
    sent(story, "t1")
    assert story.broken() == set()


def test_k5_ends_with_the_release() -> None:
    story = Story()
    story.kills("k1")
    story.acks()
    story.drains("k1")
    story.releases("k1")
    sent(story, "t1")
    assert story.broken() == set()


def test_k6_a_release_leaves_the_other_kill_in_force() -> None:
    story = Story()
    story.kills("k1")
    story.kills("k2")
    story.releases("k1", forced=True)
    sent(story, "t1")
    assert story.broken() == {"K6"}


@pytest.mark.parametrize(("forced", "broken"), [(True, set()), (False, {"K6"})])
def test_k6_only_force_releases_an_undrained_kill(forced: bool, broken: set[str]) -> None:
    story = Story()
    story.kills("k1")
    story.releases("k1", forced=forced)
    assert story.broken() == broken


def test_k6_a_call_that_was_cut_is_not_sent_after_the_release() -> None:
    story = Story("a", "b")
    story.decides("t1")
    a_drained_kill(story)
    story.asks_release("k1")
    story.releases("k1")
    story.starts("t1")
    story.ends("t1")
    story.finishes("t1")
    assert "K6" in story.broken()


# --- files and numbers ------------------------------------------------------------------------------------------


def test_a_history_that_was_kept_is_judged_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    story = Story()
    a_cut_call(story)
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    story.history.write(good)
    assert asdict(History.read(good)) == asdict(story.history)
    broken = json.loads(good.read_text())
    broken["stuck"] = ["r2 does not answer"]
    bad.write_text(json.dumps(broken))
    assert main([str(good)]) == 0
    assert main([str(good), str(bad)]) == 1
    assert "r2 does not answer" in capsys.readouterr().out


def test_timings_count_from_the_order() -> None:
    story = Story()
    a_cut_call(story)
    story.call("t2", 200, "killed")
    order = story.history.kills[0]
    (timing,) = timings(story.history)
    assert timing.answered_ms == pytest.approx(60)
    assert timing.last_cancelled_ms == pytest.approx(20)
    assert timing.first_refusal_ms == pytest.approx((story.now - order.invoked) / MS)
