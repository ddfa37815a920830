"""`agentgate credentials`: what is written, what is said, and that no secret is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from agentgate.cli import cli

SECRET = "s3cret-of-the-crm"


class House:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "agentgate.yaml"
        self.write(
            crm={"kind": "encrypted_file", "path": str(folder / "sealed"), "key": {"file": str(folder / "key")}},
            env={"kind": "env", "name": "AGENTGATE_TEST_TOKEN"},
        )

    def write(self, **credentials: object) -> None:
        self.config.write_text(yaml.safe_dump({"credentials": credentials, "data_dir": str(self.folder)}))

    def run(self, *arguments: str, said: str = "") -> Result:
        command = ["credentials", *arguments, "--config", str(self.config)]
        done = CliRunner().invoke(cli, command, input=said)
        assert SECRET not in done.output
        return done


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("AGENTGATE_TEST_TOKEN", SECRET)
    return House(tmp_path)


def test_a_secret_that_was_set_is_there_and_is_never_shown(house: House) -> None:
    before = house.run("check")
    assert before.exit_code == 1
    assert "crm    encrypted_file  not there: " in before.stdout
    as_json = house.run("check", "--json")
    assert as_json.exit_code == 1
    assert [one["there"] for one in json.loads(as_json.stdout)["credentials"]] == [False, True]
    assert house.run("set", "crm", said=f"{SECRET}\n").exit_code == 0
    after = house.run("check")
    assert after.exit_code == 0, after.output
    assert [line.split() for line in after.stdout.splitlines()[1:]] == [
        ["crm", "encrypted_file", "there"],
        ["env", "env", "there"],
    ]
    assert json.loads(house.run("check", "--json").stdout)["credentials"] == [
        {"alias": "crm", "kind": "encrypted_file", "there": True, "detail": "there"},
        {"alias": "env", "kind": "env", "there": True, "detail": "there"},
    ]
    assert SECRET.encode() not in (house.folder / "sealed").read_bytes()


@pytest.mark.parametrize(
    ("alias", "said", "status", "why"),
    [
        ("crm", "", 2, "no secret on standard input"),
        ("crm", "abc", 3, "shorter than 4 characters"),
        ("env", SECRET, 3, "only what is in an encrypted_file can be set"),
        ("env", "", 3, "only what is in an encrypted_file can be set"),
        ("nobody", SECRET, 3, "there is no credential 'nobody'"),
    ],
)
def test_what_cannot_be_set_is_said(house: House, alias: str, said: str, status: int, why: str) -> None:
    done = house.run("set", alias, said=said)
    assert done.exit_code == status
    assert why in done.stderr


def test_what_takes_a_caller_is_no_failure(house: House) -> None:
    part = {"token_url": "https://i.example.org/t", "client_id": "c", "client_secret": {"env": "X"}}
    house.write(user={"kind": "token_exchange", **part})
    done = house.run("check")
    assert done.exit_code == 0
    assert "got for each caller's token" in done.stdout


def test_a_kind_that_there_is_not_is_named_with_those_that_there_are(house: House) -> None:
    house.write(user={"kind": "keychain"})
    done = house.run("check")
    assert done.exit_code == 3
    assert "there is no kind 'keychain'; there is aws_sts, encrypted_file, env, file" in done.stderr
