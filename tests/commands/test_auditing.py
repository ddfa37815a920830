"""`agentgate audit`: what it asks, what it shows, and how it ends."""

from __future__ import annotations

import io
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from agentgate.commands import auditing, pushing
from agentgate.commands.auditing import Form
from agentgate.commands.pushing import Collector, NotTaken
from agentgate.commands.remote import Remote
from agentgate.commands.sources import GatewaySource
from agentgate.commands.tables.events import Event, Lines
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.query import Query
from tests.commands.test_stopping import run
from tests.scripted_gateway import HANG_UP, Said, ScriptedGateway, problem
from tests.web import Handler, serving

DECIDED = {
    "index": 7,
    "session_number": 1,
    "kill_position": 0,
    "salt": "00",
    "event": {
        "at": "2026-11-21T09:00:05.123456Z",
        "kind": "decided",
        "decision": "DENY",
        "reason_code": "policy_deny",
        "tool": "db_query",
        "principal": "agent:bot",
        "tenant": "default",
        "session": "s-1",
    },
    "body": {"arguments": {"query": "SELECT 1"}, "reason": "Not on a Sunday"},
}


def event(index: int, **fields: Any) -> dict[str, Any]:
    return {**DECIDED, "index": index, "event": {**DECIDED["event"], **fields}}  # type: ignore[dict-item]


def page(*events: dict[str, Any], size: int = 8, then: str | None = None) -> Said:
    return 200, {"events": list(events), "next": then, "size": size}


def answering(*said: Said) -> ScriptedGateway:
    return ScriptedGateway({"GET /audit": list(said)})


def asked(gateway: ScriptedGateway) -> list[dict[str, list[str]]]:
    return [parse_qs(urlsplit(path).query) for _, path, _ in gateway.asked]


# --- what is asked ----------------------------------------------------------------------------------------------


def test_words_become_a_question() -> None:
    words = "--session s --agent bot --tool t --decision DENY --reason killed --outcome ok --tenant a --text x"
    with answering(page(DECIDED)) as gateway:
        kinds = ["--kind", "killed", "--kind", "decided"]
        ran = run(gateway, "audit", *words.split(), *kinds, "--trace-id", "t-1", "--since", "2026-11-21")
    assert ran.exit_code == 0, ran.output
    assert asked(gateway) == [
        {
            "session": ["s"],
            "agent": ["agent:bot"],
            "tool": ["t"],
            "decision": ["DENY"],
            "reason": ["killed"],
            "outcome": ["ok"],
            "tenant": ["a"],
            "text": ["x"],
            "kind": ["decided", "killed"],
            "trace_id": ["t-1"],
            "since": ["2026-11-21T00:00:00.000000Z"],
            "first": ["0"],
            "order": ["desc"],
            "limit": ["100"],
        }
    ]


def test_a_person_is_asked_for_by_its_kind() -> None:
    with answering(page()) as gateway:
        run(gateway, "audit", "--agent", "person:ann")
    assert asked(gateway)[0]["agent"] == ["person:ann"]


@pytest.mark.parametrize(
    ("said", "asks"),
    [
        ("2026-11-21T10:00:00+02:00", r"2026-11-21T08:00:00\.000000Z"),
        ("2026-11-21T10:00", r"2026-11-21T10:00:00\.000000Z"),
        ("15m", r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
        ("2d", r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
    ],
)
def test_a_time_is_one_or_how_long_ago(said: str, asks: str) -> None:
    with answering(page()) as gateway:
        assert run(gateway, "audit", "--since", said, "--until", said).exit_code == 0
    for name in ("since", "until"):
        assert re.fullmatch(asks, asked(gateway)[0][name][0])


@pytest.mark.parametrize(
    "words",
    [
        *[["--since", text] for text in ("soon", "5", "5y", "2026-99-01", "-1h", "9999999d", "999999d")],
        *[[f"--{name}", "a b"] for name in ("session", "agent", "tenant")],
        *[[f"--{name}", text] for name in ("tool", "text") for text in ("", "x\ny", "x" * 257)],
        ["--reason", "because"],
        ["--decision", "MAYBE"],
        ["--kind", "everything"],
        ["--limit", "0"],
        ["--follow", "--format", "csv"],
        ["--follow", "--newest"],
        ["--data-dir", "/nowhere", "--url", "http://127.0.0.1:1"],
        ["--otlp-endpoint", "collector:4318"],
        ["--otlp-endpoint", "ftp://collector"],
    ],
    ids=str,
)
def test_what_is_no_question_is_2_and_nobody_is_asked(words: list[str]) -> None:
    with answering(page()) as gateway:
        ran = run(gateway, "audit", *words)
    assert (ran.exit_code, gateway.asked) == (2, [])
    assert ran.stdout == ""


# --- a table ----------------------------------------------------------------------------------------------------


def test_a_table_ends_with_the_newest() -> None:
    with answering(page(event(9), event(7), event(2), size=10)) as gateway:
        ran = run(gateway, "audit")
    head, *rows = ran.stdout.splitlines()
    assert head.split() == ["INDEX", "TIME", "(UTC)", "EVENT", "WHO", "SESSION", "TOOL", "WHAT"]
    assert [row.split()[0] for row in rows] == ["2", "7", "9"]
    for part in (
        "2026-11-21 09:00:05Z",
        "DENY",
        "bot",
        "s-1",
        "db_query",
        "policy_deny",
        "Not on a Sunday",
        "SELECT 1",
    ):
        assert part in rows[0]


def test_the_newest_come_first_when_asked() -> None:
    with answering(page(event(9), event(7))) as gateway:
        assert [row.split()[0] for row in run(gateway, "audit", "--newest").stdout.splitlines()[1:]] == ["9", "7"]


def test_all_of_it_is_read_page_by_page() -> None:
    said = page(event(1), then="c-1"), page(event(2), then="c-2"), page(event(3))
    with answering(*said) as gateway:
        ran = run(gateway, "audit", "--all")
    assert [row.split()[0] for row in ran.stdout.splitlines()[1:]] == ["1", "2", "3"]
    assert [one.get("cursor") for one in asked(gateway)] == [None, ["c-1"], ["c-2"]]


def test_more_than_is_shown_is_said() -> None:
    many = [event(number) for number in range(200, 100, -1)]
    with answering(page(*many, then="c"), page(event(99))) as gateway:
        ran = run(gateway, "audit")
    assert len(ran.stdout.splitlines()) == 101
    assert "--all" in ran.stderr
    with answering(page(*many, then="c"), page(event(99))) as gateway:
        ran = run(gateway, "audit", "--limit", "3")
    assert len(ran.stdout.splitlines()) == 4
    assert ran.stderr.count("--all") == 0


def test_nothing_that_fits_is_no_failure() -> None:
    with answering(page()) as gateway:
        ran = run(gateway, "audit")
    assert (ran.exit_code, ran.stdout) == (0, "")
    assert "nothing fits" in ran.stderr


HOSTILE = "\x1b[31m[bold]x[/]\r\nline\u202e"


def test_what_strangers_wrote_is_neither_markup_nor_a_command() -> None:
    hostile = event(1, tool=HOSTILE, session=HOSTILE, principal=HOSTILE, reason_code=HOSTILE)
    hostile["body"] = {"reason": HOSTILE, "arguments": {HOSTILE: HOSTILE}}
    with answering(page(hostile)) as gateway:
        ran = run(gateway, "audit")
    assert len(ran.stdout.splitlines()) == 2
    assert "[bold]x[/]" in ran.stdout
    for char in ("\x1b", "\r", "\u202e"):
        assert char not in ran.stdout


@pytest.mark.parametrize("width", [200, 140, 121, 95, 80, 75])
def test_on_a_terminal_every_event_is_one_line_of_its_width(width: int, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(force_terminal=True, width=width, color_system=None, legacy_windows=False)
    lines = Lines(console)
    lines.print(event(123_456, session="s" * 250, tool="t" * 120, principal="agent:" + "a" * 250))
    lines.print(event(1, session="寿司" * 20))
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) == 3
    from rich.cells import cell_len

    assert all(cell_len(line) <= width for line in shown)
    assert "…" in shown[1]
    assert all("09:00:05" in line for line in shown[1:])


def test_colours_are_for_terminals_alone(capsys: pytest.CaptureFixture[str]) -> None:
    Lines(Console(force_terminal=True, width=140, color_system="standard", legacy_windows=False)).print(DECIDED)
    assert "\x1b[31mDENY" in capsys.readouterr().out
    Lines(Console(force_terminal=False, width=140)).print(DECIDED)
    assert "\x1b" not in capsys.readouterr().out


def test_a_pruned_body_is_said() -> None:
    with answering(page({**DECIDED, "body": None})) as gateway:
        assert "(body pruned)" in run(gateway, "audit").stdout


# --- streams ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["jsonl", "csv", "oscal", "otlp"])
def test_other_forms_are_the_gateways_bytes(form: str) -> None:
    with answering((200, b"exactly\r\nthese \xff bytes")) as gateway:
        ran = run(gateway, "audit", "--format", form, "--limit", "7", "--newest")
    assert ran.exit_code == 0
    assert ran.stdout_bytes == b"exactly\r\nthese \xff bytes"
    assert asked(gateway) == [{"format": [form], "order": ["desc"], "limit": ["7"]}]


@pytest.mark.parametrize("words", [["--format", "csv"], ["--format", "jsonl"], ["--follow", "--format", "jsonl"]])
def test_on_a_terminal_what_it_would_obey_is_written_out(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither JSON nor CSV has to escape C1 controls, or what turns the order of letters round."""

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(auditing.time, "sleep", interrupted)
    terminal = SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: True)
    monkeypatch.setattr(auditing, "sys", SimpleNamespace(stdout=terminal))
    hostile = event(1, tool="\x9b2Jå\u202e")
    exported = (200, json.dumps(hostile, ensure_ascii=False).encode() + b"\r\n\x1b[2J")
    with answering(*([page(size=2), page(hostile, size=2), page(size=2)] if "--follow" in words else [exported])) as it:
        ran = run(it, "audit", *words)
    assert ran.exit_code == 0, ran.output
    shown = terminal.buffer.getvalue().decode()
    assert '"tool":"[U+009B]2Jå[U+202E]"' in shown.replace(": ", ":")
    assert shown.endswith("}\n" if "--follow" in words else "}\n[U+001B][2J\n")
    assert shown.replace("\n", "").isprintable()


FORBIDDEN = problem(403, "forbidden", "Insufficient role")
UNFIT = problem(422, "invalid_request", "no such filter")


@pytest.mark.parametrize(
    ("words", "said", "words_of_it"),
    [
        *[(words, FORBIDDEN, "auditor") for words in ([], ["--format", "jsonl"], ["--follow"])],
        *[(words, UNFIT, "no such filter") for words in ([], ["--format", "jsonl"], ["--follow"])],
        *[(words, HANG_UP, "does not answer") for words in ([], ["--format", "jsonl"])],
        ([], (200, b"<html>"), "AgentGate"),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_1(words: list[str], said: Said, words_of_it: str) -> None:
    with answering(said) as gateway:
        ran = run(gateway, "audit", *words)
    assert ran.exit_code == 1
    assert words_of_it in ran.stderr
    assert len(ran.stderr.strip().splitlines()) == 1


def test_an_answer_that_breaks_off_is_not_taken_for_a_whole_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65_536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nline\n\r\n")

        threading.Thread(target=answer, daemon=True).start()
        ran = run(f"http://127.0.0.1:{server.getsockname()[1]}", "audit", "--format", "jsonl")
    assert (ran.exit_code, ran.stdout) == (1, "line\n")
    assert "not complete" in ran.stderr


# --- following --------------------------------------------------------------------------------------------------


def test_following_shows_what_comes_and_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = iter(range(3))

    def wait(_: float) -> None:
        if next(rounds, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(auditing.time, "sleep", wait)
    said = (
        page(size=8),  # how long the log is
        page(event(7), event(5), size=8),  # the last few
        page(size=8),  # and then what comes
        page(event(8), event(9), size=10),
        problem(503, "log_unavailable", "The log does not answer"),
        page(event(10), then="c", size=11),
        page(event(11), size=12),
    )
    with answering(*said) as gateway:
        ran = run(gateway, "audit", "--follow", "--format", "jsonl")
    assert ran.exit_code == 0, ran.output
    assert [json.loads(line)["index"] for line in ran.stdout.splitlines()] == [5, 7, 8, 9, 10, 11]
    assert "trying again" in ran.stderr
    assert [one["first"] for one in asked(gateway)[1:]] == [["0"], ["8"], ["8"], ["10"], ["10"], ["10"]]


def test_following_waits_for_a_log_that_is_away_as_for_a_gateway(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Log:
        rounds: ClassVar = iter([LogUnavailable("away \x1b[2J"), [event(3)], LogBroken("it is another one")])

        def size(self) -> int:
            return 3

        def events(self, *, newest: bool, first: int = 0) -> Iterator[Event]:
            return iter(())

        def after(self, first: int) -> tuple[list[Event], int]:
            found = next(self.rounds)
            if isinstance(found, Exception):
                raise found
            return found, first + 1

    monkeypatch.setattr(auditing.time, "sleep", lambda _: None)
    shown: list[Event] = []
    with pytest.raises(LogBroken):
        auditing._follow(Log(), shown.append, 10)  # type: ignore[arg-type]  # nothing is exported
    assert shown == [event(3)]
    assert capsys.readouterr().err == "agentgate: away [U+001B][2J; trying again\n"


# --- without a gateway ------------------------------------------------------------------------------------------


def test_a_place_without_a_log_is_said(tmp_path: Path) -> None:
    for words in (["audit", "--data-dir", str(tmp_path)], ["audit", "--database-url", f"sqlite:///{tmp_path}/none.db"]):
        ran = run("http://127.0.0.1:1", *words)
        assert ran.exit_code == 1
        assert "there is no log" in ran.stderr


# --- a collector ------------------------------------------------------------------------------------------------

REQUEST = b'{"resourceLogs":[{"scopeLogs":[{"logRecords":[{},{}]}]}]}'


class ScriptedCollector:
    """Takes `POST /v1/logs`, and answers what was written down."""

    def __init__(self, *said: tuple[int, bytes, dict[str, str]]) -> None:
        self.url = ""
        self.said = list(said)
        self.took: list[tuple[str, bytes, str | None]] = []

    def take(self, request: Handler) -> None:
        self.took.append((request.path, request.given(), request.headers.get("Authorization")))
        status, text, headers = self.said.pop(0) if len(self.said) > 1 else self.said[0]
        request.say(status, text, **headers)


@pytest.fixture
def collector() -> Iterator[Callable[..., ScriptedCollector]]:
    with ExitStack() as ends:

        def make(*said: tuple[int, bytes, dict[str, str]]) -> ScriptedCollector:
            made = ScriptedCollector(*said)

            class Taker(Handler):
                def do_POST(self) -> None:
                    made.take(self)

            made.url = ends.enter_context(serving(Taker))
            return made

        yield make


@pytest.fixture
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(pushing.time, "sleep", found.append)
    return found


OK = (200, b"{}", {})


def test_events_are_sent_to_a_collector_line_by_line(collector: Callable[..., ScriptedCollector]) -> None:
    taker = collector(OK)
    with answering((200, REQUEST + b"\n" + REQUEST + b"\n")) as gateway:
        env = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret"}
        ran = run(gateway, "audit", "--otlp-endpoint", taker.url, env=env)
    assert ran.exit_code == 0, ran.output
    assert taker.took == [("/v1/logs", REQUEST, "Bearer secret")] * 2
    assert "4 events sent" in ran.stderr
    assert asked(gateway)[0]["format"] == ["otlp"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("api-key=THE-SECRET%0D", "the value of api-key"),
        ("api-key=THE-SECRET%20", "the value of api-key"),
        ("api-key=THE-SECRET-é", "the value of api-key"),
        ("api key=THE-SECRET", "'api key' is not the name"),
        ("=THE-SECRET", "'' is not the name"),
    ],
)
def test_what_can_be_no_header_for_a_collector_is_refused_without_saying_it(
    collector: Callable[..., ScriptedCollector], given: str, says: str
) -> None:
    taker = collector(OK)
    with answering((200, REQUEST + b"\n")) as gateway:
        ran = run(gateway, "audit", "--otlp-endpoint", taker.url, env={"OTEL_EXPORTER_OTLP_HEADERS": given})
    assert (ran.exit_code, taker.took) == (2, [])
    assert says in ran.stderr
    assert "THE-SECRET" not in ran.output


@pytest.mark.parametrize("path", ["", "/", "/v1/logs", "/v1/logs/"])
def test_the_place_of_a_collector_may_say_its_path(path: str) -> None:
    with Collector(f"http://127.0.0.1:4318{path}") as one:
        assert one.url == "http://127.0.0.1:4318/v1/logs"
    with Collector("https://c.example/otel") as one:
        assert one.url == "https://c.example/otel/v1/logs"


def test_a_busy_collector_is_asked_again_when_it_says(
    collector: Callable[..., ScriptedCollector], waited: list[float]
) -> None:
    taker = collector((429, b"", {"Retry-After": "7"}), (503, b"", {}), OK)
    with Collector(taker.url) as one:
        one.take(REQUEST)
        assert one.taken == 2
    assert waited == [7.0, 1.0]
    assert len(taker.took) == 3


@pytest.mark.parametrize(
    ("said", "tries", "words"),
    [
        ((400, b"", {}), 1, "HTTP 400"),
        ((401, b"", {}), 1, "HTTP 401"),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), 1, "HTTP 302"),
        ((503, b"", {}), 6, "HTTP 503"),
        ((200, b'{"partialSuccess":{"rejectedLogRecords":"2","errorMessage":"too old"}}', {}), 1, "too old"),
        ((200, b"{}", {"Content-Encoding": "gzip"}), 1, "not packed as it says"),
    ],
)
def test_what_a_collector_does_not_take_is_said(
    collector: Callable[..., ScriptedCollector],
    waited: list[float],
    said: tuple[int, bytes, dict[str, str]],
    tries: int,
    words: str,
) -> None:
    taker = collector(said)
    with Collector(taker.url) as one, pytest.raises(NotTaken, match=words):
        one.take(REQUEST)
    assert len(taker.took) == tries


@pytest.mark.parametrize("said", [b'{"partialSuccess":{"rejectedLogRecords":1e400}}', b"[" * 200_000, b"", b"7"])
def test_an_odd_answer_of_a_collector_is_one_that_took_all(
    collector: Callable[..., ScriptedCollector], said: bytes
) -> None:
    with Collector(collector((200, said, {})).url) as one:
        one.take(REQUEST)
        assert one.taken == 2


def test_a_collector_that_takes_nothing_ends_the_command_with_1(
    collector: Callable[..., ScriptedCollector], waited: list[float]
) -> None:
    taker = collector((400, b"", {}))
    with answering((200, REQUEST + b"\n")) as gateway:
        ran = run(gateway, "audit", "--otlp-endpoint", taker.url)
    assert ran.exit_code == 1
    assert "it has taken 0 events" in ran.stderr


def test_a_gateway_is_asked_with_the_words_of_its_route() -> None:
    with answering(page()) as gateway, Remote(gateway.url, "a-key") as remote:
        list(GatewaySource(remote, Query(reason_code="killed", kinds=())).export(Form.JSONL, limit=None, newest=False))
    assert asked(gateway) == [{"reason": ["killed"], "format": ["jsonl"], "order": ["asc"]}]
