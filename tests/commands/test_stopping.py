"""Commands that stop and release: what they ask of a gateway, what they say, and how they end."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from agentgate.cli import cli
from tests.commands.test_watching import A, B, ack, draining, kill, member, silent
from tests.forked import AGENTGATE
from tests.gateway import clean_environment, run_cli, until
from tests.scripted_gateway import HANG_UP, Said, ScriptedGateway, problem

DRAINED = kill(replicas=[ack(A, cancelled=1)], running=[], receipt="e-1", drained_except=[], attested=[])
LEFT_OUT = draining([ack(A), silent(B)], drained_except=[B], receipt="e-2")
NOT_ON_RECORD = problem(503, "log_unavailable", "The log does not answer")


def run(gateway: ScriptedGateway | str, *words: str, key: str = "a-key", env: dict[str, str] | None = None) -> Result:
    """`agentgate …` in this process, with nothing in its environment that it was not given."""
    url = gateway if isinstance(gateway, str) else gateway.url
    given = {"AGENTGATE_URL": url, "AGENTGATE_KEY": key, **(env or {})}
    isolated: dict[str, str | None] = dict.fromkeys(
        ["AGENTGATE_CONFIG", "AGENTGATE_DATA_DIR", "AGENTGATE_ADMIN_API_KEY", "AGENTGATE_BASE_URL"]
    )
    return CliRunner().invoke(cli, list(words), env={**isolated, **given})


def answering(*said: Said, at: str = "POST /kills", **more: list[Said]) -> ScriptedGateway:
    return ScriptedGateway({at: list(said), **more})


# --- orders ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "order"),
    [
        (["session", "s-1"], {"scope": "session", "target": "s-1", "reason": ""}),
        (["agent", "bot", "--tenant", "b"], {"scope": "agent", "target": "bot", "reason": "", "tenant": "b"}),
        (["tool", "db_insert", "--reason", "why"], {"scope": "tool", "target": "db_insert", "reason": "why"}),
        (["server", "demo"], {"scope": "server", "target": "demo", "reason": ""}),
        (["tenant", "b"], {"scope": "tenant", "target": "b", "reason": ""}),
        (["all"], {"scope": "global", "target": "", "reason": ""}),
        (["global"], {"scope": "global", "target": "", "reason": ""}),
        (["session", "s", "--expires", "15m"], {"scope": "session", "target": "s", "reason": "", "expires_in_s": 900}),
        (["all", "--expires", "1h30m"], {"scope": "global", "target": "", "reason": "", "expires_in_s": 5400}),
        (["all", "--expires", "2.5"], {"scope": "global", "target": "", "reason": "", "expires_in_s": 2.5}),
        (["session", "s", "--reason", "x" * 500], {"scope": "session", "target": "s", "reason": "x" * 500}),
    ],
)
def test_words_become_an_order_with_an_id(words: list[str], order: dict[str, Any]) -> None:
    with answering((200, DRAINED)) as gateway:
        assert run(gateway, "kill", *words).exit_code == 0
    [(_, _, body)] = gateway.asked
    assert re.fullmatch(r"kill-[0-9a-f]{10}", body.pop("id"))
    assert body == order
    assert gateway.keys == ["a-key"]


def test_a_reason_from_a_terminal_that_is_not_utf_8_stops_no_kill() -> None:
    with answering((200, DRAINED)) as gateway:
        assert run(gateway, "kill", "session", "s", "--reason", "\udcfcberfl\udcfcssig").exit_code == 0
    assert gateway.asked[0][2]["reason"] == "?berfl?ssig"


def test_half_a_character_in_what_is_to_be_stopped_asks_nothing() -> None:
    with answering((200, DRAINED)) as gateway:
        done = run(gateway, "kill", "session", "caf\udce9")
    assert (done.exit_code, gateway.asked) == (2, [])
    assert "half a character" in done.stderr


def test_an_id_of_ones_own_is_the_kills() -> None:
    with answering((200, DRAINED)) as gateway:
        run(gateway, "kill", "session", "s", "--id", "incident-42")
    assert gateway.asked[0][2]["id"] == "incident-42"


@pytest.mark.parametrize(
    "words",
    [
        *[["session"], ["all", "s"], ["everything"], [], ["session", "s", "--reason", "x" * 501]],
        *[["session", "s", "--expires", text] for text in ("soon", "5x", "-5m", "m", "1m x", "", "9" * 400)],
    ],
)
def test_what_is_no_order_asks_nothing(words: list[str]) -> None:
    with answering((200, DRAINED)) as gateway:
        assert run(gateway, "kill", *words).exit_code == 2
    assert gateway.asked == []


def test_a_drained_kill_says_what_it_did_and_ends_with_0() -> None:
    with answering((200, DRAINED)) as gateway:
        done = run(gateway, "kill", "session", "s-1")
    assert done.exit_code == 0
    assert f"kill {DRAINED['id']} is in force: session s-1 (loops)" in done.stdout
    assert f"{A}  1 cancelled, in 3.2 ms" in done.stdout
    assert "drained on 1 replica" in done.stdout
    assert f"agentgate release {DRAINED['id']}" in done.stdout


def test_what_an_answer_says_of_a_kill_hides_nothing_and_moves_no_terminal() -> None:
    with answering((200, DRAINED | {"id": "k-1\x1b]0;owned\x07\u202e"})) as gateway:
        done = run(gateway, "kill", "session", "s-1")
    assert "kill k-1[U+001B]]0;owned[U+0007][U+202E] is in force" in done.stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(done.output)


def test_an_undrained_kill_is_followed_until_it_has_drained() -> None:
    waiting = draining([ack(A), silent(B)], running=["t"]) | {"active": True}
    done = DRAINED | {"active": True}
    script = {
        "POST /kills": [(202, waiting)],
        "GET /kills/kill-1": [(200, waiting), NOT_ON_RECORD, HANG_UP, (200, done)],
    }
    with ScriptedGateway(script) as gateway:
        assert run(gateway, "kill", "session", "s-1").exit_code == 0
    assert [asked[0] for asked in gateway.asked] == ["POST", "GET", "GET", "GET", "GET"]


@pytest.mark.parametrize("flags", [["--no-wait"], ["--no-wait", "--json"]])
def test_who_does_not_wait_is_told_that_it_is_in_force_and_not_drained(flags: list[str]) -> None:
    with answering((202, draining([ack(A), silent(B)]))) as gateway:
        done = run(gateway, "kill", "session", "s-1", *flags)
    assert done.exit_code == 4
    assert len(gateway.asked) == 1
    assert ("1 replica did not acknowledge yet" in done.stdout) == ("--json" not in flags)


def test_a_kill_with_a_member_that_is_gone_does_not_wait_for_ever_and_says_what_to_do() -> None:
    with answering((202, LEFT_OUT)) as gateway:
        done = run(gateway, "kill", "session", "s-1")
    assert done.exit_code == 4
    assert f"agentgate members gone {B}" in done.stdout


def test_a_kill_that_somebody_releases_meanwhile_is_a_failure() -> None:
    waiting = draining([silent(A)])
    script = {"POST /kills": [(202, waiting)], "GET /kills/kill-1": [(200, waiting | {"active": False})]}
    with ScriptedGateway(script) as gateway:
        done = run(gateway, "kill", "session", "s-1")
    assert done.exit_code == 1
    assert "released before it had drained" in done.stdout


def test_ctrl_c_ends_the_waiting_and_not_the_kill() -> None:
    waiting = draining([silent(A)]) | {"active": True}
    with ScriptedGateway({"POST /kills": [(202, waiting)], "GET /kills/kill-1": [(200, waiting)]}) as gateway:
        process = subprocess.Popen(
            [*AGENTGATE, "kill", "session", "s-1", "--url", gateway.url, "--key", "k"],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: len(gateway.asked) > 2)
        process.send_signal(signal.SIGINT)
        said, complaint = process.communicate(timeout=20)
    assert process.returncode == 4
    assert "stays in force" in complaint
    assert "in force, not drained" in said


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["release", "k-1"], "has done it is not known"),
        (["members", "gone", "m-1", "--yes"], "has done it is not known"),
        (["kill", "session", "s-1", "--id", "k-1"], "is in force is not known; say it again with --id k-1"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_who_does_not_wait_for_an_order_s_answer_is_told_that_it_may_have_arrived(words: list[str], told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        mute.settimeout(20)
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        process = subprocess.Popen(
            [*AGENTGATE, *words, "--url", url, "--key", "k"],
            env=clean_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        asked, _ = mute.accept()
        with asked:
            assert asked.recv(1).startswith(b"P")
            process.send_signal(signal.SIGINT)
            said, complaint = process.communicate(timeout=20)
    assert process.returncode != 0
    assert said == ""
    assert complaint.count("\n") == 1
    assert told in complaint


def test_json_is_what_the_gateway_answered() -> None:
    with answering((200, DRAINED)) as gateway:
        assert json.loads(run(gateway, "kill", "session", "s-1", "--json").stdout) == DRAINED


# --- trouble --------------------------------------------------------------------------------------------------

COMMANDS = [
    *[["kill", "session", "s"], ["kills"], ["release", "k"], ["release", "all"], ["resume"]],
    *[["members"], ["members", "gone", "m", "--yes"], ["watch"], ["watch", "--json"]],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_where_nobody_listens_it_is_one_sentence(words: list[str]) -> None:
    done = run("http://127.0.0.1:1", *words)
    assert done.exit_code == 1
    assert done.stderr == (
        "agentgate: the gateway http://127.0.0.1:1 does not answer: connection refused; "
        "start it with `agentgate serve`, or say where the gateway is with --url or AGENTGATE_URL\n"
    )


@pytest.mark.parametrize(
    "detail", ["Insufficient role: this needs operator", "a kill by tool needs an operator of all tenants"]
)
def test_the_role_that_may_is_told_once(detail: str) -> None:
    with ScriptedGateway({"GET /kills": [problem(403, "forbidden", detail)]}) as gateway:
        done = run(gateway, "kills")
    assert done.stderr == f"agentgate: 403 forbidden: {detail}\n"


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize(("status", "reason"), [(401, "unauthenticated"), (403, "forbidden"), (403, "invalid_key")])
def test_a_key_that_may_not_is_told_which_role_may(words: list[str], status: int, reason: str) -> None:
    anything = [problem(status, reason, "No")]
    paths = ["POST /kills", "GET /kills", "POST /kills/k/release", "POST /system/resume", "GET /members", "GET /calls"]
    with ScriptedGateway(dict.fromkeys([*paths, "POST /members/m/gone"], anything)) as gateway:
        done = run(gateway, *words)
    role = "admin" if {"release", "resume", "gone"} & set(words) else "operator"
    assert done.exit_code == 1
    assert done.stderr.startswith(f"agentgate: {status} {reason}: No; this wants a key with the role {role}")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_something_else_that_listens_there_is_told_from_a_gateway(words: list[str]) -> None:
    said = [(200, b"<html>It works!</html>")]
    paths = ["POST /kills", "GET /kills", "POST /kills/k/release", "POST /system/resume", "GET /members", "GET /calls"]
    with ScriptedGateway(dict.fromkeys([*paths, "POST /members/m/gone"], said)) as gateway:
        done = run(gateway, *words)
    assert done.exit_code == 1
    assert "AgentGate" in done.stderr


def test_a_kill_that_could_not_be_recorded_says_what_that_means_and_how_to_repeat_it() -> None:
    with answering(NOT_ON_RECORD) as gateway:
        done = run(gateway, "kill", "session", "s", "--id", "incident-42")
    assert done.exit_code == 1
    assert "not on record" in done.stderr
    assert "--id incident-42" in done.stderr


def test_a_kill_whose_answer_is_lost_twice_says_that_nobody_knows() -> None:
    with answering(HANG_UP) as gateway:
        done = run(gateway, "kill", "session", "s", "--id", "incident-42")
    assert done.exit_code == 1
    assert "not known" in done.stderr
    assert "--id incident-42" in done.stderr
    assert len(gateway.asked) == 2


def test_a_conflict_is_said() -> None:
    with answering(problem(409, "conflict", "a kill of this id says something else")) as gateway:
        done = run(gateway, "kill", "session", "s", "--id", "k")
    assert (done.exit_code, done.stderr) == (1, "agentgate: 409 conflict: a kill of this id says something else\n")


# --- what is in force, releases -------------------------------------------------------------------------------


def test_kills_in_force_are_listed_or_said_to_be_none() -> None:
    listed = {"GET /kills": [(200, {"kills": [kill(), LEFT_OUT | {"id": "kill-2"}]}), (200, {"kills": []})]}
    with ScriptedGateway(listed) as gateway:
        first, second = (run(gateway, "kills") for _ in range(2))
    assert ["kill-1" in first.stdout, "kill-2" in first.stdout, "all but bbbbbbbb" in first.stdout] == [True] * 3
    assert (first.exit_code, second.exit_code, second.stdout) == (0, 0, "no kill is in force\n")


def test_kills_as_json_are_the_gateways() -> None:
    with ScriptedGateway({"GET /kills": [(200, {"kills": [kill()]})]}) as gateway:
        assert json.loads(run(gateway, "kills", "--json").stdout) == {"kills": [kill()]}


def test_several_kills_are_released_at_once_and_the_first_trouble_stops_none() -> None:
    script = {
        "POST /kills/k-1/release": [problem(404, "not_found", "no such kill is in force")],
        "POST /kills/acme~k-2/release": [(200, kill(id="acme~k-2", status="released"))],
    }
    with ScriptedGateway(script) as gateway:
        done = run(gateway, "release", "k-1", "acme~k-2", "acme~k-2", "--force")
    with ScriptedGateway(script) as another:
        as_json = run(another, "release", "k-1", "acme~k-2", "--json")
    assert done.exit_code == as_json.exit_code == 1
    refused = {"id": "k-1", "status": "refused", "reason_code": "not_found", "detail": "no such kill is in force"}
    assert json.loads(as_json.stdout) == {"releases": [refused, kill(id="acme~k-2", status="released")]}
    assert "k-1: no such kill is in force" in done.stderr
    assert "released acme~k-2, which stopped session s-1" in done.stdout
    assert [asked[2] for asked in gateway.asked] == [{"force": True}] * 2


def test_a_release_that_needs_another_person_is_not_done_and_says_so() -> None:
    pending = kill(status="pending", asked_by=["person:ann"], quorum=2)
    with ScriptedGateway({"POST /kills/kill-1/release": [(202, pending)] * 2}) as gateway:
        done, as_json = run(gateway, "release", "kill-1"), run(gateway, "release", "kill-1", "--json")
    assert done.exit_code == as_json.exit_code == 4
    assert json.loads(as_json.stdout) == {"releases": [pending]}
    assert "kill-1 needs 2 persons, and 1 asked so far (person:ann)" in done.stdout


@pytest.mark.parametrize("words", [["release", "all"], ["resume"]])
def test_resume_ends_the_pause_and_says_what_stays(words: list[str]) -> None:
    script = {
        "POST /system/resume": [(200, {"status": "resumed", "released": ["p-1", "p-2"]})],
        "GET /kills": [(200, {"kills": [kill()]})],
    }
    with ScriptedGateway(script) as gateway:
        done, as_json = run(gateway, *words), run(gateway, *words, "--json")
    assert done.exit_code == as_json.exit_code == 0
    assert json.loads(as_json.stdout) == {"releases": [script["POST /system/resume"][0][1]]}
    assert "released p-1, p-2" in done.stdout
    assert "1 other kill in force" in done.stdout


@pytest.mark.parametrize("words", [["release", "a/b"], ["release", "k", ".."], ["members", "gone", "../x", "--yes"]])
def test_what_cannot_be_an_id_asks_nothing(words: list[str]) -> None:
    with ScriptedGateway({}) as gateway:
        assert run(gateway, *words).exit_code == 2
    assert gateway.asked == []


# --- members and the snapshot ---------------------------------------------------------------------------------


def test_members_are_listed() -> None:
    members = [member(A, is_me=True), member(B, presence="gone", silent_s=75.0)]
    with ScriptedGateway({"GET /members": [(200, {"members": members})]}) as gateway:
        said, as_json = run(gateway, "members"), run(gateway, "members", "--json")
    assert A in said.stdout
    assert "75 s ago" in said.stdout
    assert "agentgate members gone" in said.stdout
    assert json.loads(as_json.stdout) == {"members": members}


def test_nobody_attests_by_accident() -> None:
    with ScriptedGateway({"POST /members/m/gone": [(200, {"member": "m", "presence": "attested"})]}) as gateway:
        unasked = run(gateway, "members", "gone", "m")
        assert (unasked.exit_code, gateway.asked) == (2, [])
        assert "You attest" in unasked.stderr
        assert "--yes" in unasked.stderr
        assert run(gateway, "members", "gone", "m", "--yes").exit_code == 0
    assert gateway.asked == [("POST", "/members/m/gone", {})]


def test_a_member_that_is_alive_is_not_given_up() -> None:
    script = {"POST /members/m/gone": [problem(409, "conflict", "that member is alive: it was heard a moment ago")]}
    with ScriptedGateway(script) as gateway:
        done = run(gateway, "members", "gone", "m", "--yes")
    assert (done.exit_code, "is alive" in done.stderr) == (1, True)


def test_without_a_terminal_watch_prints_one_snapshot() -> None:
    script = {
        "GET /calls": [(200, {"calls": []})],
        "GET /kills": [(200, {"kills": [kill()]})],
        "GET /members": [(200, {"members": [member(A)]})],
    }
    with ScriptedGateway(script) as gateway:
        said, as_json = run(gateway, "watch"), run(gateway, "watch", "--json")
    assert (said.exit_code, as_json.exit_code) == (0, 0)
    assert "KILLS IN FORCE 1" in said.stdout
    assert json.loads(as_json.stdout)["kills"] == [kill()]


# --- where, and with which key --------------------------------------------------------------------------------


def test_options_go_over_variables_and_variables_over_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "agentgate.yaml"
    with ScriptedGateway({"GET /kills": [(200, {"kills": []})]}) as gateway:
        config.write_text(f"server: {{base_url: '{gateway.url}'}}\ndata_dir: {tmp_path}\n", encoding="utf-8")
        (tmp_path / "admin.key").write_text("key-of-the-file\n", encoding="utf-8")
        admin = {"AGENTGATE_ADMIN_API_KEY": "key-of-the-admin"}
        elsewhere = "http://127.0.0.1:1"
        for words, env in [
            (["--url", gateway.url, "--key", "key-said"], {"AGENTGATE_URL": elsewhere, "AGENTGATE_KEY": "no"}),
            ([], {"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": "key-of-mine", **admin}),
            (["--config", str(config)], admin),
            (["--config", str(config)], {}),
            (["--url", gateway.url, "--data-dir", str(tmp_path)], {}),
        ]:
            done = run_cli("kills", *words, env=env)
            assert done.returncode == 0, done.stderr
    assert gateway.keys == ["key-said", "key-of-mine", "key-of-the-admin", "key-of-the-file", "key-of-the-file"]


def test_the_key_of_this_machines_gateway_is_sent_to_no_other(tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("key-of-the-file\n", encoding="utf-8")
    data_dir = {"AGENTGATE_DATA_DIR": str(tmp_path)}
    config = tmp_path / "agentgate.yaml"
    config.write_text("auth: {admin_key: agk_admin-key-of-the-configuration}\n", encoding="utf-8")
    at_home = {"AGENTGATE_BASE_URL": "http://gate.invalid"}
    for words, more in (
        (["--url", "http://gate.invalid"], {}),
        ([], {"AGENTGATE_URL": "https://gate.invalid"}),
        (["--url", "http://gate.invalid", "--config", str(config)], {}),
        (["--url", "http://gate.invalid:8001"], at_home),
        (["--url", "https://gate.invalid"], at_home),
    ):
        done = run_cli("kills", *words, env=data_dir | more)
        assert (done.returncode, "no key for http" in done.stderr) == (2, True)
    for words, more in (
        (["--url", "http://gate.invalid", "--data-dir", str(tmp_path)], {}),
        (["--url", "http://gate.invalid"], {"AGENTGATE_ADMIN_API_KEY": "agk_admin-key-that-is-said"}),
        (["--url", "http://Gate.invalid:80/"], at_home),
        (["--url", "http://gate.invalid:8000"], {"AGENTGATE_HOST": "gate.invalid"}),
        (["--url", "http://localhost:1"], {}),
    ):
        done = run_cli("kills", *words, env=data_dir | more)
        assert (done.returncode, "does not answer" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("name", ["all", "an id", "acme~k"])
def test_a_kill_is_called_nothing_that_could_not_be_released(name: str) -> None:
    with ScriptedGateway({}) as gateway:
        done = run(gateway, "kill", "session", "s-1", "--id", name)
    assert (done.exit_code, gateway.keys) == (2, [])


def test_an_address_that_is_none_and_a_key_that_is_missing_are_said(tmp_path: Path) -> None:
    nowhere = run_cli("kills", "--url", "localhost:8000", "--key", "k")
    keyless = run_cli("kills", "--data-dir", str(tmp_path))
    assert (nowhere.returncode, keyless.returncode) == (2, 2)
    assert "not a URL of a gateway" in nowhere.stderr
    assert "AGENTGATE_KEY" in keyless.stderr
    assert str(tmp_path / "admin.key") in keyless.stderr


def test_every_command_has_help_with_its_exit_statuses_or_what_it_does() -> None:
    for words in (["kill"], ["kills"], ["release"], ["resume"], ["members"], ["members", "gone"], ["watch"]):
        done = run("http://127.0.0.1:1", *words, "--help")
        assert done.exit_code == 0
        assert "--url" in done.output
    said = run("http://127.0.0.1:1", "kill", "--help").output
    assert "4 in force, not drained" in " ".join(said.split())
