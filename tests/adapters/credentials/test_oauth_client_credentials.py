"""The credential kind `oauth_client_credentials`, against a real OpenID provider, and against one that lies."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Iterator
from typing import Any

import jwt
import pytest

from agentgate.adapters.credentials.oauth_client_credentials import OAuthClientCredentials
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.credentials import Ask, CredentialRefused
from tests.adapters.credentials.token_server import TokenServer
from tests.contracts.credential_source import CredentialSourceContract, broker_of
from tests.fakes import a_call
from tests.openid_provider import OpenIdProvider
from tests.pipeline.conftest import until

UPSTREAM = "https://tickets.example.org"
ENVIRON = {"SECRET": "the client's: secret"}


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider(scopes=("tools", "read", "write")) as provider:
        yield provider


@pytest.fixture
async def server() -> AsyncIterator[TokenServer]:
    async with TokenServer() as server:
        yield server


def at(provider: OpenIdProvider, secret: str | None = None, **more: Any) -> OAuthClientCredentials:
    secret = secret if secret is not None else provider.secret_of("deploy-bot")
    options = {"token_url": provider.token_endpoint, "client_id": "deploy-bot", "client_secret": {"env": "SECRET"}}
    return OAuthClientCredentials(options | {"resource": UPSTREAM} | more, {"SECRET": secret})


class TestOAuthClientCredentials(CredentialSourceContract):
    SECRET = None

    @pytest.fixture
    async def source(self, provider: OpenIdProvider) -> AsyncIterator[Broker]:
        broker = broker_of({"known": at(provider), "empty": at(provider, secret="wrong")})
        yield broker
        await broker.aclose()


async def claims(issuer: OAuthClientCredentials, ask: Ask) -> dict[str, Any]:
    issued = await issuer.issue(ask)
    await issuer.aclose()
    said: dict[str, Any] = jwt.decode(issued.credential.secret, options={"verify_signature": False})
    return said


async def test_a_real_provider_is_asked_for_the_scope_of_the_decision_and_no_more(provider: OpenIdProvider) -> None:
    said = await claims(at(provider), Ask("a", "read"))
    assert (said["scope"], said["aud"], said["sub"]) == ("read", UPSTREAM, "deploy-bot")


async def test_scopes_translate_what_policy_says(provider: OpenIdProvider) -> None:
    scopes = {"change": "read write"}
    assert (await claims(at(provider, scopes=scopes), Ask("a", "change")))["scope"] == "read write"
    with pytest.raises(CredentialRefused, match="nothing is configured for the scope 'admin'"):
        await at(provider, scopes=scopes).issue(Ask("a", "admin"))


async def test_a_provider_that_refuses_is_quoted_by_its_code_alone(provider: OpenIdProvider) -> None:
    issuer = at(provider, secret="wrong")
    with pytest.raises(CredentialRefused, match=r"^its source answered 401 \(invalid_client\)$"):
        await issuer.issue(Ask("a", "read"))
    await issuer.aclose()


async def test_the_client_proves_itself_by_header_or_in_the_body(server: TokenServer) -> None:
    for how, form, header in (
        ("basic", {}, "Basic " + base64.b64encode(b"gate+way:the+client%27s%3A+secret").decode()),
        ("post", {"client_id": "gate way", "client_secret": "the client's: secret"}, None),
    ):
        issuer = OAuthClientCredentials(server.options(client_auth=how), ENVIRON)
        await issuer.issue(Ask("a", "read"))
        await issuer.aclose()
        assert server.forms[-1] == {"grant_type": "client_credentials", "scope": "read", **form}
        assert server.authorizations[-1] == header


async def test_a_kill_revokes_the_token_where_the_server_takes_it_back(server: TokenServer) -> None:
    options = server.options(revocation_url=f"{server.url}/revoke")
    broker = broker_of({"a": OAuthClientCredentials(options, ENVIRON)})
    await broker.credential("a", scope="read", ttl_s=None, call=a_call(session="s-1"))
    broker.drop(lambda call: call.session == "s-1")
    await until(lambda: server.revoked == ["s3cret-value"])
    await broker.aclose()


async def test_a_kill_uses_the_token_no_more_where_nobody_takes_it_back(server: TokenServer) -> None:
    broker = broker_of({"a": OAuthClientCredentials(server.options(), ENVIRON)})
    await broker.credential("a", scope="read", ttl_s=None, call=a_call(session="s-1"))
    broker.drop(lambda call: call.session == "s-1")
    await broker.credential("a", scope="read", ttl_s=None, call=a_call(session="s-2"))
    assert len(server.forms) == 2
    await broker.aclose()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"<html>s3cret-value", "strict JSON"),
        ([], "no JSON object"),
        ({}, "without an access token"),
        ({"access_token": "", "token_type": "Bearer"}, "without an access token"),
        ({"access_token": "s3cret-value\r\nX-Evil: 1", "token_type": "Bearer"}, "without an access token"),
        ({"access_token": {"s3cret": 1}, "token_type": "Bearer"}, "without an access token"),
        ({"access_token": "s3cret-value"}, "no bearer token"),
        ({"access_token": "s3cret-value", "token_type": "DPoP"}, "no bearer token"),
        ({"access_token": "s3cret-value", "token_type": "Bearer", "expires_in": -1}, "expired"),
        ({"access_token": "s3cret-value", "token_type": "Bearer", "expires_in": True}, "expired"),
        ({"access_token": "s3cret-value", "token_type": "Bearer", "scope": "read admin"}, "more than the scope"),
        ({"access_token": "s3cret-value", "token_type": "Bearer", "scope": 3}, "more than the scope"),
        (b'{"access_token":"a","access_token":"s3cret-value","token_type":"Bearer"}', "strict JSON"),
        (b" " * 300_000, "more than"),
    ],
)
async def test_an_answer_that_is_none_is_refused_and_not_quoted(server: TokenServer, answer: Any, why: str) -> None:
    server.answer = answer
    issuer = OAuthClientCredentials(server.options(), ENVIRON)
    with pytest.raises(CredentialRefused, match=why) as refused:
        await issuer.issue(Ask("a", "read"))
    assert "s3cret" not in str(refused.value)
    await issuer.aclose()


async def test_an_error_that_quotes_our_secret_is_not_passed_on(server: TokenServer) -> None:
    server.status, server.answer = 400, {"error": ENVIRON["SECRET"], "error_description": ENVIRON["SECRET"]}
    issuer = OAuthClientCredentials(server.options(), ENVIRON)
    with pytest.raises(CredentialRefused, match=r"^its source answered 400$"):
        await issuer.issue(Ask("a", "read"))
    await issuer.aclose()


async def test_a_token_that_says_no_lifetime_is_used_for_a_minute(server: TokenServer) -> None:
    server.answer = {"access_token": "s3cret-value", "token_type": "bearer"}
    issuer = OAuthClientCredentials(server.options(), ENVIRON)
    assert (await issuer.issue(Ask("a", "read"))).expires_in_s == 60
    await issuer.aclose()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"token_url": "http://issuer.example.org/token"}, "https"),
        ({"client_secret": "in-the-configuration"}, "no secret stands in a configuration"),
        ({"client_auth": "jwt"}, "client_auth"),
        ({"scopes": {"read": 3}}, "scopes"),
        ({"revocation_url": "ftp://x"}, "revocation_url"),
        ({"scop": "x"}, "no option scop"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], why: str) -> None:
    options = {"token_url": "https://i.example.org/t", "client_id": "c", "client_secret": {"env": "S"}}
    with pytest.raises(ValueError, match=why):
        OAuthClientCredentials(options | change, {})
