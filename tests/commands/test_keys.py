"""`agentgate keys`: what is shown, what is kept, and what is never either."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from agentgate.cli import cli
from agentgate.core.call import key_sha256
from agentgate.keyfile import add_key, key_file, read_keys
from agentgate.settings import Key


class Said(NamedTuple):
    status: int
    out: str
    err: str


class House:
    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def keys(self, *arguments: str) -> Said:
        done = CliRunner().invoke(cli, ["keys", *arguments, "--data-dir", str(self.data_dir)])
        return Said(done.exit_code, done.stdout.strip(), done.stderr.strip())

    def created(self, *flags: str) -> tuple[str, str]:
        """Id and key."""
        said = self.keys("create", *flags)
        assert said.status == 0, said.err
        return self.stored()[-1].id, said.out

    def stored(self) -> tuple[Key, ...]:
        return read_keys(key_file(self.data_dir))

    def of(self, key_id: str) -> Key:
        return next(key for key in self.stored() if key.id == key_id)

    def listed(self) -> list[dict[str, Any]]:
        said = self.keys("list", "--json")
        assert said.status == 0
        rows: list[dict[str, Any]] = json.loads(said.out)["keys"]
        return rows


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path / "data")


def test_a_key_has_the_least_that_was_asked_for(house: House) -> None:
    house.created("--agent", "deploy-bot")
    key = house.stored()[0]
    assert (key.agent, key.roles, key.tenant, key.all_tenants, key.tier) == (
        "deploy-bot", ("agent",), "default", False, None
    )  # fmt: skip
    assert key.created is not None


def test_a_key_has_the_tier_that_was_asked_for_and_its_principal_too(house: House) -> None:
    house.created("--agent", "deploy-bot", "--role", "agent", "--tier", "standard", "--tenant", "acme")
    known = house.stored()[0].known()
    assert (known.principal.tier, known.principal.tenant) == ("standard", "acme")
    assert house.keys("create", "--agent", "x", "--tier", "a b").status == 2


def test_a_tier_that_the_policy_does_not_have_is_said(house: House) -> None:
    said = house.keys("create", "--agent", "x", "--tier", "nosuch")
    assert said.status == 0
    assert "no tier nosuch (default, premium, standard, unlimited)" in said.err
    assert "no tier" not in house.keys("create", "--agent", "x", "--tier", "standard").err


def test_a_key_that_is_over_at_once_is_not_made(house: House) -> None:
    said = house.keys("create", "--agent", "x", "--expires-in-days", "0")
    assert (said.status, said.out) == (2, "")
    assert "over at once" in said.err


def test_a_list_shows_whose_keys_they_are_and_no_key_and_no_digest(house: House) -> None:
    _, one = house.created("--agent", "deploy-bot", "--tier", "gold", "--expires-in-days", "7")
    other_id, other = house.created("--person", "ann", "--role", "operator", "--role", "approver", "--all-tenants")
    house.keys("disable", other_id)
    rows = house.listed()
    assert [(row["whom"], row["roles"], row["tier"], row["state"], row["all_tenants"]) for row in rows] == [
        ("agent:deploy-bot", ["agent"], "gold", "active", False),
        ("person:ann", ["operator", "approver"], None, "disabled", True),
    ]
    assert datetime.fromisoformat(rows[0]["expires"]) - datetime.fromisoformat(rows[0]["created"]) == timedelta(days=7)
    table = house.keys("list").out
    assert len(table.splitlines()) == 3
    for secret in (one, other, key_sha256(one), key_sha256(other)):
        assert secret not in table
        assert secret not in json.dumps(rows)
        assert secret[:20] not in table


def test_a_list_shows_configured_keys_and_they_are_changed_where_they_are(house: House, tmp_path: Path) -> None:
    config = tmp_path / "agentgate.yaml"
    config.write_text(json.dumps({"auth": {"keys": [{"id": "fixed", "sha256": "a" * 64, "agent": "bot"}]}}))
    said = house.keys("list", "--json", "--config", str(config))
    assert [(row["id"], row["source"]) for row in json.loads(said.out)["keys"]] == [("fixed", "configuration")]
    for command in ("disable", "enable", "delete", "rotate"):
        said = house.keys(command, "fixed", "--config", str(config))
        assert said.status == 1
        assert "configuration" in said.err


@pytest.mark.parametrize(
    ("auth", "says"),
    [
        ({}, "every caller on this machine is the agent `local`"),
        (
            {"oauth": {"issuer": "https://id.example", "audience": ["https://g.example"]}},
            "tokens of https://id.example",
        ),
        (
            {"mtls": {"proxies": ["127.0.0.1/32"], "header": "Client-Cert", "map": [{"cn": "bot", "agent": "bot"}]}},
            "agents come with certificates",
        ),
    ],
)
def test_without_keys_it_is_said_who_comes_all_the_same(
    house: House, tmp_path: Path, auth: dict[str, Any], says: str
) -> None:
    config = tmp_path / "agentgate.yaml"
    config.write_text(json.dumps({"auth": auth}))
    said = house.keys("list", "--config", str(config))
    assert said.status == 0, said.err
    assert says in " ".join(said.err.split())
    assert ("`local`" in said.err) is (not auth)


@pytest.mark.parametrize("command", ["disable", "enable", "delete", "rotate"])
def test_a_key_that_is_not_there_cannot_be_changed(house: House, command: str) -> None:
    house.created("--agent", "bot")
    before = house.stored()
    said = house.keys(command, "k-none")
    assert (said.status, said.out) == (1, "")
    assert "not known" in said.err
    assert house.stored() == before


def test_disable_enable_and_delete_are_about_one_key(house: House) -> None:
    (one, _), (other, _) = house.created("--agent", "a"), house.created("--agent", "b")
    assert house.keys("disable", one).status == 0
    assert [key.disabled for key in house.stored()] == [True, False]
    assert house.keys("disable", one).status == 0, "twice is once"
    assert house.keys("enable", one).status == 0
    assert [key.disabled for key in house.stored()] == [False, False]
    assert house.keys("delete", one).status == 0
    assert [key.id for key in house.stored()] == [other]


def test_a_rotated_key_is_another_secret_of_the_same_principal(house: House) -> None:
    old_id, old = house.created("--agent", "bot", "--tier", "gold", "--tenant", "acme")
    before = datetime.now(UTC).replace(microsecond=0)
    said = house.keys("rotate", old_id, "--overlap", "24h")
    assert said.status == 0
    former, fresh = house.stored()
    assert said.out.startswith("agk_")
    assert said.out != old
    assert fresh.sha256 == key_sha256(said.out)
    assert fresh.known().principal.for_policy == former.known().principal.for_policy
    assert (fresh.expires, former.replaced_by) == (None, fresh.id)
    assert former.expires is not None
    assert before + timedelta(hours=24) <= former.expires <= before + timedelta(hours=24, seconds=60)
    assert [row["state"] for row in house.listed()] == ["replaced", "active"]


def test_without_overlap_the_old_one_is_over_at_once(house: House) -> None:
    old_id, _ = house.created("--agent", "bot")
    assert house.keys("rotate", old_id, "--overlap", "0").status == 0
    assert [row["state"] for row in house.listed()] == ["expired", "active"]


def test_a_rotated_key_lives_as_long_as_the_old_one_was_made_for_and_no_overlap_makes_that_longer(house: House) -> None:
    old_id, _ = house.created("--agent", "bot", "--expires-in-days", "0.5")
    ends = house.of(old_id).expires
    assert ends is not None
    said = house.keys("rotate", old_id, "--overlap", "7d")
    assert (said.status, f"ends at {ends:%Y-%m-%d %H:%M:%SZ}" in said.err) == (0, True)
    former, fresh = house.stored()
    assert former.expires == ends
    assert fresh.expires is not None
    assert fresh.created is not None
    assert fresh.expires - fresh.created == timedelta(days=0.5)


def test_a_key_of_which_nobody_knows_for_how_long_it_was_made_is_rotated_when_one_says_so(house: House) -> None:
    expires = datetime.now(UTC) + timedelta(days=1)
    add_key(key_file(house.data_dir), Key(id="k-old", sha256="a" * 64, agent="bot", expires=expires))
    assert house.keys("rotate", "k-old").status == 1
    assert house.keys("rotate", "k-old", "--expires-in-days", "30").status == 0


def test_only_an_active_key_is_rotated(house: House) -> None:
    for why in ("disabled", "replaced", "expired"):
        if why == "expired":
            key_id = "k-over"
            long_ago = datetime(2026, 1, 1, tzinfo=UTC)
            add_key(key_file(house.data_dir), Key(id=key_id, sha256="a" * 64, agent="bot", expires=long_ago))
        else:
            key_id, _ = house.created("--agent", why)
            assert house.keys("disable" if why == "disabled" else "rotate", key_id).status == 0
        before = house.stored()
        said = house.keys("rotate", key_id)
        assert said.status == 1
        assert why in said.err
        assert house.stored() == before


@pytest.mark.parametrize("overlap", ["", "1", "-1h", "24 h", "1w", "31d", "1.5h", "h", "999999d"])
def test_an_overlap_is_a_time_of_at_most_thirty_days(house: House, overlap: str) -> None:
    old_id, _ = house.created("--agent", "bot")
    said = house.keys("rotate", old_id, "--overlap", overlap)
    assert (said.status == 0) is (overlap == "1")
    assert len(house.stored()) == (2 if overlap == "1" else 1)


def test_a_damaged_key_file_is_a_sentence_and_stays_as_it_is(house: House) -> None:
    house.created("--agent", "bot")
    path = key_file(house.data_dir)
    path.write_bytes(b"{")
    for command in (("list",), ("disable", "k-1"), ("create", "--agent", "x")):
        said = house.keys(*command)
        assert (said.status, said.out) == (3, "")
        assert "key file" in said.err
    assert path.read_bytes() == b"{"
