"""Who calls, end to end: keys that change under a running gateway, an OpenID provider that others wrote, and a proxy
that tells of client certificates."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agentgate.keyfile import key_file
from tests.gateway import GatewayProcess, call, exchange, key_entry, post, run_cli, statuses, until
from tests.openid_provider import RESOURCE, SCOPE, OpenIdProvider

POLICIES = Path(__file__).parents[2] / "policies"
QUERY = {"query": "SELECT 1"}
WRITE = {"table": "products", "data": {"name": "x"}}


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings of a policy that knows the tiers of these tests; `gold` is told by its limit."""
    path = tmp_path_factory.mktemp("policy") / "policies"
    shutil.copytree(POLICIES, path)
    data = json.loads((path / "data.json").read_text(encoding="utf-8"))
    data["tiers"] = {
        "default": {"requests_per_minute": -1},
        "standard": {"requests_per_minute": 1111},
        "gold": {"requests_per_minute": 2222},
    }
    (path / "data.json").write_text(json.dumps(data), encoding="utf-8")
    return {"path": str(path)}


# --- keys -------------------------------------------------------------------------------------------------------------


def keys(gateway: GatewayProcess, *arguments: str) -> str:
    done = run_cli("keys", *arguments, "--data-dir", str(gateway.data_dir))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def key_ids(gateway: GatewayProcess) -> list[str]:
    return [row["id"] for row in json.loads(keys(gateway, "list", "--json"))["keys"]]


def status(gateway: GatewayProcess, key: str) -> int:
    return call(gateway.agent(key), "db_query", QUERY).status_code


def test_a_running_gateway_takes_every_change_of_a_key_within_a_second(policy: dict[str, str]) -> None:
    with GatewayProcess(config={"policy": policy}) as gateway:
        key = gateway.create_key("--agent", "bot", "--tier", "standard")
        until(lambda: status(gateway, key) == 200, timeout_s=3)
        assert call(gateway.agent(key), "db_query", QUERY).headers["X-RateLimit-Limit"] == "1111", "of its tier"
        key_id = key_ids(gateway)[0]
        keys(gateway, "disable", key_id)
        until(lambda: status(gateway, key) == 401, timeout_s=3)
        assert call(gateway.agent(), "db_query", QUERY).status_code == 401, "nobody is local because of it"
        keys(gateway, "enable", key_id)
        until(lambda: status(gateway, key) == 200, timeout_s=3)
        fresh = keys(gateway, "rotate", key_id, "--overlap", "3s")
        until(lambda: status(gateway, fresh) == 200, timeout_s=3)
        until(lambda: status(gateway, key) == 401, timeout_s=10)
        assert status(gateway, fresh) == 200
        sessions = gateway.admin().get("/sessions/s-1/evidence").json()
        assert sessions["metadata"]["agent_id"] == "agent:bot", "the same agent, by whichever key"
        keys(gateway, "delete", key_ids(gateway)[1])
        until(lambda: status(gateway, fresh) == 401, timeout_s=3)
        assert call(gateway.agent(), "db_query", QUERY).status_code == 401
        told = gateway.admin().get("/audit", params={"kind": "keys_changed"}).json()["events"]
        ways = ("added", "removed", "disabled", "enabled")
        steps = [(way, name) for one in told for way in ways for name in one["event"][way]]
        fresh_id = next(name for way, name in steps[1:] if way == "added")
        assert steps[:4] == [("added", key_id), ("disabled", key_id), ("enabled", key_id), ("added", fresh_id)]
        for secret in (key, fresh):
            assert secret not in gateway.stderr


def test_a_key_file_that_breaks_ends_its_keys_and_says_so_and_the_configured_ones_go_on() -> None:
    with GatewayProcess(config={"auth": {"keys": [key_entry("key-fixed", agent="fixed")]}}) as gateway:
        made = gateway.create_key("--agent", "bot")
        until(lambda: status(gateway, made) == 200, timeout_s=3)
        path = key_file(gateway.data_dir)
        whole = path.read_bytes()
        path.write_bytes(b"{")
        until(lambda: status(gateway, made) == 503, timeout_s=3)
        refused = call(gateway.agent(made), "db_query", QUERY)
        assert (refused.json()["reason_code"], "Retry-After" in refused.headers) == ("identity_unavailable", True)
        assert status(gateway, "key-fixed") == 200
        assert gateway.admin().get("/kills").status_code == 200
        assert gateway.metric('agentgate_health_status{dependency="key_file"}') == 0
        assert "the keys in it are refused" in gateway.stderr
        path.write_bytes(whole)
        until(lambda: status(gateway, made) == 200, timeout_s=3)
        assert gateway.metric('agentgate_health_status{dependency="key_file"}') == 1


# --- an OpenID provider -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    people = {"alice": {"groups": ["approvers"]}, "bob": {"groups": ["lunch"]}, "root": {"groups": ["admins"]}}
    agents = {"deploy-bot": {"plan": "gold"}, "research-bot": {"groups": ["approvers", "admins"]}}
    with OpenIdProvider(people=people, agents=agents) as provider:
        yield provider


@pytest.fixture(scope="module")
def gateway(provider: OpenIdProvider, policy: dict[str, str]) -> Iterator[GatewayProcess]:
    oauth = {
        "issuer": provider.issuer,
        "audience": RESOURCE,
        "required_scopes": [SCOPE],
        "claims": {"roles": "groups", "tier": "plan"},
        "people_clients": ["console"],
        "roles": {"approvers": "approver", "admins": ["admin", "auditor"]},
    }
    config = {"auth": {"oauth": oauth}, "policy": policy, "server": {"refusals_per_second": 1_000_000}}
    with GatewayProcess(config=config) as process:
        yield process


def bearer(gateway: GatewayProcess, token: str) -> httpx.Client:
    return gateway.client(Authorization=f"Bearer {token}")


def test_an_agent_calls_with_its_client_credentials(provider: OpenIdProvider, gateway: GatewayProcess) -> None:
    answer = call(bearer(gateway, provider.agent_token()), "db_query", QUERY, session="oidc-1")
    assert answer.json()["success"] is True
    assert answer.headers["X-RateLimit-Limit"] == "2222", "of the tier in its token"
    pack = gateway.admin().get("/sessions/oidc-1/evidence").json()
    assert pack["metadata"]["agent_id"] == "agent:deploy-bot"


def test_a_person_approves_with_a_token_and_may_nothing_else(provider: OpenIdProvider, gateway: GatewayProcess) -> None:
    agent = bearer(gateway, provider.agent_token())
    asked = call(agent, "db_insert", WRITE, session="oidc-2").json()
    url = asked["approval"]["url"]
    alice, bob = (bearer(gateway, provider.person_token(name)) for name in ("alice", "bob"))
    assert bob.post(f"{url}/approve").status_code == 403, "a person without a mapped role"
    assert agent.post(f"{url}/approve").status_code == 403
    assert alice.post("/admin/policies/reload").status_code == 403
    assert call(alice, "db_query", QUERY, session="oidc-3").status_code == 403, "people are no agents"
    assert alice.post(f"{url}/approve").status_code == 200
    assert alice.get(url).json()["decided_by"] == "person:alice"
    assert call(agent, "db_insert", WRITE, session="oidc-2").json()["success"] is True


def test_groups_in_an_agents_token_make_it_nothing_else(provider: OpenIdProvider, gateway: GatewayProcess) -> None:
    agent = bearer(gateway, provider.agent_token("research-bot"))
    assert call(agent, "db_query", QUERY, session="oidc-4").json()["success"] is True
    for path in ("/approvals", "/kills", "/sessions"):
        assert agent.get(path).status_code == 403


def test_an_admin_by_token_is_one_of_its_tenant(provider: OpenIdProvider, gateway: GatewayProcess) -> None:
    root = bearer(gateway, provider.person_token("root"))
    assert root.get("/kills").status_code == 200
    assert root.post("/kills", json={"scope": "global", "target": ""}).status_code == 403


def test_an_exchanged_token_is_its_actors_on_behalf_of_its_subject(
    provider: OpenIdProvider, gateway: GatewayProcess
) -> None:
    token = provider.exchanged(provider.person_token("alice"), "deploy-bot")
    client = bearer(gateway, token)
    assert call(client, "db_query", QUERY, session="oidc-5").json()["success"] is True
    pack = gateway.admin().get("/sessions/oidc-5/evidence").json()
    assert pack["metadata"]["agent_id"] == "agent:deploy-bot"
    assert client.get("/approvals").status_code == 403, "what its user may is not what it may"
    (decided,) = gateway.admin().get("/audit", params={"session": "oidc-5", "kind": "decided"}).json()["events"]
    assert '"on_behalf_of":"alice"' in json.dumps(decided, separators=(",", ":"))


@pytest.mark.parametrize("why", ["audience", "scope", "garbage"])
def test_a_providers_token_for_something_else_is_refused(
    provider: OpenIdProvider, gateway: GatewayProcess, why: str
) -> None:
    token = {
        "audience": lambda: provider.agent_token(resource="https://other.example.org/mcp"),
        "scope": lambda: provider.agent_token(scope=""),
        "garbage": lambda: provider.agent_token()[:-8] + "AAAAAAAA",
    }[why]()
    assert call(bearer(gateway, token), "db_query", QUERY).status_code == (403 if why == "scope" else 401)
    assert bearer(gateway, token).get("/kills").status_code == (403 if why == "scope" else 401)


def test_keys_that_the_provider_changes_are_followed_and_withdrawn_ones_forgotten(
    provider: OpenIdProvider, gateway: GatewayProcess
) -> None:
    def good(token: str) -> bool:
        return call(bearer(gateway, token), "db_query", QUERY, session="oidc-6").status_code == 200

    old = provider.agent_token()
    assert good(old)
    provider.rotate()
    # a new name among the keys is asked for at once, and then not again for ten seconds
    until(lambda: good(provider.agent_token()), timeout_s=15)
    assert good(old), "its key is still published"
    provider.withdraw()
    until(lambda: good(provider.agent_token()), timeout_s=15)
    assert not good(old)


# --- a proxy that tells of client certificates ------------------------------------------------------------------------


def certificate(*uris: str, ends: timedelta = timedelta(days=1)) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 7, now - timedelta(days=2), now + ends)
        .add_extension(x509.SubjectAlternativeName(list(map(x509.UniformResourceIdentifier, uris))), critical=True)
        .sign(key, hashes.SHA256())
    )


def client_cert(made: x509.Certificate) -> str:
    return f"Client-Cert: :{base64.b64encode(made.public_bytes(Encoding.DER)).decode()}:"


def behind(policy: dict[str, str], *proxies: str) -> dict[str, object]:
    entries = [
        {"uri": "spiffe://example.org/agent/*", "agent": "*", "tier": "standard"},
        {"uri": "spiffe://example.org/user/*", "person": "*", "roles": ["operator"]},
    ]
    keys = [key_entry("key-deploy-bot", agent="deploy-bot"), key_entry("key-other", agent="other")]
    return {
        "policy": policy,
        "auth": {"mtls": {"header": "Client-Cert", "proxies": list(proxies), "map": entries}, "keys": keys},
    }


def ask(gateway: GatewayProcess, *headers: str) -> tuple[int, bytes]:
    body = json.dumps({"session_id": "mtls-1", "tool_name": "db_query", "arguments": QUERY}).encode()
    said = exchange(gateway.port, post("/tools/call", body, *headers))
    return statuses(said)[0], said


def test_behind_a_trusted_proxy_a_certificate_is_its_holder(policy: dict[str, str]) -> None:
    bot = client_cert(certificate("spiffe://example.org/agent/deploy-bot"))
    ann = client_cert(certificate("spiffe://example.org/user/ann"))
    expired = client_cert(certificate("spiffe://example.org/agent/deploy-bot", ends=timedelta(seconds=-1)))
    stranger = client_cert(certificate("spiffe://elsewhere/agent/deploy-bot"))
    with GatewayProcess(config=behind(policy, "127.0.0.0/8")) as gateway:
        assert ask(gateway, bot)[0] == 200
        assert gateway.admin().get("/sessions/mtls-1/evidence").json()["metadata"]["agent_id"] == "agent:deploy-bot"
        assert ask(gateway)[0] == 401, "no certificate, no identity"
        assert ask(gateway, bot, "X-API-Key: key-deploy-bot")[0] == 200
        assert ask(gateway, bot, "X-API-Key: key-other")[0] == 403, "a stolen key"
        assert ask(gateway, stranger, "X-API-Key: key-deploy-bot")[0] == 200
        for refused in ((expired,), (stranger,), (bot.replace(":MII", ":NII"),), (expired, "X-API-Key: key-other")):
            status_, said = ask(gateway, *refused)
            assert (status_, b"certificate_invalid" in said) == (401, True), said
        assert ask(gateway, bot, bot)[0] == 400, "sent twice"
        assert ask(gateway, bot, "X-Forwarded-Client-Cert: URI=spiffe://example.org/agent/other")[0] == 401
        assert ask(gateway, ann)[0] == 403
        operator = gateway.client(**{"Client-Cert": ann.partition(": ")[2]})
        assert operator.get("/kills").status_code == 200
        assert operator.post("/admin/policies/reload").status_code == 403
        assert gateway.client(**{"Client-Cert": bot.partition(": ")[2]}).get("/kills").status_code == 403


def test_from_any_other_address_the_header_is_refused(policy: dict[str, str]) -> None:
    bot = client_cert(certificate("spiffe://example.org/agent/deploy-bot"))
    with GatewayProcess(config=behind(policy, "10.0.0.0/8", "::1/128")) as gateway:
        for more in ((), ("X-API-Key: key-deploy-bot",), ("X-Forwarded-For: 10.0.0.1",), ("Forwarded: for=10.0.0.1",)):
            status_, said = ask(gateway, bot, *more)
            assert (status_, b"certificate_invalid" in said) == (401, True), said
        assert ask(gateway, "X-API-Key: key-deploy-bot")[0] == 200
