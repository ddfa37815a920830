"""A21: tenants are apart. Every route of the OpenAPI document, asked by one tenant about what is another's.

Whatever the document declares is asked: an id in a path, a filter in a query, a tenant in a body. A new route or a new
parameter that this file does not know fails here, and asks its author whose it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import httpx
import pytest

from agentgate.edges.framework import make_framework
from tests.gateway import GatewayProcess, call, key_entry, until

ROLES: Final = ("operator", "approver", "auditor", "admin", "opa")
QUERY: Final = {"query": "SELECT 1"}
CANARY: Final = "canary"
"""In every text and name of tenant `a` but the few that tenant `b` asks for, and in no word of tenant `b`."""
ASKED: Final = "asked"
NOBODY: Final = {"session": "nobody-session", "agent": "nobody-agent", "tenant": "nobody", "id": "nobody-0000"}

DOCUMENT: Final = make_framework("0").openapi()


class Route(NamedTuple):
    method: str
    path: str
    role: str | None
    parameters: tuple[tuple[str, str], ...]
    """Name, and `path` or `query`."""
    body: Mapping[str, Any]
    """The schema of its members."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def _members(operation: Mapping[str, Any]) -> Mapping[str, Any]:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    schemas = [content.get("schema", {})]
    while schemas:
        schema = schemas.pop()
        if "$ref" in schema:
            schemas.append(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        schemas += schema.get("anyOf", [])
        if "properties" in schema:
            members: Mapping[str, Any] = schema["properties"]
            return members
    return {}


ROUTES: Final = [
    Route(
        method.upper(),
        path,
        operation["x-agentgate-role"],
        tuple((one["name"], one["in"]) for one in operation.get("parameters", []) if one["in"] != "header"),
        _members(operation),
    )
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
]

# What belongs to a tenant, by the name of the parameter, and which of `Owned` it is.
OWNED: Final = {
    "session_id": "session",
    "session": "session",
    "agent_id": "agent",
    "agent": "agent",
    "tenant_id": "tenant",
    "tenant": "tenant",
    "kill_id": "kill",
    "approval_id": "approval",
    "hold_id": "hold",
    "trace_id": "trace",
}
# What belongs to everybody, or to no one: names of tools and servers, processes, places in the public log, forms.
SHARED: Final = frozenset(
    {
        *{"tool_name", "server", "name", "member", "level", "index", "tool", "decision", "reason", "outcome", "kind"},
        *{
            "format",
            "checkpoint_size",
            "since",
            "until",
            "text",
            "order",
            "first",
            "limit",
            "cursor",
            "state",
            "from",
            "prefix",
        },
        *{"id", "scope", "target", "expires_in_s", "force", "days", "before", "dry_run", "after", "all_tenants"},
        *{"sha256", "access", "tool_name", "arguments", "context", "approval_token", "approve"},
        *{"approved", "agent_version", "request_id"},
    }
)
"""Of members of bodies `id` and `target` are names that the caller gives, in a scope that is its own."""

# Where a session or an agent of that name in tenant `b` is meant: the same text, and another one.
OWN_NAMES: Final = frozenset(
    {
        *{"POST /sessions/{session_id}/kill", "POST /agents/{agent_id}/kill", "POST /holds", "GET /tools"},
        *{"GET /sessions/{session_id}/evidence", "GET /evidence", "GET /audit"},
    }
)


class Owned(NamedTuple):
    """What tenant `a` has."""

    session: str
    agent: str
    tenant: str
    kill: str
    approval: str
    hold: str
    trace: str

    def named(self, parameter: str) -> str:
        found: str = getattr(self, OWNED[parameter])
        return found


class World:
    def __init__(self, gateway: GatewayProcess, owned: Owned) -> None:
        self.gateway = gateway
        self.owned = owned
        self._clients: dict[str, httpx.Client] = {}

    def of(self, tenant: str, role: str) -> httpx.Client:
        key = f"key-{tenant}-{role}"
        if key not in self._clients:
            self._clients[key] = self.gateway.client(key)
        return self._clients[key]

    def state_of_a(self) -> dict[str, Any]:
        """Everything of tenant `a` that another tenant could have changed."""
        kills = self.of("a", "operator").get("/kills").json()["kills"]
        approvals = self.of("a", "approver").get("/approvals").json()["approvals"]
        return {
            "kills": sorted(kill["id"] for kill in kills),
            "approvals": {approval["id"]: approval["state"] for approval in approvals},
            "holds": [hold["id"] for hold in self.of("a", "auditor").get("/holds").json()["holds"]],
            "sessions": self.of("a", "operator").get("/sessions").json()["sessions"],
            "calls": [one["session"] for one in self.of("a", "operator").get("/calls").json()["calls"]],
            "may call": call(self.of("a", "agent"), "db_query", QUERY, session=self.owned.session).json()["success"],
        }


def _entries() -> list[dict[str, Any]]:
    people = [
        key_entry(f"key-{tenant}-{role}", person=f"{CANARY if tenant == 'a' else tenant}-{role}", roles=[role],
                  tenant=f"{ASKED}-a" if tenant == "a" else tenant)
        for tenant in "ab" for role in ROLES
    ]  # fmt: skip
    agents = [
        key_entry("key-a-agent", agent=f"{ASKED}-agent", tenant=f"{ASKED}-a"),
        key_entry("key-a-other", agent=f"{CANARY}-agent", tenant=f"{ASKED}-a"),
        key_entry("key-b-agent", agent="b-agent", tenant="b"),
    ]
    return [*people, *agents]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    config = {
        "auth": {"keys": _entries()},
        "server": {"refusals_per_second": 1_000_000},
        "containment": {"rate_window_s": 0.001},
    }
    with GatewayProcess(config=config) as gateway, ThreadPoolExecutor(1) as pool:
        world = World(gateway, Owned(f"{ASKED}-session", f"{ASKED}-agent", f"{ASKED}-a", "", "", "", ""))
        agent, operator = world.of("a", "agent"), world.of("a", "operator")
        done = call(agent, "db_query", {"query": f"SELECT '{CANARY}'"}, session=world.owned.session).json()
        assert done["success"] is True
        write = {"table": "products", "data": {"name": f"{CANARY}-argument"}}
        asked = call(agent, "db_insert", write, session=world.owned.session).json()
        later = {"table": "products", "data": {"name": f"{CANARY}-later"}}
        body = {"session_id": world.owned.session, "tool_name": "db_insert", "arguments": later}
        deferred = agent.post("/tools/call", json=body, headers={"Prefer": "respond-async"})
        assert deferred.status_code == 202, deferred.text
        killed = operator.post(f"/sessions/{CANARY}-killed/kill", json={"reason": f"{CANARY}-reason"}).json()
        held = world.of("a", "auditor").post("/holds", json={"session": f"{CANARY}-held", "reason": f"{CANARY}-why"})
        pool.submit(call, gateway.client("key-a-other"), "slow", {"seconds": 60}, session=f"{CANARY}-slow")
        until(lambda: operator.get("/calls").json()["calls"])
        world.owned = world.owned._replace(
            kill=killed["id"],
            approval=asked["approval"]["id"],
            hold=held.json()["id"],
            trace=deferred.json()["trace_id"],
        )
        try:
            yield world
        finally:
            operator.post(f"/sessions/{CANARY}-slow/kill")


def nobodys(parameter: str) -> str:
    """A name like that of tenant `a`, which nobody has."""
    kind = OWNED[parameter]
    return NOBODY.get(kind, "00000000-0000-4000-8000-000000000000" if kind == "trace" else NOBODY["id"])


def ask(client: httpx.Client, route: Route, said: Mapping[str, str], body: Mapping[str, Any]) -> httpx.Response:
    places = {name: said.get(name, "0" if name in ("level", "index") else "db_query") for name, kind in route.parameters
              if kind == "path"}  # fmt: skip
    query = {name: said[name] for name, kind in route.parameters if kind == "query" and name in said}
    path = route.path.format(**places)
    return client.request(route.method, path, params=query, json=dict(body) if route.method == "POST" else None)


def shape(answer: httpx.Response) -> tuple[int, str | None, Any]:
    """What can be told apart of an answer: its status, its kind, its words without names, numbers and times."""
    kind = answer.headers.get("content-type")
    try:
        found = answer.json()
    except ValueError:
        return answer.status_code, kind, None
    return answer.status_code, kind, _blurred(found)


def _blurred(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _blurred(member) for name, member in value.items()}
    if isinstance(value, list):
        return [_blurred(member) for member in value]
    if isinstance(value, str):
        return re.sub(r"\S*(?:[0-9+/=]|asked|nobody)\S*|\S{16,}", "#", value)
    return type(value).__name__ if isinstance(value, int | float) and not isinstance(value, bool) else value


def leaks(answer: httpx.Response) -> list[str]:
    """What of tenant `a` stands in an answer."""
    return re.findall(rf".{{0,40}}{CANARY}.{{0,40}}", answer.text)


def keys_for(route: Route) -> list[str]:
    """The roles of tenant `b` that the route lets in."""
    return sorted({route.role or "agent", *(["admin"] if route.role not in (None, "opa") else [])})


def test_every_parameter_is_known_to_be_somebodys_or_nobodys() -> None:
    strange = {
        (str(route), name)
        for route in ROUTES
        for name in [*(name for name, _ in route.parameters), *route.body]
        if name not in OWNED and name not in SHARED
    }
    assert strange == set()


FILLED: Final = {
    "reason": "x",
    "scope": "session",
    "target": "session-of-b",
    "arguments": {},
    "approved": True,
    "tool": "db_query",
    "agent_version": "1",
    "request_id": "request-of-b",
}
"""What bodies need beside what is asked about."""
ABOUT: Final = [
    (route, name)
    for route in ROUTES
    for name in dict.fromkeys([*(name for name, _ in route.parameters), *route.body])
    if name in OWNED and str(route) != "POST /tools/call"  # whose session is always its caller's own: below
]


@pytest.mark.parametrize(("route", "name"), ABOUT, ids=[f"{route} {name}" for route, name in ABOUT])
def test_what_is_another_tenants_is_what_does_not_exist(world: World, route: Route, name: str) -> None:
    """404 or 403, in the same words as for a name that nobody has; nothing of the other tenant is told or changed."""
    before = world.state_of_a()
    foreign = world.owned.named(name)
    needed = {member: value for member, value in FILLED.items() if member in route.body}
    for role in keys_for(route):
        client = world.of("b", role)
        theirs, nobody = (
            ask(client, route, {name: value}, needed | ({name: value} if name in route.body else {}))
            for value in (foreign, nobodys(name))
        )
        assert leaks(theirs) == [], role
        assert shape(theirs) == shape(nobody), role
        if theirs.status_code in (200, 201, 202):
            assert str(route) in OWN_NAMES, theirs.text
            for answer in (theirs, nobody):
                assert answer.request.method == "GET" or answer.json()["tenant"] == "b"
                if "scope" in route.body or str(route).endswith("/kill"):
                    world.of("b", "admin").post(f"/kills/{answer.json()['id']}/release", json={"force": True})
        else:
            unsigned = [401] if route.path == "/api/tools/call" else []
            assert theirs.status_code in (403, 404, *([422, *unsigned] if route.method == "POST" else [])), theirs.text
    assert world.state_of_a() == before


@pytest.mark.parametrize(
    ("role", "path"),
    [
        ("operator", "/kills/{kill}"),
        ("approver", "/approvals/{approval}"),
        ("agent", "/calls/{trace}"),
        ("auditor", "/sessions/{session}/evidence"),
        ("auditor", "/audit?tenant={tenant}"),
    ],
)
def test_what_is_asked_for_is_there_for_its_own_tenant(world: World, role: str, path: str) -> None:
    """Without this the matrix would pass a gateway that has nothing."""
    answer = world.of("a", role).get(path.format(**world.owned._asdict()))
    assert answer.status_code in (200, 202), answer.text


LISTS: Final = [route for route in ROUTES if route.method == "GET" and not any(n in OWNED for n, k in route.parameters
                if k == "path")]  # fmt: skip


@pytest.mark.parametrize("route", LISTS, ids=str)
def test_nothing_of_another_tenant_is_in_any_list(world: World, route: Route) -> None:
    for role in keys_for(route):
        answer = ask(world.of("b", role), route, {}, {})
        assert leaks(answer) == [], role
    if route.role is None:
        assert leaks(ask(world.gateway.client(), route, {}, {})) == []


GLOBAL: Final = [
    ("POST", "/system/pause", "operator", {}),
    ("POST", "/system/resume", "admin", {}),
    ("POST", "/tools/db_query/kill", "operator", {}),
    ("POST", "/servers/demo/kill", "operator", {}),
    ("POST", "/tenants/b/kill", "operator", {}),
    ("POST", "/kills", "operator", {"scope": "global"}),
    ("POST", "/kills", "operator", {"scope": "tool", "target": "db_query"}),
    ("POST", "/kills", "operator", {"scope": "tenant", "target": f"{ASKED}-a"}),
    ("POST", "/retention/prune", "admin", {"dry_run": True}),
    ("POST", "/holds", "auditor", {"all_tenants": True, "reason": "x"}),
    ("POST", "/tools/db_query/reject", "operator", {}),
    ("POST", "/admin/policies/reload", "admin", {}),
]


@pytest.mark.parametrize(("method", "path", "role", "body"), GLOBAL, ids=[f"{m} {p} {b}" for m, p, _, b in GLOBAL])
def test_what_is_everybodys_is_not_one_tenants_to_change(
    world: World, method: str, path: str, role: str, body: dict[str, Any]
) -> None:
    before = world.state_of_a()
    for holder in (role, "admin"):
        answer = world.of("b", holder).request(method, path, json=body)
        if path == "/tenants/b/kill" and answer.status_code in (200, 202):  # its own, if that is allowed at all
            world.of("b", "admin").post(f"/kills/{answer.json()['id']}/release", json={"force": True})
            continue
        if path == "/system/resume" and answer.status_code == 200:
            assert answer.json()["released"] == []
            continue
        assert answer.status_code in (403, 404), answer.text
    assert world.state_of_a() == before


def test_why_everybody_is_stopped_is_not_every_tenants_affair(world: World) -> None:
    """A kill that all tenants are under is seen by their operators, but not why, by whom, and what of others it cut."""
    everybodys = world.gateway.client(world.gateway.admin_key)
    kill = everybodys.post("/tools/nobodys_tool/kill", json={"reason": f"{CANARY} leaks"}).json()
    kept = {name: kill[name] for name in ("id", "status", "scope", "target", "tenant", "since", "drained")}
    try:
        for role in ("operator", "admin"):
            client = world.of("b", role)
            listed = {one["id"]: one for one in client.get("/kills").json()["kills"]}[kill["id"]]
            looked_at = client.get(f"/kills/{kill['id']}").json()
            for answer in (listed, looked_at):
                assert {name: answer[name] for name in kept} == kept
                assert (answer["reason"], answer["actor"], answer.get("running", [])) == ("", "", [])
                assert all(replica.keys() == {"member", "acked"} for replica in answer.get("replicas", []))
        whole = everybodys.get(f"/kills/{kill['id']}").json()
        assert (whole["reason"], whole["actor"]) == (kill["reason"], kill["actor"])
        assert "cancelled" in whole["replicas"][0]
    finally:
        everybodys.post(f"/kills/{kill['id']}/release", json={"force": True})


def test_an_agent_in_anothers_session_is_in_a_session_of_its_own(world: World) -> None:
    """The same name is another session: neither sees the other's, and an approval of one is none of the other."""
    session, theirs = world.owned.session, world.of("b", "agent")
    assert call(theirs, "db_query", QUERY, session=session).json()["success"] is True
    write = {"table": "products", "data": {"name": "argument-of-b"}}
    asked = call(theirs, "db_insert", write, session=session).json()
    assert asked["approval"]["id"] != world.owned.approval
    assert world.of("a", "approver").post(f"{asked['approval']['url']}/approve").status_code == 404
    assert world.of("b", "approver").post(f"/approvals/{world.owned.approval}/approve").status_code == 404
    pack = world.of("b", "auditor").get(f"/sessions/{session}/evidence")
    assert pack.status_code == 200
    assert world.owned.trace not in pack.text
    own = json.loads(world.of("a", "auditor").get(f"/sessions/{session}/evidence").text)
    assert "b-agent" not in json.dumps(own)
