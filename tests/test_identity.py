"""`auth.oauth` and `auth.mtls`: what stops the start, what clients are told, and whom what is configured stands for."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentgate import settings
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.core.call import Principal, Role
from agentgate.core.errors import UnsafeConfiguration
from agentgate.edges.caller import AccessTokens
from agentgate.identity import make_certificates, make_tokens
from tests.token_issuer import public_jwk

ISSUER = "https://login.example.org"


def made(oauth: dict[str, Any], base_url: str | None = "https://gate.example.org") -> AccessTokens | None:
    overrides = {"auth.oauth": {"issuer": ISSUER, **oauth}, "server.base_url": base_url}
    return make_tokens(settings.load({}, overrides=overrides), SystemClock(), PrometheusMeter([]))


def test_without_an_issuer_there_are_no_tokens() -> None:
    assert make_tokens(settings.load({}), SystemClock(), PrometheusMeter([])) is None


@pytest.mark.parametrize(
    ("base_url", "audience", "resource", "metadata"),
    [
        ("https://gate.example.org", None, "https://gate.example.org/mcp", "https://gate.example.org"),
        ("https://gate.example.org/", None, "https://gate.example.org/mcp", "https://gate.example.org"),
        ("https://x.example/gate", None, "https://x.example/gate/mcp", "https://x.example/gate"),
        ("http://127.0.0.1:8000", "api://gate", "http://127.0.0.1:8000/mcp", "http://127.0.0.1:8000"),
        (None, "https://gate.example.org/mcp", "https://gate.example.org/mcp", "https://gate.example.org"),
        (None, ["http://localhost:1/x", "api://gate"], "http://localhost:1/x", "http://localhost:1"),
    ],
)
def test_clients_are_told_the_name_that_tokens_are_issued_for(
    base_url: str | None, audience: Any, resource: str, metadata: str
) -> None:
    tokens = made({"required_scopes": ["tools"], **({"audience": audience} if audience else {})}, base_url)
    assert tokens is not None
    assert tokens.resource.document() == {
        "resource": resource,
        "authorization_servers": [ISSUER],
        "scopes_supported": ["tools"],
        "bearer_methods_supported": ["header"],
        "resource_name": "AgentGate",
    }
    assert tokens.resource.metadata_url == f"{metadata}/.well-known/oauth-protected-resource/mcp"


@pytest.mark.parametrize(
    ("oauth", "base_url", "words"),
    [
        ({}, None, "server.base_url"),
        ({"audience": "api://gate"}, None, "server.base_url"),
        ({"audience": 'https://gate.example.org/"x'}, None, "server.base_url"),
        ({"audience": "https://gate.example.org/mcp?x=1"}, None, "server.base_url"),
        ({"audience": "https://[gate/mcp"}, None, "server.base_url"),
        ({}, "http://gate.example.org", "use https"),
        ({"audience": ""}, "https://gate.example.org", "audience"),
        ({"issuer": "http://login.example.org"}, "https://gate.example.org", "use https"),
        ({"issuer": "login.example.org"}, "https://gate.example.org", "issuer"),
        ({"jwks_url": "http://keys.example.org/jwks"}, "https://gate.example.org", "use https"),
        ({"jwks_url": "https://x.example/j", "jwks_file": "/x"}, "https://gate.example.org", "drop one"),
        ({"jwks_file": "/nonexistent/jwks.json"}, "https://gate.example.org", "/nonexistent/jwks.json"),
        ({"jwks_file": "EMPTY"}, "https://gate.example.org", "key"),
        ({"algorithms": []}, "https://gate.example.org", "algorithms"),
        ({"algorithms": ["none"]}, "https://gate.example.org", "algorithms"),
        ({"algorithms": ["RS256", "HS256"]}, "https://gate.example.org", "algorithms"),
        ({"leeway_s": 31}, "https://gate.example.org", "leeway_s"),
        ({"required_scopes": ['a"b']}, "https://gate.example.org", "required_scopes"),
        ({"jwks": "https://x.example"}, "https://gate.example.org", "jwks"),
        ({"claims": {"person": "email"}}, "https://gate.example.org", "people_clients"),
        ({"claims": {"name": "email"}}, "https://gate.example.org", "claims.name"),
        ({"roles": {"sre": ["operator"]}}, "https://gate.example.org", "claims.roles"),
        ({"all_tenants": "root"}, "https://gate.example.org", "claims.roles"),
        ({"claims": {"roles": "g"}, "roles": {"sre": ["emperor"]}}, "https://gate.example.org", "roles.sre"),
        ({"claims": {"tenant": "org"}, "tenant": "acme"}, "https://gate.example.org", "claims.tenant"),
        ({"tenant": "a b"}, "https://gate.example.org", "tenant"),
        ({"people_clients": "x", "role_clients": ["x"]}, "https://gate.example.org", "role_clients"),
        ({"prefix": "a b"}, "https://gate.example.org", "prefix"),
    ],
)
def test_what_would_be_unsafe_stops_the_start_with_a_sentence(
    oauth: dict[str, Any], base_url: str | None, words: str, tmp_path: Path
) -> None:
    if oauth.get("jwks_file") == "EMPTY":
        oauth = {"jwks_file": str(tmp_path / "jwks.json")}
        (tmp_path / "jwks.json").write_text('{"keys": []}')
    with pytest.raises(UnsafeConfiguration, match=r"\w+ \w+ \w+") as refused:
        made(oauth, base_url)
    assert words in str(refused.value)
    assert "auth.oauth" in str(refused.value)


def test_a_file_of_keys_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [public_jwk(ec.generate_private_key(ec.SECP256R1()), "k")]}))
    assert made({"jwks_file": str(path)}) is not None


def loaded(auth: dict[str, Any], base_url: str | None = "https://gate.example.org") -> settings.Settings:
    return settings.load({}, overrides={"auth": auth, "server.base_url": base_url})


def test_clients_are_told_of_all_issuers_and_of_all_scopes() -> None:
    one = {"issuer": ISSUER, "required_scopes": ["tools", "x"]}
    other = {"issuer": "https://id.partner.example", "audience": "api://gate", "required_scopes": ["x", "y"]}
    tokens = make_tokens(loaded({"oauth": [one, other]}), SystemClock(), PrometheusMeter([]))
    assert tokens is not None
    document = tokens.resource.document()
    assert document["authorization_servers"] == [ISSUER, "https://id.partner.example"]
    assert document["scopes_supported"] == ["tools", "x", "y"]


@pytest.mark.parametrize(
    ("issuers", "base_url", "words"),
    [
        ([{"issuer": ISSUER}, {"issuer": ISSUER, "audience": "api://other"}], "https://gate.example.org", "twice"),
        ([{"issuer": ISSUER, "audience": "https://g.example/mcp"}, {"issuer": ISSUER + "/x"}], None, "server.base_url"),
        ([{"issuer": ISSUER}, {"issuer": "http://id.partner.example"}], "https://gate.example.org", "use https"),
        ([ISSUER], "https://gate.example.org", "auth.oauth"),
    ],
)
def test_issuers_that_cannot_be_told_apart_or_trusted_stop_the_start(
    issuers: list[Any], base_url: str | None, words: str
) -> None:
    with pytest.raises(UnsafeConfiguration, match=words):
        make_tokens(loaded({"oauth": issuers}, base_url), SystemClock(), PrometheusMeter([]))


def mtls(*entries: dict[str, Any], header: str = "X-Forwarded-Client-Cert", proxies: Any = ("10.0.0.0/8",)) -> Any:
    return loaded({"mtls": {"header": header, "proxies": list(proxies), "map": list(entries)}})


BOT: dict[str, Any] = {"uri": "spiffe://x/bot", "agent": "bot"}


@pytest.mark.parametrize(
    ("entries", "more", "words"),
    [
        ((), {}, "map"),
        ((BOT,), {"proxies": ()}, "proxies"),
        ((BOT,), {"proxies": ["10.0.0.1/8"]}, "proxies"),
        ((BOT,), {"proxies": ["proxy.example.org"]}, "proxies"),
        ((BOT,), {"proxies": ["10.0.0.0/8", "0.0.0.0/0"]}, "every address"),
        ((BOT,), {"proxies": ["::/0"]}, "every address"),
        ((BOT,), {"header": "X-Client-Name"}, "header"),
        (({"agent": "bot"},), {}, "give one of"),
        (({**BOT, "dns": "x"},), {}, "give one of"),
        (({"uri": "x"},), {}, "`agent` or `person`"),
        (({**BOT, "person": "ann", "roles": ["operator"]},), {}, "`agent` or `person`"),
        (({"uri": "x", "person": "ann"},), {}, "roles"),
        (({"uri": "x", "agent": "a b"},), {}, "letter"),
        (({"uri": "x", "agent": "*"},), {}, "one \\*"),
        (({"uri": "x/*/*", "agent": "*"},), {}, "one \\*"),
        (({"uri": "x/*", "agent": "**"},), {}, "letter"),
        (({"subject": "CN=*", "agent": "*"},), {}, "one \\*"),
        (({"subject": "bot", "agent": "bot"},), {}, "RFC 4514"),
        (({**BOT, "tenant": "a b"},), {}, "tenant"),
        (({**BOT, "trust": True},), {}, "trust"),
    ],
)
def test_a_proxy_that_would_be_believed_too_much_stops_the_start(
    entries: tuple[dict[str, Any], ...], more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UnsafeConfiguration, match=words) as refused:
        make_certificates(mtls(*entries, **more), SystemClock())
    assert "auth.mtls" in str(refused.value)


def test_what_is_configured_is_whom_a_certificate_stands_for() -> None:
    person = {"cn": "user-*", "person": "*", "roles": ["operator", "auditor"], "tenant": "acme", "tier": "gold"}
    certificates = make_certificates(mtls(BOT, person), SystemClock())
    assert certificates is not None
    found = certificates.holder({b"x-forwarded-client-cert": b'Subject="CN=user-ann"'}, "10.1.2.3")
    assert isinstance(found, Principal)
    assert (found.id, found.tenant, found.tier) == ("person:ann", "acme", "gold")
    assert found.roles == {Role.OPERATOR, Role.AUDITOR}
    assert make_certificates(settings.load({}), SystemClock()) is None


def test_the_examples_of_the_page_are_accepted(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "identity.md").read_text(encoding="utf-8")
    tokens_, certificates = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "agentgate.yaml"
    path.write_text(tokens_, encoding="utf-8")
    tokens = make_tokens(settings.load({}, config=path), SystemClock(), PrometheusMeter([]))
    assert tokens is not None
    assert len(tokens.resource.issuers) == 2
    path.write_text(certificates, encoding="utf-8")
    reader = make_certificates(settings.load({}, config=path), SystemClock())
    assert reader is not None
    found = reader.holder({b"x-forwarded-client-cert": b"URI=spiffe://example.org/agent/deploy-bot"}, "10.1.0.9")
    assert isinstance(found, Principal)
    assert (found.id, found.tier) == ("agent:deploy-bot", "standard")
