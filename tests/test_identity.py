"""`auth.oauth`: what stops the start, and what clients are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentgate import settings
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.core.errors import UnsafeConfiguration
from agentgate.edges.caller import AccessTokens
from agentgate.identity import make_tokens
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
