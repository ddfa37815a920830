"""JWT access tokens, with real keys, from an issuer that answers over real HTTP."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519

from agentgate.adapters.tokens._issuer import (
    COOL_DOWN_S,
    MAX_AGE_S,
    MAX_STALE_S,
    IssuerKeys,
    KeyFile,
    KeyUrl,
    Unreadable,
)
from agentgate.adapters.tokens._jwks import ALGORITHMS, MAX_KEYS, NoKeySet, read_key_set
from agentgate.adapters.tokens._whom import Whom
from agentgate.adapters.tokens.jwt import JwtVerifier, Memory, Rules
from agentgate.core.errors import ReasonCode
from agentgate.ports.identity import NotVerified, VerifiedToken
from tests.contracts.token_verifier import TokenVerifierContract, assert_refused
from tests.fakes import FakeClock, principal
from tests.token_issuer import AUDIENCE, Issuer, public_jwk, rsa_key, sign

SCOPES = frozenset({"tools:call"})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def issuer(clock: FakeClock) -> Iterator[Issuer]:
    with Issuer(now=lambda: clock.now().timestamp()) as issuer:
        yield issuer


class House:
    """A verifier, what it reads, and whether its readings went well."""

    def __init__(self, issuer: Issuer, clock: FakeClock, source: KeyUrl | KeyFile | None = None, **rules: Any) -> None:
        self.readings: list[bool] = []
        self.keys = IssuerKeys(source or KeyUrl(issuer.url, issuer.jwks_url), clock, on_reading=self.readings.append)
        self.rules = replace(Rules(issuer.url, frozenset({AUDIENCE}), ALGORITHMS, SCOPES), **rules)
        self.verifier = JwtVerifier(self.rules, self.keys, clock)

    async def who(self, token: str) -> str:
        """The agent, or the reason of the refusal."""
        found = await self.verifier.verify(token)
        return found.principal.name if isinstance(found, VerifiedToken) else found.reason.value


@pytest.fixture
async def house(issuer: Issuer, clock: FakeClock) -> AsyncIterator[House]:
    house = House(issuer, clock)
    yield house
    await house.verifier.aclose()


class TestJwt(TokenVerifierContract):
    @pytest.fixture
    def verifier(self, house: House) -> JwtVerifier:
        return house.verifier

    @pytest.fixture
    def good(self, issuer: Issuer) -> str:
        return issuer.mint()

    @pytest.fixture
    def expired(self, issuer: Issuer, clock: FakeClock) -> str:
        return issuer.mint(exp=clock.now().timestamp() - 60)

    @pytest.fixture
    async def blind(self, issuer: Issuer, clock: FakeClock) -> AsyncIterator[JwtVerifier]:
        house = House(issuer, clock, KeyFile(Path("/nonexistent")))
        yield house.verifier
        await house.verifier.aclose()


# --- what a token may look like ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *[(rsa_key, name) for name in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")],
        (lambda: ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (lambda: ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (lambda: ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate, "EdDSA"),
        (ed448.Ed448PrivateKey.generate, "EdDSA"),
    ],
)
async def test_every_algorithm_with_a_public_key_works_where_it_is_allowed(
    house: House, issuer: Issuer, clock: FakeClock, key: Any, algorithm: str
) -> None:
    issuer.rotate(key(), algorithm)
    token = issuer.mint()
    assert await house.who(token) == "token-bot"
    strict = House(issuer, clock, algorithms=ALGORITHMS - {algorithm})
    assert await strict.who(token) == "invalid_token"


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "JWT", ...])
async def test_types_of_access_tokens_are_taken(house: House, issuer: Issuer, typ: Any) -> None:
    assert await house.who(issuer.mint({"typ": typ})) == "token-bot"


@pytest.mark.parametrize("typ", ["dpop+jwt", "logout+jwt", "secevent+jwt", "", None, 1, ["JWT"]])
async def test_other_types_are_refused(house: House, issuer: Issuer, typ: Any) -> None:
    assert await house.who(issuer.mint({"typ": typ})) == "invalid_token"


@pytest.mark.parametrize(
    ("aud", "taken"),
    [
        ([AUDIENCE], True),
        (["https://other.example", AUDIENCE], True),
        (["https://other.example"], False),
        ([], False),
        ([[AUDIENCE]], False),
        ([AUDIENCE, 1], False),
        ({AUDIENCE: 1}, False),
        (AUDIENCE.upper(), False),
    ],
)
async def test_a_token_is_for_us_when_its_audience_names_us(
    house: House, issuer: Issuer, aud: object, taken: bool
) -> None:
    assert await house.who(issuer.mint(aud=aud)) == ("token-bot" if taken else "invalid_token")


async def test_a_token_without_a_kid_is_fine_only_where_one_key_fits(house: House, issuer: Issuer) -> None:
    token = issuer.mint({"kid": ...})
    assert await house.who(token) == "token-bot"
    issuer.keys.append(public_jwk(rsa_key(1), "another"))
    await house.keys.newer()
    assert await house.who(token) == "invalid_token"


@pytest.mark.parametrize(
    ("claims", "after_s", "taken"),
    [
        ({}, 309, True),
        ({}, 310, False),
        ({"nbf": 10}, 0, True),
        ({"nbf": 11}, 0, False),
        ({"nbf": 11}, 2, True),
        ({"iat": 10.5}, 0, False),
        ({"iat": 9.5}, 0, True),
        ({"iat": ...}, 0, True),
    ],
)
async def test_a_token_is_good_in_its_time_with_ten_seconds_leeway(
    house: House, issuer: Issuer, clock: FakeClock, claims: dict[str, Any], after_s: float, taken: bool
) -> None:
    now = clock.now().timestamp()
    token = issuer.mint(**{name: value if value is ... else now + value for name, value in claims.items()})
    clock.move(after_s)
    assert await house.who(token) == ("token-bot" if taken else "invalid_token")


async def test_a_remembered_token_expires_too(house: House, issuer: Issuer, clock: FakeClock) -> None:
    token = issuer.mint()
    clock.move(309)
    assert await house.who(token) == "token-bot"
    clock.move(1)
    assert await house.who(token) == "invalid_token"


@pytest.mark.parametrize("name", ["exp", "nbf", "iat"])
@pytest.mark.parametrize("value", ["1893456000", True, None, [1893456000], {}, -1, 1e300, 253_402_300_800])
async def test_a_time_that_is_none_is_refused(house: House, issuer: Issuer, name: str, value: object) -> None:
    assert await house.who(issuer.mint(**{name: value})) == "invalid_token"


# --- scopes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"scope": "tools:call"},
        {"scope": "a tools:call b"},
        {"scope": ["tools:call"]},
        {"scope": ..., "scp": ["tools:call"]},
        {"scope": ..., "scp": "tools:call"},
    ],
)
async def test_the_scope_that_is_needed_is_found(house: House, issuer: Issuer, claims: dict[str, Any]) -> None:
    found = await house.verifier.verify(issuer.mint(**claims))
    assert isinstance(found, VerifiedToken)
    assert "tools:call" in found.principal.scopes


@pytest.mark.parametrize("scope", ["", "tools", "tools:callx", "Tools:Call", [], ..., "tools: call"])
async def test_a_token_without_the_scope_has_insufficient_scope(house: House, issuer: Issuer, scope: Any) -> None:
    assert await house.who(issuer.mint(scope=scope)) == "insufficient_scope"


@pytest.mark.parametrize(
    "scope", [1, None, {"tools:call": 1}, ["tools:call", 1], 'tools:call "', "tools:call\n", ["a b"]]
)
async def test_scopes_that_are_none_are_refused(house: House, issuer: Issuer, scope: Any) -> None:
    assert await house.who(issuer.mint(scope=scope)) == "invalid_token"


# --- whom it stands for -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "agent"),
    [
        ({"azp": "a"}, "a"),
        ({}, "token-bot"),
        ({"client_id": ...}, "user-7"),
        ({"client_id": ..., "sub": ...}, "invalid_token"),
        # the first claim counts, so that nobody becomes another by making it unusable
        ({"client_id": "https://app.example/client.json"}, "invalid_token"),
        ({"azp": None}, "invalid_token"),
        ({"azp": ""}, "invalid_token"),
        ({"azp": ["a"]}, "invalid_token"),
        ({"azp": "a" * 257}, "invalid_token"),
        ({"azp": "bot\n"}, "invalid_token"),
        ({"azp": "bоt"}, "invalid_token"),  # a Cyrillic o
    ],
)
async def test_the_agent_is_the_client_of_the_token(
    house: House, issuer: Issuer, claims: dict[str, Any], agent: str
) -> None:
    assert await house.who(issuer.mint(**claims)) == agent


async def test_another_claim_may_name_the_agent_and_then_only_that(issuer: Issuer, clock: FakeClock) -> None:
    house = House(issuer, clock, whom=Whom(agent=(("bot",),)))
    assert await house.who(issuer.mint(bot="builder")) == "builder"
    assert await house.who(issuer.mint()) == "invalid_token"


async def test_the_tenant_is_the_configured_claims_and_never_a_default_then(issuer: Issuer, clock: FakeClock) -> None:
    house = House(issuer, clock, whom=Whom(tenant_claim=("org",)))
    found = await house.verifier.verify(issuer.mint(org="acme"))
    assert isinstance(found, VerifiedToken)
    assert found.principal.tenant == "acme"
    for org in (..., None, "", "a/b", ["acme"]):
        assert await house.who(issuer.mint(org=org)) == "invalid_token"


async def test_a_session_of_the_token_is_the_principals(house: House, issuer: Issuer) -> None:
    found = await house.verifier.verify(issuer.mint(agentgate_session="job-17"))
    assert isinstance(found, VerifiedToken)
    assert found.principal.session == "job-17"
    for session in (None, "", "../x", 17, "a" * 257):
        assert await house.who(issuer.mint(agentgate_session=session)) == "invalid_token"


# --- the issuer's keys ------------------------------------------------------------------------------------------------


async def test_keys_are_found_by_the_issuers_metadata(clock: FakeClock) -> None:
    with Issuer("/realms/one", now=lambda: clock.now().timestamp()) as issuer:
        house = House(issuer, clock, KeyUrl(issuer.url, None))
        assert await house.who(issuer.mint()) == "token-bot"
        assert issuer.asked == ["/.well-known/oauth-authorization-server/realms/one", "/jwks"]


async def test_keys_are_found_by_openid_connect_discovery(clock: FakeClock) -> None:
    with Issuer("/realms/one", now=lambda: clock.now().timestamp()) as issuer:
        issuer.documents["/.well-known/oauth-authorization-server/realms/one"] = b"<html>"
        issuer.documents["/realms/one/.well-known/openid-configuration"] = json.dumps(issuer.metadata).encode()
        house = House(issuer, clock, KeyUrl(issuer.url, None))
        assert await house.who(issuer.mint()) == "token-bot"


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"issuer": "SLASH"},
        {"jwks_uri": "http://evil.example/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 7},
        {"jwks_uri": None},
    ],
)
async def test_metadata_that_is_another_issuers_or_points_astray_is_not_followed(
    issuer: Issuer, clock: FakeClock, change: dict[str, Any]
) -> None:
    issuer.metadata |= {name: issuer.url + "/" if value == "SLASH" else value for name, value in change.items()}
    house = House(issuer, clock, KeyUrl(issuer.url, None))
    assert await house.who(issuer.mint()) == "identity_unavailable"
    assert "/jwks" not in issuer.asked


async def test_no_redirect_is_followed(house: House, issuer: Issuer) -> None:
    with Issuer() as other:
        issuer.redirect["/jwks"] = other.jwks_url
        assert await house.who(issuer.mint()) == "identity_unavailable"
        assert other.asked == []


@pytest.mark.parametrize(
    "url",
    [
        "http://issuer.example",
        "http://127.0.0.1.evil.example",
        "http://localhost.evil.example/",
        "ftp://issuer.example",
        "file:///etc/keys",
        "issuer.example",
        "https://",
        "https://user@issuer.example",
        "https://issuer.example/#x",
        "https://issuer.example:99999/",
        "https://issuer.example?x=1",
    ],
)
def test_an_issuer_is_an_https_url(url: str) -> None:
    with pytest.raises(ValueError, match="issuer"):
        KeyUrl(url, None)


@pytest.mark.parametrize(
    "url", ["http://keys.example/jwks", "https://user:x@keys.example/", "/jwks", "data:,x", "https://a..b/"]
)
def test_keys_come_over_https(url: str) -> None:
    with pytest.raises(ValueError, match="jwks_url"):
        KeyUrl("https://issuer.example", url)


async def test_a_file_of_keys_needs_no_issuer_and_is_read_again_for_a_new_key(
    issuer: Issuer, clock: FakeClock, tmp_path: Path
) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": issuer.keys}))
    house = House(issuer, clock, KeyFile(path))
    assert await house.who(issuer.mint()) == "token-bot"
    issuer.rotate()
    path.write_text(json.dumps({"keys": issuer.keys}))
    assert await house.who(issuer.mint()) == "token-bot"
    assert issuer.asked == []


async def test_a_rotation_is_noticed_by_the_first_token_of_the_new_key(house: House, issuer: Issuer) -> None:
    old = issuer.mint()
    assert await house.who(old) == "token-bot"
    issuer.rotate()
    assert await house.who(issuer.mint()) == "token-bot"
    assert await house.who(old) == "invalid_token", "its key was withdrawn, and what was remembered went with it"


async def test_a_withdrawn_key_is_noticed_without_any_new_token(house: House, issuer: Issuer, clock: FakeClock) -> None:
    token = issuer.mint(exp=clock.now().timestamp() + 10 * MAX_AGE_S)
    assert await house.who(token) == "token-bot"
    issuer.rotate()
    clock.move(MAX_AGE_S)
    assert await house.who(token) == "token-bot", "nobody waits for the reading that begins now"
    reading = house.keys.begin()
    assert reading is not None
    await reading
    assert await house.who(token) == "invalid_token"


async def test_the_same_keys_read_again_are_the_same(house: House, issuer: Issuer, clock: FakeClock) -> None:
    """What is remembered hangs on them: every ten minutes all agents at once would be verified anew."""
    await house.who(issuer.mint())
    before = await house.keys.current()
    clock.move(MAX_AGE_S)
    reading = house.keys.begin()
    assert reading is not None
    await reading
    assert issuer.asked == ["/jwks"] * 2
    assert await house.keys.current() is before


async def test_made_up_key_names_make_us_ask_once_in_a_while(house: House, issuer: Issuer, clock: FakeClock) -> None:
    assert await house.who(issuer.mint()) == "token-bot"
    for _ in range(3):
        tokens = [issuer.mint({"kid": f"made-up-{number}"}) for number in range(20)]
        assert set(await asyncio.gather(*map(house.who, tokens))) == {"invalid_token"}
    assert issuer.asked == ["/jwks"] * 2
    clock.move(COOL_DOWN_S)
    await house.who(issuer.mint({"kid": "made-up"}))
    assert issuer.asked == ["/jwks"] * 3


async def test_many_first_calls_make_one_reading(house: House, issuer: Issuer) -> None:
    tokens = [issuer.mint() for _ in range(20)]
    assert await asyncio.gather(*map(house.who, tokens)) == ["token-bot"] * 20
    assert issuer.asked == ["/jwks"]


async def test_while_the_issuer_is_down_its_keys_are_believed_for_an_hour(
    house: House, issuer: Issuer, clock: FakeClock
) -> None:
    old = issuer.mint(exp=clock.now().timestamp() + 3 * MAX_STALE_S)
    assert await house.who(old) == "token-bot"
    issuer.down = True
    clock.move(MAX_STALE_S - 1)
    assert await house.who(old) == "token-bot"
    assert await house.who(issuer.mint()) == "token-bot"
    reading = house.keys.begin()
    assert reading is not None
    await reading
    clock.move(1)
    for token in (old, issuer.mint()):
        assert await house.who(token) == "identity_unavailable", "remembered or not"
    assert house.readings == [True, False]
    issuer.down = False
    clock.move(COOL_DOWN_S)
    assert await house.who(old) == "token-bot"
    assert house.readings[-1] is True


async def test_an_issuer_that_hangs_holds_up_nobody_whose_keys_are_here(
    house: House, issuer: Issuer, clock: FakeClock
) -> None:
    assert await house.who(issuer.mint()) == "token-bot"
    issuer.go_on.clear()
    clock.move(MAX_AGE_S)
    async with asyncio.timeout(2):
        assert await house.who(issuer.mint()) == "token-bot"
    reading = house.keys.begin()
    assert reading is not None
    assert not reading.done()


async def test_a_caller_that_goes_away_ends_no_reading(house: House, issuer: Issuer) -> None:
    issuer.go_on.clear()
    first = asyncio.create_task(house.who(issuer.mint()))
    second = asyncio.create_task(house.who(issuer.mint()))
    await asyncio.sleep(0)
    first.cancel()
    issuer.go_on.set()
    assert await second == "token-bot"


# --- sets of keys -----------------------------------------------------------------------------------------------------


def _set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def _ec(**more: Any) -> dict[str, Any]:
    return public_jwk(ec.generate_private_key(ec.SECP256R1()), "k") | more


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [], "keys": []}',
        _set(*[_ec()] * (MAX_KEYS + 1)),
        _set("x", None, 7, []),
        _set({"kty": "oct", "k": "c2VjcmV0", "kid": "k"}),
        _set({"kty": ["RSA"], "kid": "k"}),
        _set(public_jwk(rsa_key(0, 1024), "k")),
        _set({"kty": "RSA", "kid": "k", "n": 7, "e": "AQAB"}),
        _set({"kty": "RSA", "kid": "k", "n": "!!", "e": "AQAB"}),
        _set({"kty": "RSA", "kid": "k"}),
        _set(_ec(use="enc")),
        _set(_ec(key_ops=["encrypt"])),
        _set(_ec(key_ops="verify")),
        _set(_ec(alg="RS256")),
        _set(_ec(alg=["ES256"])),
        _set(_ec(kid=7)),
        _set(_ec(kid="k" * 257)),
        _set(_ec(x="AAAA")),
        _set(_ec(x="A" * 43, y="A" * 43)),
        _set(_ec(crv="secp256k1")),
        _set(_ec(d="AAAA")),
        _set({"kty": "OKP", "crv": "X25519", "x": "A" * 43, "kid": "k"}),
    ],
)
def test_what_holds_no_usable_key_is_no_set(raw: bytes) -> None:
    with pytest.raises(NoKeySet, match=r"\w+ \w+ \w+"):
        read_key_set(raw)


@pytest.mark.parametrize(
    ("crv", "x"),
    [
        ("Ed25519", "00" * 32),
        ("Ed25519", "00" * 31 + "80"),
        ("Ed25519", "01" + "00" * 31),
        ("Ed25519", "ec" + "ff" * 30 + "7f"),
        ("Ed448", "00" * 57),
        ("Ed448", "00" * 56 + "80"),
        ("Ed448", "01" + "00" * 56),
        ("Ed448", "fe" + "ff" * 27 + "fe" + "ff" * 27 + "00"),
    ],
)
def test_a_key_that_anybody_can_sign_with_is_left_out(crv: str, x: str) -> None:
    """Of zeros alone, as in a placeholder, and the others of small order: tokens are made for them without any key."""
    said = base64.urlsafe_b64encode(bytes.fromhex(x)).rstrip(b"=").decode()
    with pytest.raises(NoKeySet):
        read_key_set(_set({"kty": "OKP", "crv": crv, "x": said, "kid": "k"}))


def test_a_bad_key_takes_no_good_one_with_it() -> None:
    good = public_jwk(rsa_key(), "good", alg="PS256")
    keys = read_key_set(_set({"kty": "oct", "k": "eA", "kid": "good"}, good, {"kty": "??"}))
    assert keys.find("good", "PS256") is not None
    for algorithm in ALGORITHMS - {"PS256"}:
        assert keys.find("good", algorithm) is None, "the key says what it is for"
    assert keys.find("Good", "PS256") is None


def test_a_file_of_keys_that_is_too_large_or_missing_is_unreadable(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    with pytest.raises(Unreadable):
        KeyFile(path).read_now()
    path.write_bytes(b" " * 300_000)
    with pytest.raises(Unreadable, match="more than"):
        KeyFile(path).read_now()


async def test_keys_beyond_the_bound_are_not_read_to_their_end(house: House, issuer: Issuer) -> None:
    issuer.documents["/jwks"] = json.dumps({"keys": issuer.keys}).encode() + b" " * 300_000
    assert await house.who(issuer.mint()) == "identity_unavailable"


# --- rules and memory -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"algorithms": frozenset()},
        {"algorithms": frozenset({"none"})},
        {"algorithms": frozenset({"RS256", "HS256"})},
        {"algorithms": frozenset({"rs256"})},
        {"audiences": frozenset()},
        {"audiences": frozenset({""})},
        {"leeway_s": 31},
        {"leeway_s": -1},
        {"required_scopes": frozenset({"a b"})},
        {"required_scopes": frozenset({'a"'})},
    ],
)
def test_rules_that_would_let_anything_in_are_none(change: dict[str, Any]) -> None:
    rules = Rules("https://issuer.example", frozenset({AUDIENCE}), frozenset({"ES256"}))
    with pytest.raises(ValueError, match=r"\w+"):
        replace(rules, **change)


def test_memory_is_bounded_and_of_one_set_of_keys() -> None:
    memory = Memory(3)
    keys, others = read_key_set(_set(_ec())), read_key_set(_set(_ec()))
    known = VerifiedToken(principal(), 1.0)
    for name in (b"a", b"b", b"c"):
        memory.keep(name, keys, known)
    assert memory.recall(b"a", keys) is known
    memory.keep(b"d", keys, known)
    assert [memory.recall(name, keys) for name in (b"a", b"b", b"c", b"d")] == [known, None, known, known]
    assert memory.recall(b"a", others) is None
    memory.keep(b"e", others, known)
    assert len(memory) == 1
    assert memory.recall(b"e", others) is known


async def test_a_token_of_two_equal_names_is_refused(house: House, issuer: Issuer) -> None:
    payload = json.dumps(issuer.claims()).encode()
    twice = payload[:-1] + b', "client_id": "admin"}'
    header = {"typ": "at+jwt", "alg": issuer.algorithm, "kid": issuer.kid}
    assert await house.who(sign(issuer.key, issuer.algorithm, header, payload)) == "token-bot"
    found = await house.verifier.verify(sign(issuer.key, issuer.algorithm, header, twice))
    assert isinstance(found, NotVerified)
    assert_refused(found)
    assert found.reason is ReasonCode.INVALID_TOKEN
