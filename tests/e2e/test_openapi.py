"""The OpenAPI document is valid, complete and true of what is answered; its pages fetch nothing from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from tests.gateway import GatewayProcess, call

SEED_PATHS = [
    ("post", "/tools/call"),
    ("get", "/tools/list"),
    ("get", "/sessions"),
    ("post", "/sessions/{session_id}/kill"),
    ("post", "/tools/{tool_name}/kill"),
    ("post", "/system/pause"),
    ("post", "/system/resume"),
    ("get", "/sessions/{session_id}/evidence"),
    ("get", "/health"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
    ("post", "/admin/policies/reload"),
    ("get", "/kills"),
    ("post", "/kills"),
    ("post", "/kills/{kill_id}/release"),
    ("get", "/approvals"),
    ("post", "/approvals/{approval_id}/approve"),
    ("post", "/approvals/{approval_id}/deny"),
]


@pytest.fixture(scope="module")
def document(gateway: GatewayProcess) -> dict[str, Any]:
    return gateway.client().get("/openapi.json").json()  # type: ignore[no-any-return]


def walk(node: object) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        yield node
        for inner in node.values():
            yield from walk(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from walk(inner)


def validator(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """Of a schema with references into the document."""
    return jsonschema_rs.validator_for({**schema, "components": document["components"]})


@pytest.mark.parametrize(("method", "path"), SEED_PATHS)
def test_every_contracted_route_is_in_it(document: dict[str, Any], method: str, path: str) -> None:
    operation = document["paths"][path][method]
    assert operation["summary"] or operation["description"]
    assert "x-agentgate-role" in operation


def test_it_is_openapi_3_1_with_v02s_schemas(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert {"ToolCallRequest", "ToolCallResponse", "KillRequest"} <= set(document["components"]["schemas"])
    assert document["info"]["title"] == "AgentGate"


def test_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for node in walk(document):
        if isinstance(reference := node.get("$ref"), str):
            found: Any = document
            for part in reference.removeprefix("#/").split("/"):
                found = found[part]
            assert found


def test_every_schema_is_one(document: dict[str, Any]) -> None:
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert validator(document, schema), name


def test_operations_have_their_own_ids_and_declare_every_path_parameter(document: dict[str, Any]) -> None:
    operations = [(path, op) for path, item in document["paths"].items() for op in item.values()]
    ids = [operation["operationId"] for _, operation in operations]
    assert len(ids) == len(set(ids))
    for path, operation in operations:
        declared = {p["name"] for p in operation.get("parameters", []) if p["in"] == "path"}
        assert declared == set(re.findall(r"{(\w+)}", path))
        assert all(response["description"] for response in operation["responses"].values())
        assert any(status < "300" for status in operation["responses"])


def test_every_example_fits_its_schema(document: dict[str, Any]) -> None:
    checked = 0
    for node in walk(document["paths"]):
        if "schema" in node and "examples" in node:
            for example in node["examples"].values():
                validator(document, node["schema"]).validate(example["value"])
                checked += 1
    for schema in document["components"]["schemas"].values():
        for example in schema.get("examples", []):
            validator(document, schema).validate(example)
            checked += 1
    assert checked >= 6


def test_a_route_with_a_role_declares_its_keys_and_refusals(document: dict[str, Any]) -> None:
    for path, item in document["paths"].items():
        for operation in item.values():
            assert ("security" in operation) == (operation["x-agentgate-role"] is not None), path
            if operation["x-agentgate-role"] is not None:
                assert {"401", "403"} <= set(operation["responses"])


def operations(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {op["operationId"]: op for item in document["paths"].values() for op in item.values()}


def test_every_answer_with_a_body_says_what_the_body_is(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        for status, response in operation["responses"].items():
            for media_type, content in response.get("content", {}).items():
                assert content.get("schema") or media_type not in ("application/json", "application/problem+json"), name
            if status >= "400":
                assert "application/problem+json" in response["content"], name


def test_every_operation_says_how_any_request_can_be_refused(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert {"400", "403", "408", "421", "431", "503"} <= set(operation["responses"]), name
        if any(parameter["in"] == "path" for parameter in operation.get("parameters", ())):
            assert "404" in operation["responses"], name


def test_summaries_are_for_people_and_ids_for_programs(document: dict[str, Any]) -> None:
    for name, operation in operations(document).items():
        assert operation["summary"].lower().replace(" ", "_") != name
        assert re.fullmatch("[a-z0-9_]{3,32}", name)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("ToolCallRequest", {"session_id": "s", "tool_name": "db_query", "arguments": {}, "context": None}),
        (
            "EnvelopeRequest",
            {
                "agent_id": "a",
                "agent_version": "1",
                "request_id": "r",
                "tool": "t",
                "arguments": {},
                "session_id": None,
            },
        ),
    ],
)
def test_what_a_door_takes_fits_its_schema(document: dict[str, Any], name: str, body: dict[str, Any]) -> None:
    validator(document, document["components"]["schemas"][name]).validate(body)


@pytest.mark.parametrize(
    ("path", "word"), [("/tools/{tool_name}/kill", "tool_name"), ("/sessions/{session_id}/kill", "session_id")]
)
def test_names_in_paths_say_their_grammar(document: dict[str, Any], path: str, word: str) -> None:
    (parameter,) = [one for one in document["paths"][path]["post"]["parameters"] if one["name"] == word]
    grammar = validator(document, parameter["schema"])
    assert grammar.is_valid("db_query")
    assert not any(grammar.is_valid(name) for name in ("", "a b", "x" * 300, "a/b"))


def test_a_kill_that_reaches_every_tenant_takes_no_tenant(gateway: GatewayProcess, document: dict[str, Any]) -> None:
    for path in ("/tools/{tool_name}/kill", "/servers/{server}/kill", "/tenants/{tenant_id}/kill", "/system/pause"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert not validator(document, body).is_valid({"tenant": "acme"})
        answer = gateway.admin().post(re.sub("{.*?}", "nothing", path), json={"tenant": "acme"})
        assert answer.status_code == 422


def test_who_is_not_ready_says_so_in_the_words_of_who_is(document: dict[str, Any]) -> None:
    responses = document["paths"]["/readyz"]["get"]["responses"]
    readiness = {"application/json": {"schema": {"$ref": "#/components/schemas/Readiness"}}}
    assert responses["200"]["content"] == readiness
    assert readiness.items() <= responses["503"]["content"].items()


def test_links_lead_to_operations_and_to_parameters_of_theirs(document: dict[str, Any]) -> None:
    there = operations(document)
    links = [
        link
        for operation in there.values()
        for response in operation["responses"].values()
        for link in response.get("links", {}).values()
    ]
    assert len(links) > 60
    for link in links:
        (name,) = link["parameters"]
        assert name in [parameter["name"] for parameter in there[link["operationId"]]["parameters"]], link


def test_an_answers_links_can_be_followed(gateway: GatewayProcess, document: dict[str, Any], session: str) -> None:
    pending = call(gateway.agent(), "db_insert", {"table": "products", "data": {"name": "Link"}}, session=session)
    links = document["paths"]["/tools/call"]["post"]["responses"]["200"]["links"]
    assert links["get_approval"]["parameters"] == {"approval_id": "$response.body#/approval/id"}
    assert links["session_evidence"]["parameters"] == {"session_id": "$request.body#/session_id"}
    approval = pending.json()["approval"]["id"]
    assert gateway.admin().get(f"/approvals/{approval}").json()["id"] == approval
    killed = gateway.admin().post(f"/sessions/{session}/kill").json()
    links = document["paths"]["/sessions/{session_id}/kill"]["post"]["responses"]["200"]["links"]
    assert links["get_kill"]["parameters"] == {"kill_id": "$response.body#/id"}
    assert gateway.admin().get(f"/kills/{killed['id']}").json()["target"] == session


def test_examples_sent_as_they_stand_get_answers_that_fit(gateway: GatewayProcess, document: dict[str, Any]) -> None:
    operation = document["paths"]["/tools/call"]["post"]
    fits = validator(document, operation["responses"]["200"]["content"]["application/json"]["schema"])
    for example in operation["requestBody"]["content"]["application/json"]["examples"].values():
        answer = gateway.client().post("/tools/call", json=example["value"])
        assert answer.status_code == 200
        fits.validate(answer.json())
    fits.validate(call(gateway.agent(), "no_such_tool").json())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/nope", 404), ("DELETE", "/kills", 405), ("GET", "/kills", 401), ("POST", "/tools/call", 415)],
)
def test_problems_fit_their_schema(
    gateway: GatewayProcess, document: dict[str, Any], method: str, path: str, status: int
) -> None:
    answer = gateway.client().request(method, path)
    assert answer.status_code == status
    validator(document, document["components"]["schemas"]["Problem"]).validate(answer.json())


# --- the pages ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_names_no_other_host_and_its_files_are_here(gateway: GatewayProcess, path: str) -> None:
    client = gateway.client()
    page = client.get(path)
    assert "://" not in page.text
    assert 'src="//' not in page.text
    links = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text)
    assert len(links) >= 3
    for link in links:
        file = client.get("/" + link)
        assert file.status_code == 200
        assert len(file.content) > 0


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/docs/assets/redoc.standalone.js", "/docs/assets/start.js"])
def test_the_browser_is_forbidden_to_fetch_from_elsewhere(gateway: GatewayProcess, path: str) -> None:
    policy = gateway.client().get(path).headers["Content-Security-Policy"]
    directives = dict(directive.strip().split(" ", 1) for directive in policy.split(";"))
    assert directives["default-src"] == "'none'"
    assert directives["script-src"] == directives["connect-src"] == "'self'"
    assert "http" not in policy
    assert "*" not in policy


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "..%2F__init__.py", "%2e%2e/core.py", "", "redoc", "start.js/"]
)
def test_only_the_pages_files_are_served(gateway: GatewayProcess, name: str) -> None:
    assert gateway.client().get(f"/docs/assets/{name}").status_code == 404
