"""What people read of a pack says what the pack says: no more, no less, and in words."""

from __future__ import annotations

import dataclasses
import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.evidence._parts.listing import MAX_CALLS
from agentgate.adapters.evidence._parts.marks import EFFECT_UNKNOWN, Mark
from agentgate.adapters.evidence._parts.pictures import COLUMNS, MOST_BARS, MOST_LANES
from agentgate.adapters.evidence._parts.words import REASONS, count, duration, listed, quoted, reason
from agentgate.adapters.evidence._view import View, view
from agentgate.core.containment import Scope
from agentgate.core.decision import refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Kind, make
from agentgate.core.events.keeping import held
from agentgate.core.events.kills import drained, released
from agentgate.core.events.tools import OfTool, tool_accepted, tool_quarantined, tool_rejected
from agentgate.core.evidence.pack import Pack
from agentgate.core.members import Progress
from agentgate.core.retention import Hold
from agentgate.core.strict_json import canonical, parse
from agentgate.core.visible import visible
from tests.evidence_samples import SAMPLES, Story, one_call, pack_of, rich, sample

every_sample = pytest.mark.parametrize("name", SAMPLES)


@pytest.fixture(scope="module")
def shown() -> View:
    return view(sample("rich"))


# --- words ------------------------------------------------------------------------------------------------


def test_every_reason_code_has_a_sentence_of_its_own() -> None:
    assert REASONS.keys() == set(ReasonCode)
    assert len(set(REASONS.values())) == len(REASONS)
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in REASONS.values())


def test_code_of_a_newer_gateway_is_said_to_be_unknown() -> None:
    assert reason("invented_later") == "A reason that this version does not know."


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain text, ümlauts, 名前, اسم", "plain text, ümlauts, 名前, اسم"),
        ("a\u202eb", "a[U+202E]b"),
        ("a\u2066b\u2069", "a[U+2066]b[U+2069]"),
        ("a\u200bb\u200d\ufeff", "a[U+200B]b[U+200D][U+FEFF]"),
        ("a\nb\r\tc\x00\x1b[31m", "a[U+000A]b[U+000D][U+0009]c[U+0000][U+001B][31m"),
        ("a\u2028b\u2029", "a[U+2028]b[U+2029]"),
        ("soft\u00adhyphen", "soft[U+00AD]hyphen"),
        ("tag\U000e0041", "tag[U+E0041]"),
        ("private\ue000", "private[U+E000]"),
        ("\u3164\u2800\u034f\ufe0f", "[U+3164][U+2800][U+034F][U+FE0F]"),
        ("e\u0301", "e\u0301"),
        ("z\u0300\u0301\u0302\u0303\u0304", "z\u0300\u0301\u0302[U+0303][U+0304]"),
        ("", ""),
    ],
)
def test_what_hides_is_written_out(text: str, seen: str) -> None:
    assert visible(text) == seen


@given(st.text())
def test_nothing_that_is_shown_hides(text: str) -> None:
    for char in visible(text):
        assert unicodedata.category(char) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "less than a second"),
        (1, "1 second"),
        (119, "119 seconds"),
        (840, "14 minutes"),
        (7_199, "2 hours"),
        (10_200, "2 hours 50 minutes"),
        (86_400 * 31, "31 days"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert duration(timedelta(seconds=seconds)) == words


def test_numbers_agree_with_their_nouns() -> None:
    assert [count(n, "call") for n in (0, 1, 2, 12_345)] == ["0 calls", "1 call", "2 calls", "12,345 calls"]
    assert [listed(["a", "b", "c", "d", "e"][:n]) for n in (0, 1, 2, 3)] == ["", "a", "a and b", "a, b and c"]
    assert listed(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"


# --- the whole of it --------------------------------------------------------------------------------------


@every_sample
def test_view_follows_from_the_signed_bytes_alone(name: str) -> None:
    pack = sample(name)
    assert view(Pack(parse(pack.raw), pack.raw, pack.signature)) == view(pack)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _strings(getattr(value, field.name))
    elif isinstance(value, tuple) and not isinstance(value, Enum):
        for item in value:
            yield from _strings(item)


@every_sample
def test_every_string_is_safe_to_look_at(name: str) -> None:
    """Marks may be more than three in a row where two texts meet, but nothing hides."""
    for text in _strings(view(sample(name))):
        assert all(unicodedata.category(char) not in ("Cc", "Cf", "Co", "Cn", "Zl", "Zp") for char in text), text


@every_sample
def test_numbers_are_the_packs(name: str) -> None:
    body, seen = sample(name).body, view(sample(name))
    summary = body["summary"]
    figures = {figure.label: int(figure.value.replace(",", "")) for figure in seen.figures}
    marks: Counter[Mark] = Counter()
    for chart in seen.charts:
        in_chart = Counter({mark: sum(n for b in chart.bars for m, n in b.parts if m is mark) for mark in Mark})
        assert in_chart == (marks or in_chart), chart.name
        assert all(bar.total == sum(number for _, number in bar.parts) for bar in chart.bars)
        assert len(chart.bars) <= MOST_BARS
        marks = in_chart
    assert figures["Calls asked for"] == summary["total_tool_calls"] == marks.total() == seen.calls.total
    assert figures["Refused"] == summary["by_decision"]["DENY"] == marks[Mark.REFUSED]
    assert figures["Waited for a person"] == summary["by_decision"]["REQUIRE_APPROVAL"] == marks[Mark.WAITED]
    assert figures["Ran"] == summary["by_outcome"].get("ok", 0)
    assert figures["Effect unknown"] == seen.unknown.total == sum(marks[mark] for mark in EFFECT_UNKNOWN)
    assert figures["Writes sent out"] == len(body["write_action_log"]) == seen.writes.total
    assert sum(row.total for row in seen.refusals.rows) == figures["Refused"]
    assert sum(row.total for row in seen.actors.rows) == figures["Calls asked for"]
    assert len(seen.calls.rows) == min(MAX_CALLS, seen.calls.total)


@every_sample
def test_timeline_has_every_call_and_every_kill_on_it(name: str) -> None:
    seen = view(sample(name))
    if seen.timeline is None:
        assert seen.calls.total == 0
        return
    timeline = seen.timeline
    assert sum(one.count for one in timeline.bins) == seen.calls.total
    assert {one.column for one in timeline.bins} <= set(range(COLUMNS))
    assert {one.lane for one in timeline.bins} == set(range(len(timeline.lanes)))
    assert len(timeline.lanes) <= MOST_LANES
    assert [line.label.strip("‹›") for line in timeline.lines] == [kill.label for kill in seen.kills.rows]
    assert all(0 <= line.start <= (1 if line.end is None else line.end) <= 1 for line in timeline.lines)
    assert 1 <= len(timeline.ticks) <= 8
    assert all(0 <= tick.at <= 1 for tick in timeline.ticks)
    assert len({tick.text for tick in timeline.ticks}) == len(timeline.ticks)


def test_kill_that_stands_at_the_edge_of_the_picture_says_that_it_was_not_then() -> None:
    story = Story()
    early = story.kill("kill-1", reason="why", target="other")
    story.wait(3_600)
    story.run("db_query")
    story.kill("kill-2", reason="why", scope=Scope.TOOL, target="web_fetch")
    story.run("db_query")
    story.wait(3_600)
    end = {"actor": "person:erin", "auth": "api_key", "why": "release", "forced": False}
    story.add(released, early, **end)
    late = story.kill("kill-3", reason="why")
    story.wait(60)
    story.add(released, late, **end)
    timeline = view(pack_of(story.records())).timeline
    assert timeline is not None
    assert [(line.label, line.end) for line in timeline.lines] == [("‹K1", None), ("K2", None), ("K3›", None)]
    first, second, third = (line.start for line in timeline.lines)
    assert 0.0 == first < second < third == 1.0
    assert timeline.lines[2].text == (
        "K3: kill of session sess-7f3a91, ordered 2026-11-21 11:00:10.360 by person:dana.op, "
        "released 2026-11-21 11:01:10.360"
    )
    assert timeline.outside.startswith("One with an arrow")


def test_kills_within_the_picture_need_no_word_on_arrows(shown: View) -> None:
    assert shown.timeline is not None
    assert shown.timeline.lines[0].text.startswith("K1: kill of session sess-7f3a91, ordered 2026-11-21 09:05:39.")
    assert shown.timeline.outside == ""


# --- what happened ----------------------------------------------------------------------------------------


def test_story_is_told_in_sentences(shown: View) -> None:
    assert " ".join(shown.narrative) == (
        "In 10 minutes, agent:research-bot asked for 35 calls of 7 tools: 19 ran, 1 failed at the tool, "
        "9 were refused, 3 waited for a person, 1 was cut while running, 1 ended without a known effect and "
        "1 had no recorded end. "
        "The most frequent reason for a refusal, 3 of 9: a kill switch covered the call. "
        "3 questions were put to people: person:alice.meyer approved 1, person:bob.tan denied 1 and "
        "1 expired unanswered. "
        "person:dana.op ordered a kill of session sess-7f3a91 at 09:05:39 (“agent mails customers that nobody asked "
        "it to”); it cut 1 running call, refused 3 more calls and drained. It was released at 09:08:20 by "
        "person:erin.lead (asked for by person:dana.op and person:erin.lead). "
        "3 calls that write went out, 1 of them approved by a person; for 2 it is not certain that it was done. "
        "Of 3 calls this pack does not say what the tool did: the effect may be there. "
        "2 anomalies found."
    )


def test_session_of_one_call_and_of_none_are_told_too() -> None:
    assert view(sample("one_call")).narrative[0] == "agent:research-bot asked for one call, of db_query: it ran."
    assert view(sample("empty")).narrative == ("No call is recorded for this session.",)


def test_kill_says_who_why_when_and_what_came_of_it(shown: View) -> None:
    (kill,) = shown.kills.rows
    assert (kill.label, kill.kill_id, kill.target) == ("K1", "kill-5e9d", "session sess-7f3a91")
    assert (kill.ordered_by, kill.reason) == ("person:dana.op", "agent mails customers that nobody asked it to")
    assert (kill.cut, kill.refused, kill.is_drained) == (1, 3, True)
    assert kill.standing.startswith("Drained: every member confirmed")
    assert kill.asks == ("person:dana.op, 2026-11-21 09:07:20.475",)
    assert kill.released_by == "person:erin.lead (asked for by person:dana.op and person:erin.lead)"


def test_kill_that_a_member_was_not_heard_on_is_not_called_drained() -> None:
    (kill,) = view(sample("wide")).kills.rows
    assert (kill.target, kill.is_drained, kill.excepted) == ("everything", False, ("m-b2",))
    assert kill.standing == "Drained except for m-b2: what ran there was not known."
    assert kill.released_by == "person:erin.lead, forced before it had drained"
    assert kill.refused == 40


@pytest.mark.parametrize(
    ("scope", "target", "other"),
    [
        (Scope.SESSION, "sess-7f3a91", "sess-2"),
        (Scope.AGENT, "research-bot", "agent:research-bot"),
        (Scope.TOOL, "db_query", "web_fetch"),
        (Scope.SERVER, "warehouse", "browser"),
        (Scope.TENANT, "acme", "other"),
    ],
)
def test_kill_of_any_scope_says_how_many_calls_of_it_were_refused(scope: Scope, target: str, other: str) -> None:
    story = Story()
    for name in (target, other):
        story.kill(f"kill-{name}", reason="why", scope=scope, target=name)
    story.call("db_query", refusal(ReasonCode.KILLED, "killed"))
    seen = view(pack_of(story.records()))
    assert [kill.refused for kill in seen.kills.rows] == [1, 0]
    assert "it refused 1 call and" in " ".join(seen.narrative)


def test_calls_are_refused_by_the_kill_that_the_log_has_before_them_whatever_the_clocks_say() -> None:
    story = Story()
    story.call("db_query", refusal(ReasonCode.KILLED, "killed"))
    story.at += timedelta(seconds=3)  # the member that orders it is ahead of the one that refuses
    kill = story.kill("kill-1", reason="why")
    story.at -= timedelta(seconds=3)
    story.call("db_query", refusal(ReasonCode.KILLED, "killed"), after=1)
    story.call("db_query", refusal(ReasonCode.KILLED, "killed"), after=1)
    story.at -= timedelta(seconds=10)
    story.add(released, kill, actor="person:ada", auth="api_key", why="release", forced=False)
    story.call("db_query", refusal(ReasonCode.KILLED, "killed"), after=0)
    (row,) = view(pack_of(story.records())).kills.rows
    assert row.refused == 2


def test_members_that_a_receipt_only_counts_are_counted_too() -> None:
    story = Story()
    kill = story.kill("kill-1", reason="why")
    names = tuple(f"m-{number}" for number in range(1_200))
    story.add(drained, kill, position=1, members=names, progress=Progress((), names[100:], names[:100]))
    (row,) = view(pack_of(story.records())).kills.rows
    assert row.standing == "Drained except for m-200, m-201, m-202 and 1097 more: what ran there was not known."
    assert (len(row.excepted), len(row.attested)) == (1_100, 100)


def test_kill_without_a_receipt_or_a_release_says_so_and_when_it_ends_by_itself() -> None:
    story = Story()
    story.run("db_query")
    story.kill("kill-1", reason="why", scope=Scope.TOOL, target="db_query", expires_at=story.at + timedelta(hours=1))
    seen = view(pack_of(story.records()))
    (kill,) = seen.kills.rows
    assert kill.standing.startswith("No receipt")
    assert (kill.is_drained, kill.released_at, kill.expires_at) == (False, "", "2026-11-21 10:00:05.180")
    assert "It was still in force when this pack was made." in seen.narrative[1]


SPOOF = "test”); it drained. It was released at 09:00:00 by person:admin. No call was cut. (“drill"


def test_what_people_say_does_not_end_its_quotation() -> None:
    """Else a reason could go on in the report's own voice."""
    story = Story()
    story.run("db_query")
    story.ask(story.call("send_email", one_decision()), "apr-1")
    story.add(
        make, Kind.APPROVAL_DECIDED, {"approval_id": "apr-1", "verdict": "denied"}, body=canonical({"reason": SPOOF}),
        tenant=story.tenant, session=story.session, principal="person:alice",
    )  # fmt: skip
    story.kill("kill-1", reason=SPOOF)
    story.add(held, Hold("hold-1", story.tenant, story.session, "person:legal", "", SPOOF), auth="api_key")
    seen = view(pack_of(story.records()))
    said = "“test’); it drained. It was released at 09:00:00 by person:admin. No call was cut. (‘drill”"
    assert f" ({said}); it was not known to have drained." in " ".join(seen.narrative)
    assert seen.approvals.rows[0].notes == (f"person:alice said: {said}",)
    assert seen.notes.rows[0].what == f"Legal hold hold-1 of session sess-7f3a91: {said}"
    assert quoted("„a‟ ❝b❞ 〝c〞 〟 \"d'") == "“‘a‘ ‘b’ ‘c’ ’ \"d'”"


def test_kill_without_a_reason_has_no_empty_quotation() -> None:
    story = Story()
    story.kill("kill-1", reason="")
    assert "of session sess-7f3a91 at 09:00:00; it" in view(pack_of(story.records())).narrative[1]


def test_pack_of_a_time_says_how_things_stood_at_its_end() -> None:
    """What came later is in the log: the pack was made when it had long happened."""
    seen = view(sample("until"))
    assert seen.title.as_of == "at the end of the time asked for (2026-11-21 09:08:20.475)"
    said = " ".join(seen.narrative)
    assert f"It was still in force {seen.title.as_of}." in said
    assert f"and 1 still waited {seen.title.as_of}." in said
    assert "when this pack was made" not in " ".join(_strings(seen))
    assert seen.integrity.limits[-1].startswith("What came of it after the time asked for")


def test_pack_of_a_time_that_is_not_over_says_how_things_stood_when_it_was_made() -> None:
    seen = view(pack_of(one_call(), scope={"until": "2099-01-01T00:00:00.000000Z"}))
    assert seen.title.as_of == "when this pack was made"


def test_a_thousand_approvals_cost_no_more_looks_at_the_calls_than_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent makes as many as it likes, and a pack is made beside its calls."""
    looks = Counter[str]()

    class Watched(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            looks[name] += 1
            return super().__getitem__(name)

    def asked(count: int) -> int:
        story = Story()
        for number in range(count):
            story.ask(story.call("send_email", one_decision()._replace(approval_id=f"apr-{number}")), f"apr-{number}")
        pack = pack_of(story.records())
        watched = {**pack.body, "timeline": [Watched(entry) for entry in pack.body["timeline"]]}
        looks.clear()
        assert len(view(dataclasses.replace(pack, body=watched)).approvals.rows) == min(count, 300)
        return looks["approval_id"] // count

    assert asked(1_000) == asked(1)


def test_approvals_say_who_asked_who_answered_and_what_they_let_through(shown: View) -> None:
    rows = [(a.approval_id, a.standing, a.decided_by, a.tool, a.asked_by) for a in shown.approvals.rows]
    assert rows == [
        ("apr-41d0c7", "Approved", "person:alice.meyer", "crm.update_account", "agent:research-bot"),
        ("apr-93be02", "Denied", "person:bob.tan", "payments.refund", "agent:research-bot"),
        ("apr-c05512", "Expired", "nobody: its time ran out", "send_email", "agent:research-bot"),
    ]
    carried = [a.carried_call for a in shown.approvals.rows]
    assert carried[1:] == [None, None]
    assert carried[0] is not None
    call = shown.calls.rows[carried[0] - 1]
    assert (call.approved_by, call.mark) == ("person:alice.meyer", Mark.RAN)


def test_question_that_nobody_answered_yet_is_pending() -> None:
    story = Story()
    story.ask(story.call("send_email", one_decision()), "apr-1")
    (approval,) = view(pack_of(story.records())).approvals.rows
    assert (approval.standing, approval.decided_by, approval.carried_call) == ("Pending", "", None)


def one_decision() -> Any:
    from tests.core.events import allow  # made anew for each
    from tests.fakes import ASK

    return allow(ASK)._replace(approval_id="apr-1")


def test_refusals_are_grouped_by_reason_and_rule_in_plain_words(shown: View) -> None:
    rows = [(row.total, row.code, row.rule, row.said) for row in shown.refusals.rows]
    assert rows[:3] == [
        (3, "killed", "killed", "killed by kill-5e9d"),
        (2, "rate_limited", "rate_limited", "web_fetch: 10 calls in 60 s are used up"),
        (1, "policy_deny", "restricted_tables", "the table payroll is not for agents"),
    ]
    assert [row.plain for row in shown.refusals.rows[:2]] == [
        "A kill switch covered the call.",
        "The limit of calls for this tool was used up.",
    ]
    assert all(shown.calls.rows[number - 1].mark is Mark.REFUSED for row in shown.refusals.rows for number in row.calls)


def test_calls_without_a_plain_success_are_told_apart_from_refusals(shown: View) -> None:
    assert {(row.mark, row.code) for row in shown.failures.rows} == {
        (Mark.FAILED, "upstream_error"),
        (Mark.UNKNOWN, "upstream_timeout"),
        (Mark.CUT, "killed"),
        (Mark.OPEN, "policy_allow"),
    }


def test_effects_that_nobody_knows_are_named(shown: View) -> None:
    assert [(call.tool, call.mark) for call in shown.unknown.rows] == [
        ("crm.update_account", Mark.UNKNOWN),
        ("send_email", Mark.CUT),
        ("db_query", Mark.OPEN),
    ]
    assert shown.unknown.rows[-1].plain == "Allowed and sent; this pack has no record of how it ended."
    assert [(write.tool, write.is_certain) for write in shown.writes.rows] == [
        ("crm.update_account", True),
        ("crm.update_account", False),
        ("send_email", False),
    ]


def test_calls_that_were_turned_away_uncounted_are_counted() -> None:
    story = Story()
    story.run("db_query")
    story.add(make, Kind.REFUSALS, {"count": 120}, tenant="acme", principal="agent:research-bot")
    seen = view(pack_of(story.records()))
    assert seen.refused_before == 120
    assert "120 more calls were turned away" in " ".join(seen.narrative)


def test_exports_holds_and_prunes_are_told(shown: View) -> None:
    assert [(note.what, note.by) for note in shown.notes.rows] == [
        ("Evidence was taken as json: session sess-7f3a91", "person:audra"),
        ("Legal hold hold-1 of session sess-7f3a91: “Case 2026-118”", "person:legal"),
    ]
    (prune,) = view(sample("wide")).notes.rows
    assert prune.what.startswith("118 bodies of session sess-old given up (their time was over)")


def test_what_was_said_of_tools_is_told() -> None:
    story = Story()
    of = OfTool("demo", "read\u202e", "read")
    story.add(
        tool_accepted, of, pin="a" * 64, access="read", trust="operator", subject=b"{}", actor="person:ann", auth="key"
    )
    story.add(tool_accepted, of, pin="b" * 64, access="read", trust="first_use", subject=b"{}")
    story.add(tool_quarantined, of, pin="a" * 64, found="c" * 64, accepted=0, subject=b"{}", changes=["x"])
    story.add(tool_rejected, of, found="c" * 64, subject=b"{}", actor="person:ann", auth="key")
    story.add(tool_quarantined, of, pin="a" * 64, found="listed_twice", accepted=0, subject=b"null", changes=["x"])
    notes = view(pack_of(story.records())).notes.rows
    assert [(note.what.split(" of server demo ")[1][:33], note.by) for note in notes] == [
        ("accepted as it was found (read), ", "person:ann"),
        ("accepted by trust on first use: n", "the gateway"),
        ("put into quarantine, because its ", "the gateway"),
        ("rejected", "person:ann"),
        ("put into quarantine, because its ", "the gateway"),
    ]
    assert notes[-1].what.endswith("its server lists two tools of this name")


def test_pruned_texts_are_said_to_be_pruned() -> None:
    records = [dataclasses.replace(record, raw_body=None, salt=None) for record in rich()]
    seen = view(pack_of(records))
    assert {call.said for call in seen.calls.rows} == {"(pruned)"}
    assert seen.kills.rows[0].reason == "(pruned)"
    assert any("pruned" in limit for limit in seen.integrity.limits)


# --- what is proven ---------------------------------------------------------------------------------------


def test_pack_id_is_the_hash_of_what_is_signed(shown: View) -> None:
    assert shown.title.pack_id == shown.integrity.pack_id == hashlib.sha256(sample("rich").raw).hexdigest()


@pytest.mark.parametrize(("name", "is_of_a_zip"), [("rich", True), ("hmac_only", False), ("unsigned", False)])
def test_a_view_by_itself_names_no_file_of_a_zip(name: str, is_of_a_zip: bool) -> None:
    commands = " ".join(step.command for step in view(sample(name)).integrity.steps)
    assert ("pack.json" in commands) == is_of_a_zip
    assert ("--key" in commands) == (name == "hmac_only")


@pytest.mark.parametrize(
    ("name", "there", "headline"),
    [
        ("rich", [True, True, True], "Signed: whoever knows the gateway's public key can check it."),
        ("hmac_only", [True, False, False], "Signed with a shared key: it convinces only those who hold that key."),
        ("unsigned", [False, False, False], "This pack is not signed."),
    ],
)
def test_headline_says_no_more_than_the_signatures_do(name: str, there: list[bool], headline: str) -> None:
    integrity = view(sample(name)).integrity
    assert [signature.is_there for signature in integrity.signatures] == there
    assert integrity.headline == headline
    assert integrity.is_signed is any(there)
    assert len(integrity.proves) == sum(there)
    assert bool(integrity.hmac) is there[0]
    assert all(bool(signature.key_id) is signature.is_there for signature in integrity.signatures)


def test_proofs_without_an_envelope_are_not_called_a_signature_of_the_page() -> None:
    integrity = view(pack_of(one_call(), envelope=None)).integrity
    assert integrity.headline == "Every event is tied to the log's signed checkpoint."
    assert "covered by its HMAC only" in integrity.explanation


def test_limits_name_what_a_reader_might_take_for_proven(shown: View) -> None:
    limits = " ".join(shown.integrity.limits)
    for claim in (
        "the gateway's own clock",
        "between two checkpoints",
        "went round the gateway",
        "Whose the public keys",
    ):
        assert claim in limits
    assert "numbered without a gap" in limits
    assert "That none was left out" in " ".join(view(sample("wide")).integrity.limits)
    assert "nothing in this pack is signed" in view(sample("unsigned")).integrity.limits[0]
    assert any("without the HMAC key" in limit for limit in view(sample("hmac_only")).integrity.limits)


def test_checkpoint_and_leaves_are_shown_as_they_are(shown: View) -> None:
    told = sample("rich").body["integrity"]
    assert shown.integrity.checkpoint is not None
    assert "\n".join(shown.integrity.checkpoint.note) + "\n" == told["checkpoint"]["note"]
    assert shown.integrity.checkpoint.root == told["checkpoint"]["root"]
    assert [leaf.leaf_hash for leaf in shown.integrity.leaves.rows] == [event["leaf_hash"] for event in told["events"]]
    assert view(sample("unsigned")).integrity.checkpoint is None
