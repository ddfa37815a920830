"""Packs switched on, calls, and what must come of them. Arguments are read by the gateway's own parsers, so that
a guard is tested with what it will be told. Both engines run all of them.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from agentgate.adapters.parsers.arguments import ArgumentParsers
from agentgate.core.parsing import read_parse, texts_of
from tests.vectors.decisions import DATA, ask

ALLOW, DENY, ASK = "ALLOW", "DENY", "REQUIRE_APPROVAL"
PARSERS: Final = ArgumentParsers()
FACTS: Final[dict[str, Any]] = {"calls": 1, "bytes": 10, "cost_micros": 0, "labels": [], "prior": {}}


class Case(NamedTuple):
    question: dict[str, Any]
    action: str
    says: str = ""
    """In the reason."""


class Group(NamedTuple):
    name: str
    packs: Any
    cases: list[Case]
    more: dict[str, Any] = {}  # noqa: RUF012 - read only
    """Data beside the packs."""

    @property
    def data(self) -> dict[str, Any]:
        return {**DATA, **self.more, "packs": self.packs}


def _call(name: str, parse: dict[str, Any] | None = None, /, **more: Any) -> dict[str, Any]:
    """A question about a call, parsed as the gateway would."""
    question = ask(name, **{"tool": {}, "time": "2026-11-20T10:00:00Z", **more})  # a Friday
    rules = read_parse({"parse": parse or {}})
    if wanted := rules.get(name):
        PARSERS.prepare(wanted.values())
        found = {argument: texts_of(question["arguments"], argument) for argument in wanted}
        question["parsed"] = {
            argument: [{"kind": "?", "error": "not a text"}]
            if texts is None
            else [PARSERS.parse(wanted[argument], text) for text in texts]
            for argument, texts in found.items()
            if texts != []
        }
    return question


SQL_PARSE: Final = {"db_query": {"query": "sql:postgres"}}


def _sql(text: Any, action: str, says: str = "") -> Case:
    return Case(_call("db_query", SQL_PARSE, arguments={"query": text}), action, says)


SQL: Final = Group(
    "sql_guard",
    {"sql_guard": {"tools": ["db_query"], "tables": ["orders", "s.items"], "functions": ["now_utc"]}},
    [
        _sql("select id, count(*) from orders join s.items using (id) group by id", ALLOW),
        _sql("with o as (select * from orders) select * from o", ALLOW),
        _sql("select now_utc() from orders", ALLOW),
        _sql("SELECT 1;", ALLOW),
        _sql("select * from users", DENY, "users is not listed"),
        _sql("select * from public.orders", DENY, "public.orders is not listed"),
        _sql('select * from "Orders"', DENY, "Orders is not listed"),
        _sql("select 1; select 2", DENY, "several"),
        _sql("select 1; drop table orders", DENY, "drop is not allowed"),
        _sql("delete from orders", DENY, "delete is not allowed"),
        _sql("with x as (delete from orders returning *) select * from x", DENY, "delete is not allowed"),
        _sql("select * into copy from orders", DENY, "select_into is not allowed"),
        _sql("select * from orders for update", DENY, "lock is not allowed"),
        _sql("select pg_sleep(9) from orders", DENY, "pg_sleep is not listed"),
        _sql("select * from pg_read_file('/etc/passwd')", DENY, "pg_read_file is not listed"),
        _sql("select evil.lower('x')", DENY, "evil.lower is not listed"),
        _sql("select 1 /* drop */", DENY, "comments"),
        _sql("select 1 -- x", DENY, "comments"),
        _sql("explain analyze delete from orders", DENY, "not understood"),
        _sql("do $$ begin delete from orders; end $$", DENY, "not understood"),
        _sql("select 'a\\'; drop table orders; --'", DENY, "backslash"),
        _sql("selec * from orders", DENY, "not"),
        _sql("", DENY, "no statement"),
        _sql("select " + "(" * 200 + "1" + ")" * 200, DENY, "nested too deeply"),
        _sql("select '" + "x" * 20_000 + "'", DENY, "longer than"),
        _sql(["select * from orders", "drop table orders"], DENY, "drop is not allowed"),
        _sql({"text": "select 1"}, DENY, "not a text"),
        _sql(7, DENY, "not a text"),
        Case(_call("db_query", SQL_PARSE), DENY, "none came"),
        Case(_call("db_query", arguments={"query": "select 1"}), DENY, "not parsed"),
        Case(_call("file_read"), ALLOW),
    ],
    {"parse": SQL_PARSE},
)

SHELL_PARSE: Final = {"api_get": {"command": "shell"}}


def _shell(text: Any, action: str, says: str = "") -> Case:
    return Case(_call("api_get", SHELL_PARSE, arguments={"command": text}), action, says)


SHELL: Final = Group(
    "shell_guard",
    {
        "shell_guard": {
            "commands": ["ls", "cat", "find", "grep", "env", "echo", "builtin", "/usr/bin/find", "/usr/bin/env"],
            "pipes": True,
        }
    },
    [
        _shell("ls -l /srv", ALLOW),
        _shell("cat 'a file' | grep -n x", ALLOW),
        _shell("find . -name x", ALLOW),
        _shell("'l's", ALLOW),
        _shell("rm -rf /", DENY, "rm is not listed"),
        _shell("/tmp/ls", DENY, "/tmp/ls is not listed"),
        _shell("ls; rm x", DENY, "chains are not allowed"),
        _shell("ls; ls", DENY, "chains are not allowed"),
        _shell("ls && ls", DENY, "chains are not allowed"),
        _shell("ls &", DENY, "background are not allowed"),
        _shell("ls\nrm x", DENY, "several lines"),
        _shell("ls $(rm x)", DENY, "rm is not listed"),
        _shell("ls `ls`", DENY, "substitutions are not allowed"),
        _shell('ls "$(ls)"', DENY, "substitutions are not allowed"),
        _shell("cat <(ls)", DENY, "substitutions are not allowed"),
        _shell("ls $HOME", DENY, "expansions are not allowed"),
        _shell("$X", DENY, "known only when the line runs"),
        _shell("ls ${x:-$(rm x)}", DENY, "not understood"),
        _shell("ls ~", DENY, "expansions are not allowed"),
        _shell("ls *", DENY, "globs are not allowed"),
        _shell("cat /etc/{passwd,shadow}", DENY, "brace"),
        _shell("ls > x", DENY, "redirections are not allowed"),
        _shell("cat < x", DENY, "redirections are not allowed"),
        _shell("LD_PRELOAD=/tmp/x.so ls", DENY, "assignments are not allowed"),
        _shell("bash -c 'rm x'", DENY, "bash is not listed"),
        _shell("env rm x", DENY, "env runs other commands"),
        _shell("echo cm0= | base64 -d | sh", DENY, "base64 is not listed"),
        _shell("find . -delete", DENY, "find with an argument"),
        _shell("find . -exec rm {} +", DENY, "find with an argument"),
        _shell("/usr/bin/find . -name x", ALLOW),
        _shell("/usr/bin/find . -delete", DENY, "find with an argument"),
        _shell("/usr/bin/env rm x", DENY, "env runs other commands"),
        _shell("builtin eval x", DENY, "builtin runs other commands"),
        _shell('find . {"}",-delete}', DENY, "brace"),
        _shell("for x in a; do ls; done", DENY, "not understood"),
        _shell("ls() { rm x; }", DENY, "not understood"),
        _shell("cat <<x\nx", DENY, "several lines"),
        _shell("ls $'\\x2d'", DENY, "not understood"),
        _shell("ls 'a", DENY, "not understood"),
        _shell("ls \\", DENY, "not understood"),
        _shell("ls\u00a0-l", DENY, "not understood"),
        _shell("", DENY, "no command"),
        _shell("ls # x", DENY, "not understood"),
    ],
    {"parse": SHELL_PARSE},
)

PATH_PARSE: Final = {"file_read": {"path": "path"}}


def _path(text: Any, action: str, says: str = "") -> Case:
    return Case(_call("file_read", PATH_PARSE, arguments={"path": text}), action, says)


PATHS: Final = Group(
    "path_allow",
    {"path_allow": {"tools": ["file_read"], "under": ["/srv/docs"], "except": ["/srv/docs/private"]}},
    [
        _path("/srv/docs/a.txt", ALLOW),
        _path("/srv/docs", ALLOW),
        _path("/srv/docs/./a//b", ALLOW),
        _path(["/srv/docs/a", "/srv/docs/b"], ALLOW),
        _path("/srv/docs/private/x", DENY, "excepted"),
        _path("/srv/docs2/x", DENY, "below no listed root"),
        _path("/etc/passwd", DENY, "below no listed root"),
        _path("/srv/docs/../../etc/passwd", DENY, "goes up"),
        _path("/srv/docs/x/../y", DENY, "goes up"),
        _path("/srv/docs/%2e%2e/x", DENY, "percent"),
        _path("/srv/docs/..%2f..%2fetc", DENY, "percent"),
        _path("/srv/docs/%252e%252e/x", DENY, "percent"),
        _path("/srv/docs/a\x00.txt", DENY, "cannot be seen"),
        _path("/srv/docs\\..\\x", DENY, "backslash"),
        _path("/srv/docs/\uff0e\uff0e/x", DENY, "looks like"),
        _path("/srv/docs/\u2025/x", DENY, "looks like"),
        _path("a.txt", DENY, "relative"),
        _path("~/x", DENY, "home"),
        _path("file:///srv/docs/x", DENY, "address"),
        _path("//server/srv/docs", DENY, "two slashes"),
        _path(["/srv/docs/a", "/etc/passwd"], DENY, "below no listed root"),
        _path("", DENY, "empty"),
        _path(None, DENY, "not a text"),
    ],
    {"parse": PATH_PARSE},
)

URL_PARSE: Final = {"api_get": {"url": "url"}}


def _url(text: Any, action: str, says: str = "") -> Case:
    return Case(_call("api_get", URL_PARSE, arguments={"url": text}), action, says)


DOMAINS: Final = Group(
    "domain_allow",
    {"domain_allow": {"tools": ["api_get"], "domains": ["good.com", "*.good.com", "xn--bcher-kva.de"]}},
    [
        _url("https://good.com/x?y#z", ALLOW),
        _url("https://a.b.good.com", ALLOW),
        _url("https://GOOD.com.:443/", ALLOW),
        _url("https://b\u00fccher.de/", ALLOW),
        _url("https://evil.com#good.com", DENY, "evil.com is not listed"),
        _url("https://evil.com?good.com", DENY, "evil.com is not listed"),
        _url("https://good.com.evil.com", DENY, "not listed"),
        _url("https://evilgood.com", DENY, "not listed"),
        _url("https://good.com@evil.com", DENY, "a user"),
        _url("https://evil.com@good.com", DENY, "a user"),
        _url("https://evil.com\\@good.com", DENY, "not understood"),
        _url("https://evil.com%2f.good.com", DENY, "not understood"),
        _url("https://good\uff0ecom.evil.com", DENY, "not listed"),
        _url("https://g\u043e\u043ed.com", DENY, "not listed"),
        _url("https://xn--gd-jbba.com", DENY, "not listed"),
        _url("https://good.com:8443", DENY, "port"),
        _url("http://good.com", DENY, "scheme"),
        _url("ftp://good.com", DENY, "scheme"),
        _url("https:good.com", DENY, "not understood"),
        _url("//good.com", DENY, "not understood"),
        _url("https://127.1", DENY, "odd form"),
        _url("https://2130706433", DENY, "odd form"),
        _url("https://0x7f000001", DENY, "odd form"),
        _url("https://[::1]", DENY, "::1 is not listed"),
        _url("https://good.com\n.evil.com", DENY, "not understood"),
        _url("https://fa\u00df.good.com", DENY, "not understood"),
        _url("javascript:alert(1)", DENY, "not understood"),
    ],
    {"parse": URL_PARSE},
)


def _in(tool: str, labels: list[str] | None, of_tool: list[str], action: str, says: str = "", **more: Any) -> Case:
    """`labels` None: the gateway was not asked for the session's past."""
    session = {"id": "s"} if labels is None else {"id": "s", **FACTS, "labels": labels}
    about = {"name": tool, "access": "read", "upstream": "u", "labels": of_tool}
    return Case(_call(tool, session=session, tool=about, **more), action, says)


TRIFECTA: Final = Group(
    "lethal_trifecta",
    {"lethal_trifecta": {"approval": {"quorum": 2}}},
    [
        _in("api_get", [], ["outbound"], ALLOW),
        _in("api_get", ["private"], ["outbound"], ALLOW),
        _in("api_get", ["untrusted"], ["outbound"], ALLOW),
        _in("api_get", ["private", "untrusted"], [], ALLOW),
        _in("api_get", ["private", "untrusted"], ["outbound"], ASK, "can send out"),
        _in("api_get", ["pii", "untrusted"], ["outbound"], ASK, "can send out"),
        _in("api_get", ["untrusted"], ["private", "outbound"], ASK, "can send out"),
        _in("api_get", ["private", "untrusted"], ["outbound"], ALLOW, has_approval_token=True),
        _in("db_insert", ["secret", "untrusted"], [], ASK, "Write requires approval"),
        _in("api_get", None, ["outbound"], DENY, "not known"),
        _in("api_get", None, [], DENY, "not known"),
        _in("nope", ["private", "untrusted"], ["outbound"], DENY, "not in allowlist"),
    ],
)

STRICT_TRIFECTA: Final = Group(
    "lethal_trifecta-deny",
    {"lethal_trifecta": {"then": "DENY", "private": ["crm"], "untrusted": ["web"], "outbound": ["mail"]}},
    [
        _in("api_get", ["crm", "web"], ["mail"], DENY, "can send out"),
        _in("api_get", ["crm", "web"], ["mail"], DENY, "can send out", has_approval_token=True),
        _in("api_get", ["private", "untrusted"], ["mail"], ALLOW),
        _in("db_insert", ["crm", "web"], [], DENY, "can send out", has_approval_token=True),
    ],
)

FIELDS: Final = Group(
    "forbidden_fields",
    {"forbidden_fields": {"fields": ["password", "is_admin"]}},
    [
        Case(_call("file_read", arguments={"a": {"b": ["password"]}}), ALLOW),
        Case(_call("file_read", arguments={"password": 1}), DENY, "password is forbidden"),
        Case(_call("file_read", arguments={"a": [{"b": {"Pass-Word": None}}]}), DENY, "password is forbidden"),
        Case(_call("file_read", arguments={"isAdmin": True}), DENY, "is_admin is forbidden"),
        Case(_call("db_insert", arguments={"IS ADMIN": True}, has_approval_token=True), DENY, "is_admin"),
        Case(_call("db_insert", arguments={"x": 1}), ASK),
    ],
)

READ_ONLY: Final = Group(
    "read_only",
    {"read_only": {"except": ["create_ticket"]}},
    [
        Case(_call("db_query"), ALLOW),
        Case(_call("db_insert"), DENY, "Only reads"),
        Case(_call("db_insert", has_approval_token=True), DENY, "Only reads"),
        Case(_call("listed_twice", has_approval_token=True), DENY, "Only reads"),
        Case(_call("create_ticket"), ASK),
        Case(_call("db_query", tool={"name": "db_query", "access": "write"}), DENY, "Only reads"),
    ],
)

WRITES: Final = Group(
    "write_with_approval",
    {"write_with_approval": {"tools": ["db_insert"], "approval": {"quorum": 2}}},
    [
        Case(_call("db_query"), ALLOW),
        Case(_call("db_insert"), ASK, "Write requires approval"),
        Case(_call("db_insert", has_approval_token=True), ALLOW),
        Case(_call("db_update"), ASK),
    ],
)

HOURS: Final = Group(
    "working_hours",
    {"working_hours": {"days": ["friday"], "from": "09:00", "to": "17:00", "offset": "+01:00"}},
    [
        Case(_call("db_query", time="2026-11-22T23:00:00Z"), ALLOW),
        Case(_call("db_insert", time="2026-11-20T10:00:00Z"), ASK),
        Case(_call("db_insert", time="2026-11-20T08:00:00Z"), ASK),
        Case(_call("db_insert", time="2026-11-20T07:59:59Z"), DENY, "working hours"),
        Case(_call("db_insert", time="2026-11-20T16:00:00Z", has_approval_token=True), DENY, "working hours"),
        Case(_call("db_insert", time="2026-11-19T10:00:00Z"), DENY, "working hours"),
    ],
)

SEVERAL: Final = Group(
    "several",
    {
        "read_only": {},
        "lethal_trifecta": {"approval": {"quorum": 2}},
        "write_with_approval": {"approval": {"quorum": 3}},
        "forbidden_fields": {"fields": ["x"], "then": "REQUIRE_APPROVAL"},
    },
    [
        _in("api_get", [], [], ALLOW),
        _in("db_insert", [], [], DENY, "Only reads"),
        _in("api_get", ["private", "untrusted"], ["outbound"], ASK, "can send out"),
        _in("api_get", [], [], ASK, "x is forbidden", arguments={"x": 1}),
    ],
)

DIFFERENT_TERMS: Final = Group(
    "different-terms",
    {"lethal_trifecta": {"approval": {"quorum": 2}}, "write_with_approval": {"approval": {"quorum": 3}}},
    [_in("db_insert", ["private", "untrusted"], [], DENY, "different terms"), _in("db_insert", [], [], ASK)],
)


def _malformed() -> list[Group]:
    """Whatever is not understood denies what would be allowed without packs."""
    found = [
        Group(f"malformed-{name}-{number}", {name: options}, [Case(_call("db_query", session=past), DENY)])
        for past in ({"id": "s", **FACTS},)
        for name in (
            "read_only",
            "write_with_approval",
            "lethal_trifecta",
            "forbidden_fields",
            "sql_guard",
            "shell_guard",
            "path_allow",
            "domain_allow",
            "working_hours",
        )
        for number, options in enumerate((None, False, [], "x", {"then": "ALLOW"}, {"no_such_option": 1}))
    ]
    hours = {"days": ["friday"], "from": "09:00", "to": "17:00", "offset": "+01:00"}
    worse: dict[str, Any] = {
        "hours-zone": {"working_hours": {**hours, "offset": "Europe/Berlin"}},
        "hours-day": {"working_hours": {**hours, "days": ["Freitag"]}},
        "hours-backwards": {"working_hours": {**hours, "from": "18:00"}},
        "root-relative": {"path_allow": {"under": ["srv"]}},
        "root-up": {"path_allow": {"under": ["/srv/../etc"]}},
        "domain-star": {"domain_allow": {"domains": ["*"]}},
        "no-fields": {"forbidden_fields": {"fields": []}},
        "unknown-pack": {"no_such_pack": {}},
        "packs-are-a-list": ["read_only"],
        "packs-are-text": "read_only",
        "packs-are-a-number": 0,
    }
    return found + [Group(name, packs, [Case(_call("db_query"), DENY)]) for name, packs in worse.items()]


GROUPS: Final = (
    SQL, SHELL, PATHS, DOMAINS, TRIFECTA, STRICT_TRIFECTA, FIELDS, READ_ONLY, WRITES, HOURS, SEVERAL, DIFFERENT_TERMS
)  # fmt: skip
MALFORMED: Final = tuple(_malformed())
