"""Whether a history breaks one of K1…K6 (DESIGN §4). Pure: a history in, violations out.

It shares no rule with the gateway: what a kill covers and who must acknowledge it is said here a second time, from the
log's own records. Order is taken from the log's index wherever both sides are in the log, from the machine's monotonic
clock wherever one of them is not. Nothing is said of how fast anything was: `timings` only measures.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from tests.containment.history import CallOp, History, KillOp, LogRecord, Send

CLOCKS_NS: Final = 2_000_000
"""A record's time is wall-clock time; this is how far that may have been corrected during a history."""
_REFUSED_RELEASE: Final = frozenset({401, 403, 404, 409, 422})


@dataclass(frozen=True, slots=True)
class Violation:
    """`rule` is K1…K6, or `record`, `stuck`; `sentence` says what happened; `evidence` is what shows it."""

    rule: str
    sentence: str
    evidence: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join((f"{self.rule}: {self.sentence}", *self.evidence))


@dataclass(slots=True)
class _Kill:
    """A kill as the log has it."""

    id: str
    scope: str
    tenant: str
    target: str
    index: int
    position: int
    released: LogRecord | None = None
    drained: LogRecord | None = None
    """The receipt that says that nobody is left."""

    def covers(self, call: Mapping[str, Any]) -> bool:
        match self.scope:
            case "global":
                return True
            case "tenant":
                return bool(call["tenant"] == self.tenant)
            case "tool" | "server":
                return bool(call.get(self.scope) == self.target)
            case "session":
                return (call["tenant"], call["session"]) == (self.tenant, self.target)
            case "agent":
                return (call["tenant"], call["principal"]) == (self.tenant, f"agent:{self.target}")
        raise ValueError(f"a kill of the scope {self.scope!r}")

    def in_force_at(self, index: int) -> bool:
        return self.index < index and (self.released is None or index < self.released.index)

    def __str__(self) -> str:
        what = " ".join(part for part in (self.scope, self.tenant, self.target) if part)
        until = f", released at {self.released.index}" if self.released else ""
        return f"kill {self.id} of {what} (index {self.index}, position {self.position}{until})"


@dataclass(slots=True)
class _Log:
    """The records of a history, by what they are asked for."""

    decided: dict[str, LogRecord] = field(default_factory=dict)
    """The ALLOW of each call."""
    doubly_decided: list[LogRecord] = field(default_factory=list)
    finished: dict[str, list[LogRecord]] = field(default_factory=lambda: defaultdict(list))
    kills: dict[str, _Kill] = field(default_factory=dict)
    acks: dict[str, list[LogRecord]] = field(default_factory=lambda: defaultdict(list))
    joined: dict[str, int] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    attested: dict[str, int] = field(default_factory=dict)
    left_by_others: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, records: Iterable[LogRecord]) -> _Log:
        log = cls()
        for record in records:
            log._take(record)
        return log

    def _take(self, record: LogRecord) -> None:
        fields = record.fields
        match record.kind:
            case "decided" if fields["decision"] == "ALLOW":
                if fields["trace_id"] in self.decided:
                    self.doubly_decided.append(record)
                self.decided.setdefault(fields["trace_id"], record)
            case "finished":
                self.finished[fields["trace_id"]].append(record)
            case "killed":
                self.kills[fields["kill_id"]] = _Kill(
                    fields["kill_id"],
                    fields["scope"],
                    fields.get("tenant", ""),
                    fields["target"],
                    record.index,
                    record.position,
                )
            case "released" if fields["kill_id"] in self.kills:
                self.kills[fields["kill_id"]].released = record
            case "drained" if fields["drained"] and fields["kill_id"] in self.kills:
                kill = self.kills[fields["kill_id"]]
                kill.drained = kill.drained or record
            case "acked":
                self.acks[record.member].append(record)
            case "joined":
                self.joined[record.member] = record.index
            case "left":
                of = fields.get("of", record.member)
                self.left[of] = record.index
                if of != record.member:
                    self.left_by_others.add(of)
            case "gone":
                told = self.gone if fields["why"] == "presumed" else self.attested
                told[fields["of"]] = record.index

    def is_given_up(self, member: str) -> bool:
        """Whether somebody else may have written the outcomes of this member's calls."""
        return member in self.gone or member in self.attested or member in self.left_by_others

    def ack_of(self, member: str, position: int) -> LogRecord | None:
        return next((ack for ack in self.acks[member] if ack.fields["position"] >= position), None)

    def silent(self, kill: _Kill, until: int) -> list[str]:
        """The members of the time of `kill` that had neither acknowledged it nor left, by an index of the log; one that
        an admin attested to be destroyed need not."""
        there = [one for one, joined in self.joined.items() if joined < kill.index < self.left.get(one, kill.index + 1)]
        return [one for one in there if not any(word < until for word in self._words(one, kill))]

    def _words(self, member: str, kill: _Kill) -> list[int]:
        ack = self.ack_of(member, kill.position)
        words = (ack.index if ack else None, self.left.get(member), self.attested.get(member))
        return [word for word in words if word is not None]

    def covered(self, kill: _Kill) -> Iterator[LogRecord]:
        return (call for call in self.decided.values() if kill.covers(call.fields))


def check(history: History) -> list[Violation]:
    """Every way in which `history` breaks a promise; empty when it breaks none."""
    log = _Log.of([*history.before, *history.records])
    sends: dict[str, list[Send]] = defaultdict(list)
    for send in history.sends:
        sends[send.trace].append(send)
    found = [
        *_nothing_runs_after_drained(history, log, sends),
        *_everybody_was_waited_for(log),
        *_kills_are_recorded_and_say_what_runs(history, log),
        *_every_send_is_recorded(history, log, sends),
        *_what_was_cut_is_said_to_be_cut(history, log, sends),
        *_nothing_outlives_its_acknowledgement(log, sends),
        *_blind_replicas_refuse(history, sends),
        *_nothing_decided_under_a_kill_is_sent(log, sends),
        *_nothing_cut_is_revived(history, log, sends),
        *_releases_are_in_order(log),
        *_the_log_is_whole(history.records),
    ]
    return found + [Violation("stuck", sentence) for sentence in history.stuck]


# --- K1 ---------------------------------------------------------------------------------------------------


def _settled(answer: KillOp) -> bool:
    """Whether an answer says that nothing runs any more, but for members that it names."""
    if answer.answered is None or answer.status not in (200, 202):
        return False
    named = {*answer.excepted, *answer.attested}
    return answer.drained or bool(named and set(answer.unheard) <= named)


def _in_force_until(history: History, kill: _Kill) -> int | None:
    """When somebody may have ended the kill first: the moment in which a release that was not refused was asked for."""
    asked = [one.invoked for one in history.releases if one.id == kill.id and one.status not in _REFUSED_RELEASE]
    if kill.released is not None and kill.released.fields["why"] == "expiry":
        asked.append(kill.released.at - CLOCKS_NS)
    return min(asked, default=None)


def _nothing_runs_after_drained(history: History, log: _Log, sends: Mapping[str, list[Send]]) -> Iterator[Violation]:
    for answer in history.kills:
        kill = log.kills.get(answer.id)
        if kill is None or answer.answered is None or not _settled(answer):
            continue
        until = _in_force_until(history, kill)
        for call in log.covered(kill):
            if call.member in (*answer.excepted, *answer.attested):
                continue
            for send in sends.get(call.fields["trace_id"], ()):
                if _overlaps(send, answer.answered, until):
                    said = "drained" if answer.drained else f"drained but for {', '.join(answer.excepted)}"
                    yield Violation(
                        "K1",
                        f"a covered call ran on {send.replica} after its kill was answered {said}",
                        (
                            str(kill),
                            _about(call, send),
                            f"answered {_ms(answer.answered, send.started)} after its start",
                        ),
                    )


def _overlaps(send: Send, start: int, end: int | None) -> bool:
    return (send.ended is None or send.ended > start) and (end is None or send.started < end)


def _everybody_was_waited_for(log: _Log) -> Iterator[Violation]:
    """A receipt of `drained` needs a word of every member that the log had at the kill's index."""
    for kill in log.kills.values():
        if kill.drained is None:
            continue
        for member in log.silent(kill, kill.drained.index):
            yield Violation("K1", f"drained was said without a word of the member {member}", (str(kill),))


# --- K2 ---------------------------------------------------------------------------------------------------


def _kills_are_recorded_and_say_what_runs(history: History, log: _Log) -> Iterator[Violation]:
    for answer in history.kills:
        if answer.answered is None or answer.status not in (200, 202):
            continue
        kill = log.kills.get(answer.id)
        if kill is None:
            yield Violation("K2", f"kill {answer.id} was answered {answer.status} and is not in the log")
            continue
        if (kill.scope, kill.target) != (answer.scope, answer.target):
            yield Violation("K2", f"kill {answer.id} was answered for {answer.scope} {answer.target}", (str(kill),))
        if not answer.is_order:
            continue
        if (answer.status == 200) is not answer.drained:
            yield Violation("K2", f"kill {answer.id} was answered {answer.status}, drained: {answer.drained}")
        if answer.status == 202 and answer.receipt and not (answer.running or answer.unheard or answer.excepted):
            yield Violation("K2", f"kill {answer.id} has not drained, and its answer names nobody", (str(kill),))


# --- the record -------------------------------------------------------------------------------------------


def _every_send_is_recorded(history: History, log: _Log, sends: Mapping[str, list[Send]]) -> Iterator[Violation]:
    for record in log.doubly_decided:
        yield Violation("record", f"call {record.fields['trace_id']} was allowed twice (index {record.index})")
    for trace, of_call in sends.items():
        if trace not in log.decided:
            yield Violation("record", f"call {trace} was sent on {of_call[0].replica} without a recorded ALLOW")
        if len(of_call) > 1:
            yield Violation("record", f"call {trace} was sent {len(of_call)} times")
    for trace, call in log.decided.items():
        yield from _one_outcome(log, call, sends.get(trace, []))
    for answer in history.calls:
        if answer.status == 200 and answer.reason == "ok" and answer.trace is not None:
            outcomes = [record.fields["outcome"] for record in log.finished.get(answer.trace, ())]
            if "ok" not in outcomes:
                yield Violation("record", f"call {answer.trace} was answered ok; the log says {outcomes or 'nothing'}")


def _one_outcome(log: _Log, call: LogRecord, sends: list[Send]) -> Iterator[Violation]:
    trace = call.fields["trace_id"]
    records = log.finished.get(trace, [])
    own = [record for record in records if record.member == call.member]
    others = [record for record in records if record.member != call.member]
    outcomes = [record.fields["outcome"] for record in records]
    told = f"{', '.join(outcomes) or 'none'}; member {call.member}"
    # a member that was given up may be alive: then its own word comes beside the `unknown` of who closed its calls
    is_told_twice = own and any(record.fields["outcome"] != "unknown" for record in others)
    if not records or len(own) > 1 or len(others) > 1 or is_told_twice:
        yield Violation("record", f"call {trace} has {len(records)} outcomes ({told})")
    if others and not log.is_given_up(call.member):
        yield Violation("record", f"call {trace} of a living member was closed by another ({told})")
    if "not_sent" in outcomes and sends:
        yield Violation("record", f"call {trace} is recorded as not sent, but was", (_about(call, sends[0]),))
    if "ok" in outcomes and not sends:
        yield Violation("record", f"call {trace} is recorded as done, but was never sent")


# --- K3 ---------------------------------------------------------------------------------------------------


def _what_was_cut_is_said_to_be_cut(
    history: History, log: _Log, sends: Mapping[str, list[Send]]
) -> Iterator[Violation]:
    answers = {answer.trace: answer for answer in history.calls if answer.trace is not None}
    unsure = {op.id for op in history.kills if op.status not in (200, 202)}
    for trace, call in log.decided.items():
        of_call = sends.get(trace, [])
        for record in log.finished.get(trace, ()):
            outcome, kill_id = record.fields["outcome"], record.fields.get("kill_id")
            if of_call and of_call[0].how == "cancelled" and outcome not in ("cancelled", "unknown"):
                yield Violation("K3", f"call {trace} was cut and is recorded as {outcome}", (_about(call, of_call[0]),))
            if kill_id is None:
                continue
            kill = log.kills.get(kill_id)
            if kill is None and kill_id not in unsure:
                yield Violation("K3", f"call {trace} was cut by a kill {kill_id} that nobody gave")
            if kill is not None and not kill.covers(call.fields):
                yield Violation("K3", f"call {trace} was cut by a kill that does not cover it", (str(kill),))
            if outcome == "cancelled":
                yield from _its_caller_knows(trace, answers.get(trace))


def _its_caller_knows(trace: str, answer: CallOp | None) -> Iterator[Violation]:
    if answer is None or answer.status is None or answer.reason in ("killed", "outcome_unrecorded"):
        return
    yield Violation("K3", f"call {trace} was cut by a kill, and its caller was told {answer.status} {answer.reason}")


def _nothing_outlives_its_acknowledgement(log: _Log, sends: Mapping[str, list[Send]]) -> Iterator[Violation]:
    """Cancelled means finished: a member acknowledges when no call that was running at the kill runs any more."""
    for kill in log.kills.values():
        for call in log.covered(kill):
            ack = log.ack_of(call.member, kill.position)
            if ack is None or call.index > kill.index:
                continue
            for send in sends.get(call.fields["trace_id"], ()):
                if _overlaps(send, ack.at + CLOCKS_NS, None):
                    yield Violation(
                        "K3",
                        f"a covered call ran on {send.replica} after its member had acknowledged the kill",
                        (str(kill), _about(call, send), f"acknowledged at index {ack.index}"),
                    )


# --- K4 ---------------------------------------------------------------------------------------------------


def _blind_replicas_refuse(history: History, sends: Mapping[str, list[Send]]) -> Iterator[Violation]:
    for window in history.windows:
        if not window.blinds:
            continue
        for call in history.calls:
            if window.replica not in ("", call.replica) or call.invoked < window.started:
                continue
            if call.answered is None or call.answered > window.ended:
                continue
            where = f"{call.replica} while it could not reach its {window.blinds} ({window.fault})"
            if call.trace is not None and sends.get(call.trace):
                yield Violation("K4", f"call {call.trace} was sent by {where}")
            elif call.status not in (503, None) and call.reason != "killed":
                yield Violation("K4", f"a call was answered {call.status} {call.reason} by {where}")


# --- K5 and K6 --------------------------------------------------------------------------------------------


def _nothing_decided_under_a_kill_is_sent(log: _Log, sends: Mapping[str, list[Send]]) -> Iterator[Violation]:
    for kill in log.kills.values():
        for call in log.covered(kill):
            of_call = sends.get(call.fields["trace_id"])
            if not of_call or not kill.in_force_at(call.index):
                continue
            others = [other for other in log.kills.values() if _was_on_the_same_scope(other, kill, call.index)]
            yield Violation(
                "K6" if others else "K5",
                f"a call was sent by {of_call[0].replica} although it was decided under a kill"
                + (" on whose scope another was released" if others else ""),
                (str(kill), *map(str, others), _about(call, of_call[0])),
            )


def _was_on_the_same_scope(other: _Kill, kill: _Kill, index: int) -> bool:
    if other.id == kill.id or other.released is None or not kill.index < other.released.index < index:
        return False
    return (other.scope, other.tenant, other.target) == (kill.scope, kill.tenant, kill.target)


def _nothing_cut_is_revived(history: History, log: _Log, sends: Mapping[str, list[Send]]) -> Iterator[Violation]:
    for answer in history.kills:
        kill = log.kills.get(answer.id)
        if kill is None or answer.answered is None or not _settled(answer):
            continue
        for call in log.covered(kill):
            if kill.released is not None and call.index > kill.released.index:
                continue
            if call.member in (*answer.excepted, *answer.attested):
                continue
            for send in sends.get(call.fields["trace_id"], ()):
                if send.started > answer.answered:
                    yield Violation(
                        "K6",
                        f"a call of before the release was sent by {send.replica} after its kill had drained",
                        (str(kill), _about(call, send)),
                    )


def _releases_are_in_order(log: _Log) -> Iterator[Violation]:
    for kill in log.kills.values():
        release = kill.released
        if release is None or release.fields["forced"]:
            continue
        if silent := log.silent(kill, release.index):
            yield Violation(
                "K6",
                f"a kill that had not drained was released without force at {release.index}",
                (str(kill), f"not heard: {', '.join(silent)}"),
            )


# --- the log itself ---------------------------------------------------------------------------------------


def _the_log_is_whole(records: list[LogRecord]) -> Iterator[Violation]:
    for before, record in pairwise(records):
        if record.index != before.index + 1:
            yield Violation("record", f"the log goes from index {before.index} to {record.index}")
        step = record.kind in ("killed", "released")
        if record.position != before.position + step:
            positions = f"from {before.position} to {record.position}"
            yield Violation("record", f"the kill position goes {positions} at index {record.index} ({record.kind})")


# --- words and numbers ------------------------------------------------------------------------------------


def _about(call: LogRecord, send: Send) -> str:
    who = f"{call.fields['tenant']}/{call.fields['session']} {call.fields['principal']} {call.fields.get('tool')}"
    took = "open" if send.ended is None else _ms(send.ended, send.started)
    return (
        f"call {call.fields['trace_id']} of {who}: decided at index {call.index} by {call.member}, "
        f"sent at {send.started}, ran {took}, {send.how or 'running'}"
    )


def _ms(later: int, earlier: int) -> str:
    return f"{(later - earlier) / 1e6:.1f} ms"


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast one kill was, in milliseconds from its order; None where there was nothing to see."""

    kill_id: str
    answered_ms: float
    drained: bool
    first_refusal_ms: float | None
    """Until the first covered call that was asked for after the order was refused as killed."""
    last_cancelled_ms: float | None
    """Until the last covered send that ran at the order was cut."""


def timings(history: History) -> list[Timing]:
    """What an operator would feel of each kill that was answered."""
    log = _Log.of(history.records)
    found = []
    for order in history.kills:
        kill = log.kills.get(order.id)
        if kill is None or not order.is_order or order.answered is None:
            continue
        covered = {call.fields["trace_id"] for call in log.covered(kill)}
        cut = [
            s.ended for s in history.sends if s.trace in covered and s.how == "cancelled" and s.started < order.answered
        ]
        cut = [ended for ended in cut if ended is not None and ended > order.invoked]
        refused = [
            c.answered
            for c in history.calls
            if c.invoked >= order.invoked and c.answered is not None and c.reason == "killed" and _names(kill, c)
        ]
        found.append(
            Timing(
                order.id,
                (order.answered - order.invoked) / 1e6,
                order.drained,
                _since(order.invoked, refused, min),
                _since(order.invoked, cut, max),
            )
        )
    return found


def _names(kill: _Kill, call: CallOp) -> bool:
    return kill.scope != "server" and kill.covers(
        {"tenant": call.tenant, "session": call.session, "principal": f"agent:{call.agent}", "tool": call.tool}
    )


def _since(start: int, moments: list[int], which: Any) -> float | None:
    return (which(moments) - start) / 1e6 if moments else None
