"""Several issuers: a token's `iss` chooses who checks it, and proves nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agentgate.adapters.tokens._issuer import IssuerKeys, KeyFile, KeyUrl
from agentgate.adapters.tokens._jwks import ALGORITHMS
from agentgate.adapters.tokens._whom import Whom
from agentgate.adapters.tokens.issuers import Issuers
from agentgate.adapters.tokens.jwt import JwtVerifier, Rules
from agentgate.ports.identity import VerifiedToken
from tests.contracts.token_verifier import TokenVerifierContract, assert_refused
from tests.fakes import FakeClock
from tests.token_issuer import AUDIENCE, Issuer

SCOPES = frozenset({"tools:call"})


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def issuers(clock: FakeClock) -> Iterator[tuple[Issuer, Issuer]]:
    with Issuer(now=lambda: clock.now().timestamp()) as ours, Issuer(now=lambda: clock.now().timestamp()) as theirs:
        theirs.rotate(ec.generate_private_key(ec.SECP256R1()))
        yield ours, theirs


def verifier_of(issuer: Issuer, clock: FakeClock, whom: Whom, source: KeyUrl | KeyFile | None = None) -> JwtVerifier:
    keys = IssuerKeys(source or KeyUrl(issuer.url, issuer.jwks_url), clock, on_reading=lambda _: None)
    return JwtVerifier(Rules(issuer.url, frozenset({AUDIENCE}), ALGORITHMS, SCOPES, whom), keys, clock)


@pytest.fixture
async def verifier(issuers: tuple[Issuer, Issuer], clock: FakeClock) -> AsyncIterator[Issuers]:
    whoms = (Whom(), Whom(tenant="partner", prefix="p."))
    verifier = Issuers({one.url: verifier_of(one, clock, whom) for one, whom in zip(issuers, whoms, strict=True)})
    yield verifier
    await verifier.aclose()


class TestIssuers(TokenVerifierContract):
    @pytest.fixture
    def good(self, issuers: tuple[Issuer, Issuer]) -> str:
        return issuers[0].mint()

    @pytest.fixture
    def expired(self, issuers: tuple[Issuer, Issuer], clock: FakeClock) -> str:
        return issuers[0].mint(exp=clock.now().timestamp() - 60)

    @pytest.fixture
    async def blind(self, issuers: tuple[Issuer, Issuer], clock: FakeClock) -> AsyncIterator[Issuers]:
        nothing = KeyFile(Path("/nonexistent"))
        blind = Issuers({one.url: verifier_of(one, clock, Whom(), nothing) for one in issuers})
        yield blind
        await blind.aclose()


async def test_each_issuers_tokens_are_mapped_by_its_own_rules(
    issuers: tuple[Issuer, Issuer], verifier: Issuers
) -> None:
    ours, theirs = issuers
    for issuer, name, tenant in ((ours, "token-bot", "default"), (theirs, "p.token-bot", "partner")):
        token = issuer.mint()
        for _ in range(2):
            found = await verifier.verify(token)
            assert isinstance(found, VerifiedToken)
            assert (found.principal.name, found.principal.tenant) == (name, tenant)
            assert found.principal.key_id == issuer.url, "what is left of it once it is configured no more"


async def test_no_issuer_speaks_for_another(issuers: tuple[Issuer, Issuer], verifier: Issuers) -> None:
    ours, theirs = issuers
    for header in ({}, {"kid": ours.kid}, {"kid": ...}):
        assert_refused(await verifier.verify(theirs.mint(header, iss=ours.url)))
        assert_refused(await verifier.verify(ours.mint(header, iss=theirs.url)))


async def test_an_unknown_issuer_is_refused_and_nobody_is_asked(
    issuers: tuple[Issuer, Issuer], verifier: Issuers
) -> None:
    for iss in ("https://evil.example", "", None, 7, ["x"], ..., issuers[0].url + "/", issuers[0].url.upper()):
        assert_refused(await verifier.verify(issuers[0].mint(iss=iss)))
    assert issuers[0].asked == issuers[1].asked == []


async def test_one_issuer_that_is_down_holds_up_its_own_tokens_alone(
    issuers: tuple[Issuer, Issuer], verifier: Issuers
) -> None:
    ours, theirs = issuers
    theirs.down = True
    found = await verifier.verify(theirs.mint())
    assert not isinstance(found, VerifiedToken)
    assert found.reason == "identity_unavailable"
    assert isinstance(await verifier.verify(ours.mint()), VerifiedToken)


async def test_a_token_that_was_good_is_refused_once_its_key_is_withdrawn(
    issuers: tuple[Issuer, Issuer], verifier: Issuers, clock: FakeClock
) -> None:
    token = issuers[0].mint()
    assert isinstance(await verifier.verify(token), VerifiedToken)
    issuers[0].rotate()
    clock.move(11)
    assert isinstance(await verifier.verify(issuers[0].mint()), VerifiedToken)
    assert_refused(await verifier.verify(token))
