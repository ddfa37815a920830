"""What the parsers say, and what they refuse to say anything about. What guards make of it: tests/vectors/packs.py."""

from __future__ import annotations

import itertools
import random
import shutil
import sqlite3
import subprocess
from typing import Any

import pytest

from agentgate.adapters.parsers.arguments import SQL_DIALECTS, ArgumentParsers
from agentgate.ports.policy import ArgumentParser
from tests.contracts.argument_parser import ArgumentParserContract

KINDS = ("path", "url", "domain", "shell", *(f"sql:{dialect}" for dialect in sorted(SQL_DIALECTS)))
PARSERS = ArgumentParsers()
PARSERS.prepare(KINDS)


def sql(text: str, dialect: str = "postgres") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = PARSERS.parse(f"sql:{dialect}", text)["statements"]
    return found


class TestArguments(ArgumentParserContract):
    examples = {  # noqa: RUF012 - read only
        "path": "/a/b",
        "url": "https://a.example/b",
        "domain": "a.example",
        "shell": "ls -l",
        **dict.fromkeys(KINDS[4:], "select 1"),
    }

    @pytest.fixture
    def parser(self) -> ArgumentParser:
        return ArgumentParsers()


@pytest.mark.parametrize("bracket", ["(", "f(", "(select ", "case when ", "[", "{", "not "])
def test_what_is_nested_too_deeply_is_an_error(bracket: str) -> None:
    assert "error" in PARSERS.parse("sql:postgres", f"select {bracket * 900} 1")
    assert "error" in PARSERS.parse("shell", f"ls {'$(' * 900}ls{')' * 900}")


# --- SQL ---


@pytest.mark.parametrize(
    ("text", "kinds", "reads", "writes"),
    [
        ("select 1", ["select"], [], []),
        ("select * from a join s.b using (x)", ["select"], ["a", "s.b"], []),
        ('select * from (select * from A) x, "B"', ["select"], ["B", "a"], []),
        ("insert into a select * from b", ["insert"], ["b"], ["a"]),
        ("update a set x = 1 from b", ["update"], ["b"], ["a"]),
        ("delete from a using b", ["delete"], ["b"], ["a"]),
        ("with x as (delete from a returning *) select * from x", ["delete", "select"], [], ["a"]),
        ("select * into n from a", ["select", "select_into"], ["a"], ["n"]),
        ("select * from a for update", ["lock", "select"], ["a"], []),
        ("truncate a, b", ["truncate"], [], ["a", "b"]),
        ("drop table a", ["drop"], [], ["a"]),
        ("copy a from 'x'", ["copy"], [], ["a"]),
        ("set x = 1", ["set"], [], []),
        ("listen x", ["other"], [], []),
    ],
)
def test_statements_are_known_by_what_they_do(text: str, kinds: list[str], reads: list[str], writes: list[str]) -> None:
    [statement] = sql(text)
    assert (statement["kinds"], statement["reads"], statement["writes"]) == (kinds, reads, writes)


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("with a as (select 1) select * from a", []),
        ("with a as (select * from a) select * from a", ["a"]),
        ("with x as (select * from a), a as (select 1) select * from x", ["a"]),
        ("with recursive a as (select 1 union all select n from a) select * from a", []),
        ("select * from (with a as (select 1) select * from a) x, a", ["a"]),
        ("with a as (select 1) select * from s.a", ["s.a"]),
        ('with a as (select 1) select * from "A"', ["A"]),
    ],
)
def test_a_common_table_expression_hides_no_table(text: str, reads: list[str]) -> None:
    assert sql(text)[0]["reads"] == reads


def test_only_functions_that_compute_are_known() -> None:
    [statement] = sql("select lower(x), count(*), pg_sleep(1), evil.lower(x), nextval('s') from f('x')")
    assert statement["unknown_functions"] == ["evil.lower", "f", "nextval", "pg_sleep"]


@pytest.mark.parametrize(
    "comment", ["/*!50000 union select 2 from users */", "/*! from users */", "/*M! from users */"]
)
def test_what_mysql_runs_in_a_comment_is_not_understood(comment: str) -> None:
    """Where comments are allowed, it would be a statement that nobody has read."""
    assert "error" in PARSERS.parse("sql:mysql", f"select 1 {comment}")


def test_comments_are_seen() -> None:
    assert PARSERS.parse("sql:mysql", "select 1 /* x */")["comments"] is True
    assert PARSERS.parse("sql:mysql", "select 1 # x")["comments"] is True
    assert PARSERS.parse("sql:mysql", "select 1--1")["comments"] is True
    assert PARSERS.parse("sql:postgres", "select 1 - 1")["comments"] is False


@pytest.mark.parametrize("dialect", ["mysql", "postgres", "sqlite"])
@pytest.mark.parametrize(
    "text",
    [
        "select 1.0from users",
        "select 1e0from users",
        "select 1.from users",
        "select 1from users",
        "select 0x1from users",
        "select x.1from users",
        "select name from products where 1=1union select 1 from users",
    ],
)
def test_numbers_and_words_that_run_together_are_not_understood(dialect: str, text: str) -> None:
    """To MySQL `1.0from users` is a number and a table, to the parser a column with another name."""
    assert "run together" in (error := PARSERS.parse(f"sql:{dialect}", text)["error"]) or "digit" in error, error


@pytest.mark.parametrize("text", ["select 1 from a", "select a.x, .5, 1e-3, 0x1F from a", "select 'a'||1 from a"])
def test_numbers_are_no_names(text: str) -> None:
    for dialect in ("mysql", "postgres", "sqlite"):
        assert "error" not in PARSERS.parse(f"sql:{dialect}", text)


@pytest.mark.parametrize(
    "text",
    [
        "select 'a' in users",
        "select name from products where name not in users",
        "select (1, 'a') in main.users",
        "select 1 in pragma_table_list('x')",
    ],
)
def test_a_table_behind_in_is_not_understood(text: str) -> None:
    """SQLite reads it; nothing else knows such a thing."""
    assert "IN without a list" in PARSERS.parse("sql:sqlite", text)["error"]


@pytest.mark.parametrize(
    "text",
    ["select * from a" + " join b" * 400, "select * from a" + " join b" * 10, "select " + "array[" * 32 + "]" * 32],
    ids=["joins", "a few joins", "arrays"],
)
def test_what_would_be_read_in_ever_more_ways_has_an_end(text: str) -> None:
    """Without one, the first of these takes longer than there is time, and the process does nothing else meanwhile."""
    for dialect in ("mysql", "postgres", "sqlite"):
        assert PARSERS.parse(f"sql:{dialect}", text)["error"]
    assert sql("select * from a" + " join b" * 5)[0]["reads"] == ["a", "b"]


WORDS = (
    "select insert into values update set delete from where with as recursive union all replace drop table create view "
    "a b x (x) ( ) , ; * = 1 'q' \"b\" [a] `b` a.x main.a join on order by limit returning exists in not null count(*) "
    "group having case when then end pragma attach begin vacuum explain analyze temp if"
)
TEMPLATES = (
    "select {} from a",
    "with a as ({}) select * from a",
    "select * from a where x in ({})",
    "{}",
    "select 1 {}",
)


def test_sqlite_itself_never_does_more_than_was_said() -> None:
    """Statements put together at random: what SQLite, asked through its authorizer, writes or reads was said before."""
    dice = random.Random(7)
    touched = 0
    for _ in range(6000):
        text = dice.choice(TEMPLATES).format(" ".join(dice.choices(WORDS.split(), k=dice.randint(1, 7))))
        reading = PARSERS.parse("sql:sqlite", text)
        if "error" in reading or len(reading["statements"]) != 1 or reading["comments"]:
            continue
        [statement] = reading["statements"]
        done = _done_by_sqlite(text)
        if done is None:
            continue
        touched += 1
        reads, writes = done
        if statement["kinds"] == ["select"]:
            assert not writes, text
        said = {name.lower().rpartition(".")[2] for name in statement["reads"] + statement["writes"]}
        assert {name.lower() for name in reads} <= said, text
    assert touched > 100, "it has to mean something"


def _done_by_sqlite(text: str) -> tuple[set[str], set[str]] | None:
    reads: set[str] = set()
    writes: set[str] = set()

    def authorize(action: int, one: str | None, _: str | None, __: str | None, ___: str | None) -> int:
        if action == sqlite3.SQLITE_READ and one and not one.startswith("sqlite_"):
            reads.add(one)
        elif action not in {
            sqlite3.SQLITE_READ,
            sqlite3.SQLITE_SELECT,
            sqlite3.SQLITE_FUNCTION,
            sqlite3.SQLITE_RECURSIVE,
        }:
            writes.add(f"{action} {one}")
        return sqlite3.SQLITE_OK

    with sqlite3.connect(":memory:") as connection:
        connection.executescript("create table a (x, y); create table b (x, z); create view v as select * from b")
        connection.set_authorizer(authorize)
        try:
            connection.execute(text)
        except (sqlite3.Error, sqlite3.Warning):
            return None
        finally:
            connection.set_authorizer(None)
    return reads, writes


# --- shell ---


def shell(text: str) -> dict[str, Any]:
    return dict(PARSERS.parse("shell", text))


def test_words_are_what_the_command_gets() -> None:
    assert shell("cat 'a b' \"c d\" e\\ f g'h'\"i\"")["commands"] == [
        {"name": "cat", "argv": ["a b", "c d", "e f", "ghi"], "assignments": []}
    ]


@pytest.mark.parametrize(
    "line",
    ['find . {"}",-delete}', "find . {'}',-delete}", "ls x{a,b}", "ls {1..3}", "ls " + "{" * 1365 + "," * 2700],
    ids=range(5),
)
def test_braces_that_make_several_words_are_not_understood(line: str) -> None:
    """However they are closed, for to bash a quoted `}` closes nothing; and without a search that takes seconds."""
    assert "brace" in shell(line)["error"]


@pytest.mark.parametrize("line", ["sort -o2>x", "ls 12>x", "ls &>x rm", "ls &>>x", "ls >&x", "ls 2>&12"])
def test_redirections_that_shells_read_differently_are_not_understood(line: str) -> None:
    """To some, `-o2` is an argument, and `&` ends the command, so that another one follows."""
    assert "error" in shell(line)
    assert shell("ls 2>x 2>&1")["commands"] == [{"name": "ls", "argv": [], "assignments": []}]


def test_what_only_the_shell_will_know_is_null() -> None:
    assert shell("ls $X ~/y")["commands"][0]["argv"] == [None, None]
    assert shell("$X y")["commands"][0]["name"] is None


def test_commands_in_substitutions_are_commands() -> None:
    names = {command["name"] for command in shell('echo "$(cat `id`)" <(ls)')["commands"]}
    assert names == {"echo", "cat", "id", "ls"}


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_itself_gets_the_words_that_were_said() -> None:
    """Lines put together at random: where nothing is expanded, bash hands over the very words."""
    dice = random.Random(11)
    pieces = (*"a '=#!{},%^@:é[]\\\"\t", "b c", "-x", "''")
    lines = ["".join(dice.choices(pieces, k=dice.randint(1, 8))) for _ in range(3000)]
    checked = 0
    for line in itertools.islice((f"show {one}" for one in lines), 3000):
        reading = shell(line)
        if "error" in reading or len(reading["commands"]) != 1 or any(reading[flag] for flag in FLAGS):
            continue
        command = reading["commands"][0]
        if reading["redirects"] or command["name"] != "show" or checked == 150:
            continue
        checked += 1
        program = f"show() {{ printf '%s\\0' \"$@\"; }}\n{line}\n"
        done = subprocess.run(["bash", "--norc", "-f", "-c", program], capture_output=True, check=False, timeout=10)
        expected = "".join(f"{word}\0" for word in command["argv"]) or "\0"
        assert done.stdout.decode() == expected, (line, done)
    assert checked > 50, "it has to mean something"


FLAGS = ("pipes", "chains", "background", "substitutions", "expansions", "globs")


# --- addresses ---


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://Example.COM./x", "example.com"),
        ("https://b\u00fccher.de", "xn--bcher-kva.de"),
        ("https://b\u00fccher\u3002de", "xn--bcher-kva.de"),
        ("https://[0:0::1]", "::1"),
        ("https://a@b:c@d", None),
        ("https://u:p@d", "d"),
    ],
)
def test_hosts_have_one_form(text: str, host: str | None) -> None:
    assert PARSERS.parse("url", text).get("host") == host


@pytest.mark.parametrize("text", ["[::1", "[[::1]]", "[::1]]", "[fe80::1%eth0]", "[", "[]"])
def test_what_is_nearly_an_address_is_none(text: str) -> None:
    assert PARSERS.parse("domain", text)["error"] == "not an address"
    assert PARSERS.parse("domain", "[::1]")["host"] == "::1"


def test_the_default_port_is_the_schemes_own() -> None:
    assert [PARSERS.parse("url", text)["port"] for text in ("http://a", "https://a", "gopher://a", "http://a:81")] == [
        80,
        443,
        0,
        81,
    ]


def test_the_same_text_is_read_once() -> None:
    assert PARSERS.parse("url", "https://a.example") is PARSERS.parse("url", "https://a.example")
