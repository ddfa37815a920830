"""Access tokens at the agents' door: which of key and token counts, and how a refusal asks for another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import httpx2
import pytest
from mcp.client.auth.utils import extract_resource_metadata_from_www_auth, extract_scope_from_www_auth
from mcp.shared.auth import ProtectedResourceMetadata
from mcp.shared.auth_utils import check_resource_allowed

from agentgate.core.call import KnownKey, Role, SessionId, key_sha256
from agentgate.core.errors import ReasonCode
from agentgate.edges.caller import AccessTokens, Callers, Keyring
from agentgate.edges.problem import Problem
from agentgate.edges.resource import ProtectedResource
from agentgate.ports.identity import NotVerified, TokenVerifier, VerifiedToken
from tests.fakes import FakeClock, NullMeter, principal

KEY = "agk_agent-key-of-the-test"
TOKEN = "e30.e30.AAAA"
METADATA = "https://gate.example.org/.well-known/oauth-protected-resource/mcp"
RESOURCE = ProtectedResource("https://gate.example.org/mcp", "https://login.example.org", ("tools", "x"), METADATA)
WHO = replace(principal("token-bot"), auth_method="oauth", session=SessionId("job-1"), scopes=frozenset({"tools"}))


class FakeVerifier:
    """Knows one token."""

    def __init__(self, answer: VerifiedToken | NotVerified) -> None:
        self.answer = answer
        self.asked: list[str] = []

    async def start(self) -> None: ...

    async def verify(self, token: str) -> VerifiedToken | NotVerified:
        self.asked.append(token)
        return self.answer

    async def aclose(self) -> None: ...


_: type[TokenVerifier] = FakeVerifier


class House:
    def __init__(self, answer: VerifiedToken | NotVerified | None = None) -> None:
        self.verifier = FakeVerifier(answer or VerifiedToken(WHO, 1.0))
        self.meter = NullMeter()
        keys = [
            KnownKey(key_sha256(KEY), principal("keyed")),
            KnownKey(key_sha256("agk_op"), principal("op", Role.OPERATOR)),
        ]
        self.keyring = Keyring(keys, admin_key="agk_admin-key-of-the-test", now=FakeClock().now)
        self.callers = Callers(self.keyring, AccessTokens(self.verifier, RESOURCE, self.meter))

    async def refusal(self, headers: dict[bytes, bytes], host: str | None = "127.0.0.1") -> Problem:
        with pytest.raises(Problem) as caught:
            await self.callers.agent(headers, host)
        return caught.value


def bearer(token: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + token.encode()}


async def test_a_token_is_who_it_stands_for_with_its_scopes_and_session() -> None:
    house = House()
    assert await house.callers.agent(bearer(TOKEN), "10.0.0.7") == WHO
    assert house.verifier.asked == [TOKEN]
    assert house.meter.counts == {}


@pytest.mark.parametrize("headers", [bearer(KEY), {b"x-api-key": KEY.encode()}])
async def test_a_key_is_a_key_and_nobody_verifies_it(headers: dict[bytes, bytes]) -> None:
    house = House()
    assert (await house.callers.agent(headers, None)).name == "keyed"
    assert house.verifier.asked == []


async def test_a_key_without_the_role_is_not_tried_as_a_token() -> None:
    house = House()
    assert (await house.refusal(bearer("agk_op"))).reason is ReasonCode.FORBIDDEN
    assert house.verifier.asked == []


@pytest.mark.parametrize("headers", [{b"x-api-key": TOKEN.encode()}, {b"x-api-key": b"agk_wrong"}])
async def test_a_token_comes_as_a_bearers_alone(headers: dict[bytes, bytes]) -> None:
    house = House()
    problem = await house.refusal(headers)
    assert (problem.status, problem.reason) == (401, ReasonCode.INVALID_KEY)
    assert house.verifier.asked == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "", None, "10.0.0.7"])
async def test_beside_an_issuer_nobody_is_local(host: str | None) -> None:
    house = House()
    house.keyring.replace([])
    problem = await house.refusal({}, host)
    assert (problem.status, problem.reason) == (401, ReasonCode.UNAUTHENTICATED)
    assert problem.headers["WWW-Authenticate"] == (
        f'Bearer realm="agentgate", scope="tools x", resource_metadata="{METADATA}"'
    )


async def test_the_mcp_sdks_client_finds_its_way_by_the_challenge_and_the_metadata() -> None:
    """Read by code that is not ours."""
    problem = await House().refusal({})
    answer = httpx2.Response(problem.status, headers=problem.headers)
    assert extract_resource_metadata_from_www_auth(answer) == METADATA
    assert extract_scope_from_www_auth(answer) == "tools x"
    found = ProtectedResourceMetadata.model_validate(RESOURCE.document())
    assert check_resource_allowed("https://gate.example.org/mcp", str(found.resource))
    assert [str(server).rstrip("/") for server in found.authorization_servers] == [RESOURCE.issuer]


CASES: list[tuple[Any, int, str | None]] = [
    (ReasonCode.INVALID_TOKEN, 401, "invalid_token"),
    (ReasonCode.INSUFFICIENT_SCOPE, 403, "insufficient_scope"),
    (ReasonCode.IDENTITY_UNAVAILABLE, 503, None),
]


@pytest.mark.parametrize(("reason", "status", "error"), CASES)
async def test_a_refusal_says_what_would_help_and_is_counted(reason: Any, status: int, error: str | None) -> None:
    house = House(NotVerified(reason, "It is so"))
    problem = await house.refusal(bearer(TOKEN))
    assert (problem.status, problem.reason, problem.detail) == (status, reason, "It is so")
    challenge = problem.headers.get("WWW-Authenticate")
    if error is None:
        assert challenge is None
        assert problem.headers["Retry-After"]
    else:
        assert challenge == (
            f'Bearer realm="agentgate", error="{error}", error_description="It is so", scope="tools x", '
            f'resource_metadata="{METADATA}"'
        )
    assert house.meter.counts == {("tokens_refused", reason): 1}
    assert TOKEN not in str(problem.document())
    assert TOKEN not in str(problem.headers)


@pytest.mark.parametrize("role", list(Role))
async def test_a_token_opens_no_control_route(role: Role) -> None:
    house = House(VerifiedToken(replace(WHO, roles=frozenset({Role.ADMIN})), 1.0))
    with pytest.raises(Problem) as caught:
        house.callers.person(bearer(TOKEN), role)
    assert (caught.value.status, caught.value.reason) == (403, ReasonCode.INVALID_KEY)
