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
RESOURCE = ProtectedResource("https://gate.example.org/mcp", ("https://login.example.org",), ("tools", "x"), METADATA)
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


def test_a_tokens_bearer_is_known_for_as_long_as_its_issuer_is_configured() -> None:
    callers = House().callers
    assert callers.still_knows(replace(WHO, key_id="https://login.example.org"))
    assert not callers.still_knows(replace(WHO, key_id="https://former.example.org"))
    assert callers.still_knows(replace(WHO, key_id=None)), "sealed by a version that kept no issuer"


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
    assert [str(server).rstrip("/") for server in found.authorization_servers] == list(RESOURCE.issuers)


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


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.AGENT])
async def test_an_agents_token_opens_no_control_route(role: Role) -> None:
    with pytest.raises(Problem) as caught:
        await House().callers.person(bearer(TOKEN), None, role)
    assert (caught.value.status, caught.value.reason) == (403, ReasonCode.FORBIDDEN)


async def test_a_persons_token_opens_what_its_roles_say_and_no_tool() -> None:
    ann = replace(principal("ann", Role.APPROVER, person=True), auth_method="oauth")
    house = House(VerifiedToken(ann, 1.0))
    assert await house.callers.person(bearer(TOKEN), "10.0.0.7", Role.APPROVER) == ann
    for role in (Role.OPERATOR, Role.ADMIN):
        with pytest.raises(Problem) as caught:
            await house.callers.person(bearer(TOKEN), None, role)
        assert (caught.value.status, caught.value.reason) == (403, ReasonCode.FORBIDDEN)
    assert (await house.refusal(bearer(TOKEN))).reason is ReasonCode.FORBIDDEN


@pytest.mark.parametrize(("reason", "status", "error"), CASES)
async def test_control_routes_refuse_a_bad_token_as_the_agents_door_does(reason: Any, status: int, error: Any) -> None:
    house = House(NotVerified(reason, "It is so"))
    with pytest.raises(Problem) as caught:
        await house.callers.person(bearer(TOKEN), None, Role.ADMIN)
    assert (caught.value.status, caught.value.reason) == (status, reason)
    assert (error is None) == ("WWW-Authenticate" not in caught.value.headers)


async def test_a_wrong_key_at_a_control_route_is_as_wrong_as_before_there_were_tokens() -> None:
    with pytest.raises(Problem) as caught:
        await House().callers.person({b"x-api-key": b"agk_wrong"}, None, Role.ADMIN)
    assert (caught.value.status, caught.value.reason) == (403, ReasonCode.INVALID_KEY)


async def test_the_door_gets_the_token_itself_only_when_it_is_good_and_never_a_key() -> None:
    house = House()
    assert await house.callers.caller(bearer(TOKEN), None) == (WHO, TOKEN)
    for headers in (bearer(KEY), {b"x-api-key": KEY.encode()}):
        assert (await house.callers.caller(headers, None)).bearer is None
    with pytest.raises(Problem):
        await House(NotVerified(ReasonCode.INVALID_TOKEN, "It is so")).callers.caller(bearer(TOKEN), None)


async def test_while_the_key_file_cannot_be_read_tokens_go_on_and_made_keys_are_not_called_wrong() -> None:
    house = House()
    house.keyring.replace([], is_whole=False)
    assert await house.callers.agent(bearer(TOKEN), None) == WHO
    assert (await house.refusal(bearer("agk_made"))).reason is ReasonCode.IDENTITY_UNAVAILABLE
    assert house.verifier.asked == [TOKEN]
