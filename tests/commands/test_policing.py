"""`agentgate policy`: what a policy directory says, as whoever writes one asks it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from agentgate.cli import cli

POLICIES = Path(__file__).parents[2] / "policies"
QUERY = ("--tool", "db_query", "--arguments", '{"query": "SELECT 1"}')
POST = ("--tool", "api_post", "--arguments", '{"endpoint": "/x", "payload": {}}')


class Said(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        return json.loads(self.out)


class House:
    """A policy directory and a data directory."""

    def __init__(self, folder: Path) -> None:
        self.policies, self.data_dir = folder / "policies", folder / "data"
        shutil.copytree(POLICIES, self.policies)

    def has(self, **data: Any) -> None:
        shipped = json.loads((POLICIES / "data.json").read_text(encoding="utf-8"))
        (self.policies / "data.json").write_text(json.dumps(shipped | data), encoding="utf-8")

    def policy(self, *arguments: str) -> Said:
        where = ["--path", str(self.policies), "--data-dir", str(self.data_dir)]
        done = CliRunner().invoke(cli, ["policy", *arguments, *where])
        return Said(done.exit_code, done.stdout.strip(), done.stderr.strip())

    def tried(self, *arguments: str) -> Said:
        return self.policy("try", *arguments, "--json")


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_every_pack_says_what_it_does_and_whether_it_is_on(house: House) -> None:
    house.has(packs={"read_only": {}})
    packs = {pack["name"]: pack for pack in house.policy("packs", "--json").value["packs"]}
    assert set(packs) == {path.stem for path in (POLICIES / "packs").glob("*.rego")}
    assert [name for name, pack in packs.items() if pack["on"]] == ["read_only"]
    assert all(pack["about"].endswith(".") for pack in packs.values())
    table = house.policy("packs").out
    assert "Certain tools in working hours alone." in table


@pytest.mark.parametrize(
    ("arguments", "status", "decision"),
    [
        (QUERY, 0, "ALLOW"),
        (POST, 4, "REQUIRE_APPROVAL"),
        ((*POST, "--approved"), 0, "ALLOW"),
        (("--tool", "db_query", "--arguments", '{"query": 1}'), 1, "DENY"),
    ],
)
def test_the_exit_status_is_the_decision(house: House, arguments: tuple[str, ...], status: int, decision: str) -> None:
    said = house.tried(*arguments)
    assert (said.status, said.value["decision"]) == (status, decision)
    assert said.value["revision"].startswith("sha256:")
    assert not house.data_dir.exists(), "it leaves nothing behind"


def test_it_says_in_words_which_rule_and_why(house: House) -> None:
    house.has(packs={"read_only": {}})
    said = house.policy("try", *POST)
    assert said.status == 1
    assert "matched_rule:  pack:read_only" in said.out
    assert "reason:        Only reads are allowed" in said.out


def test_a_pack_is_tried_on_what_a_session_did(house: House) -> None:
    house.has(
        session_facts=True, labels={"tools": {"api_post": ["outbound"]}}, packs={"lethal_trifecta": {"then": "DENY"}}
    )
    both = house.tried(*POST, "--approved", "--session-facts", '{"labels": ["private", "untrusted"]}')
    one = house.tried(*POST, "--approved", "--session-facts", '{"labels": ["private"]}')
    none = house.tried(*POST, "--approved")
    assert [(said.status, said.value["matched_rule"]) for said in (both, one, none)] == [
        (1, "pack:lethal_trifecta"),
        (0, "write_with_approval"),
        (0, "write_with_approval"),
    ]


def test_the_terms_of_an_approval_are_told(house: House) -> None:
    house.has(packs={"write_with_approval": {"approval": {"quorum": 2, "approvers": ["person:ada", "person:bob"]}}})
    said = house.tried(*POST)
    assert said.value["approval"] == {"quorum": 2, "approvers": ["person:ada", "person:bob"], "expires_in_s": None}


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("--tool", "nope"), 3, "no tool 'nope' is declared"),
        (("--tool", "db_query", "--arguments", "[1]"), 2, "--arguments is not a JSON object"),
        (("--tool", "db_query", "--arguments", '{"a":1,"a":2}'), 2, "--arguments is not JSON"),
        (("--tool", "db_query", "--arguments", '{"a":"half a character: \udcff"}'), 2, "--arguments is not JSON"),
        ((*QUERY, "--session-facts", "{}"), 3, 'data.json has no "session_facts": true'),
        ((*QUERY, "--agent", "no name"), 3, "is no name of an agent"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(house: House, arguments: tuple[str, ...], status: int, says: str) -> None:
    said = house.policy("try", *arguments)
    assert (said.status, said.out) == (status, "")
    assert says in said.err


@pytest.mark.parametrize(
    "facts", ['{"call": 1}', '{"labels": "private"}', '{"calls": -1}', '{"prior": {"db_query": 1}}']
)
def test_session_facts_are_read_strictly(house: House, facts: str) -> None:
    house.has(session_facts=True)
    assert house.policy("try", *QUERY, "--session-facts", facts).status == 3


def test_a_policy_that_would_not_be_enforced_is_not_tried(house: House) -> None:
    house.has(tiers={"default": {"requests_per_minut": 3}})
    said = house.policy("try", *QUERY)
    assert said.status == 3
    assert "data.tiers.default has no 'requests_per_minut'" in said.err
