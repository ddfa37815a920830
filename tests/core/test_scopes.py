"""What belongs in a pack of a session, an agent or a tenant, and what its sections say of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.containment import Scope as KillScope
from agentgate.core.decision import refusal
from agentgate.core.errors import ReasonCode
from agentgate.core.event import Event, Kind, Outcome, Record, make, rfc3339
from agentgate.core.events.calls import decided, finished
from agentgate.core.events.keeping import exported, held, pruned, unheld
from agentgate.core.events.kills import killed, released
from agentgate.core.events.tools import OfTool, tool_accepted, tool_quarantined
from agentgate.core.evidence.pack import About, Seals, build, seal
from agentgate.core.evidence.scope import NAMED, Concern, Scope, ended_before
from agentgate.core.retention import Hold
from agentgate.core.strict_json import canonical, parse
from agentgate.core.verification.seals import Trust
from agentgate.core.verification.verify import verify
from tests.core.events import a_session, allow, numbered, origin, record_of
from tests.fakes import a_call, a_kill, principal

KEY = b"an-hmac-key-of-32-random-bytes!!"
NOW = "2026-11-21T10:00:00.000000Z"
SESSION = Scope("default", "s-1")


def _decided(number: int, *, second: float | None = None, reason: ReasonCode | None = None, **call: Any) -> Event:
    decision = allow() if reason is None else refusal(reason, "no")
    return decided(
        origin(number, seconds=second), a_call(**call), decision,
        position=0, arguments=b"{}", context=b"{}", latency_us={},
    )  # fmt: skip


def _kill_record(scope: KillScope, target: str, tenant: str = "", *, index: int = 4, at: float = 6.0) -> Record:
    kill = replace(a_kill(), id=f"k-{scope}-{target}-{index}", scope=scope, target=target, tenant=tenant)
    return record_of(killed(origin(1000 + index, seconds=at), kill, auth="api_key"), index=index, number=0)


def _release_record(of: Record, *, index: int, at: float) -> Record:
    fields = of.fields
    kill = replace(a_kill(), id=fields["kill_id"], scope=KillScope(fields["scope"]), target=fields["target"])
    event = released(
        origin(2000 + index, seconds=at), kill, actor="person:ada", auth="api_key", why="release", forced=False
    )
    return record_of(event, index=index, number=0)


def _at(seconds: float) -> str:
    return rfc3339(origin(seconds=seconds).at)


def _body(scope: Scope, records: list[Record]) -> dict[str, Any]:
    return build(About(scope, NOW, "AgentGate test"), records)


def _holds(scope: Scope, records: list[Record]) -> bool:
    return verify(seal(_body(scope, records), Seals(KEY), signed_at=NOW).json, Trust((KEY,))).exit_status == 0


def concerning(scope: Scope, own: list[Record], wider: list[Record]) -> list[Record]:
    """As a pack is made: first what was over, then all in log order."""
    ends, below = ended_before(scope, own, 1_000)
    found = [record for record in wider if record.index < below and ends.matches(record)]
    over = {(name, record.fields[name]) for record in found for name in NAMED if name in record.fields}
    concern = Concern(scope, own, over)
    return [record for record in wider if concern.keeps(record)]


# --- which wider events concern a scope -----------------------------------------------------------------------

OWN = numbered([_decided(1), _decided(2)])
"""Calls of `db_query` at `demo`, by the agent and in the session of `a_call`: events 3 and 5."""
BOT = OWN[0].fields["principal"].removeprefix("agent:")
"""As a kill names it."""
AGENT = Scope("default", agent=f"agent:{BOT}")
TENANT = Scope("default")


@pytest.mark.parametrize(
    ("scope", "target", "tenant", "concerns"),
    [
        (KillScope.GLOBAL, "", "", True),
        (KillScope.TENANT, "default", "default", True),
        (KillScope.TENANT, "other", "other", False),
        (KillScope.TOOL, OWN[0].fields["tool"], "", True),
        (KillScope.TOOL, "another_tool", "", False),
        (KillScope.SERVER, OWN[0].fields["server"], "", True),
        (KillScope.SERVER, "elsewhere", "", False),
        (KillScope.AGENT, BOT, "default", True),
        (KillScope.AGENT, BOT, "other", False),
        (KillScope.AGENT, "somebody-else", "default", False),
        (KillScope.SESSION, "s-2", "default", False),
    ],
)
def test_kill_is_in_the_pack_of_whoever_it_covered(scope: KillScope, target: str, tenant: str, concerns: bool) -> None:
    kill = _kill_record(scope, target, tenant)
    assert concerning(SESSION, OWN, [kill]) == ([kill] if concerns else [])


def test_kill_by_agent_is_in_the_pack_of_an_agent_that_never_called() -> None:
    kill = _kill_record(KillScope.AGENT, BOT, "default")
    release = _release_record(kill, index=9, at=7.0)
    assert concerning(Scope("default", agent=f"agent:{BOT}"), [], [kill, release]) == [kill, release]
    assert concerning(Scope("default", agent="agent:other"), [], [kill]) == []


def test_kill_by_session_is_in_the_pack_of_it_and_of_whoever_called_in_it() -> None:
    kill = _kill_record(KillScope.SESSION, "s-1", "default")
    event = make(origin(900), Kind.REFUSALS, {"count": 1}, tenant="default", session="s-1")
    refused = [record_of(event, index=9)]
    for scope, own in ((SESSION, refused), (Scope("default"), OWN), (Scope("default", agent=f"agent:{BOT}"), OWN)):
        assert concerning(scope, own, [kill]) == [kill]
    assert concerning(Scope("default"), refused, [kill]) == []


def test_kill_that_was_over_before_the_first_call_does_not_concern_it() -> None:
    kill = _kill_record(KillScope.GLOBAL, "", index=0, at=1.0)
    early, late = _release_record(kill, index=1, at=2.0), _release_record(kill, index=4, at=7.0)
    assert concerning(SESSION, OWN, [kill, early]) == []
    assert concerning(SESSION, OWN, [kill, late]) == [kill, late]


def test_kill_after_the_last_event_of_a_session_does_not_concern_it() -> None:
    assert concerning(SESSION, OWN, [_kill_record(KillScope.GLOBAL, "", index=6, at=500.0)]) == []


@pytest.mark.parametrize("scope", [SESSION, replace(SESSION, until=OWN[-1].fields["at"])], ids=["whole", "until"])
def test_kill_by_a_member_whose_clock_is_ahead_is_in_the_pack_of_the_session_that_it_cut(scope: Scope) -> None:
    kill = _kill_record(KillScope.GLOBAL, "", at=10.1)
    assert kill.fields["at"] > OWN[-1].fields["at"]
    assert concerning(scope, OWN, [kill]) == [kill]


@pytest.mark.parametrize("scope", [SESSION, replace(SESSION, since=OWN[0].fields["at"])], ids=["whole", "since"])
def test_release_by_a_member_whose_clock_is_behind_does_not_take_the_kill_out_of_the_pack(scope: Scope) -> None:
    kill = _kill_record(KillScope.GLOBAL, "", index=0, at=1.0)
    release = _release_record(kill, index=4, at=4.9)
    assert release.fields["at"] < OWN[0].fields["at"]
    assert concerning(scope, OWN, [kill, release]) == [kill, release]


def test_a_kill_that_was_over_before_a_scope_begins_does_not_concern_it_though_it_has_no_events() -> None:
    kill = _kill_record(KillScope.AGENT, BOT, "default", index=0, at=1.0)
    wider = [kill, _release_record(kill, index=1, at=2.0)]
    assert concerning(replace(AGENT, since=_at(2.0)), [], wider) == wider
    assert concerning(replace(AGENT, since=_at(3.0)), [], wider) == []


def test_a_hold_that_was_over_takes_no_kill_of_its_name_out_of_the_pack() -> None:
    kill = _kill_record(KillScope.AGENT, BOT, "default", index=200, at=5.0)
    order = Hold(kill.fields["kill_id"], "default", None, "person:ivy", "", "court")
    hold, end = held(origin(7), order, auth="api_key"), unheld(origin(8), order, actor="person:ada", auth="api_key")
    early = [replace(record_of(event, index=index, number=0)) for index, event in ((1, hold), (2, end))]
    wider = [*early, kill]
    assert kill in concerning(replace(AGENT, since=_at(20.0)), [], [*early, kill])
    assert wider[0] not in concerning(replace(AGENT, since=_at(20.0)), [], wider)


def test_exports_and_holds_of_the_scope_are_in_its_pack() -> None:
    def export(number: int, **what: str) -> Record:
        event = exported(origin(300 + number), actor="person:ivy", tenant="default", form="pdf", what=what)
        return record_of(event, index=200 + number, number=0)

    order = Hold("h-1", "default", "s-1", "person:ivy", "", "court")
    hold, end = held(origin(7), order, auth="api_key"), unheld(origin(8), order, actor="person:ada", auth="api_key")
    ours, theirs = export(1, of_session="s-1"), export(2, of_session="s-2")
    wider = [ours, theirs, record_of(hold, index=210, number=0), record_of(end, index=211, number=0)]
    found = concerning(SESSION, OWN, wider)
    assert found == [ours, wider[2], wider[3]]
    body = _body(SESSION, [*OWN, *found])
    assert [(row["actor"], row["format"]) for row in body["summary"]["exports"]] == [("person:ivy", "pdf")]
    assert [(row["what"], row["reason"]) for row in body["summary"]["holds"]] == [("held", "court"), ("unheld", None)]
    assert _holds(SESSION, [*OWN, *found])


@pytest.mark.parametrize(
    ("scope", "tenant", "session", "concerns"),
    [
        (SESSION, "default", "s-1", True),
        (SESSION, "default", "s-2", False),
        (SESSION, "default", "", True),
        (SESSION, "other", "s-1", False),
        (SESSION, "", "", False),
        (AGENT, "default", "", True),
        (AGENT, "default", "s-1", False),
        (AGENT, "other", "", False),
        (TENANT, "default", "s-1", True),
        (TENANT, "other", "", False),
        (TENANT, "", "", False),
    ],
)
def test_a_hold_is_in_the_packs_of_its_tenant_that_it_names_or_where_it_names_no_session(
    scope: Scope, tenant: str, session: str, concerns: bool
) -> None:
    event = held(origin(7), Hold("h-1", tenant, session, "person:ivy", "", "court"), auth="api_key")
    hold = record_of(event, index=210, number=0)
    assert concerning(scope, OWN, [hold]) == ([hold] if concerns else [])


@pytest.mark.parametrize(
    ("scope", "tenant", "what", "concerns"),
    [
        (AGENT, "default", {"of_agent": f"agent:{BOT}"}, True),
        (AGENT, "default", {"of_agent": "agent:other"}, False),
        (AGENT, "other", {"of_agent": f"agent:{BOT}"}, False),
        (SESSION, "default", {"of_agent": f"agent:{BOT}"}, False),
        (TENANT, "default", {"of_agent": "agent:other"}, True),
        (TENANT, "other", {}, False),
    ],
)
def test_an_export_is_in_the_packs_of_what_was_exported(
    scope: Scope, tenant: str, what: dict[str, str], concerns: bool
) -> None:
    event = exported(origin(8), actor="person:ivy", tenant=tenant, form="pdf", what=what)
    export = record_of(event, index=211, number=0)
    assert concerning(scope, OWN, [export]) == ([export] if concerns else [])


def test_what_happened_before_since_or_at_until_is_not_in_the_pack_but_what_began_before_and_went_on_is() -> None:
    def export(index: int, at: float) -> Record:
        of = {"of_session": "s-1", "of_agent": f"agent:{BOT}"}
        event = exported(origin(index, seconds=at), actor="person:ivy", tenant="default", form="pdf", what=of)
        return record_of(event, index=index, number=0)

    def hold(name: str, index: int, at: float, kind: Any = held) -> Record:
        order, more = Hold(name, "default", "", "person:ivy", "", "court"), {"actor": "person:ada"}
        event = kind(origin(index, seconds=at), order, auth="api_key", **(more if kind is unheld else {}))
        return record_of(event, index=index, number=0)

    early = [hold("h-1", 10, 1.0), export(11, 1.0), hold("h-1", 12, 2.0, unheld)]
    lasting = [hold("h-2", 13, 2.5), export(14, 3.0)]
    late = [hold("h-2", 30, 20.0, unheld), export(31, 20.0)]
    own = [replace(record, index=record.index + 20) for record in OWN]
    for scope in (SESSION, AGENT, TENANT):
        within = replace(scope, since=_at(3.0), until=_at(20.0))
        assert concerning(scope, own, [*early, *lasting, *late]) == [*early, *lasting, *late]
        assert concerning(within, own, [*early, *lasting, *late]) == lasting
        assert concerning(within, [], [*early, *lasting, *late]) == lasting
        assert concerning(replace(within, until=None), own, [*early, *lasting, *late]) == [*lasting, *late]


@pytest.mark.parametrize("server", ["", "XXXX", "None"])
def test_a_call_of_a_tool_that_nobody_has_is_covered_by_no_kill_of_a_server(server: str) -> None:
    [unknown] = numbered([_decided(1, tool=None, reason=ReasonCode.UNKNOWN_TOOL)])
    assert "server" not in unknown.fields
    assert concerning(SESSION, [unknown], [_kill_record(KillScope.SERVER, server)]) == []


def test_wider_event_that_is_the_scopes_own_is_there_once() -> None:
    assert concerning(Scope("default"), OWN, OWN) == []


# --- wider scopes ---------------------------------------------------------------------------------------------


def _of_two_sessions() -> list[Record]:
    """Sessions s-1 and s-2 in turns, as a tenant's log has them."""
    events = [_decided(n, session=f"s-{1 + n % 2}") for n in range(6)]
    return [record_of(event, index=n, number=1 + n // 2) for n, event in enumerate(events)]


def test_tenants_pack_has_all_sessions_and_verifies_also_when_it_starts_in_the_middle() -> None:
    records = _of_two_sessions()
    body = _body(Scope("default"), records)
    assert body["metadata"]["sessions"] == ["s-1", "s-2"]
    assert body["metadata"]["session_id"] is None
    assert _holds(Scope("default"), records)
    assert _holds(Scope("default", since="2026-11-21T00:00:00.000000Z"), records[3:])


def test_event_missing_in_the_middle_of_one_of_many_sessions_is_found() -> None:
    records = _of_two_sessions()
    assert not _holds(Scope("default"), [*records[:2], *records[3:]])


def test_sessions_own_pack_starts_with_its_first_event() -> None:
    assert not _holds(SESSION, numbered([_decided(1), _decided(2)])[1:])


def test_an_agents_are_its_own_calls_and_all_that_others_did_in_the_sessions_that_it_opened() -> None:
    def owned(scope: Scope) -> list[tuple[str, str]]:
        callers = [(by, session) for by in ("bot", "eve") for session in ("s-1", "s-9")]
        records = [record_of(_decided(3, session=session, caller=principal(by))) for by, session in callers]
        of = zip(callers, records, strict=True)
        return [one for one, record in of if scope.owns(record, frozenset({"s-1"}))]

    assert owned(Scope("default", agent="agent:bot")) == [("bot", "s-1"), ("bot", "s-9"), ("eve", "s-1")]
    assert len(owned(Scope("default"))) == 4


@pytest.mark.parametrize(
    ("names", "agent"), [([], None), (["bot", "bot"], "agent:bot"), (["eve", "bot"], "multiple")], ids=str
)
def test_metadata_say_whose_pack_it_is_of_when_and_by_whom(names: list[str], agent: str | None) -> None:
    calls = [_decided(n, caller=principal(name)) for n, name in enumerate(names)]
    found = build(About(Scope("default", since="2026"), NOW, "AgentGate test"), numbered(calls))["metadata"]
    times = [call.at for call in calls] or [None]
    assert found == {
        "version": "1.2.0",
        "generated_at": NOW,
        "generator": "AgentGate test",
        "scope": {"tenant": "default", "since": "2026"},
        "tenant": "default",
        "session_id": None,
        "sessions": ["s-1"] if names else [],
        "agent_id": agent,
        "agents": sorted({f"agent:{name}" for name in names}),
        "user_id": None,
        "time_range": {"start": times[0], "end": times[-1]},
    }


def test_agents_pack_has_its_attempts_on_sessions_of_others() -> None:
    attempt = record_of(_decided(9, session="s-9", reason=ReasonCode.FOREIGN_SESSION), index=50, number=17)
    agent = OWN[0].fields["principal"]
    scope = Scope("default", agent=agent)
    assert _holds(scope, [*OWN, attempt])
    assert [a["type"] for a in _body(scope, [*OWN, attempt])["anomalies"]] == ["foreign_session", "effect_unknown"]


# --- what the sections say ------------------------------------------------------------------------------------


def test_prune_says_in_the_pack_what_is_not_there_any_more() -> None:
    gone = [replace(record, raw_body=None, salt=None) for record in a_session(1, kill=False)]
    event = pruned(origin(9), actor="person:ada", tenant="default", session="s-1", why="retention", bodies=2, through=5)
    records = [*gone, record_of(event, index=90, number=len(gone) + 1)]
    assert [(p["why"], p["bodies"], p["through"]) for p in _body(SESSION, records)["summary"]["prunes"]] == [
        ("retention", 2, 5)
    ]
    assert _holds(SESSION, records)


def test_refusals_before_the_pipeline_are_counted() -> None:
    events = [make(origin(n), Kind.REFUSALS, {"count": 40 + n}, tenant="default", principal="bot") for n in (1, 2)]
    records = [record_of(event, index=n, number=0) for n, event in enumerate(events)]
    assert _body(Scope("default"), records)["summary"]["refusals"] == 83
    assert _holds(Scope("default"), records)


def test_calls_of_several_sessions_make_no_burst_together() -> None:
    events = [_decided(n, second=1.0, session=f"s-{n}", reason=ReasonCode.POLICY_DENY) for n in range(12)]
    records = [record_of(event, index=n, number=1) for n, event in enumerate(events)]
    assert _body(Scope("default"), records)["anomalies"] == []


def test_call_that_was_cut_names_the_kill() -> None:
    call = a_call()
    events = [
        decided(origin(1), call, allow(), position=0, arguments=b"{}", context=b"{}", latency_us={}),
        finished(origin(2), call, Outcome.CANCELLED, ReasonCode.KILLED, kill_id="k-7", upstream_status=200),
    ]
    entry = _body(SESSION, numbered(events))["timeline"][0]
    assert (entry["kill_id"], entry["upstream_status"], entry["session_id"]) == ("k-7", 200, "s-1")


# --- what is proven -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seals", "signed_by"),
    [
        (Seals(None), []),
        (Seals(KEY), ["hmac-sha256"]),
        (Seals(None, "abc"), ["dsse"]),
        (Seals(KEY, "abc"), ["hmac-sha256", "dsse"]),
    ],
)
def test_pack_says_which_signatures_must_be_there_and_what_each_shows(seals: Seals, signed_by: list[str]) -> None:
    pack = seal(_body(SESSION, OWN), seals, signed_at=NOW)
    integrity = parse(pack.raw)["integrity"]
    assert integrity["signed_by"] == signed_by
    assert len(integrity["proves"]) == len(signed_by)
    assert (pack.signature is None) == (seals.hmac_key is None)
    assert pack.raw == canonical(pack.body)


# --- what was said of tools -----------------------------------------------------------------------------------


def _tool_record(name: str, *, index: int, at: float, kind: Kind = Kind.TOOL_ACCEPTED) -> Record:
    of, here = OfTool("demo", name, name), origin(3000 + index, seconds=at)
    if kind is Kind.TOOL_ACCEPTED:
        event = tool_accepted(
            here, of, pin="a" * 64, access="read", trust="operator", subject=b"{}", actor="person:ann", auth="api_key"
        )
    else:
        event = tool_quarantined(here, of, pin="a" * 64, found="b" * 64, accepted=0, subject=b"{}", changes=["x"])
    return record_of(event, index=index, number=0)


def test_a_pack_says_what_was_accepted_and_quarantined_of_the_tools_that_were_called() -> None:
    accepted = _tool_record("db_query", index=0, at=11.0)
    changed = _tool_record("db_query", index=4, at=8.0, kind=Kind.TOOL_QUARANTINED)
    others = [_tool_record("db_insert", index=1, at=0.0), _tool_record("db_query", index=90, at=900.0)]
    found = concerning(SESSION, OWN, [accepted, *others, changed])
    assert found == [accepted, changed]
    records = sorted([*OWN, *found], key=lambda record: record.index)
    said = _body(SESSION, records)["summary"]["tools"]
    assert [(row["what"], row["tool_name"], row["actor"], row["pin"][0], row["found"]) for row in said] == [
        ("tool_accepted", "db_query", "person:ann", "a", None),
        ("tool_quarantined", "db_query", None, "a", "b" * 64),
    ]
    assert _holds(SESSION, records)


def test_a_pack_without_tools_of_servers_is_what_it_was_before_there_were_any() -> None:
    assert "tools" not in _body(SESSION, [*OWN])["summary"]
