"""`agentgate evidence`: what is written when a pack comes, and that nothing is when it does not come whole."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import Result

from tests.commands.test_stopping import run
from tests.gateway import run_cli
from tests.scripted_gateway import ScriptedGateway, problem
from tests.web import Handler, serving

PACK = b"PK" + bytes(100_000)
KNOWN = (200, {"events": [{}], "next": None, "size": 1})
HEADERS = {"X-AgentGate-Events": "7", "X-AgentGate-Pack-Id": "0badcafe", "Content-Type": "application/zip"}


@contextmanager
def giving(body: bytes = PACK, *, claims: int | None = None, **more: str) -> Iterator[tuple[str, list[str]]]:
    """A gateway that gives one pack, of which it `claims` a length, and the questions that it was asked."""
    asked: list[str] = []

    class Giver(Handler):
        def do_GET(self) -> None:
            if self.path.startswith("/audit?"):  # whether anything is on record
                self.say(200, json.dumps(KNOWN[1]).encode())
                return
            asked.append(self.path)
            self.send_response(200)
            headers = HEADERS | {name.replace("_", "-"): value for name, value in more.items()}
            for name, value in (headers | {"Content-Length": str(claims or len(body))}).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    with serving(Giver) as url:
        yield url, asked


def pull(url: str, *words: str) -> Result:
    return run(url, "evidence", "pull", *words)


def test_a_pack_is_written_whole_and_says_how_to_check_it(tmp_path: Path) -> None:
    path = tmp_path / "pack.zip"
    with giving() as (url, asked):
        done = pull(url, "s-1", "-o", str(path))
    assert done.exit_code == 0, done.output
    assert path.read_bytes() == PACK
    assert [entry.name for entry in tmp_path.iterdir()] == ["pack.zip"]
    assert parse_qs(urlsplit(asked[0]).query) == {"session": ["s-1"], "format": ["zip"]}
    for said in ("7 events", "0badcafe", "agentgate verify", "--trust"):
        assert said in done.output


@pytest.mark.parametrize(
    ("words", "query"),
    [
        (["--agent", "bot"], {"agent": ["bot"], "format": ["zip"]}),
        (["--tenant", "acme", "--format", "pdf"], {"tenant": ["acme"], "format": ["pdf"]}),
        (
            ["--since", "2026-11-01", "--until", "2026-12-01T00:00:00+02:00"],
            {"since": ["2026-11-01T00:00:00.000000Z"], "until": ["2026-11-30T22:00:00.000000Z"], "format": ["zip"]},
        ),
    ],
)
def test_words_become_the_question(tmp_path: Path, words: list[str], query: dict[str, list[str]]) -> None:
    with giving() as (url, asked):
        assert pull(url, *words, "-o", str(tmp_path / "pack")).exit_code == 0
    assert parse_qs(urlsplit(asked[0]).query) == query


@pytest.mark.parametrize(
    ("file", "words", "form"),
    [("y.pdf", [], "pdf"), ("y.JSON", [], "json"), ("y.html", ["--format", "zip"], "zip"), ("y.of-june", [], "zip")],
)
def test_a_file_is_what_its_name_says(tmp_path: Path, file: str, words: list[str], form: str) -> None:
    with giving() as (url, asked):
        done = pull(url, "s", "-o", str(tmp_path / file), *words)
    assert done.exit_code == 0, done.output
    assert parse_qs(urlsplit(asked[0]).query)["format"] == [form]


def test_a_kept_checkpoint_is_asked_about_by_its_size(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"log.example/1\n42\n" + b"A" * 43 + b"=\n\n\xe2\x80\x94 log.example/1 AAAAAAA=\n")
    with giving() as (url, asked):
        done = pull(url, "s", "-o", str(tmp_path / "pack"), "--checkpoint", str(kept))
    assert done.exit_code == 0, done.output
    assert parse_qs(urlsplit(asked[0]).query)["checkpoint_size"] == ["42"]


def test_a_pack_of_somebody_unknown_is_not_taken_unless_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pack.zip"
    nothing = (200, {"events": [], "next": None, "size": 9})
    with ScriptedGateway({"GET /audit": [nothing]}) as gateway:
        done = pull(gateway.url, "s-1", "-o", str(path))
        assert (done.exit_code, path.exists()) == (1, False)
        assert "nothing is on record of s-1" in done.output
        assert all(where.startswith("/audit?") for _, where, _ in gateway.asked)
    with giving() as (url, _):
        assert pull(url, "s-1", "-o", str(path), "--allow-empty").exit_code == 0


@pytest.mark.parametrize(
    ("pack", "says"),
    [
        (b'{"integrity":{"signature_algorithm":"hmac-sha256"}}', "AGENTGATE_SIGNING_KEY for KEY"),
        (b'{"text":"\\"signature_algorithm\\":\\"hmac-sha256\\""}', "nothing vouches for it"),
    ],
)
def test_what_a_json_pack_is_checked_with_is_what_it_has(tmp_path: Path, pack: bytes, says: str) -> None:
    with giving(pack) as (url, _):
        assert says in pull(url, "s-1", "--format", "json", "-o", str(tmp_path / "pack.json")).output


def test_a_page_has_its_hmac_beside_it(tmp_path: Path) -> None:
    with giving(b"<p>", X_Evidence_HMAC=f"sha256={'ab' * 32}") as (url, _):
        assert pull(url, "s", "--format", "html", "-o", str(tmp_path / "page.html")).exit_code == 0
    assert (tmp_path / "page.html.hmac").read_text() == "ab" * 32 + "\n"


def test_what_somebody_has_put_in_a_packs_way_gets_nothing_of_it(tmp_path: Path) -> None:
    """In a folder that others write to: a file of theirs, which they would read."""
    path, theirs = tmp_path / "pack.zip", tmp_path / "theirs"
    theirs.write_bytes(b"nothing")
    (tmp_path / "pack.zip.part").symlink_to(theirs)
    with giving() as (url, _):
        assert pull(url, "s", "-o", str(path)).exit_code == 0
    assert (theirs.read_bytes(), path.read_bytes()) == (b"nothing", PACK)
    assert (path.is_symlink(), path.stat().st_mode & 0o777) == (False, 0o600)


def test_a_pack_that_breaks_off_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "pack.zip"
    path.write_bytes(b"the old one")
    with giving(claims=len(PACK) + 1) as (url, _):
        done = pull(url, "s", "-o", str(path), "--force")
    assert done.exit_code == 1
    assert path.read_bytes() == b"the old one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["pack.zip"]


def test_what_is_no_file_is_not_replaced_by_one_even_when_one_says_so(tmp_path: Path) -> None:
    pipe, folder, link, nowhere = (tmp_path / name for name in ("pipe", "folder", "link", "nowhere"))
    os.mkfifo(pipe)
    folder.mkdir()
    (folder / "pack.zip").write_bytes(b"the old one")
    link.symlink_to(folder / "pack.zip")
    nowhere.symlink_to(folder / "not-there")
    with giving() as (url, asked):
        for path in (pipe, folder, link, nowhere):
            refused = pull(url, "s", "-o", str(path), "--force")
            assert (refused.exit_code, asked) == (2, [])
            assert "is not a plain file" in refused.output
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert nowhere.is_symlink()
    assert [(file.name, file.read_bytes()) for file in folder.iterdir()] == [("pack.zip", b"the old one")]


def test_a_file_that_is_there_is_not_overwritten_unless_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "pack.zip"
    path.write_bytes(b"the old one")
    with giving() as (url, asked):
        refused = pull(url, "s", "-o", str(path))
        assert (refused.exit_code, path.read_bytes(), asked) == (2, b"the old one", [])
        assert pull(url, "s", "-o", str(path), "--force").exit_code == 0
    assert path.read_bytes() == PACK


@pytest.mark.parametrize(
    "words",
    [
        ["s", "--agent", "a"],
        ["../x"],
        ["--agent", "a b"],
        ["--tenant", ""],
        ["s", "--format", "docx"],
        ["s", "--checkpoint", "/not/there"],
        ["s", "--checkpoint", "/etc/hostname"],
    ],
)
def test_a_question_that_is_none_is_not_asked(tmp_path: Path, words: list[str]) -> None:
    with giving() as (url, asked):
        done = pull(url, *words, "-o", str(tmp_path / "pack"))
    assert (done.exit_code, asked) == (2, [])
    assert list(tmp_path.iterdir()) == []


def test_a_refusal_is_said_and_nothing_is_written(tmp_path: Path) -> None:
    for said in (problem(503, "log_unavailable", "The log does not answer"), problem(413, "pack_too_large", "narrow")):
        with ScriptedGateway({"GET /audit": [KNOWN], "GET /evidence": [said]}) as gateway:
            done = pull(gateway.url, "s", "-o", str(tmp_path / "pack"))
        assert done.exit_code == 1
        assert said[1]["reason_code"] in done.output
    assert list(tmp_path.iterdir()) == []


def test_who_is_no_gateway_is_told_apart(tmp_path: Path) -> None:
    with giving(X_AgentGate_Events="") as (url, _):
        done = pull(url, "s", "-o", str(tmp_path / "pack"))
    assert done.exit_code == 1
    assert "no evidence pack" in done.output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with giving() as (url, _):
        done = pull(url, "s", "-o", str(tmp_path / "file" / "pack"))
    assert done.exit_code in (1, 2)
    assert "Traceback" not in done.output


def test_there_are_no_keys_to_hand_out_before_the_first_start(tmp_path: Path) -> None:
    done = run_cli("evidence", "keys", "--data-dir", str(tmp_path))
    assert (done.returncode, "first start" in done.stderr) == (3, True)
    assert list(tmp_path.iterdir()) == [], "and none is made"
