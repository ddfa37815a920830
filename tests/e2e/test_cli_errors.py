"""Whatever keeps a command from being carried out: one sentence that says the cure, never a traceback, a status."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import pytest

from tests.command_line import CommandLine, Done
from tests.gateway import GatewayProcess
from tests.web import Handler, serving

REFUSED, USAGE, START, INTERRUPTED = 1, 2, 3, 130
A_KEY = "k" * 40


@dataclass
class Stage:
    """A gateway, a command line, and what is wrong on a machine. Words and variables name parts of it in braces."""

    command_line: CommandLine
    gateway: GatewayProcess
    names: dict[str, str] = field(default_factory=dict)

    def run(self, words: str, env: dict[str, str] | None = None, **how: object) -> Done:
        given = {name: value.format(**self.names) for name, value in (env or {}).items()}
        arguments = [word.replace("+", " ").format(**self.names) for word in words.split(" ") if word]
        return self.command_line(*arguments, env=given, cwd=Path(self.names["here"]), **how)  # type: ignore[arg-type]

    @property
    def known(self) -> dict[str, str]:
        return {"AGENTGATE_URL": self.gateway.url, "AGENTGATE_KEY": self.gateway.admin_key}


class _Page(Handler):
    def do_GET(self) -> None:
        self.say(200, b"<h1>It works!</h1>", "text/html")

    do_POST = do_GET  # noqa: N815 - the name that the library calls


class _Odd(Handler):
    """Its URL's path says how."""

    SAYS: ClassVar[dict[str, tuple[bytes, dict[str, str]]]] = {
        "packed": (b"not gzip at all", {"Content-Encoding": "gzip"}),
        "deep": (b"[" * 200_000 + b"]" * 200_000, {}),
        "shape": (b'{"kills": 5, "members": "m", "webhooks": {}, "holds": null, "tools": 1, "servers": {}}', {}),
        "rows": (b'{"kills": [5], "members": ["m"], "webhooks": [[]], "holds": [0], "tools": [1], "servers": {}}', {}),
        "total": (b'{"kills": []}', {"X-Total-Count": "9" * 5_000}),
    }  # fmt: skip

    def do_GET(self) -> None:
        body, headers = self.SAYS[self.path.split("/")[1]]
        self.say(200, body, **headers)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    tmp = tmp_path_factory.mktemp("errors")
    with (
        socket.socket() as bound,
        socket.socket() as busy,
        serving(_Page) as web,
        serving(_Odd) as odd,
        GatewayProcess() as gateway,
        CommandLine() as command_line,
    ):
        bound.bind(("127.0.0.1", 0))
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        gateway.call("db_query", {"query": "SELECT 1"})
        down, host = f"127.0.0.1:{bound.getsockname()[1]}", gateway.url.removeprefix("http://")
        names = {
            "gateway": gateway.url, "host": host, "down": f"http://{down}", "database": f"postgresql://{down}/x",
            "web": web, "odd": odd, "busy": str(busy.getsockname()[1]),
            "data": str(gateway.data_dir),
        }  # fmt: skip
        stage = Stage(command_line, gateway, names | {name: str(path) for name, path in _places(tmp).items()})
        pulled = stage.run("evidence pull s-1 -o {pack}", stage.known)
        assert pulled.status == 0, pulled
        yield stage
        for folder in ("theirs", "fixed"):
            Path(stage.names[folder]).chmod(0o700)


def _places(tmp: Path) -> dict[str, Path]:
    """Directories and files that are in somebody's way."""
    places = {name: tmp / name for name in ("here", "theirs", "fixed", "torn", "taken", "fresh", "none", "pack")}
    for name, mode in (("here", 0o755), ("theirs", 0), ("fixed", 0o555), ("torn", 0o700), ("taken", 0o700)):
        places[name].mkdir()
        places[name].chmod(mode)
    (places["torn"] / "log.db").write_bytes(b"not a database" * 100)
    (places["taken"] / "demo").write_bytes(b"a file where a folder is to be")
    for name, content, mode in (
        ("file", b"x", 0o644),
        ("broken", b"a: [1\n", 0o644),
        ("binary", b"\xff\xfe\0", 0o644),
        ("misspelt", b"sever: {port: 1}\n", 0o644),
        ("listed", b"- a\n", 0o644),
        ("secret", b"server: {port: 8001}\n", 0),
    ):
        places[name] = tmp / f"{name}.yaml"
        places[name].write_bytes(content)
        places[name].chmod(mode)
    return places


def ends_in_a_sentence(done: Done) -> str:
    """What a command said last, which is all that it has to say of a failure."""
    assert "Traceback" not in done.stdout + done.stderr, done
    assert "Exception ignored" not in done.stderr, done
    assert done.status > 0, done
    *_, last = done.stderr.strip().split("\n")
    assert last.startswith("agentgate: "), done
    return last


# --- how it was called ----------------------------------------------------------------------------------------

CALLED = [
    ("--bogus", "no such option: --bogus"),
    ("bogus", "no such command 'bogus'; `agentgate --help` tells more"),
    ("kils", "Did you mean"),
    ("kills --bogus", "`agentgate kills --help` tells more"),
    ("kills extra", "unexpected extra argument"),
    ("keys", "say which command: create, list, disable"),
    ("log", "say which command: verify, sign, migrate, monitor"),
    ("evidence", "say which command: pull, keys"),
    ("hold", "say which command: add, list, release"),
    ("policy", "say which command: packs, try"),
    ("webhooks", "say which command: list, test"),
    ("credentials", "say which command: set, check"),
    ("retention", "say which command: status, prune"),
    ("members bogus", "`agentgate members --help`"),
    ("tools bogus", "`agentgate tools --help`"),
    ("approvals bogus", "`agentgate approvals --help`"),
    ("--port 9 version", "options of `version` go behind its name"),
    ("kill", "missing argument 'SCOPE'"),
    ("kill sesion x", "'sesion' is not one of 'session'"),
    ("kill session", "say which session"),
    ("kill all x", "takes no target"),
    ("kill session s --expires soon", "such as 90s"),
    ("release", "missing argument 'KILL_ID'"),
    ("approve", "missing argument 'ID'"),
    ("approvals --state x", "'pending'"),
    ("approvals edit apr-1 --arguments {{", "--arguments is not JSON"),
    ("approvals edit apr-1 --arguments []", "is not a JSON object"),
    ('approvals edit apr-1 --arguments {{"half":"\udcff"}}', "--arguments is not JSON"),
    ("approvals edit apr-1 --arguments @{none}", "No such file or directory"),
    ("hold add s-1 --reason \udcff", "'\\udcff' is half a character"),
    ("tools show \udcff", "is half a character"),
    ("tools reject \udcff --yes", "is half a character"),
    ("approvals show \udcff", "is half a character"),
    ("verify", "missing argument 'PACK'"),
    ("audit --format xml", "'table', 'jsonl'"),
    ("audit --since yesterday", "such as 2026-11-21"),
    ("audit --session a+b", "not the id of a session"),
    ("audit --kind nonsense", "'decided'"),
    ("audit --limit 0", "greater than or equal to 1"),
    ("audit --decision MAYBE", "'ALLOW', 'DENY'"),
    ("audit --reason because", "docs/reasons.md"),
    ("audit --follow --format csv", "--follow writes a table or --format jsonl"),
    ("audit --url {gateway} --data-dir {here}", "--url and --key are for a gateway"),
    ("audit --otlp-endpoint nonsense --data-dir {data}", "such as http://127.0.0.1:4318"),
    ("audit --otlp-endpoint http://a..b:1 --data-dir {data}", "such as http://127.0.0.1:4318"),
    ("evidence pull a+b", "not the id of a session"),
    ("evidence pull s-1 --agent a", "name one of them"),
    ("evidence pull --since yesterday", "such as 2026-11-21"),
    ("evidence pull s-1 --format docx", "'zip', 'json', 'html', 'pdf'"),
    ("evidence pull s-1 -o {file}", "--force"),
    ("evidence pull s-1 --checkpoint {none}", "cannot be read: No such file"),
    ("evidence pull s-1 --checkpoint {file}", "is no checkpoint"),
    ("retention prune --days 1 --before 2020-01-01", "say --days or --before"),
    ("retention prune --before yesterday", "such as 2026-11-21"),
    ("retention prune --force", "say --yes"),
    ("hold add s-1", "--reason"),
    ("hold add s-1 --all --reason x", "--all takes neither"),
    ("hold add --reason x --id a+b", "not the id of a hold"),
    ("members gone m1", "say --yes"),
    ("members gone a+b --yes", "not the id of a member"),
    ("keys create", "--agent NAME or --person NAME"),
    ("keys create --person p", "--role operator"),
    ("keys create --agent a+b", "must start with a letter"),
    ("keys create --agent a --role king", "'auditor'"),
    ("keys create --agent a --expires-in-days 1e300", "too long"),
    ("keys rotate k-1 --overlap soon", "such as 0, 90s"),
    ("keys delete", "missing argument 'KEY_ID'"),
    ("policy try", "missing option '--tool'"),
    ("policy try --tool db_query --arguments {{", "--arguments is not JSON"),
    ("policy try --tool db_query --session-facts []", "not a JSON object"),
    ("log monitor {down}", "missing option"),
    ("log monitor {down} --checkpoint {none} --vkey nonsense", "name+hash+base64"),
    ("webhooks test --only x", "there is no webhook"),
    ("serve --port x", "valid integer"),
    ("serve extra", "unexpected extra argument"),
    ("mcp --session a+b", "letters, digits"),
    ("mcp --url nonsense", "http(s)://host"),
    ("mcp --url http://a..b:1", "http(s)://host"),
    ("mcp --url http://xn--a", "http(s)://host"),
    ("demo --out", "requires an argument"),
]


@pytest.mark.parametrize(("words", "says"), CALLED)
def test_a_call_that_is_none_says_how_it_goes(stage: Stage, words: str, says: str) -> None:
    needs_one = words.partition(" ")[0] in {"approvals", "evidence", "hold", "retention", "members", "tools"}
    done = stage.run(words, stage.known if needs_one else {})
    assert says in ends_in_a_sentence(done)
    assert done.status == USAGE
    assert done.stdout == ""


# --- what it finds --------------------------------------------------------------------------------------------

FOUND = [
    # wrong files and folders
    (START, "serve --config {none}", "cannot be read: No such file"),
    (START, "kills --config {broken}", "is not YAML: line 2"),
    (START, "kills --config {binary}", "is not YAML in UTF-8"),
    (START, "keys list --config {misspelt}", "setting sever: there is none of this name"),
    (START, "keys list --config {listed}", "must be a mapping of sections"),
    (USAGE, "kills --config {secret}", "is not readable"),
    (USAGE, "log verify --data-dir {theirs}", "is not readable"),
    (USAGE, "serve --data-dir {theirs}", "is not readable"),
    (START, "serve --port 0 --data-dir {fixed}/sub", "cannot be made: Permission denied"),
    (START, "keys create --agent a --data-dir {fixed}/sub", "/sub cannot be read or written: Permission denied"),
    (START, "keys create --agent a --data-dir {file}", "cannot be read or written: File exists"),
    (START, "mcp --data-dir {file}", "cannot be read or written: File exists"),
    (REFUSED, "demo --out {file}", "cannot be read or written: File exists"),
    (START, "serve --port 0 --data-dir {torn}", "file is not a database"),
    (START, "serve --port 0 --data-dir {taken}", "the start failed: FileExistsError: [Errno 17] File exists:"),
    (REFUSED, "audit --data-dir {torn}", "the log cannot be read: file is not a database"),
    (REFUSED, "audit --data-dir {none}", "there is no log at"),
    (REFUSED, "log verify --data-dir {none}", "there is no log key at"),
    (REFUSED, "log verify --data-dir {data} --checkpoint {none}", "cannot be read: No such file"),
    (START, "evidence keys --data-dir {none}", "the first start of the gateway makes it"),
    (START, "policy packs --path {none}", "no *.rego file in"),
    (START, "policy try --tool nope", "no tool 'nope'"),
    (REFUSED, "keys disable k-none", "`agentgate keys list` shows them all"),
    (REFUSED, "verify {none}", "cannot be read: No such file"),
    (REFUSED, "verify {here}", "cannot be read: Is a directory"),
    (REFUSED, "verify {pack} --key short", "at least 32 bytes"),
    (REFUSED, "verify {pack} --trust {none}", "cannot be read: No such file"),
    (USAGE, "evidence pull s-1 -o {here} --force", "is not a plain file"),
    (START, "log migrate --database-url {database}", "cannot be migrated"),
    (START, "log migrate", "--database-url postgresql://"),
    (START, "log sign --data-dir {none}", "there is no log at"),
    # wrong addresses
    (START, "serve --port {busy} --data-dir {fresh}", "address already in use, or not this machine's; choose another"),
    (START, "serve --reload --port {busy} --data-dir {fresh}", "Address already in use; choose another --port"),
    (START, "serve --host 0.0.0.0 --port 0 --data-dir {fresh}", "agentgate keys create"),
    (START, "serve --port 70000", "less than or equal to 65535"),
    (USAGE, "kills --key k --url nonsense", "not a URL of a gateway, such as"),
    (START, "serve --host a..b", "setting server.host: must be an address of this machine, or its name"),
    (USAGE, "kills --key k --url http://a..b:1", "not a URL of a gateway, such as"),
    (USAGE, "kills --key k --url ftp://x", "not a URL of a gateway"),
    (REFUSED, "kills --key k --url https://{host}", "it speaks no TLS there"),
    (REFUSED, "kills --key k --url http://no-such-host.invalid", "say where the gateway is with --url"),
    (REFUSED, "mcp --no-start --data-dir {fresh}", "start one with: agentgate serve"),
    (REFUSED, "mcp --url {down}", "cannot be reached"),
    (REFUSED, "mcp --url {web}", "no AgentGate"),
    (USAGE, "kills --url {gateway}", "no key: set AGENTGATE_KEY"),
    (USAGE, "kills --url {gateway} --key é", "characters that no key has"),
]


@pytest.mark.parametrize(("status", "words", "says"), FOUND)
def test_what_is_wrong_around_it_is_said_with_the_cure(stage: Stage, status: int, words: str, says: str) -> None:
    if not stage.command_line.minds_modes and ("{theirs}" in words or "{fixed}" in words or "{secret}" in words):
        pytest.skip("as root without setpriv, no file is another's")
    done = stage.run(words)
    assert says in ends_in_a_sentence(done)
    assert done.status == status


REMOTE = [
    "kill session s-9", "kills", "release kill-1", "resume", "members", "members gone m1 --yes", "watch", "audit",
    "evidence pull s-1", "retention status", "retention prune --dry-run", "hold add s-1 --reason x", "hold list",
    "hold release h1 --reason x", "tools", "tools list", "tools show a__b", "tools accept a__b --yes",
    "tools reject a__b --yes", "webhooks list", "approvals", "approvals show apr-1",
    "approvals edit apr-1 --arguments {{}}", "approvals void apr-1", "approve apr-1 --yes", "deny apr-1",
]  # fmt: skip


@pytest.mark.parametrize("words", REMOTE)
def test_a_gateway_that_cannot_be_asked_is_said_with_the_cure(stage: Stage, words: str) -> None:
    down = ends_in_a_sentence(stage.run(words, {"AGENTGATE_URL": "{down}", "AGENTGATE_KEY": "k"}))
    assert "connection refused; start it with `agentgate serve`, or say where the gateway is with --url" in down
    another = ends_in_a_sentence(stage.run(words, {"AGENTGATE_URL": "{web}", "AGENTGATE_KEY": "k"}))
    assert "say where the gateway is with --url" in another
    stranger = ends_in_a_sentence(stage.run(words, {"AGENTGATE_URL": "{gateway}", "AGENTGATE_KEY": "not-a-key"}))
    assert "Invalid API key; this wants a key with the role" in stranger


@pytest.mark.parametrize("words", ["kills", "members", "webhooks list", "hold list", "tools"])
@pytest.mark.parametrize(
    ("odd", "says"),
    [
        ("packed", "something that is not packed as it says"),
        ("deep", "HTTP 200, which is no answer of an AgentGate"),
        ("shape", "which is none of an AgentGate of this version"),
        ("rows", "which is none of an AgentGate of this version"),
    ],
)
def test_what_no_gateway_answers_is_said(stage: Stage, words: str, odd: str, says: str) -> None:
    done = stage.run(words, {"AGENTGATE_URL": f"{{odd}}/{odd}", "AGENTGATE_KEY": "k"})
    assert says in ends_in_a_sentence(done)
    assert done.status == REFUSED


def test_a_number_with_too_many_digits_is_none(stage: Stage) -> None:
    done = stage.run("kills", {"AGENTGATE_URL": "{odd}/total", "AGENTGATE_KEY": "k"})
    assert (done.status, done.stdout) == (0, "no kill is in force\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("release kill-none", "no such kill is in force"),
        ("members gone m-none --yes", "no such member"),
        ("evidence pull nobody-knows", "--allow-empty"),
        ("evidence pull s-1 -o {fixed}/x.zip", "cannot be written: Permission denied"),
        ("retention prune --days 1", "force it if other law lets you"),
        ("hold release h-none", "no such hold"),
        ("tools show a__b", "`agentgate tools` lists them"),
        ("tools accept nobody --all-new", "no tool server nobody"),
        ("approvals show apr-none", "no approval's id begins with apr-none"),
    ],
)
def test_what_a_gateway_refuses_is_said(stage: Stage, words: str, says: str) -> None:
    if not stage.command_line.minds_modes and "{fixed}" in words:
        pytest.skip("as root without setpriv, no file is another's")
    done = stage.run(words, stage.known)
    assert says in ends_in_a_sentence(done)
    assert done.status == REFUSED


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("PORT", "seventy", "valid integer"),
        ("WORKERS", "2", "workers: 1"),
        ("LOG_LEVEL", "LOUD", "'DEBUG', 'INFO'"),
        ("REDIS_URL", "nonsense", "expected redis://"),
        ("OPA_URL", "nonsense", "http://"),
        ("OPA_URL", "http://a..b:1", "policy.url: the OPA url must be"),
        ("DATABASE_URL", "mysql://x", "there is postgresql, sqlite"),
        ("DATABASE_URL", "{database}", "Connection refused"),
        ("SIGNING_KEY", "short", "at least 32 random characters"),
        ("ADMIN_API_KEY", "short", "at least 16 random characters"),
        ("POLICY_PATH", "{none}", "no *.rego file in"),
    ],
)
def test_a_variable_that_cannot_be_stops_the_start_by_its_name(
    stage: Stage, variable: str, value: str, says: str
) -> None:
    done = stage.run("serve --data-dir {fresh}", {f"AGENTGATE_{variable}": value})
    assert says in ends_in_a_sentence(done)
    assert done.status == START


@pytest.mark.parametrize("key", ["agk_THE-SECRET\r", "agk_THE-SECRET ", "agk_THE-SECRET-é"])
def test_a_key_with_what_no_key_has_is_refused_without_saying_it(stage: Stage, key: str) -> None:
    done = stage.run("mcp --url {gateway}", {"AGENTGATE_API_KEY": key})
    assert "AGENTGATE_API_KEY has characters that no key has" in ends_in_a_sentence(done)
    assert done.status == USAGE
    assert "THE-SECRET" not in done.stdout + done.stderr


# --- streams --------------------------------------------------------------------------------------------------

SAYING = (
    "--help", "version", "kills --json", "audit", "audit --format jsonl", "members", "watch", "policy packs", "tools",
    "keys create --agent a", "evidence keys --data-dir {data}", "verify {pack} --json", "approvals --json",
)  # fmt: skip


@pytest.mark.parametrize("words", SAYING)
def test_what_nobody_reads_ends_quietly_and_not_as_a_success(stage: Stage, words: str) -> None:
    done = stage.run(words, stage.known, stdout="closed")
    assert done.status == REFUSED
    assert [line for line in done.stderr.splitlines() if "shown once" not in line] == []


@pytest.mark.parametrize("words", SAYING)
def test_what_cannot_be_said_is_a_failure(stage: Stage, words: str) -> None:
    done = stage.run(words, stage.known, stdout="/dev/full")
    assert ends_in_a_sentence(done) == "agentgate: standard output cannot be read or written: No space left on device"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("keys create --agent a --data-dir {here}/full", "File too large"),
        ("evidence pull s-1 -o {here}/full.zip", "full.zip cannot be written: File too large"),
        ("evidence keys --data-dir {data} --out {here}/trust", "cannot be written: File too large"),
        ("serve --port 0 --data-dir {here}/full-log", "File too large"),
    ],
)
def test_a_full_disk_is_said(stage: Stage, words: str, says: str) -> None:
    done = stage.run(words, stage.known, largest_file=1)
    assert says in ends_in_a_sentence(done)


@pytest.mark.parametrize("words", ["retention prune --force", "members gone m1"])
def test_nobody_is_asked_where_standard_input_is_closed(stage: Stage, words: str) -> None:
    assert ends_in_a_sentence(stage.run(words, stage.known, stdin=None)).endswith("say --yes")


@pytest.mark.parametrize("words", ["retention prune --force", "members gone m1"])
def test_ctrl_c_at_a_question_does_nothing_and_says_so(stage: Stage, words: str) -> None:
    done = stage.run(words, stage.known, interrupted_at="[y/N]")
    assert ends_in_a_sentence(done) == "agentgate: stopped, nothing was done"
    assert done.status == INTERRUPTED


def test_a_secret_that_is_no_text_is_refused(stage: Stage, tmp_path: Path) -> None:
    config = tmp_path / "agentgate.yaml"
    config.write_text("credentials: {a: {kind: encrypted_file, path: a.enc, key: {env: SEALING}}}\n", encoding="utf-8")
    done = stage.run(f"credentials set a --config {config}", {"SEALING": A_KEY}, stdin="\udcff")
    assert "not UTF-8" in ends_in_a_sentence(done)


def test_the_fork_server_runs_what_a_shell_would(stage: Stage) -> None:
    """The table above is worth something only if its processes are the program."""
    done = stage.run("kills", stage.known)
    assert (done.status, done.stdout, done.stderr) == (0, "no kill is in force\n", "")
    assert shutil.which("setpriv") is None or stage.command_line.minds_modes
