"""Who is calling: keys, roles, expiry, and the principal `local` of a machine without any keys."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.call import KnownKey, Principal, Role, TenantId, key_sha256
from agentgate.core.errors import ReasonCode
from agentgate.edges import caller as caller_module
from agentgate.edges.caller import ADMIN, LOCAL, Callers, Keyring, presented
from agentgate.edges.problem import Problem
from agentgate.ports.identity import CertificateReader, NotTaken
from tests.fakes import FakeClock, principal

ADMIN_KEY = "agk_admin-key-of-the-test"
AGENT_KEY = "agk_agent-key-of-the-test"
CLOCK = FakeClock()

REMOTE = [
    "10.0.0.7",
    "192.168.1.2",
    "8.8.8.8",
    "::ffff:10.0.0.1",
    "fe80::1",
    "2001:db8::1",
    "0.0.0.0",
    "::",
    "1270.0.0.1",
]
LOOPBACK = ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "", None]


def _known(secret: str, who: Principal, expires: datetime | None = None) -> KnownKey:
    return KnownKey(key_sha256(secret), who, expires)


def _callers(*keys: KnownKey, admin_key: str = ADMIN_KEY) -> Callers:
    return Callers(Keyring(keys, admin_key=admin_key, now=CLOCK.now))


def _agent_key(*roles: Role, expires: datetime | None = None) -> KnownKey:
    return _known(AGENT_KEY, principal("bot", *roles), expires)


def _x(key: str) -> dict[bytes, bytes]:
    return {b"x-api-key": key.encode()}


def _bearer(key: str) -> dict[bytes, bytes]:
    return {b"authorization": b"Bearer " + key.encode()}


async def _refusal(act: Callable[..., Any], *arguments: object) -> tuple[int, ReasonCode]:
    async def acting() -> None:
        said = act(*arguments)
        if inspect.isawaitable(said):
            await said

    with pytest.raises(Problem) as caught:
        await acting()
    assert caught.value.status != 401 or "WWW-Authenticate" in caught.value.headers
    assert AGENT_KEY not in str(caught.value.document())
    assert ADMIN_KEY not in str(caught.value.document())
    return caught.value.status, caught.value.reason


# --- without any key ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", LOOPBACK)
async def test_keyless_caller_from_this_machine_is_local(host: str | None) -> None:
    assert (await _callers().agent({}, host)) == LOCAL


@pytest.mark.parametrize(
    "name", ["forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"]
)
async def test_whoever_comes_through_a_proxy_of_this_machine_is_not_local(name: str) -> None:
    headers = {b"host": b"localhost", name.encode(): b"for=127.0.0.1"}
    assert await _refusal(_callers().agent, headers, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)
    assert (await _callers(_agent_key()).agent(headers | _x(AGENT_KEY), "127.0.0.1")).name == "bot"


@pytest.mark.parametrize("host", REMOTE)
async def test_keyless_caller_from_elsewhere_is_401(host: str) -> None:
    assert await _refusal(_callers().agent, {}, host) == (401, ReasonCode.UNAUTHENTICATED)


@pytest.mark.parametrize("host", [*REMOTE, *LOOPBACK])
async def test_keyless_caller_is_401_everywhere_once_there_is_an_agent_key(host: str | None) -> None:
    assert await _refusal(_callers(_agent_key()).agent, {}, host) == (401, ReasonCode.UNAUTHENTICATED)


async def test_key_that_expired_still_ends_the_keyless_time() -> None:
    """Nobody becomes `local` again because a key ran out."""
    callers = _callers(_agent_key(expires=CLOCK.now() - timedelta(days=1)))
    assert await _refusal(callers.agent, {}, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)


async def test_operator_keys_alone_leave_local_calls_open() -> None:
    callers = _callers(_known("agk_operator", principal("op", Role.OPERATOR, person=True)))
    assert (await callers.agent({}, "127.0.0.1")) == LOCAL


@pytest.mark.parametrize("role", [Role.ADMIN, Role.APPROVER, Role.OPA])
async def test_a_persons_key_of_whatever_role_leaves_local_calls_open(role: Role) -> None:
    """An admin may do everything, and still is no agent that would have to be told from others."""
    callers = _callers(_known("agk_person", principal("ann", role, person=True)))
    assert callers.takes_local
    assert (await callers.agent({}, "127.0.0.1")) == LOCAL


@pytest.mark.parametrize(
    "who", [principal("ann", Role.AGENT, person=True), principal("bot", Role.OPERATOR), principal("bot")]
)
async def test_a_key_that_an_agent_could_come_with_closes_the_local_door(who: Principal) -> None:
    callers = _callers(_known("agk_some", who))
    assert await _refusal(callers.agent, {}, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)


async def test_nobody_becomes_local_again_because_keys_went_away() -> None:
    keyring = Keyring([_agent_key()], admin_key=ADMIN_KEY, now=CLOCK.now)
    callers = Callers(keyring)
    keyring.replace([])
    assert await _refusal(callers.agent, {}, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)


async def test_a_disabled_key_is_wrong_everywhere_and_still_ends_the_keyless_time() -> None:
    callers = _callers(replace(_agent_key(*Role), disabled=True))
    assert await _refusal(callers.agent, _x(AGENT_KEY), None) == (401, ReasonCode.INVALID_KEY)
    assert await _refusal(callers.person, _x(AGENT_KEY), None, Role.ADMIN) == (403, ReasonCode.INVALID_KEY)
    assert await _refusal(callers.agent, {}, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)


async def test_while_not_all_keys_are_known_no_key_is_called_wrong_and_nobody_is_local() -> None:
    """A client would throw a good key away; and a key file that cannot be read is no absence of keys."""
    keyring = Keyring([_agent_key()], admin_key=ADMIN_KEY, now=CLOCK.now)
    keyring.replace([_known("agk_configured", principal("fixed"))], is_whole=False)
    callers = Callers(keyring)
    assert await _refusal(callers.agent, _x(AGENT_KEY), None) == (503, ReasonCode.IDENTITY_UNAVAILABLE)
    assert await _refusal(callers.person, _x(AGENT_KEY), None, Role.ADMIN) == (503, ReasonCode.IDENTITY_UNAVAILABLE)
    assert await _refusal(callers.agent, {}, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)
    assert (await callers.agent(_x("agk_configured"), None)).name == "fixed"
    assert await callers.person(_x(ADMIN_KEY), None, Role.ADMIN) == ADMIN
    unread = Keyring((), admin_key=ADMIN_KEY, now=CLOCK.now)
    unread.replace([], is_whole=False)
    assert await _refusal(Callers(unread).agent, {}, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)


def test_a_principal_is_known_for_as_long_as_a_key_makes_somebody_it() -> None:
    clock = FakeClock()
    who = principal("bot", Role.AGENT, Role.OPERATOR)
    former = _known("agk_old", replace(who, auth_method="api_key", key_id="k-1"), clock.now() + timedelta(seconds=60))
    keyring = Keyring([former], admin_key=ADMIN_KEY, now=clock.now)
    callers = Callers(keyring)
    assert callers.still_knows(former.principal)
    assert not callers.still_knows(replace(former.principal, tenant=TenantId("other")))
    clock.move(60)
    assert not callers.still_knows(former.principal)
    fresh = _known("agk_new", replace(who, auth_method="api_key", key_id="k-2"))
    keyring.replace([former, fresh])
    assert callers.still_knows(former.principal), "the key was rotated"
    keyring.replace([replace(fresh, disabled=True)])
    assert not callers.still_knows(former.principal)
    keyring.replace([replace(former, disabled=True), fresh])
    assert not callers.still_knows(former.principal), "who came with a key that leaked goes on by its owner's new one"
    assert callers.still_knows(fresh.principal)
    keyring.replace([_known("agk_new", replace(principal("bot"), auth_method="api_key"))])
    assert not callers.still_knows(former.principal), "a role was taken away"
    assert callers.still_knows(ADMIN)
    assert not callers.still_knows(LOCAL)
    assert not callers.still_knows(replace(who, auth_method="oauth"))
    assert not callers.still_knows(replace(who, auth_method="mtls"))


def test_local_may_call_and_nothing_else() -> None:
    assert [role for role in Role if LOCAL.has(role)] == [Role.AGENT]
    assert not LOCAL.tenants_all


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("callers", [_callers(), _callers(_agent_key())], ids=["no keys", "with keys"])
async def test_control_needs_a_key_from_this_machine_too(callers: Callers, role: Role) -> None:
    assert await _refusal(callers.person, {}, None, role) == (401, ReasonCode.UNAUTHENTICATED)


# --- with keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers", [_x(AGENT_KEY), _bearer(AGENT_KEY), {b"authorization": b"bearer  " + AGENT_KEY.encode()}]
)
async def test_key_in_either_header_is_its_principal(headers: dict[bytes, bytes]) -> None:
    assert (await _callers(_agent_key()).agent(headers, "10.0.0.7")).id == "agent:bot"


async def test_wrong_key_is_401_at_the_agents_door_and_403_at_control() -> None:
    callers = _callers(_agent_key())
    for host in ("10.0.0.7", "127.0.0.1"):
        assert await _refusal(callers.agent, _x("agk_wrong"), host) == (401, ReasonCode.INVALID_KEY)
    assert await _refusal(callers.person, _x("agk_wrong"), None, Role.OPERATOR) == (403, ReasonCode.INVALID_KEY)


async def test_wrong_key_does_not_fall_back_to_local() -> None:
    assert await _refusal(_callers().agent, _x("agk_wrong"), "127.0.0.1") == (401, ReasonCode.INVALID_KEY)
    assert await _refusal(_callers().agent, _x(""), "127.0.0.1") == (401, ReasonCode.INVALID_KEY)


@pytest.mark.parametrize("wanted", [role for role in Role if role is not Role.AGENT])
async def test_agent_key_opens_no_control_route(wanted: Role) -> None:
    assert await _refusal(_callers(_agent_key()).person, _x(AGENT_KEY), None, wanted) == (403, ReasonCode.FORBIDDEN)


@pytest.mark.parametrize("has", [role for role in Role if role is not Role.ADMIN])
@pytest.mark.parametrize("wanted", list(Role))
async def test_key_opens_exactly_what_its_role_says(has: Role, wanted: Role) -> None:
    callers = _callers(_agent_key(has))
    if has is wanted:
        assert (await callers.person(_x(AGENT_KEY), None, wanted)).name == "bot"
    else:
        assert await _refusal(callers.person, _x(AGENT_KEY), None, wanted) == (403, ReasonCode.FORBIDDEN)


async def test_operator_key_is_no_agent() -> None:
    assert await _refusal(_callers(_agent_key(Role.OPERATOR)).agent, _x(AGENT_KEY), None) == (403, ReasonCode.FORBIDDEN)


@pytest.mark.parametrize("role", list(Role))
async def test_admin_key_opens_everything(role: Role) -> None:
    assert await _callers().person(_x(ADMIN_KEY), None, role) == ADMIN


async def test_admin_key_cannot_be_taken_by_a_configured_key() -> None:
    callers = _callers(_known(ADMIN_KEY, principal("thief")))
    assert (await callers.agent(_x(ADMIN_KEY), None)) == ADMIN


@pytest.mark.parametrize(("after_s", "valid"), [(-1, True), (0, False), (1, False)])
async def test_key_ends_at_its_time(after_s: int, valid: bool) -> None:
    clock = FakeClock()
    key = _agent_key(expires=clock.now() + timedelta(seconds=60))
    callers = Callers(Keyring([key], admin_key=ADMIN_KEY, now=clock.now))
    clock.move(60 + after_s)
    if valid:
        assert (await callers.agent(_x(AGENT_KEY), None)).name == "bot"
    else:
        assert await _refusal(callers.agent, _x(AGENT_KEY), None) == (401, ReasonCode.INVALID_KEY)


def test_replaced_keys_are_gone_at_once() -> None:
    keyring = Keyring([_agent_key()], admin_key=ADMIN_KEY, now=CLOCK.now)
    keyring.replace([_known("agk_new", principal("new"))])
    assert keyring.principal(AGENT_KEY) is None
    found = keyring.principal("agk_new")
    assert found is not None
    assert found.name == "new"
    assert keyring.principal(ADMIN_KEY) == ADMIN


# --- certificates that a proxy tells of -------------------------------------------------------------------------------

HOLDER = replace(principal("bot"), auth_method="mtls")
PROXY = "10.0.0.1"


class FakeCertificates:
    """What a proxy at one address says."""

    def __init__(self, found: Principal | NotTaken | None) -> None:
        self.found = found

    def holder(self, headers: Mapping[bytes, bytes], client_host: str | None) -> Principal | NotTaken | None:
        return self.found if client_host == PROXY else NotTaken("From elsewhere")

    def knows(self, principal: Principal) -> bool:
        return principal == self.found


_: type[CertificateReader] = FakeCertificates


def _behind(found: Principal | NotTaken | None, *keys: KnownKey) -> Callers:
    return Callers(Keyring(keys, admin_key=ADMIN_KEY, now=CLOCK.now), None, FakeCertificates(found))


async def test_the_holder_of_a_certificate_needs_no_key() -> None:
    assert await _behind(HOLDER).agent({}, PROXY) == HOLDER
    person = replace(principal("ann", Role.OPERATOR, person=True), auth_method="mtls")
    assert await _behind(person).person({}, PROXY, Role.OPERATOR) == person
    assert await _refusal(_behind(person).person, {}, PROXY, Role.ADMIN) == (403, ReasonCode.FORBIDDEN)
    assert await _refusal(_behind(person).agent, {}, PROXY) == (403, ReasonCode.FORBIDDEN)


def test_a_certificates_holder_is_known_for_as_long_as_a_certificate_could_be_theirs() -> None:
    assert _behind(HOLDER).still_knows(HOLDER)
    assert not _behind(NotTaken("A stranger", is_stranger=True)).still_knows(HOLDER)


async def test_behind_a_proxy_without_a_certificate_nobody_is_local() -> None:
    callers = _behind(None)
    assert not callers.takes_local
    assert await _refusal(callers.agent, {}, PROXY) == (401, ReasonCode.UNAUTHENTICATED)
    assert await _refusal(callers.person, {}, PROXY, Role.ADMIN) == (401, ReasonCode.UNAUTHENTICATED)
    assert (await _behind(None, _agent_key()).agent(_x(AGENT_KEY), PROXY)).name == "bot"


@pytest.mark.parametrize("headers", [{}, _x(AGENT_KEY), _bearer(ADMIN_KEY)])
async def test_a_certificate_that_is_not_taken_is_refused_whatever_stands_beside_it(
    headers: dict[bytes, bytes],
) -> None:
    callers = _behind(NotTaken("It is so"), _agent_key())
    assert await _refusal(callers.agent, headers, PROXY) == (401, ReasonCode.CERTIFICATE_INVALID)
    assert await _refusal(callers.person, headers, PROXY, Role.ADMIN) == (401, ReasonCode.CERTIFICATE_INVALID)


async def test_a_strangers_certificate_is_no_identity_and_no_obstacle_to_a_key() -> None:
    callers = _behind(NotTaken("A stranger", is_stranger=True), _agent_key())
    assert await _refusal(callers.agent, {}, PROXY) == (401, ReasonCode.CERTIFICATE_INVALID)
    assert (await callers.agent(_x(AGENT_KEY), PROXY)).name == "bot"
    assert await callers.person(_x(ADMIN_KEY), PROXY, Role.ADMIN) == ADMIN


async def test_a_key_over_somebody_elses_certificate_is_a_stolen_one() -> None:
    assert (await _behind(HOLDER, _agent_key()).agent(_x(AGENT_KEY), PROXY)).auth_method != "mtls"
    for other in (replace(HOLDER, tenant=TenantId("b")), replace(principal("thief"), auth_method="mtls")):
        callers = _behind(other, _agent_key())
        assert await _refusal(callers.agent, _x(AGENT_KEY), PROXY) == (403, ReasonCode.CERTIFICATE_INVALID)
        assert await _refusal(callers.person, _x(ADMIN_KEY), PROXY, Role.ADMIN) == (403, ReasonCode.CERTIFICATE_INVALID)


# --- what is sent -----------------------------------------------------------------------------------------------------


async def test_two_different_keys_are_refused_and_the_same_twice_is_one() -> None:
    callers = _callers(_agent_key())
    both = _x(AGENT_KEY) | _bearer(ADMIN_KEY)
    assert await _refusal(callers.agent, both, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)
    assert await _refusal(callers.person, both, None, Role.ADMIN) == (401, ReasonCode.UNAUTHENTICATED)
    assert (await callers.agent(_x(AGENT_KEY) | _bearer(AGENT_KEY), None)).name == "bot"


@pytest.mark.parametrize(
    "value", [b"", b"Bearer", b"Bearer ", b"Basic dXNlcjpwYXNz", b"Token x", AGENT_KEY.encode(), b"Bearerx y"]
)
async def test_authorization_that_is_no_bearer_is_401(value: bytes) -> None:
    assert await _refusal(_callers(_agent_key()).agent, {b"authorization": value}, None) == (
        401,
        ReasonCode.UNAUTHENTICATED,
    )
    assert await _refusal(_callers().agent, {b"authorization": value}, "127.0.0.1") == (401, ReasonCode.UNAUTHENTICATED)


@pytest.mark.parametrize("raw", ["é".encode(), b"\xe9", b"\xff\xfe", "\U0001f511".encode(), b"\x00", b"a" * 100_000])
async def test_strange_key_is_only_wrong(raw: bytes) -> None:
    """The peer answered 500 to a key that is not ASCII."""
    callers = _callers(_agent_key())
    assert await _refusal(callers.agent, {b"x-api-key": raw}, None) == (401, ReasonCode.INVALID_KEY)
    assert await _refusal(callers.person, {b"x-api-key": raw}, None, Role.ADMIN) == (403, ReasonCode.INVALID_KEY)


async def test_key_that_is_not_ascii_but_known_is_found() -> None:
    assert (await _callers(_known("schlüssel-ñ", principal("bot"))).agent(_x("schlüssel-ñ"), None)).name == "bot"


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_no_header_bytes_are_anything_but_a_text_or_a_refusal(named: bytes, bearer: bytes) -> None:
    for headers in (
        {b"x-api-key": named},
        {b"authorization": b"Bearer " + bearer},
        {b"x-api-key": named, b"authorization": bearer},
    ):
        try:
            secret = presented(headers)
        except Problem:
            continue
        assert isinstance(secret, str)
        assert Keyring((), admin_key=ADMIN_KEY, now=CLOCK.now).principal(secret) is None


def test_no_secret_is_compared_byte_by_byte() -> None:
    """Keys are looked up by their digest; `==` on a secret would tell by its time how much of it is right (A24)."""
    tree = ast.parse(Path(caller_module.__file__).read_text())
    names = {"secret", "admin_key"}
    compared = [
        node.id
        for compare in ast.walk(tree)
        if isinstance(compare, ast.Compare)
        and not all(isinstance(other, ast.Constant) and other.value is None for other in compare.comparators)
        for node in ast.walk(compare)
        if isinstance(node, ast.Name)
    ]
    assert not names & set(compared)


async def test_tenant_and_identity_come_from_the_key_alone() -> None:
    who = replace(principal("bot"), tenant=TenantId("acme"))
    headers = _x(AGENT_KEY) | {b"x-agentgate-tenant-id": b"default", b"x-agent": b"admin"}
    found = await _callers(_known(AGENT_KEY, who)).agent(headers, None)
    assert (found.tenant, found.id) == ("acme", "agent:bot")
    assert CLOCK.now().tzinfo is UTC
