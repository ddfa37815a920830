"""Commands about what is kept: what they ask of a gateway, what they say, and how they end."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import pytest
from rich.console import Console

from agentgate.commands.retaining import holds_table
from tests.commands.test_stopping import run
from tests.scripted_gateway import HANG_UP, ScriptedGateway, problem

STATUS = {
    "days": 365, "floor_days": 183, "below_floor": False, "automatic": True, "compress_after_days": 30,
    "before": "2025-11-21T00:00:00.000000Z", "due": 3, "held": 1, "open": 0, "counted_all": True,
    "oldest": "2025-01-02T00:00:00.000000Z", "cannot_delete": None, "clock": None, "trouble": None, "last_run": None,
    "bodies": {"single": 10, "compressed": 512, "segments": 2},
}  # fmt: skip
HOLD = {
    "id": "h-1", "status": "held", "tenant": "default", "session_id": "s-1", "reason": "case 4711",
    "actor": "person:ann", "at": "2026-11-21T00:00:00.000000Z",
}  # fmt: skip


def part(sessions: int, following: str | None = None, **more: Any) -> tuple[int, dict[str, Any]]:
    counts = {"sessions": sessions, "bodies": sessions * 2, "held": 0, "open": 0}
    return 200, {"status": "", "before": "2025-11-21T00:00:00Z", "next": following, **counts, **more}


def one(request: str, *answers: Any) -> ScriptedGateway:
    return ScriptedGateway({"GET /retention": [(200, STATUS)], request: list(answers)})


def test_status_says_what_is_due_and_what_is_held() -> None:
    with one("GET /retention", (200, STATUS)) as gateway:
        result = run(gateway, "retention", "status")
    assert result.exit_code == 0, result.output
    assert "365 days" in result.stdout
    assert "3 sessions due, 1 session held, 0 sessions open" in result.stdout
    assert "512 compressed in 2 segments" in result.stdout


@pytest.mark.parametrize("name", ["cannot_delete", "clock"])
def test_status_that_something_due_cannot_go_is_4(name: str) -> None:
    with one("GET /retention", (200, STATUS | {name: "set log.retention_url"})) as gateway:
        result = run(gateway, "retention", "status")
    assert (result.exit_code, "set log.retention_url" in result.stdout) == (4, True)


def test_status_as_json_is_what_the_gateway_said() -> None:
    with one("GET /retention", (200, STATUS)) as gateway:
        assert json.loads(run(gateway, "retention", "status", "--json").stdout) == STATUS


def test_prune_goes_on_until_all_is_done() -> None:
    with one("POST /retention/prune", part(256, "0/default/s-9"), part(3, held=1)) as gateway:
        result = run(gateway, "retention", "prune")
    assert result.exit_code == 0, result.output
    assert "pruned 518 bodies of 259 sessions" in result.stdout
    assert "1 session on legal hold stays" in result.stdout
    bodies = [body for method, _, body in gateway.asked if method == "POST"]
    assert bodies == [{"force": False, "dry_run": False}, {"force": False, "dry_run": False, "after": "0/default/s-9"}]


def test_prune_says_what_it_was_told() -> None:
    with one("POST /retention/prune", part(1)) as gateway:
        result = run(gateway, "retention", "prune", "--days", "0", "--force", "--yes", "--dry-run")
    assert "would prune 2 bodies of 1 session" in result.stdout
    assert gateway.asked[-1][2] == {"force": True, "dry_run": True, "days": 0}


def test_force_wants_somebody_to_be_asked() -> None:
    with one("POST /retention/prune", part(1)) as gateway:
        result = run(gateway, "retention", "prune", "--force")
    assert (result.exit_code, gateway.asked) == (2, [])
    assert "--yes" in result.stderr


def test_prune_below_the_floor_is_refused_in_the_gateways_words() -> None:
    no = problem(409, "retention_floor", "10 days is below the floor of 183")
    with one("POST /retention/prune", no) as gateway:
        result = run(gateway, "retention", "prune", "--days", "10")
    assert (result.exit_code, "below the floor of 183" in result.stderr) == (1, True)


def test_prune_that_is_not_answered_any_more_says_how_far_it_came() -> None:
    with one("POST /retention/prune", part(256, "0/default/s-9"), HANG_UP) as gateway:
        result = run(gateway, "retention", "prune")
    assert result.exit_code == 1
    assert "256 sessions pruned, and perhaps more. Saying it again goes on" in result.stderr


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["s-1"], {"session": "s-1"}),
        (["s-1", "--tenant", "b"], {"session": "s-1", "tenant": "b"}),
        (["--tenant", "b"], {"tenant": "b"}),
        (["--all"], {"all_tenants": True}),
        ([], {}),
    ],
)
def test_words_become_a_hold_with_an_id(words: list[str], order: dict[str, Any]) -> None:
    with one("POST /holds", (201, HOLD)) as gateway:
        assert run(gateway, "hold", "add", *words, "--reason", "case 4711").exit_code == 0
    body = gateway.asked[0][2]
    assert re.fullmatch(r"hold-[0-9a-f]{10}", body.pop("id"))
    assert body == {"reason": "case 4711", **order}


@pytest.mark.parametrize(
    "words", [["s-1"], ["s-1", "--all", "--reason", "x"], ["s 1", "--reason", "x"], ["--reason", "x" * 501]]
)
def test_what_is_no_hold_asks_nobody(words: list[str]) -> None:
    with one("POST /holds", (201, HOLD)) as gateway:
        assert run(gateway, "hold", "add", *words).exit_code == 2
    assert gateway.asked == []


def test_a_hold_whose_answer_is_lost_is_said_again_with_its_id() -> None:
    with one("POST /holds", HANG_UP, (201, HOLD)) as gateway:
        assert run(gateway, "hold", "add", "s-1", "--reason", "x").exit_code == 0
    assert gateway.asked[0] == gateway.asked[1]
    with one("POST /holds", HANG_UP) as gateway:
        result = run(gateway, "hold", "add", "s-1", "--reason", "x", "--id", "h-9")
    assert (result.exit_code, "--id h-9" in result.stderr) == (1, True)


def test_holds_are_listed() -> None:
    everything = HOLD | {"id": "h-2", "tenant": None, "session_id": None, "reason": "\x1b[2Jx"}
    with one("GET /holds", (200, {"holds": [HOLD, everything]})) as gateway:
        text = run(gateway, "hold", "list").stdout
    assert "h-1" in text
    assert "session s-1" in text
    assert "everything" in text
    assert "\x1b" not in text


def test_an_id_is_whole_in_a_narrow_terminal() -> None:
    made = HOLD | {
        "id": "hold-3f9c51d07ab24e88c6d1",
        "actor": "person:ann.of.the.legal.department",
        "reason": "r " * 60,
    }
    narrow = Console(file=io.StringIO(), width=80)
    narrow.print(holds_table([made]))
    assert isinstance(narrow.file, io.StringIO)
    assert made["id"] in narrow.file.getvalue()


def test_a_hold_is_released_with_its_reason() -> None:
    with one("POST /holds/h-1/release", (200, HOLD | {"status": "released"})) as gateway:
        result = run(gateway, "hold", "release", "h-1", "--reason", "closed")
    assert "released h-1, which kept session s-1" in result.stdout
    assert gateway.asked[0][2] == {"reason": "closed"}
