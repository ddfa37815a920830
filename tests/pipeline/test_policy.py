"""Loading policy: what fails changes nothing, what is enforced is on record, and lists show what may be called."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agentgate.core.call import ToolName
from agentgate.core.containment import Scope
from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.errors import (
    LogUnavailable,
    PolicyExternal,
    PolicyInvalid,
    PolicyNotEnforced,
    PolicyOvertaken,
    ReasonCode,
)
from agentgate.core.event import Kind
from agentgate.core.policy import PolicyBundle
from agentgate.pipeline.containment.orders import Order
from agentgate.pipeline.limits.rates import RateLimits
from agentgate.pipeline.policy.desk import TOOLS as TOOLS_CHANGED
from agentgate.pipeline.policy.desk import PolicyDesk
from agentgate.pipeline.records.books import Books
from tests.fakes import ADMIN, REVISION, TOOL, FakeEngine, a_call, principal
from tests.pipeline.conftest import House


def fails(_: object) -> str:
    raise OSError("Input/output error")


TOOLS = {name: replace(TOOL, name=ToolName(name)) for name in ("db_query", "file_read", "db_insert")}


class _Source:
    def __init__(self, **data: Any) -> None:
        self.data = data
        self.error: Exception | None = None
        self.before_read: Callable[[], None] = lambda: None

    async def read(self) -> PolicyBundle:
        self.before_read()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return PolicyBundle({"a.rego": b"package agentgate"}, self.data, b"\x00asm")


class _Engine(FakeEngine):
    def __init__(self) -> None:
        super().__init__()
        self.enforced: list[PolicyBundle] = []
        self.error: Exception | None = None
        self.at_once = 0
        self.gave_way_to: list[str | None] = []

    async def enforce(self, bundle: PolicyBundle, *, instead_of: str | None = None) -> None:
        self.gave_way_to.append(instead_of)
        self.at_once += 1
        assert self.at_once == 1, "one load at a time"
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        self.enforced.append(bundle)

    async def revision(self) -> str | None:
        return self.enforced[-1].revision if self.enforced else None


class _Desk:
    """A policy desk and everything that it works on."""

    def __init__(self, house: House, **data: Any) -> None:
        self.house = house
        self.source = _Source(**data)
        self.engine = _Engine()
        self.limits = RateLimits(60)
        self.desk = PolicyDesk(
            engine=self.engine,
            source=self.source,
            limits=self.limits,
            questions=house.questions,
            books=Books(house.recorder),
            others=house.log,
            containment=house.containment,
            tools=TOOLS,
            label="v7",
        )


async def test_load_enforces_and_says_and_records_the_revision(house: House) -> None:
    made = _Desk(house, rate_limits={"db_query": 10}, labels={"tools": {"db_query": ["private"]}})
    enforced = await made.desk.load("person:admin", "reload")
    assert house.questions.labels(a_call(), b"") == ("private",)
    assert (enforced.revision, enforced.tools_count) == (made.engine.enforced[0].revision, 3)
    assert enforced.revision.startswith("v7+sha256:")
    event = house.log.of(Kind.POLICY)[0]
    assert (event["policy_revision"], event["what"], event["principal"]) == (
        enforced.revision,
        "reload",
        "person:admin",
    )
    assert made.limits.rules.rate_limits == {"db_query": 10}


@pytest.mark.parametrize(
    "error", [PolicyInvalid("rego_parse_error"), PolicyNotEnforced("new", "old"), PolicyExternal()]
)
async def test_load_that_the_engine_refuses_changes_nothing(house: House, error: Exception) -> None:
    made = _Desk(house, rate_limits={"db_query": 10})
    await made.desk.load("person:admin", "reload")
    made.source.data = {"rate_limits": {"db_query": 99}}
    made.engine.error = error
    with pytest.raises(type(error)):
        await made.desk.load("person:admin", "reload")
    assert made.limits.rules.rate_limits == {"db_query": 10}
    assert len(house.log.of(Kind.POLICY)) == 1


@pytest.mark.parametrize(
    "limits", [[], "none", {"db_query": 0}, {"db_query": -1}, {"db_query": 1.5}, {"db_query": True}, {"db_query": "10"},
               {"db_query": None}, {"db_query": 10**9}]
)  # fmt: skip
async def test_data_with_a_limit_that_is_none_is_refused_before_it_is_enforced(house: House, limits: object) -> None:
    made = _Desk(house, rate_limits=limits)
    with pytest.raises(PolicyInvalid, match="rate_limits"):
        await made.desk.load("person:admin", "reload")
    assert made.engine.enforced == []


@pytest.mark.parametrize("error", [OSError("Too many open files"), ImportError("cannot open shared object file")])
async def test_a_parser_that_cannot_be_loaded_here_is_a_policy_that_cannot(
    house: House, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(_: object) -> None:
        raise error

    monkeypatch.setattr(house.questions._parser, "prepare", fails)
    made = _Desk(house, parse={"db_query": {"query": "sql:postgres"}})
    with pytest.raises(PolicyInvalid, match="open"):
        await made.desk.load("person:admin", "reload")
    assert made.engine.enforced == []


async def test_unreadable_directory_changes_nothing(house: House) -> None:
    made = _Desk(house)
    made.source.error = PolicyInvalid("no such directory")
    with pytest.raises(PolicyInvalid):
        await made.desk.load("person:admin", "reload")
    assert made.engine.enforced == []
    assert house.log.kinds() == []


async def test_load_that_cannot_be_recorded_is_not_told_as_done(house: House) -> None:
    made = _Desk(house)
    house.log.is_down = True
    with pytest.raises(LogUnavailable):
        await made.desk.load("person:admin", "reload")
    house.log.is_down = False
    for _ in range(2):
        await made.desk.settle()
    assert [event["what"] for event in house.log.of(Kind.POLICY)] == ["reload"], "and is recorded as soon as it can be"


async def test_loads_wait_for_each_other(house: House) -> None:
    made = _Desk(house)
    await asyncio.gather(*(made.desk.load("person:admin", "reload") for _ in range(5)))
    assert len(made.engine.enforced) == 5


async def test_start_with_an_engine_that_has_policies_of_its_own_still_takes_our_limits(house: House) -> None:
    made = _Desk(house, rate_limits={"db_query": 10}, labels={"tools": {"db_query": ["private"]}})
    made.engine.error = PolicyExternal()
    await made.desk.start()
    assert made.limits.rules.rate_limits == {"db_query": 10}
    assert house.questions.labels(a_call(), b"") == ("private",)
    with pytest.raises(PolicyExternal):
        await made.desk.load("person:admin", "reload")


# --- several members on one log ---------------------------------------------------------------------------------------


@pytest.fixture
def others(house: House) -> tuple[_Desk, _Desk]:
    """The same log, seen by two members with directories and engines of their own."""
    return _Desk(house, rate_limits={"db_query": 10}), _Desk(house, rate_limits={"db_query": 10})


def _limit(desk: _Desk) -> int | None:
    return desk.limits.rules.rate_limits.get("db_query")


def _is_behind(desk: _Desk) -> bool:
    return desk.desk.behind is not None


async def test_members_that_start_with_one_policy_say_so_once(house: House, others: tuple[_Desk, _Desk]) -> None:
    for member in others:
        await member.desk.start()
        assert _limit(member) == 10
    assert [event["what"] for event in house.log.of(Kind.POLICY)] == ["start"]


async def test_a_reload_at_one_member_is_followed_by_the_others_and_recorded_once(
    house: House, others: tuple[_Desk, _Desk]
) -> None:
    one, other = others
    await one.desk.start()
    await other.desk.start()
    one.source.data = other.source.data = {
        "rate_limits": {"db_query": 20}, "tools": {"files__read": {}}, "labels": {"tools": {"db_query": ["private"]}},
    }  # fmt: skip
    enforced = await one.desk.load("person:admin", "reload")
    for member in others:
        await member.desk.settle()
    assert (await other.engine.revision(), _limit(other)) == (enforced.revision, 20)
    assert other.desk.known_tools == {"files__read": {}}
    assert house.questions.labels(a_call(), b"") == ("private",)
    assert [event["what"] for event in house.log.of(Kind.POLICY)] == ["start", "reload"]
    assert [event.get("principal") for event in house.log.of(Kind.POLICY)] == [None, "person:admin"]
    loads = len(other.engine.enforced)
    await other.desk.settle()
    assert len(other.engine.enforced) == loads
    one.source.data = other.source.data = {}
    await one.desk.load("person:admin", "reload")
    await other.desk.settle()
    assert (other.desk.known_tools, _limit(other)) == ({}, None)


async def test_what_comes_into_force_after_its_load_gave_up_is_taken_over_whole_and_recorded(house: House) -> None:
    made = _Desk(house)
    await made.desk.start()
    made.source.data = {"rate_limits": {"db_query": 20}, "tools": {"files__read": {}}}
    made.engine.error = PolicyNotEnforced("new", "old")
    with pytest.raises(PolicyNotEnforced):
        await made.desk.load("person:admin", "reload")
    await made.desk.settle()
    assert (_limit(made), made.desk.known_tools, len(house.log.of(Kind.POLICY))) == (None, {}, 1)
    made.engine.enforced.append(replace(await made.source.read(), label="v7"))
    for _ in range(2):
        await made.desk.settle()
    assert (_limit(made), made.desk.known_tools, made.desk.behind) == (20, {"files__read": {}}, None)
    event = house.log.of(Kind.POLICY)[1]
    assert (event["policy_revision"], event["what"], event["principal"]) == (
        await made.engine.revision(), "reload", "person:admin",
    )  # fmt: skip
    assert len(house.log.of(Kind.POLICY)) == 2


async def test_tools_that_all_members_accepted_are_loaded_by_each_and_recorded_once(
    house: House, others: tuple[_Desk, _Desk]
) -> None:
    for member in others:
        await member.desk.start()
        assert member.desk.known_tools == {}
    tools = {"files__read": {"name": "files__read", "access": "read", "upstream": "files"}}
    for member in others:
        member.source.data = member.source.data | {"tools": tools}
        await member.desk.load("", TOOLS_CHANGED)
        assert member.desk.known_tools == tools
    assert [event["what"] for event in house.log.of(Kind.POLICY)] == ["start", "tools"]


async def test_tools_of_a_policy_that_is_not_in_force_are_not_known(house: House) -> None:
    made = _Desk(house)
    await made.desk.start()
    made.source.data = {"tools": {"files__read": {}}}
    made.engine.error = PolicyNotEnforced("new", "old")
    with pytest.raises(PolicyNotEnforced):
        await made.desk.load("", TOOLS_CHANGED)
    assert made.desk.known_tools == {}


async def test_an_engine_with_policies_of_its_own_knows_what_it_knows(house: House) -> None:
    made = _Desk(house)
    made.engine.error = PolicyExternal()
    await made.desk.start()
    assert made.desk.known_tools is None


async def test_a_directory_that_gives_another_policy_changes_nothing_and_is_told(
    others: tuple[_Desk, _Desk], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = others
    await one.desk.start()
    await other.desk.start()
    one.source.data = {"rate_limits": {"db_query": 20}}
    own, enforced = await other.engine.revision(), await one.desk.load("person:admin", "reload")
    for _ in range(3):
        await other.desk.settle()
    assert (other.desk.behind, _limit(other), len(other.engine.enforced)) == (enforced.revision, 10, 1)
    said = [message for message in caplog.messages if enforced.revision in message]
    stays = f"here it stays {own}, because the policy directory here gives {own}"
    assert said == [f"another member enforces policy {enforced.revision}; {stays}"]
    other.source.data = one.source.data  # the directory is brought up to date a little later
    await other.desk.settle()
    assert (other.desk.behind, _limit(other)) == (None, 20)


@pytest.mark.parametrize("error", [PolicyInvalid("no"), PolicyNotEnforced("new", "old"), PolicyExternal()])
async def test_what_another_member_enforces_and_this_one_cannot_is_tried_again(
    house: House, others: tuple[_Desk, _Desk], error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = others
    await one.desk.start()
    await other.desk.start()
    one.source.data = other.source.data = {"rate_limits": {"db_query": 20}}
    await one.desk.load("person:admin", "reload")
    other.engine.error = error
    await other.desk.settle()
    assert (other.desk.behind is not None, _limit(other)) == (True, 10)
    assert caplog.messages[-1].endswith(f"because {error}")
    other.engine.error = None
    await other.desk.settle()
    assert (other.desk.behind, _limit(other)) == (None, 20)
    assert len(house.log.of(Kind.POLICY)) == 2


async def test_only_what_a_person_asks_for_comes_before_what_another_worker_published_meanwhile(
    others: tuple[_Desk, _Desk],
) -> None:
    one, other = others
    for member in others:
        member.engine.published_revision = "first"
        await member.desk.start()
    other.source.before_read = lambda: setattr(other.engine, "published_revision", "second")
    one.source.data = other.source.data = {"rate_limits": {"db_query": 20}}
    await one.desk.load("person:admin", "reload")
    await one.desk.load("", TOOLS_CHANGED)
    await other.desk.settle()
    assert (one.engine.gave_way_to, other.engine.gave_way_to) == (["first", None, "first"], ["first", "first"])


async def test_what_gave_way_to_another_workers_policy_is_not_waited_for(others: tuple[_Desk, _Desk]) -> None:
    one, other = others
    await one.desk.start()
    await other.desk.start()
    one.source.data = other.source.data = {"rate_limits": {"db_query": 20}}
    overtaken = await one.source.read()
    one.engine.error = PolicyOvertaken(overtaken.revision, "newer")
    with pytest.raises(PolicyOvertaken, match="newer, which another worker published"):
        await one.desk.load("", TOOLS_CHANGED)
    one.engine.enforced.append(replace(overtaken, label="v7"))
    await one.desk.settle()
    assert _limit(one) == 10


async def test_what_is_published_cannot_be_known_and_nothing_is_put_in_its_place(
    house: House, others: tuple[_Desk, _Desk]
) -> None:
    class Unknown(_Engine):
        published_revision = property(fails)  # type: ignore[assignment]

    one, other = others
    await one.desk.start()
    await other.desk.start()
    one.source.data = other.source.data = {"rate_limits": {"db_query": 20}}
    await one.desk.load("person:admin", "reload")
    other.engine.__class__ = Unknown
    await other.desk.settle()
    assert (_is_behind(other), _limit(other), len(other.engine.enforced)) == (True, 10, 1)
    with pytest.raises(PolicyNotEnforced):
        await other.desk.load("", TOOLS_CHANGED)
    assert len(house.log.of(Kind.POLICY)) == 2


async def test_two_members_with_different_directories_do_not_fight(house: House, others: tuple[_Desk, _Desk]) -> None:
    one, other = others
    other.source.data = {"rate_limits": {"db_query": 20}}
    await one.desk.start()
    await other.desk.start()
    for _ in range(5):
        await one.desk.settle()
        await other.desk.settle()
    assert (_limit(one), _limit(other)) == (10, 20)
    assert (one.desk.behind, other.desk.behind) == (await other.engine.revision(), None)
    assert len(house.log.of(Kind.POLICY)) == 2


async def test_who_went_back_to_what_the_others_enforce_is_not_behind(others: tuple[_Desk, _Desk]) -> None:
    one, other = others
    await one.desk.start()
    await other.desk.start()
    first, one.source.data = one.source.data, {}
    await one.desk.load("person:admin", "reload")
    await other.desk.settle()
    assert _is_behind(other)
    one.source.data = first
    await one.desk.load("person:admin", "reload")
    await other.desk.settle()
    assert (other.desk.behind, len(other.engine.enforced)) == (None, 1)


async def test_nothing_is_followed_before_the_first_load(house: House, others: tuple[_Desk, _Desk]) -> None:
    one, other = others
    await one.desk.start()
    other.source.data = {}
    await other.desk.settle()
    assert (other.engine.enforced, other.desk.behind) == ([], None)


# --- GET /tools/list --------------------------------------------------------------------------------------------------

LISTED = {"db_query": "allow", "file_read": "allow", "db_insert": "approval", "not_declared": "allow"}


async def test_list_has_what_may_be_called_without_approval(house: House) -> None:
    made = _Desk(house)
    made.engine.answer = Ruling(LISTED, REVISION)
    assert await made.desk.tools_for(principal()) == ["db_query", "file_read"]
    asked = made.engine.asked[0]
    assert asked == {"agent": {"id": "bot", "kind": "agent", "roles": ["agent"], "tenant": "default"}}


async def test_visible_is_what_may_ever_be_called_and_is_not_killed(house: House) -> None:
    made = _Desk(house)
    made.engine.answer = Ruling(
        {"db_query": "allow", "file_read": "allow", "db_insert": "approval", "x": "allow"}, REVISION
    )
    await house.killed(scope=Scope.TOOL, target="file_read")
    assert await made.desk.visible_to(principal()) == {"db_query": "allow", "db_insert": "approval"}
    assert await made.desk.ruled_for(principal()) == {
        "db_query": "allow",
        "db_insert": "approval",
        "file_read": "allow",
    }


@pytest.mark.parametrize("answer", [NoRuling(ReasonCode.POLICY_TIMEOUT, ""), Ruling(["db_query"], REVISION)])
async def test_nothing_is_visible_when_policy_does_not_say(house: House, answer: Ruling | NoRuling) -> None:
    made = _Desk(house)
    made.engine.answer = answer
    assert await made.desk.visible_to(principal()) is None


@pytest.mark.parametrize("word", ["Allow", "approval", "", None, True, 1, ["allow"]])
async def test_only_the_exact_word_lists_a_tool(house: House, word: object) -> None:
    made = _Desk(house)
    made.engine.answer = Ruling({"db_query": word}, REVISION)
    assert await made.desk.tools_for(principal()) == []


@pytest.mark.parametrize(
    "answer",
    [NoRuling(ReasonCode.POLICY_TIMEOUT, ""), Ruling([], REVISION), Ruling("allow", REVISION), Ruling(None, REVISION)],
)
async def test_no_well_formed_answer_is_no_list(house: House, answer: Ruling | NoRuling) -> None:
    made = _Desk(house)
    made.engine.answer = answer
    assert await made.desk.tools_for(principal()) is None


@pytest.mark.parametrize(
    ("scope", "target", "left"),
    [
        (Scope.TOOL, "db_query", ["file_read"]),
        (Scope.SERVER, "demo", []),
        (Scope.AGENT, "bot", []),
        (Scope.TENANT, "default", []),
        (Scope.GLOBAL, "", []),
        (Scope.AGENT, "another", ["db_query", "file_read"]),
    ],
)
async def test_list_leaves_out_what_is_killed(house: House, scope: Scope, target: str, left: list[str]) -> None:
    """The peer's list advertised tools that were killed or paused."""
    made = _Desk(house)
    made.engine.answer = Ruling(LISTED, REVISION)
    await house.containment.kill(ADMIN, Order(scope, target))
    assert await made.desk.tools_for(principal()) == left
