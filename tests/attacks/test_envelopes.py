"""Signed envelopes over the wire: whose they are, that nothing of them can be changed, and that they run once."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.attacks.test_idempotency import Counter, counter, effects
from tests.gateway import GatewayProcess, exchange, key_entry, statuses
from tests.signing import COVERED, PATH, Envelope, Signing, body, digest, hmac_with, post, public_text

__all__ = ["counter"]

PRIVATE, STRANGER = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
SECRET = "a-shared-secret-of-the-tests-4711"
KEYED, APPROVER, SECOND, SLY, ELSEWHERE = "key-keyed", "key-ada", "key-bob", "key-sly", "key-eve"
AGENTS: dict[str, tuple[str, Signing]] = {"ed": ("k-ed", PRIVATE.sign), "mac": ("k-mac", hmac_with(SECRET))}


@pytest.fixture(scope="module")
def gateway(counter: Counter) -> Iterator[GatewayProcess]:
    tool = {"upstream": "counter", "method": "POST", "path": "/", "access": "read", "input_schema": {"type": "object"}}
    fits = {"type": "object", "required": ["query"]}
    config = {
        "auth": {
            "keys": [
                {"id": "k-ed", "agent": "ed", "signature": {"ed25519": public_text(PRIVATE)}},
                {"id": "k-mac", "agent": "mac", "signature": {"hmac": {"env": "ENVELOPE_SECRET"}}},
                {"id": "k-off", "agent": "ed", "signature": {"ed25519": public_text(STRANGER)}, "disabled": True},
                key_entry(KEYED, agent="keyed"),
                key_entry(APPROVER, person="ada", roles=["approver", "auditor"]),
                key_entry(SECOND, person="bob", roles=["approver"]),
                key_entry(SLY, agent="sly", roles=["agent", "approver"]),
                key_entry(ELSEWHERE, person="eve", roles=["approver"], tenant="b"),
            ]
        },
        "server": {"refusals_per_second": 1_000_000},
        "upstreams": {"counter": {"kind": "http", "base_url": counter.url}},
        "tools": {
            "db_query": tool | {"input_schema": fits},
            "db_insert": tool | {"access": "write", "input_schema": fits},
        },
    }
    with GatewayProcess(config=config, env={"ENVELOPE_SECRET": SECRET}) as process:
        yield process


def envelope(gateway: GatewayProcess, session: str, agent: str = "ed", tool: str = "db_query", **more: Any) -> Envelope:
    key_id, sign = AGENTS[agent]
    said = body(agent, f"{session}-1", tool, {"query": session}, session_id=session)
    return replace(Envelope(key_id, sign, said, gateway.url + PATH), **more)


def refused(answer: httpx.Response, reason: str = "signature_invalid") -> None:
    assert (answer.status_code, answer.json()["reason_code"]) == (401, reason), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert {"accept-signature", "www-authenticate"} <= answer.headers.keys()


# --- what is good ---


@pytest.mark.parametrize("agent", AGENTS)
def test_a_signed_envelope_runs_as_its_signer(
    gateway: GatewayProcess, counter: Counter, session: str, agent: str
) -> None:
    said = post(gateway.client(), envelope(gateway, session, agent)).json()
    assert said.keys() == {"success", "result", "audit_id", "reason_code"}
    assert (said["success"], said["result"]["of"]) == (True, {"query": session})
    (entry,) = gateway.admin().get("/audit", params={"trace_id": said["audit_id"]}).json()["events"][:1]
    assert entry["event"]["principal"] == f"agent:{agent}"
    assert effects(counter, session) == 1


@pytest.mark.parametrize(
    "components",
    [
        ("@method", "@authority", "@path", "content-digest", "content-type"),
        ("content-type", "content-digest", "@request-target", "@scheme", "@query", "@target-uri", "@method"),
        (*COVERED, "x-anything"),
    ],
    ids=["parts", "more", "a field"],
)
def test_what_may_be_covered(gateway: GatewayProcess, session: str, components: tuple[str, ...]) -> None:
    signed = envelope(gateway, session, components=components, fields={"x-anything": "a, b"})
    assert post(gateway.client(), signed).json()["success"]


@pytest.mark.parametrize("parameters", [{"alg": "ed25519"}, {"nonce": "n-1", "tag": "t"}, {"expires": 3600}], ids=str)
def test_parameters_that_may_be_there(gateway: GatewayProcess, session: str, parameters: dict[str, Any]) -> None:
    if "expires" in parameters:  # in so many seconds
        parameters = {"expires": int(time.time()) + parameters["expires"]}
    assert post(gateway.client(), envelope(gateway, session, parameters=parameters)).json()["success"]


def test_a_digest_may_be_of_sha_512(gateway: GatewayProcess, session: str) -> None:
    signed = envelope(gateway, session)
    signed.fields = {"content-digest": digest(signed.body, "sha-512")}
    assert post(gateway.client(), signed).json()["success"]


# --- what is not ---


@pytest.mark.parametrize(
    "components",
    [
        (),
        COVERED[1:],
        ("@method", "content-digest", "content-type"),
        ("@method", "@target-uri", "content-type"),
        ("@method", "@target-uri", "content-digest"),
        ("@method", "@path", "content-digest", "content-type"),
        ("@method", "@authority", "content-digest", "content-type"),
    ],
    ids=["nothing", "method", "address", "digest", "type", "authority", "path"],
)
def test_a_signature_that_covers_too_little(
    gateway: GatewayProcess, counter: Counter, session: str, components: tuple[str, ...]
) -> None:
    refused(post(gateway.client(), envelope(gateway, session, components=components)))
    assert effects(counter, session) == 0


def test_a_query_must_be_covered(gateway: GatewayProcess, session: str) -> None:
    parts = ("@method", "@authority", "@path", "content-digest", "content-type")
    url = f"{gateway.url}{PATH}?a=1"
    refused(post(gateway.client(), envelope(gateway, session, url=url, components=parts)))
    assert post(gateway.client(), envelope(gateway, session, url=url, components=(*parts, "@query"))).json()["success"]


def test_a_query_that_was_put_there(gateway: GatewayProcess, session: str) -> None:
    for components in (COVERED, ("@method", "@authority", "@path", "content-digest", "content-type")):
        signed = envelope(gateway, session, components=components)
        refused(post(gateway.client(), signed, to=f"{PATH}?a=1"))


def test_a_body_that_was_changed(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    signed = envelope(gateway, session)
    headers = signed.headers()
    other = signed.body.replace(b'"1.2.0"', b'"1.2.1"')
    assert other != signed.body
    refused(gateway.client().post(signed.url, content=other, headers=headers))
    refused(gateway.client().post(signed.url, content=signed.body + b" ", headers=headers))
    refused(gateway.client().post(signed.url, content=other, headers=headers | {"content-digest": digest(other)}))
    assert effects(counter, session) == 0


@pytest.mark.parametrize(
    "value",
    [
        "sha-256=:AAAA:",
        "md5=:1B2M2Y8AsgTpgAmY7PhCfg==:",
        "sha-256=?1",
        "",
        "sha-256=:" + base64.b64encode(bytes(32)).decode() + ":",
    ],
)
def test_a_digest_of_something_else_though_it_is_signed(gateway: GatewayProcess, session: str, value: str) -> None:
    refused(post(gateway.client(), envelope(gateway, session, fields={"content-digest": value})))


def test_one_good_digest_does_not_carry_a_wrong_one(gateway: GatewayProcess, session: str) -> None:
    signed = envelope(gateway, session)
    signed.fields = {"content-digest": f"{digest(signed.body)}, {digest(b'', 'sha-512')}"}
    refused(post(gateway.client(), signed))


def test_a_covered_field_that_was_changed_or_sent_again(gateway: GatewayProcess, session: str) -> None:
    signed = envelope(gateway, session, components=(*COVERED, "x-anything"), fields={"x-anything": "a"})
    refused(post(gateway.client(), signed, x_anything="b"))
    twice = [*signed.headers().items(), ("x-anything", "b")]
    refused(gateway.client().post(signed.url, content=signed.body, headers=twice))
    refused(post(gateway.client(), signed, x_anything=None))


@pytest.mark.parametrize("name", ["signature", "signature-input", "content-digest"])
def test_fields_of_the_signature_are_there_once(gateway: GatewayProcess, session: str, name: str) -> None:
    signed = envelope(gateway, session)
    headers = signed.headers()
    refused(gateway.client().post(signed.url, content=signed.body, headers=[*headers.items(), (name, headers[name])]))
    refused(post(gateway.client(), signed, **{name.replace("-", "_"): None}))


@pytest.mark.parametrize("seconds", [-70, 70, -86_400, 10**9])
def test_a_signature_of_another_time(gateway: GatewayProcess, session: str, seconds: int) -> None:
    created = {"created": int(time.time()) + seconds}
    refused(post(gateway.client(), envelope(gateway, session, parameters=created)), "signature_expired")


def test_a_signature_that_has_expired(gateway: GatewayProcess, session: str) -> None:
    over = {"expires": int(time.time()) - 1}
    refused(post(gateway.client(), envelope(gateway, session, parameters=over)), "signature_expired")


@pytest.mark.parametrize(
    "parameters",
    [
        {"created": None},
        {"created": "1700000000"},
        {"created": "now.0"},
        {"keyid": None},
        {"keyid": "k-nobody"},
        {"keyid": "k-off"},
        {"keyid": "k-keyed"},
        {"keyid": 7},
        {"alg": "hmac-sha256"},
        {"alg": "rsa-v1_5-sha256"},
        {"alg": "none"},
        {"alg": ""},
        {"expires": "never"},
        {"nonce": 7},
        {"admin": "1"},
        {"nonce": "n" * 5000},
    ],
    ids=lambda parameters: str(parameters)[:40],
)
def test_parameters_that_are_not_taken(
    gateway: GatewayProcess, counter: Counter, session: str, parameters: dict[str, Any]
) -> None:
    if parameters.get("created") == "now.0":
        parameters = {"created": f"{int(time.time())}.0"}
    refused(post(gateway.client(), envelope(gateway, session, parameters=parameters)))
    assert effects(counter, session) == 0


def test_the_public_key_is_no_shared_secret(gateway: GatewayProcess, session: str) -> None:
    """The classic confusion of algorithms: a signature that anybody can make who knows the public key."""
    public = PRIVATE.public_key().public_bytes_raw()
    for secret in (public, base64.b64encode(public)):
        sign = hmac_with(secret.decode("latin-1"))
        for alg in (None, "hmac-sha256"):
            refused(post(gateway.client(), envelope(gateway, session, sign=sign, parameters={"alg": alg})))


def test_another_ones_signature(gateway: GatewayProcess, session: str) -> None:
    refused(post(gateway.client(), envelope(gateway, session, sign=STRANGER.sign)))
    refused(post(gateway.client(), envelope(gateway, session, key_id="k-mac")))
    refused(post(gateway.client(), envelope(gateway, session, sign=lambda _: bytes(64))))
    refused(post(gateway.client(), envelope(gateway, session, sign=lambda _: b"")))


@pytest.mark.parametrize(
    "component",
    [
        '"content-digest";sf',
        '"content-digest";key="sha-256"',
        '"content-type";bs',
        '"@method";req',
        '"content-type";tr',
        '"@query-param";name="a"',
        '"content-type";x=1',
    ],
)
def test_components_with_parameters_are_not_taken(gateway: GatewayProcess, session: str, component: str) -> None:
    """However well they are signed, in the place of the component itself."""
    url = f"{gateway.url}{PATH}?a=b"
    rest = [name for name in COVERED if not component.startswith(f'"{name}"')]
    signed = envelope(gateway, session, url=url, components=(*rest, component))
    values = {"bs": f":{base64.b64encode(b'application/json').decode()}:", "key": digest(signed.body).split("=", 1)[1]}
    signed.values = {
        component: values.get(component.partition(";")[2].partition("=")[0], "b" if "name" in component else None)
    }
    refused(post(gateway.client(), signed))


def test_a_parameter_that_is_there_twice(gateway: GatewayProcess, session: str) -> None:
    """The last one counts to a reader of structured fields, the first one to somebody else."""
    signed = envelope(gateway, session)
    said = signed.headers()
    twice = said["signature-input"].replace(";created=", ";created=1;created=")
    refused(gateway.client().post(signed.url, content=signed.body, headers=said | {"signature-input": twice}))


@pytest.mark.parametrize(
    "components", [(*COVERED, "@method"), (*COVERED, "@status"), (*COVERED, "@signature-params"), (*COVERED, "X-Y")]
)
def test_components_that_mean_nothing(gateway: GatewayProcess, session: str, components: tuple[str, ...]) -> None:
    good = envelope(gateway, session)
    asked = replace(good, components=components).input()
    headers = good.headers() | {"signature-input": f"sig={asked}", "X-Y": "1"}
    refused(gateway.client().post(good.url, content=good.body, headers=headers))


def test_only_one_signature_is_taken(gateway: GatewayProcess, session: str) -> None:
    """Of two, one that covers less, or of another one, might be what somebody reads."""
    good, little = envelope(gateway, session), envelope(gateway, session, components=("@method",), label="b")
    one, other = good.headers(), little.headers()
    both = one | {name: f"{one[name]}, {other[name]}" for name in ("signature", "signature-input")}
    refused(gateway.client().post(good.url, content=good.body, headers=both))
    for name in ("signature", "signature-input"):
        refused(gateway.client().post(good.url, content=good.body, headers=one | {name: f"{one[name]}, {other[name]}"}))
        refused(gateway.client().post(good.url, content=good.body, headers=one | {name: f"{one[name]}, {one[name]}"}))
    refused(post(gateway.client(), good, signature=other["signature"]))


@pytest.mark.parametrize(
    "changed",
    [
        {"signature_input": "sig=1"},
        {"signature_input": "sig"},
        {"signature_input": "("},
        {"signature_input": ""},
        {"signature": "sig=1"},
        {"signature": "sig=:not base64!:"},
        {"signature": 'sig="text"'},
        {"signature": ""},
        {"signature_input": "sig=" + "(" + '"a" ' * 2000 + ")"},
    ],
    ids=lambda changed: str(changed)[:40],
)
def test_fields_that_are_no_signature(gateway: GatewayProcess, session: str, changed: dict[str, str]) -> None:
    refused(post(gateway.client(), envelope(gateway, session), **changed))


def test_an_envelope_is_for_one_address(gateway: GatewayProcess, session: str) -> None:
    """What was signed for another path, method, host or scheme is not for here; nor is this one's for another door."""
    for url in (
        f"{gateway.url}/tools/call",
        f"{gateway.url}/api//tools/call",
        f"https://127.0.0.1:{gateway.port}{PATH}",
        f"http://localhost:{gateway.port}{PATH}",
        f"http://127.0.0.1{PATH}",
    ):
        refused(post(gateway.client(), envelope(gateway, session, url=url), to=PATH))
    refused(post(gateway.client(), envelope(gateway, session, method="PUT")))
    spelt = post(gateway.client(), envelope(gateway, session), to="/api%2Ftools/call")
    assert (spelt.status_code, spelt.json()["reason_code"]) == (404, "not_found")
    elsewhere = post(gateway.client(), envelope(gateway, session), to="/tools/call")
    assert (elsewhere.status_code, elsewhere.json()["reason_code"]) == (401, "unauthenticated")


def test_the_host_that_is_signed_is_the_one_that_is_asked(gateway: GatewayProcess, session: str) -> None:
    signed = envelope(gateway, session, url=f"http://localhost:{gateway.port}{PATH}")
    said = gateway.client().post(
        PATH, content=signed.body, headers=signed.headers() | {"host": f"localhost:{gateway.port}"}
    )
    assert said.json()["success"]
    head = "".join(f"{name}: {value}\r\n" for name, value in signed.headers().items())
    for host in ("evil.example", f"localhost:{gateway.port}\r\nHost: 127.0.0.1"):
        lines = f"POST {PATH} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{head}"
        raw = f"{lines}Content-Length: {len(signed.body)}\r\n\r\n"
        assert statuses(exchange(gateway.port, raw.encode() + signed.body))[0] in (400, 421)


def test_an_unsigned_envelope_where_there_are_keys_to_sign_with(gateway: GatewayProcess, session: str) -> None:
    said = body("keyed", f"{session}-1", "db_query", {"query": session})
    for client in (gateway.client(), gateway.client(KEYED)):
        refused(client.post(PATH, content=said, headers={"content-type": "application/json"}))


def test_agent_id_is_not_believed(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    signed = envelope(gateway, session)
    signed.body = body("mac", f"{session}-1", "db_query", {"query": session}, session_id=session)
    answer = post(gateway.client(), signed)
    assert (answer.status_code, answer.json()["reason_code"]) == (403, "forbidden")
    assert effects(counter, session) == 0
    trace = {"trace_id": answer.json()["audit_id"]}
    (entry, *_) = gateway.admin().get("/audit", params=trace).json()["events"]
    assert (entry["event"]["principal"], entry["event"]["decision"]) == ("agent:ed", "DENY")


def test_a_key_beside_a_signature_is_the_signers_own(gateway: GatewayProcess, session: str) -> None:
    said = post(gateway.client(), envelope(gateway, session), x_api_key=KEYED)
    assert (said.status_code, said.json()["reason_code"]) == (403, "forbidden")
    said = post(gateway.client(), envelope(gateway, session), x_api_key="agk_wrong")
    assert (said.status_code, said.json()["reason_code"]) == (401, "invalid_key")


def test_a_key_to_sign_with_opens_no_other_door(gateway: GatewayProcess, session: str) -> None:
    for key in ("k-ed", "k-mac", SECRET, public_text(PRIVATE), ""):
        assert gateway.client(key).get("/tools/list").status_code == 401


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"agent_id": 1}, 422),
        ({"agent_version": ""}, 422),
        ({"agent_version": "1\n2"}, 422),
        ({"request_id": ""}, 422),
        ({"request_id": "a b"}, 422),
        ({"request_id": None}, 422),
        ({"tool": "../x"}, 422),
        ({"arguments": []}, 422),
        ({"context": {"agent_version": "9"}}, 422),
        ({"context": {"agent_id": "root"}}, 422),
        ({"session_id": "a b"}, 422),
        ({"role": "admin"}, 422),
    ],
    ids=str,
)
def test_what_is_no_envelope(gateway: GatewayProcess, session: str, changed: dict[str, Any], status: int) -> None:
    signed = envelope(gateway, session)
    signed.body = json.dumps(json.loads(signed.body) | changed).encode()
    answer = post(gateway.client(), signed)
    assert (answer.status_code, answer.json()["success"]) == (status, False)
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_body_is_strict_json(gateway: GatewayProcess, session: str) -> None:
    signed = envelope(gateway, session)
    signed.body = signed.body.replace(b"{", b'{"tool": "db_insert", ', 1)
    answer = post(gateway.client(), signed)
    assert (answer.status_code, answer.json()["reason_code"]) == (400, "malformed_json")


# --- once ---


def test_of_fifty_equal_envelopes_one_runs(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    signed, client = envelope(gateway, session), gateway.client()
    with ThreadPoolExecutor(25) as pool:
        answers = list(pool.map(lambda _: post(client, signed), range(50)))
    assert effects(counter, session) == 1
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert len({answer.content for answer in answers if answer.status_code == 200}) == 1
    again = post(client, signed)
    assert again.json()["success"]
    assert again.headers["idempotency-replayed"] == "true"
    assert effects(counter, session) == 1


def test_a_captured_envelope_runs_nothing_again_after_a_restart(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    signed = envelope(gateway, session, url=f"http://127.0.0.1{PATH}")
    host = {"host": "127.0.0.1"}
    headers = signed.headers() | host
    first = gateway.client().post(PATH, content=signed.body, headers=headers)
    assert first.json()["success"]
    gateway.kill9()
    gateway.start()
    again = gateway.client().post(PATH, content=signed.body, headers=headers)
    assert (again.content, effects(counter, session)) == (first.content, 1)


def test_a_request_id_is_one_call(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    assert post(gateway.client(), envelope(gateway, session)).json()["success"]
    for changed in (
        {"arguments": {"query": f"{session} other"}},
        {"agent_version": "2"},
        {"session_id": f"{session}-b"},
    ):
        signed = envelope(gateway, session)
        signed.body = json.dumps(json.loads(signed.body) | changed).encode()
        answer = post(gateway.client(), signed)
        assert (answer.status_code, answer.json()["reason_code"]) == (422, "idempotency_mismatch")
    assert effects(counter, session) == 1


def test_a_header_gives_no_other_key(gateway: GatewayProcess, session: str) -> None:
    answer = post(gateway.client(), envelope(gateway, session), idempotency_key="another")
    assert (answer.status_code, answer.json()["reason_code"]) == (422, "invalid_request")
    assert post(gateway.client(), envelope(gateway, session), idempotency_key=f"{session}-1").json()["success"]


@pytest.mark.parametrize("path", ["/sessions/{session}/kill", "/agents/ed/kill"])
def test_who_is_killed_gets_neither_a_call_nor_an_old_answer(
    gateway: GatewayProcess, counter: Counter, session: str, path: str
) -> None:
    signed = envelope(gateway, session)
    assert post(gateway.client(), signed).json()["success"]
    kill = gateway.admin().post(path.format(session=session), json={}).json()
    fresh = replace(signed, body=body("ed", f"{session}-2", "db_query", {"query": session}, session_id=session))
    for one in (signed, fresh):
        answer = post(gateway.client(), one)
        assert (answer.json()["status"], answer.json()["reason_code"]) == ("denied", "killed")
    assert gateway.admin().post(f"/kills/{kill['id']}/release", json={"force": True}).status_code == 200
    assert effects(counter, session) == 1


# --- POST /approve ---


def ask(gateway: GatewayProcess, session: str, agent: str = "ed") -> dict[str, Any]:
    answer = post(gateway.client(), envelope(gateway, session, agent, "db_insert"))
    assert answer.status_code == 200
    return answer.json()  # type: ignore[no-any-return]


def approve(
    gateway: GatewayProcess, approval_id: str, key: str | None = APPROVER, *, yes: bool = True
) -> httpx.Response:
    return gateway.client(key).post("/approve", json={"approval_id": approval_id, "approved": yes})


def test_what_waits_says_so_and_runs_once_when_it_is_approved(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    asked = ask(gateway, session)
    assert {name: asked[name] for name in ("success", "status", "error")} == {
        "success": False,
        "status": "pending_approval",
        "error": "Human approval required",
    }
    assert effects(counter, session) == 0
    approved = approve(gateway, asked["approval_id"])
    assert (approved.status_code, approved.json()["success"], approved.json()["audit_id"]) == (
        200,
        True,
        asked["audit_id"],
    )
    for _ in range(2):
        assert approve(gateway, asked["approval_id"]).json() == approved.json()
    assert ask(gateway, session) == approved.json()
    assert effects(counter, session) == 1


def test_of_many_yeses_at_once_one_runs_it(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    asked = ask(gateway, session)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: approve(gateway, asked["approval_id"], (APPROVER, SECOND)[n % 2]), range(16)))
    assert effects(counter, session) == 1
    assert {answer.status_code for answer in answers} <= {200, 202, 409}
    assert approve(gateway, asked["approval_id"]).json()["success"]


def test_a_no_is_a_no(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    asked = ask(gateway, session)
    for _ in range(2):
        denied = approve(gateway, asked["approval_id"], yes=False)
        assert (denied.status_code, denied.json()["status"], denied.json()["success"]) == (200, "denied", False)
    late = approve(gateway, asked["approval_id"], SECOND)
    assert (late.status_code, late.json()["reason_code"]) == (409, "conflict")
    assert ask(gateway, session)["reason_code"] == "approval_denied"
    assert effects(counter, session) == 0


def test_who_may_not_approve(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    asked = ask(gateway, session)
    for key, status in ((None, 401), (KEYED, 403), (SLY, 403), ("wrong", 403), (ELSEWHERE, 404)):
        assert approve(gateway, asked["approval_id"], key).status_code == status, key
    approve(gateway, asked["approval_id"])
    for key, status in ((SLY, 403), (ELSEWHERE, 404)):
        late = approve(gateway, asked["approval_id"], key)
        assert late.status_code == status
        assert session not in late.text
    assert effects(counter, session) == 1


def test_a_kill_ends_what_waits(gateway: GatewayProcess, counter: Counter, session: str) -> None:
    asked = ask(gateway, session)
    gateway.admin().post(f"/sessions/{session}/kill", json={})
    late = approve(gateway, asked["approval_id"])
    assert (late.status_code, late.json()["reason_code"]) == (409, "conflict")
    assert effects(counter, session) == 0


def test_a_call_that_its_caller_makes_is_not_made_for_it(
    gateway: GatewayProcess, counter: Counter, session: str
) -> None:
    said = {"session_id": session, "tool_name": "db_insert", "arguments": {"query": session}}
    asked = gateway.client(KEYED).post("/tools/call", json=said).json()
    answer = approve(gateway, asked["approval"]["id"])
    assert (answer.status_code, answer.json()["reason_code"]) == (409, "conflict")
    assert effects(counter, session) == 0


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"approval_id": "a"},
        {"approval_id": "a", "approved": "yes"},
        {"approval_id": "a", "approved": True, "by": "x"},
    ],
)
def test_what_is_no_answer(gateway: GatewayProcess, said: dict[str, Any]) -> None:
    assert gateway.client(APPROVER).post("/approve", json=said).status_code == 422


# --- settings ---


def test_optional_takes_a_key_of_the_same_agent(tmp_path: Path, session: str) -> None:
    keys = [
        {"id": "k-ed", "agent": "ed", "signature": {"ed25519": public_text(PRIVATE)}},
        key_entry("key-ed", agent="ed"),
        key_entry(KEYED, agent="keyed"),
    ]
    with GatewayProcess(config={"auth": {"keys": keys, "envelope": "optional"}}) as gateway:
        said = body("ed", f"{session}-1", "db_query", {"query": "SELECT 1"})
        typed = {"content-type": "application/json"}
        assert gateway.client("key-ed").post(PATH, content=said, headers=typed).json()["success"]
        assert gateway.client(KEYED).post(PATH, content=said, headers=typed).status_code == 403
        assert gateway.client().post(PATH, content=said, headers=typed).status_code == 401
        signed = Envelope("k-ed", STRANGER.sign, said, gateway.url + PATH)
        refused(post(gateway.client("key-ed"), signed))  # a bad signature is not mended by a good key
        assert gateway.metric('agentgate_signatures_refused_total{reason="signature_invalid"}') == 1


def test_where_nobody_can_sign_no_signature_counts(session: str) -> None:
    """Not even for who would need none."""
    with GatewayProcess() as gateway:
        said = body("ed", f"{session}-1", "db_query", {"query": "SELECT 1"})
        refused(post(gateway.client(), Envelope("k-ed", PRIVATE.sign, said, gateway.url + PATH)))


def test_the_time_window_can_be_set(session: str) -> None:
    keys = [{"id": "k-ed", "agent": "ed", "signature": {"ed25519": public_text(PRIVATE)}}]
    with GatewayProcess(config={"auth": {"keys": keys, "envelope_window_s": 600}}) as gateway:
        said = body("ed", f"{session}-1", "db_query", {"query": "SELECT 1"})
        for seconds, status in ((-500, 200), (500, 200), (-700, 401)):
            made = {"created": int(time.time()) + seconds}
            signed = Envelope("k-ed", PRIVATE.sign, said, gateway.url + PATH, parameters=made)
            assert post(gateway.client(), signed).status_code == status


def test_behind_a_proxy_the_base_url_says_that_it_was_https(session: str) -> None:
    keys = [{"id": "k-ed", "agent": "ed", "signature": {"ed25519": public_text(PRIVATE)}}]
    config = {"auth": {"keys": keys}, "server": {"base_url": "https://gate.example"}}
    with GatewayProcess(config=config) as gateway:
        said = body("ed", f"{session}-1", "db_query", {"query": "SELECT 1"})
        for url, status in ((f"https://gate.example{PATH}", 200), (f"http://gate.example{PATH}", 401)):
            signed = Envelope("k-ed", PRIVATE.sign, said, url)
            assert post(gateway.client(), signed, to=PATH, host="gate.example").status_code == status


def test_a_secret_that_others_can_read_does_not_start(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o644)
    keys = [{"id": "k-mac", "agent": "mac", "signature": {"hmac": {"file": str(secret)}}}]
    with pytest.raises(AssertionError, match="can be read by others"), GatewayProcess(config={"auth": {"keys": keys}}):
        pass
