"""The credential kind `token_exchange`, against a real OpenID provider, and against one that lies."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import jwt
import pytest

from agentgate.adapters.credentials.token_exchange import TokenExchange
from agentgate.core.call import Call
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.credentials import Ask, CredentialRefused
from tests.adapters.credentials.token_server import TokenServer
from tests.contracts.credential_source import CredentialSourceContract, broker_of
from tests.fakes import a_call
from tests.openid_provider import OpenIdProvider

UPSTREAM = "https://tickets.example.org"
ENVIRON = {"SECRET": "the-client-secret", "ACTOR": "token-of-the-actor"}
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


@pytest.fixture(scope="module")
def provider() -> Iterator[OpenIdProvider]:
    with OpenIdProvider(people={"alice": {}, "bob": {}}) as provider:
        yield provider


@pytest.fixture
async def server() -> AsyncIterator[TokenServer]:
    async with TokenServer() as server:
        server.answer["issued_token_type"] = ACCESS_TOKEN
        yield server


def at(provider: OpenIdProvider, secret: str | None = None, **more: Any) -> TokenExchange:
    secret = secret if secret is not None else provider.secret_of("deploy-bot")
    options = {"token_url": provider.token_endpoint, "client_id": "deploy-bot", "client_secret": {"env": "SECRET"}}
    return TokenExchange(options | {"resource": UPSTREAM} | more, {"SECRET": secret})


class TestTokenExchange(CredentialSourceContract):
    SECRET = None
    SCOPE = "tools"

    @pytest.fixture
    async def source(self, provider: OpenIdProvider) -> AsyncIterator[Broker]:
        broker = broker_of({"known": at(provider), "empty": at(provider, secret="wrong")})
        yield broker
        await broker.aclose()

    @pytest.fixture
    def call(self, provider: OpenIdProvider) -> Call:
        return replace(a_call(), bearer=provider.person_token("alice"))


async def test_the_upstream_hears_who_acts_for_whom(provider: OpenIdProvider) -> None:
    issuer = at(provider)
    for person in ("alice", "bob"):
        call = replace(a_call(), bearer=provider.person_token(person))
        issued = await issuer.issue(Ask("a", "tools", None, call))
        said = jwt.decode(issued.credential.secret, options={"verify_signature": False})
        assert (said["sub"], said["act"]["sub"], said["aud"]) == (person, "deploy-bot", UPSTREAM)
    await issuer.aclose()


async def test_two_users_of_one_agent_have_each_their_own(provider: OpenIdProvider) -> None:
    broker = broker_of({"a": at(provider)})
    given: dict[str, str] = {}
    for person in ("alice", "bob"):
        call = replace(a_call(), bearer=provider.person_token(person))
        credential = await broker.credential("a", scope="tools", ttl_s=None, call=call)
        assert credential is not None
        given[person] = jwt.decode(credential.secret, options={"verify_signature": False})["sub"]
    assert given == {"alice": "alice", "bob": "bob"}
    await broker.aclose()


@pytest.mark.parametrize("call", [None, a_call()])
async def test_without_a_callers_token_nobody_is_asked(server: TokenServer, call: Call | None) -> None:
    issuer = TokenExchange(server.options(), ENVIRON)
    with pytest.raises(CredentialRefused, match="no access token"):
        await issuer.issue(Ask("a", None, None, call))
    assert not server.forms
    await issuer.aclose()


async def test_a_token_that_the_provider_does_not_know_is_refused(provider: OpenIdProvider) -> None:
    issuer = at(provider)
    with pytest.raises(CredentialRefused, match="invalid_grant"):
        await issuer.issue(Ask("a", "tools", None, replace(a_call(), bearer="made-up")))
    await issuer.aclose()


async def test_an_actor_is_named_where_there_is_one(server: TokenServer) -> None:
    options = server.options(actor_token={"env": "ACTOR"}, actor_token_type="jwt", audience="tickets")
    issuer = TokenExchange(options, ENVIRON)
    await issuer.issue(Ask("a", "read", None, replace(a_call(), bearer="token-of-alice")))
    await issuer.aclose()
    assert server.forms == [
        {
            "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
            "subject_token": "token-of-alice",
            "subject_token_type": ACCESS_TOKEN,
            "requested_token_type": ACCESS_TOKEN,
            "actor_token": "token-of-the-actor",
            "actor_token_type": "urn:ietf:params:oauth:token-type:jwt",
            "audience": "tickets",
            "scope": "read",
        }
    ]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"issued_token_type": None}, "another type"),
        ({"issued_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "another type"),
        ({"token_type": "N_A"}, "no bearer token"),
        ({"access_token": "token-of-alice"}, "caller's own token"),
    ],
)
async def test_what_is_no_token_for_the_upstream_is_refused(
    server: TokenServer, change: dict[str, Any], why: str
) -> None:
    server.answer |= change
    issuer = TokenExchange(server.options(), ENVIRON)
    with pytest.raises(CredentialRefused, match=why) as refused:
        await issuer.issue(Ask("a", None, None, replace(a_call(), bearer="token-of-alice")))
    assert "token-of-alice" not in str(refused.value)
    await issuer.aclose()
