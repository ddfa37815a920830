"""The documents say what is so: their links lead somewhere, their commands exist, and the README stays short."""

from __future__ import annotations

import ast
import json
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
import pytest
import yaml
from typer.main import get_command

from agentgate import settings
from agentgate.cli import cli
from agentgate.core import archive
from tests.command_line import CommandLine
from tests.gateway import GatewayProcess, call, until
from tests.pages import SHELLS, Reader, commands, fences

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path for path in ROOT.rglob("*.md") if not {".venv", "node_modules", ".pytest_cache"} & set(path.parts))
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_readme_is_short_and_has_a_picture() -> None:
    assert len(README.splitlines()) <= 150
    assert "docs/images/call.svg" in README


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)\b", page.read_text(encoding="utf-8"), re.MULTILINE):
            assert target in targets, f"{page.name}: make {target}"


def test_the_readmes_configuration_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "agentgate.yaml"
    path.write_text(blocks("yaml")[0], encoding="utf-8")
    found = settings.load({}, config=path)
    assert list(found.tools) == ["create_ticket"]
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == ["upstreams", "credentials", "tools"]


def test_every_direct_dependency_says_why_it_is_here() -> None:
    listed = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert wanted is not None
    for name in re.findall(r'^\s+"([A-Za-z0-9-]+)', wanted[1], re.MULTILINE):
        assert f"`{name}`" in listed, name


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "adr" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs" / "adr").glob("0*.md"):
        assert page.name in index


# --- the failure matrix of docs/containment.md ------------------------------------------------------------------

FAILURES = {"down", "hung", "slow", "lying", "back"}
MOMENTS = ("before", "during", "after")
NOTHING = "–"
DEPENDENCIES = {
    "Redis",
    "The log on SQLite",
    "The log on PostgreSQL",
    "The policy engine",
    "The upstream",
    "A source of credentials",
    "The clock",
    "This process",
    "Another replica",
}


@dataclass
class Part:
    """One dependency of the matrix: what is stated in each cell, and the tests that show it."""

    text: str
    cells: dict[tuple[str, str], str] = field(default_factory=dict)
    shown: dict[tuple[str, str], list[str]] = field(default_factory=dict)


@cache
def matrix() -> dict[str, Part]:
    page = (ROOT / "docs" / "containment.md").read_text(encoding="utf-8")
    section = page.partition("\n## When something fails\n")[2].partition("\n## ")[0]
    return {title: _part(text) for title, _, text in (one.partition("\n") for one in section.split("\n### ")[1:])}


def _part(text: str) -> Part:
    part = Part(text)
    for failure, *cells in re.findall(r"^\| \*\*(.+?)\*\* \|(.*)\|(.*)\|(.*)\|$", text, re.MULTILINE):
        part.cells |= {(failure, moment): cell.strip() for moment, cell in zip(MOMENTS, cells, strict=True)}
    for failure, moment, tests in re.findall(r"^- (.+?), (before|during|after): (.*)$", text, re.MULTILINE):
        part.shown.setdefault((failure, moment), []).extend(re.findall(r"`([^`]+)`", tests))
    return part


def test_matrix_has_every_dependency_and_every_failure() -> None:
    assert set(matrix()) == DEPENDENCIES
    for name, part in matrix().items():
        assert {failure for failure, _ in part.cells} >= FAILURES, name


@pytest.mark.parametrize("name", sorted(DEPENDENCIES))
def test_every_cell_of_the_matrix_says_something_and_is_shown(name: str) -> None:
    part = matrix()[name]
    assert all(part.cells.values())
    said = {place for place, cell in part.cells.items() if cell != NOTHING}
    assert {place for place, tests in part.shown.items() if tests} == said
    if len(said) < len(part.cells):
        assert re.search(rf"^{NOTHING}: \S", part.text, re.MULTILINE), "it says why some cells have nothing to say"


def test_every_test_of_the_matrix_exists() -> None:
    named = [one for part in matrix().values() for shown in part.shown.values() for one in shown]
    assert [one for one in named if not _exists(one)] == []


def _exists(test: str) -> bool:
    path, _, names = test.partition("::")
    return (ROOT / path).is_file() and tuple(names.split("::")) in _tests(path)


@cache
def _tests(path: str) -> frozenset[tuple[str, ...]]:
    """The tests of a file, with their class if they have one."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = [(node.name,) for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    found += [(one.name, part.name) for one in classes for part in one.body if hasattr(part, "name")]
    return frozenset(name for name in found if name[-1].startswith("test_"))


def test_every_file_of_fault_tests_is_in_the_matrix() -> None:
    named = {one.partition("::")[0] for part in matrix().values() for shown in part.shown.values() for one in shown}
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "faults").glob("test_*.py")}
    assert files <= named


# --- docs/evidence.md ---------------------------------------------------------------------------------------------


def test_the_page_about_packs_names_every_file_of_a_zip_and_no_other() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    table = page.partition("## What is in a zip")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.+?) \|", table, re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    examples = {"INDEX": "7", "SIZE": "7", "ID": "0a" * 32, "HASH": "0badcafe"}
    files = [re.sub("|".join(examples), lambda found: examples[found[0]], name) for name in named]
    places = [archive.place(name)[0] for name in files]  # raises for a name that no pack has
    assert len(places) == len(set(places)) == archive.PLACES


def test_the_page_about_packs_names_settings_and_commands_that_exist() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    known = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:evidence|log)\.[a-z_.]+)`", page):
        assert f"| `{name}` |" in known, name


# --- every command of every page ------------------------------------------------------------------------------------

COMMANDS = get_command(cli)
MANUAL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
ALL = {page.relative_to(ROOT).as_posix(): commands(page, page.relative_to(ROOT).as_posix()) for page in MANUAL}

NOT_RUN = {
    ("README.md", "make demo"): "installs what the tests have: tests/e2e/test_cli.py plays it",
    ("README.md", "make setup"): "installs what the tests have",
    ("README.md", "make dev"): "does not end",
    ("README.md", "docker compose up"): "needs Docker; tests/deploy reads the files",
    ("README.md", "make test"): "is what runs this",
    ("README.md", "make check"): "is what runs this",
    ("README.md", "make torture"): "takes an hour",
    ("docs/threat-model.md", "make test-adversarial"): "runs tests/attacks, as `make test` does",
}
ELSEWHERE = {
    ("docs/envelope.md", "curl http://127.0.0.1:8000/api/tools/call -H 'Content-Type: application/json' -d '"): (
        "tests/e2e/test_envelope_page.py::test_the_first_example_needs_no_key"
    ),
    ("docs/envelope.md", 'url="${GATEWAY:-http://127.0.0.1:8000}/api/tools/call"'): (
        "tests/e2e/test_envelope_page.py::test_the_shell_example"
    ),
    (
        "docs/operating.md",
        "agentgate log migrate --database-url postgresql://agentgate_owner@db.example.org/agentgate",
    ): ("tests/adapters/log/test_postgresql_schema.py::test_the_command_migrates_and_verifies"),
    ("docs/webhooks.md", "agentgate webhooks test"): (
        "tests/e2e/test_webhooks.py::test_a_ping_is_signed_and_its_failure_is_an_exit_status"
    ),
    ("docs/webhooks.md", "agentgate webhooks list"): (
        "tests/e2e/test_webhooks.py::test_the_list_shows_an_endpoint_without_its_secrets"
    ),
}


@pytest.mark.parametrize("page", MANUAL, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_fence_says_what_it_is(page: Path) -> None:
    """One without a language might be a command that nobody runs."""
    for language, text in fences(page):
        assert language, text
        assert language in SHELLS or not re.search(r"^(\$|agentgate|make) ", text, re.MULTILINE), text


def test_what_is_not_run_is_still_there_and_is_run_where_that_says() -> None:
    there = {(command.page, command.name) for page in ALL.values() for command in page}
    not_here = set(NOT_RUN) | set(ELSEWHERE)
    assert not_here | {("README.md", name) for name in SAYINGS} <= there
    assert [test for test in ELSEWHERE.values() if not _exists(test)] == []
    assert {page for page, _ in there - not_here} == set(READINGS)


@pytest.mark.parametrize("page", [*MANUAL, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for said in re.findall(r"`agentgate ([^`]+)`", text):
        words = said.replace("\n", " ").split()
        command = COMMANDS
        while words and words[0] in getattr(command, "commands", {}):
            command = command.commands[words.pop(0)]  # type: ignore[attr-defined]
        assert command is not COMMANDS or words[0].startswith("-"), said
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for option in (word.partition("=")[0].rstrip(",.;:") for word in words if word.startswith("--")):
            assert option in known | {"--help"}, said


@dataclass
class Office:
    """What the pages have in common: a gateway, and agents that have called it."""

    command_line: CommandLine
    gateway: GatewayProcess
    agents: dict[str, httpx.Client]

    @property
    def env(self) -> dict[str, str]:
        return {
            "AGENTGATE_URL": self.gateway.url,
            "AGENTGATE_KEY": self.gateway.admin_key,
            "AGENTGATE_DATA_DIR": str(self.gateway.data_dir),
            "KEY": self.gateway.admin_key,
        }

    def ask_for(self, *prices: int) -> list[str]:
        """Ids of approvals that wait for a person."""
        asked = []
        for price in prices:
            arguments = {"table": "orders", "data": {"price": price}}
            said = call(self.agents["bot"], "db_insert", arguments, session="s-1")
            asked.append(said.json()["approval"]["id"])
        return asked


@pytest.fixture(scope="module")
def command_line() -> Iterator[CommandLine]:
    with CommandLine() as started:
        yield started


@pytest.fixture(scope="module")
def office(command_line: CommandLine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    data_dir = tmp_path_factory.mktemp("office") / "data"
    keys = {}
    for name in ("bot", "research-bot"):
        made = command_line("keys", "create", "--agent", name, "--data-dir", str(data_dir))
        keys[name] = made.stdout.strip()
    with GatewayProcess(data_dir=data_dir, env={"AGENTGATE_SIGNING_KEY": SIGNING_KEY}) as gateway:
        agents = {name: gateway.agent(key) for name, key in keys.items()}
        for number, agent in enumerate(agents.values(), 1):
            assert call(agent, "db_query", {"query": "SELECT 1"}, session=f"s-{number}").json()["success"]
        yield Office(command_line, gateway, agents)


SIGNING_KEY = "a-signing-key-of-the-pages-4711-81"
Prepare = Callable[[Reader, Office], None]


def read_readme(reader: Reader, _: Office) -> None:
    """From nothing: also the gateway is started as the page says."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    reader.env |= {"AGENTGATE_PORT": port}

    def instead(text: str) -> str:
        if "KILL_ID" in text:
            kills = reader.command_line("kills", "--json", env=reader.env, cwd=reader.home)
            text = text.replace("KILL_ID", json.loads(kills.stdout)["kills"][0]["id"])
        return text.replace(":8000/", f":{port}/")

    reader.instead = instead


def with_a_gateway(reader: Reader, office: Office) -> None:
    reader.env |= office.env


def about_approvals(reader: Reader, office: Office) -> None:
    with_a_gateway(reader, office)
    waiting = iter(office.ask_for(12, 13, 14, 15))
    reader.instead = lambda text: text.replace(" 3f9c ", f" {next(waiting)} ") if " 3f9c " in text else text


def about_envelopes(reader: Reader, office: Office) -> None:
    with_a_gateway(reader, office)
    [waiting] = office.ask_for(16)
    examples = {"apr-3f9c0a51d2b94e6688aa17c4": waiting, "http://127.0.0.1:8000": office.gateway.url}
    reader.instead = lambda text: _replaced(text, examples)


def about_evidence(reader: Reader, office: Office) -> None:
    with_a_gateway(reader, office)
    (reader.home / "kept-from-last-year").write_bytes(_checkpoint(office))
    reader.instead = lambda text: f"rm -f evidence-s-1.zip; {text}" if "--checkpoint" in text else text


def about_identity(reader: Reader, office: Office) -> None:
    reader.env |= {"AGENTGATE_DATA_DIR": str(reader.home / "data")}

    def instead(text: str) -> str:
        if "k-1f0c93aa" not in text:
            return text
        keys = office.command_line("keys", "list", "--json", env=reader.env, cwd=reader.home)
        return text.replace("k-1f0c93aa", json.loads(keys.stdout)["keys"][0]["id"])

    reader.instead = instead


def about_tools(reader: Reader, office: Office) -> None:
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in ("read", "write", "list")]
    (reader.home / "tools.json").write_text(json.dumps({"name": "files", "tools": tools}), encoding="utf-8")
    command = [sys.executable, str(ROOT / "tests" / "e2e" / "tool_server.py"), str(reader.home)]
    gateway = reader.enter(GatewayProcess(config={"upstreams": {"files": {"kind": "mcp", "command": command}}}))
    reader.env |= {"AGENTGATE_URL": gateway.url, "AGENTGATE_KEY": gateway.admin_key}
    until(lambda: gateway.admin().get("/tools").json()["servers"]["files"]["up"])
    reader.instead = lambda text: re.sub(r" (accept|reject) ", r" \1 --yes ", text)


def about_operating(reader: Reader, office: Office) -> None:
    with_a_gateway(reader, office)
    (reader.home / "log.vkey").write_bytes((_trusted(reader, office) / "log.vkey").read_bytes())
    reader.instead = lambda text: _replaced(
        text, {"https://gate.example.org": office.gateway.url, "--checkpoint seen": "--checkpoint seen --once"}
    )


def about_verifying(reader: Reader, office: Office) -> None:
    with_a_gateway(reader, office)
    (reader.home / "kept-in-june").write_bytes(_checkpoint(office))
    (reader.home / "signing.key").write_text(SIGNING_KEY, encoding="utf-8")
    (reader.home / "agentgate-data").symlink_to(office.gateway.data_dir)
    for name in ("log.vkey", "envelope.pub.pem"):
        shutil.copy(_trusted(reader, office) / name, reader.home)
    for name in ("evidence.zip", "evidence.json", "report.pdf"):
        words = (
            "evidence",
            "pull",
            "s-1",
            "-o",
            name,
            "--format",
            name.partition(".")[2],
            "--checkpoint",
            "kept-in-june",
        )
        done = office.command_line(*words, env=reader.env, cwd=reader.home)
        assert done.status == 0, done


def nothing_else(_: Reader, __: Office) -> None: ...


READINGS: dict[str, Prepare] = {
    "README.md": read_readme,
    "docs/approvals.md": about_approvals,
    "docs/compliance.md": with_a_gateway,
    "docs/envelope.md": about_envelopes,
    "docs/evidence.md": about_evidence,
    "docs/identity.md": about_identity,
    "docs/mcp.md": about_tools,
    "docs/operating.md": about_operating,
    "docs/policy.md": nothing_else,
    "docs/verifying.md": about_verifying,
}
STATUSES = {
    ("docs/approvals.md", "agentgate approvals"): 4,
    ("docs/mcp.md", "agentgate tools"): 4,
    (
        "docs/policy.md",
        'agentgate policy try --tool api_post --arguments \'{"endpoint": "/x", "payload": {}}\' --agent bot',
    ): 4,
}
"""Something waits for somebody, or would."""

SAYINGS = {
    '.venv/bin/agentgate kill session s-1 --reason "loops on the order table"': "drained",
    ".venv/bin/agentgate kills": "loops on the order table",
    ".venv/bin/agentgate watch": "s-1",
    ".venv/bin/agentgate verify pack.zip --trust trust/envelope.pub.pem --trust trust/log.vkey": "pack.zip: verified",
    ".venv/bin/agentgate log verify --data-dir agentgate-data": "the log holds",
}
"""What the README does not show, and yet promises."""


@pytest.mark.parametrize("page", READINGS)
def test_every_command_of_a_page_does_what_it_shows(
    page: str, command_line: CommandLine, office: Office, tmp_path: Path
) -> None:
    with Reader(command_line, tmp_path) as reader:
        READINGS[page](reader, office)
        for command in ALL[page]:
            if (page, command.name) in NOT_RUN or (page, command.name) in ELSEWHERE:
                continue
            done = reader.run(command)
            assert done.status == STATUSES.get((page, command.name), 0), (command.text, done)
            command.compare(done.stdout)
            if page == "README.md":
                assert SAYINGS.get(command.name, "") in done.stdout, done


def _replaced(text: str, examples: dict[str, str]) -> str:
    for example, real in examples.items():
        text = text.replace(example, real)
    return text


def _checkpoint(office: Office) -> bytes:
    return office.gateway.admin().get("/log/checkpoint").content


def _trusted(reader: Reader, office: Office) -> Path:
    folder = reader.home / "from-the-gateway"
    done = office.command_line("evidence", "keys", "--out", str(folder), env=office.env, cwd=reader.home)
    assert done.status == 0, done
    return folder
