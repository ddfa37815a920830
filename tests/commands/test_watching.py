"""What containment looks like in a terminal: every state has its words, and nobody's text obeys the terminal."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from rich.console import Console

from agentgate.commands import watching
from agentgate.commands.answers import Refusal
from agentgate.commands.remote import Remote
from agentgate.commands.tables import containment
from agentgate.commands.words import duration
from tests.scripted_gateway import problem

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
A, B, C = "aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb", "cccccccccccccccc"


def ack(member: str, **counts: int) -> dict[str, Any]:
    return {"member": member, "acked": True, "cancelled": 0, "finished": 0, "unknown": 0, "took_ms": 3.2, **counts}


def silent(member: str) -> dict[str, Any]:
    return {"member": member, "acked": False}


def kill(**more: Any) -> dict[str, Any]:
    return {
        "id": "kill-1",
        "scope": "session",
        "target": "s-1",
        "tenant": "default",
        "reason": "loops",
        "actor": "person:olga",
        "since": "2026-03-01T11:57:00.000000Z",
        "drained": True,
        **more,
    }


def draining(replicas: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    return kill(drained=False, drained_except=[], attested=[], replicas=replicas, running=[], receipt=None) | more


def member(name: str, **more: Any) -> dict[str, Any]:
    return {"member": name, "presence": "here", "silent_s": 0.4, "is_me": False, **more}


def a_call(number: int = 1, **more: Any) -> dict[str, Any]:
    return {
        "trace_id": f"0b7c1a52-6c1f-4d55-9d2e-{number:012}",
        "tenant": "default",
        "session": f"s-{number}",
        "agent": "bot",
        "tool": "slow",
        "server": "demo",
        "member": A,
        "since": "2026-03-01T11:59:48Z",
        **more,
    }


def shown(*what: Any, width: int = 200) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False)
    for one in what:
        console.print(one)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


# --- words ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *[(-5, "0.0 s"), (0.44, "0.4 s"), (9.9, "9.9 s"), (12, "12 s"), (99, "99 s"), (180, "3 min")],
        *[(5_399, "90 min"), (5_400, "2 h"), (86_400, "24 h"), (172_800, "2 days"), (86_400 * 40, "40 days")],
    ],
)
def test_a_length_of_time_is_said_as_people_do(seconds: float, said: str) -> None:
    assert duration(seconds) == said


@pytest.mark.parametrize(
    "hostile", ["\x1b[2J\x1b]0;owned\x07", "a\nb", "\x9b31m", "a\u202eb", "\x00", "[bold]x[/bold]", "[/]", "\u2028"]
)
def test_nothing_that_people_wrote_obeys_the_terminal_or_is_markup(hostile: str) -> None:
    said = shown(containment.kills_table([kill(reason=hostile, target=hostile, actor=hostile, id=hostile)], NOW))
    assert len(said.splitlines()) == 2
    assert all(char.isprintable() for line in said.split("\n") for char in line)
    if "[" in hostile and hostile.isprintable():
        assert hostile in said


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (kill(), "session s-1"),
        (kill(tenant="b"), "session b/s-1"),
        (kill(scope="global", target="", tenant=""), "everything"),
        (kill(scope="tool", target="db_insert", tenant=""), "tool db_insert"),
    ],
)
def test_a_kill_says_what_it_stops(one: dict[str, Any], said: str) -> None:
    assert containment.what_it_stops(one) == said


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (kill(), "drained"),
        (kill(attested=[A]), "drained, attested aaaaaaaa"),
        (kill(drained=None), "in force; the log is silent"),
        (kill(drained=False), "draining"),
        (draining([ack(A), silent(B)]), "1 of 2 replicas"),
        (draining([silent(A)], running=["t"]), "0 of 1 replica, 1 running"),
        (draining([ack(A), silent(B)], drained_except=[B]), "all but bbbbbbbb"),
        (draining([ack(A), silent(B), silent(C)], drained_except=[B]), "2 of 3 replicas"),
        (draining([ack(A)]), "draining"),
    ],
)
def test_how_far_a_kill_has_come_is_said_in_words(one: dict[str, Any], said: str) -> None:
    assert containment.drain_state(one).plain == said


@pytest.mark.parametrize(
    ("one", "waits"),
    [
        (kill(), False),
        (draining([ack(A), silent(B)]), True),
        (draining([ack(A)]), True),  # acknowledged by all, the receipt is being written
        (draining([ack(A), silent(B)], drained_except=[B]), True),
        (draining([ack(A), silent(B)], drained_except=[B], receipt="e-1"), False),
        (draining([ack(A), silent(B)], active=False), False),
    ],
)
def test_a_kill_is_followed_while_somebody_may_still_acknowledge(one: dict[str, Any], *, waits: bool) -> None:
    assert containment.is_under_way(one) is waits


def test_what_a_kill_did_is_said_replica_by_replica() -> None:
    one = draining(
        [ack(A, cancelled=2, unknown=1), ack(B), silent(C), silent("d" * 16), silent("e" * 16)],
        drained_except=["d" * 16],
        attested=["e" * 16],
        running=["trace-1"],
    )
    said = shown(*containment.outcome_of(one)).splitlines()
    assert f"{A}  2 cancelled, 1 unknown, in 3.2 ms" in said[0]
    assert f"{B}  nothing of it ran here, in 3.2 ms" in said[1]
    assert "has not answered" in said[2]
    assert "declared gone" in said[3]
    assert "attested" in said[4]
    assert "call trace-1 has not ended" in said[5]


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (kill(replicas=[ack(A), ack(B, took_ms=40)]), "drained on 2 replicas in 40 ms"),
        (draining([ack(A), silent(B)]), "1 replica did not acknowledge yet"),
        (draining([ack(A), silent(B)], drained_except=[B]), f"agentgate members gone {B}"),
        (draining([ack(A)], active=False), "released before it had drained"),
    ],
)
def test_what_follows_from_a_kill_is_said(one: dict[str, Any], said: str) -> None:
    assert said in shown(*containment.verdict_on(one))


@pytest.mark.parametrize("width", [80, 100, 200])
def test_ids_are_whole_in_a_narrow_terminal(width: int) -> None:
    one = kill(id="incident-2026-03-01-order-table-again", reason="a long reason " * 30)
    said = shown(containment.kills_table([one], NOW, width=width), width=width).splitlines()
    assert max(len(line) for line in said) <= width
    assert "".join(line[: said[0].index("STOPS")].strip() for line in said[1:]) == one["id"]
    assert "…" in said[-1], "a long reason is cut where there are people"
    assert A in shown(containment.members_table([member(A)]), width=width)


def test_into_a_pipe_every_kill_is_one_whole_line() -> None:
    one = kill(id="i" * 128, reason="a long reason " * 30)
    said = shown(containment.kills_table([one, kill()], NOW), width=1_000).splitlines()
    assert len(said) == 3
    assert one["reason"].strip() in said[1]


@pytest.mark.parametrize("width", [60, 80, 200])
def test_in_the_live_view_every_kill_and_every_call_is_one_line(width: int) -> None:
    one = kill(reason="a long reason " * 30, target="s" * 200)
    said = shown(containment.kills_in_brief([one], NOW), width=width).splitlines()
    calls = shown(containment.calls_table([a_call(session="s" * 200, agent="a" * 200)], NOW), width=width).splitlines()
    assert (len(said), len(calls)) == (2, 2)
    assert max(len(line) for line in said + calls) <= width
    assert "drained" in said[1]
    assert "12 s" in calls[1]


def test_a_kill_that_expires_says_when() -> None:
    soon = kill(expires_at=(NOW + timedelta(minutes=12)).isoformat())
    over = kill(expires_at=(NOW - timedelta(seconds=1)).isoformat())
    assert "in 12 min" in shown(containment.kills_table([soon], NOW))
    assert "when drained" in shown(containment.kills_table([over], NOW))


# --- the board ------------------------------------------------------------------------------------------------


class World:
    """A gateway behind a board: what it says next, and the time that passes."""

    def __init__(self) -> None:
        self.at = NOW
        self.says: dict[str, httpx.Response | Exception] = {}
        self.well([], [], [])
        remote = Remote("http://127.0.0.1:8000", "key", transport=httpx.MockTransport(self._answer))
        self.board = watching.Board(remote, wall=lambda: self.at, ticks_s=lambda: self.at.timestamp())  # noqa: PLW0108 - `at` changes

    def well(self, calls: list[Any], kills: list[Any], members: list[Any], total: int | None = None) -> None:
        headers = {"X-Total-Count": str(len(kills) if total is None else total)}
        self.says = {
            "/calls": httpx.Response(200, json={"calls": calls}),
            "/kills": httpx.Response(200, json={"kills": kills}, headers=headers),
            "/members": httpx.Response(200, json={"members": members}),
        }

    def _answer(self, request: httpx.Request) -> httpx.Response:
        said = self.says[request.url.path]
        if isinstance(said, Exception):
            raise said
        return said

    def picture(self, height: int = 1_000) -> str:
        return shown(self.board.picture(height))


@pytest.fixture
def world() -> World:
    return World()


def test_the_board_shows_calls_kills_and_members(world: World) -> None:
    world.well([a_call()], [draining([ack(A), silent(B)])], [member(A, is_me=True), member(B, presence="gone")])
    world.board.look()
    picture = world.picture()
    for words in ("CALLS IN FLIGHT 1", "12 s", "s-1", "KILLS IN FORCE 1", "3 min ago", "1 of 2 replicas", "MEMBERS 2"):
        assert words in picture
    assert "gone" in picture


def test_a_silent_gateway_is_shown_as_such_with_what_it_said_last_and_comes_back(world: World) -> None:
    world.well([a_call()], [kill()], [member(A)])
    world.board.look()
    said = dict(world.says)
    world.says["/calls"] = httpx.ConnectError("connection refused")
    world.board.look()
    world.at += timedelta(seconds=4)
    world.board.look()
    assert "DOES NOT ANSWER for 4.0 s: connection refused; trying again" in world.picture()
    assert "s-1" in world.picture()
    assert not world.board.is_answered
    world.says = said
    world.board.look()
    assert "DOES NOT ANSWER" not in world.picture()
    assert world.board.is_answered


def test_something_else_in_the_gateways_place_is_shown_as_no_answer(world: World) -> None:
    world.says["/calls"] = httpx.Response(502, text="Bad Gateway")
    world.board.look()
    assert "DOES NOT ANSWER for 0.0 s: HTTP 502" in world.picture()
    assert "CALLS IN FLIGHT ?" in world.picture()


def test_a_part_that_cannot_be_had_leaves_the_others(world: World) -> None:
    world.well([], [kill()], [member(A)])
    world.says["/calls"] = httpx.Response(503, json=problem(503, "kill_state_unknown", "it is silent")[1])
    world.board.look()
    assert "503 kill_state_unknown: it is silent" in world.picture()
    assert "KILLS IN FORCE 1" in world.picture()
    snapshot = world.board.as_json()
    assert (snapshot["calls"], len(snapshot["kills"]), list(snapshot["missing"])) == (None, 1, ["calls"])


def test_a_key_without_the_role_ends_it(world: World) -> None:
    world.says["/calls"] = httpx.Response(403, json=problem(403, "forbidden", "Insufficient role")[1])
    with pytest.raises(Refusal):
        world.board.look()


@pytest.mark.parametrize(
    ("calls", "kills", "members"), [(100, 100, 20), (0, 100, 2), (100, 0, 2), (3, 3, 20), (9, 9, 9)]
)
@pytest.mark.parametrize("height", [24, 40])
def test_everything_fits_the_screen_and_what_does_not_is_counted(
    world: World, calls: int, kills: int, members: int, height: int
) -> None:
    world.well(
        [a_call(n) for n in range(calls)],
        [kill(id=f"kill-{n}") for n in range(kills)],
        [member(f"{n:016}") for n in range(members)],
        total=kills,
    )
    world.board.look()
    picture = world.picture(height)
    assert len(picture.splitlines()) <= height
    for title, number in (("CALLS IN FLIGHT", calls), ("KILLS IN FORCE", kills), ("MEMBERS", members)):
        assert f"{title} {number}" in picture
    if kills:
        assert f"kill-{kills - 1}" in picture, "the newest kill is what one looks for"
