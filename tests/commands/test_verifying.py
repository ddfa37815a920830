"""`agentgate verify` at a terminal: files in, findings and an exit status out, offline and without a configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from agentgate.cli import cli
from agentgate.commands.terminal import Status, die
from agentgate.core.audit.report import Finding, Report
from tests.packs import ENVELOPE_SECRET, HMAC_KEY, THIEF, Maker, hmac_line, log_key, pem_of

MAKER = Maker(earlier_size=17)
VERIFIED, BROKEN, UNCHECKED, USAGE = 0, 1, 2, 2
PAGE = b"<!DOCTYPE html><title>Evidence</title>"


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AGENTGATE_SIGNING_KEY", raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "pack.zip": MAKER.make().zip(),
        "pack.json": MAKER.json(),
        "report.html": PAGE,
        "log.vkey": log_key().text.encode() + b"\n",
        "envelope.pem": pem_of(ENVELOPE_SECRET),
        "thief.pem": pem_of(THIEF),
        "earlier": MAKER.checkpoint(17),
        "newer": Maker(size=50).checkpoint(),
    }.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


def verify(folder: Path, *arguments: str) -> Result:
    """Arguments that are names of files are given with their path."""
    return CliRunner().invoke(cli, ["verify", *(str(folder / a) if (folder / a).exists() else a for a in arguments)])


KEY = ("--key", HMAC_KEY.decode())
OLD = ("--key", "a-key-of-last-year-of-32-bytes!!")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["pack.zip"], UNCHECKED),
        (["pack.zip", *KEY], VERIFIED),
        (["pack.zip", *OLD, *KEY], VERIFIED),
        (["pack.zip", *OLD], BROKEN),
        (["pack.zip", "--trust", "envelope.pem"], VERIFIED),
        (["pack.zip", "--trust", "envelope.pem", "--trust", "log.vkey", "--checkpoint", "earlier"], VERIFIED),
        (["pack.zip", "--trust", "thief.pem", "--trust", "envelope.pem"], VERIFIED),
        (["pack.zip", "--trust", "thief.pem"], BROKEN),
        (["pack.zip", "--trust", "log.vkey"], UNCHECKED),
        (["pack.zip", "--trust", "pack.zip"], BROKEN),
        (["pack.zip", "--trust", "not-there"], BROKEN),
        (["pack.zip", *KEY, "--checkpoint", "newer"], BROKEN),
        (["pack.json"], UNCHECKED),
        (["pack.json", *KEY], VERIFIED),
        (["pack.json", *OLD], BROKEN),
        (["report.html"], UNCHECKED),
        (["report.html", *KEY], BROKEN),
        (["not-there.zip", *KEY], BROKEN),
        (["log.vkey", *KEY], BROKEN),
        ([".", *KEY], BROKEN),
        ([], USAGE),
    ],
)
def test_the_exit_status_follows_from_the_findings(folder: Path, arguments: list[str], status: int) -> None:
    done = verify(folder, *arguments)
    assert done.exit_code == status, done.output


def test_a_page_is_checked_by_the_hmac_beside_it_or_by_the_one_that_is_named(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(hmac_line(PAGE))
    assert verify(folder, "report.html", *KEY, "--hmac", "elsewhere").exit_code == VERIFIED
    (folder / "report.html.hmac").write_bytes(hmac_line(PAGE))
    assert verify(folder, "report.html", *KEY).exit_code == VERIFIED
    (folder / "report.html").write_bytes(PAGE + b" ")
    assert verify(folder, "report.html", *KEY).exit_code == BROKEN


def test_the_key_may_come_from_the_environment(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTGATE_SIGNING_KEY", HMAC_KEY.decode())
    assert verify(folder, "pack.json").exit_code == VERIFIED


def test_findings_are_named_for_people_and_for_machines(folder: Path) -> None:
    broken = MAKER.make()
    broken.files["pack.html"] = b"<!doctype html>All was well."
    (folder / "pack.zip").write_bytes(broken.zip())
    said = verify(folder, "pack.zip", *KEY)
    assert "✗ files      changed view: pack.html is not the file that was signed" in said.output
    assert said.output.splitlines()[-1].endswith("pack.zip: BROKEN")
    told = json.loads(verify(folder, "pack.zip", *KEY, "--json").output)
    assert told["exit_status"] == BROKEN
    assert {row["fault"] for row in told["findings"]} == {None, "changed view"}


def test_a_pack_cannot_speak_to_the_terminal(folder: Path) -> None:
    """Names in a pack are whoever's made it: none of them moves the cursor or draws a green mark."""
    hostile = "\x1b[2J\x1b[32m[green]verified[/]\r\n✓"
    pack = MAKER.make()
    pack.edit(lambda body: body["integrity"]["events"][0].update(event_id=hostile, leaf="{}"))
    (folder / "pack.zip").write_bytes(pack.zip())
    said = verify(folder, "pack.zip", *KEY)
    assert said.exit_code == BROKEN
    assert "\x1b" not in said.output
    assert "\r" not in said.output
    assert "[green]verified[/]" in said.output, "as text"


def test_what_a_forger_wrote_into_a_log_is_not_obeyed_by_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def found(*_: object) -> Report:
        finding = Finding(1, "is a decision of \x1b[2J\x1b[Hthe log holds\n[green]ok")
        return Report(2, bytes(32), 0, [finding], ["member \u202e\x07"], 0, 0, 0, 0)

    monkeypatch.setattr("agentgate.offline.audit_log", found)
    done = CliRunner().invoke(cli, ["log", "verify", "--data-dir", str(tmp_path)])
    assert done.exit_code == BROKEN
    assert done.stdout.splitlines()[:2] == [
        "✗ event 1: is a decision of [U+001B][2J[U+001B][Hthe log holds[U+000A][green]ok",
        "– member [U+202E][U+0007]",
    ]


def test_nor_is_what_anybody_else_has_said_when_a_command_ends(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit):
        die("it rejected 1 event: \x1b]0;pwned\x07\n[red]and more", Status.REFUSED)
    assert capsys.readouterr().err == "agentgate: it rejected 1 event: [U+001B]]0;pwned[U+0007]\n[red]and more\n"
