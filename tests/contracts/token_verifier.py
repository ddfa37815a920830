"""What everything promises that verifies access tokens (ports.TokenVerifier)."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.core.call import PrincipalKind, Role
from agentgate.core.errors import ReasonCode
from agentgate.ports.identity import NotVerified, TokenVerifier, VerifiedToken

_for_each_verifier = settings(
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture], max_examples=50
)


class TokenVerifierContract:
    """Subclasses give fixtures: `verifier`; `good`, a token of the agent `token-bot` with the scope `tools:call`;
    `expired`; and `blind`, a verifier like it that has never been able to read what it needs."""

    async def test_a_good_token_is_its_agent(self, verifier: TokenVerifier, good: str) -> None:
        for _ in range(2):  # the second time it is remembered
            found = await verifier.verify(good)
            assert isinstance(found, VerifiedToken)
            who = found.principal
            assert (who.id, who.kind, who.tenant) == ("agent:token-bot", PrincipalKind.AGENT, "default")
            assert (who.roles, who.auth_method) == ({Role.AGENT}, "oauth")
            assert "tools:call" in who.scopes
            assert who.session is None
            assert who.key_id is not None, "its issuer's"
            assert not who.tenants_all

    async def test_what_is_known_of_a_token_does_not_hold_it(self, verifier: TokenVerifier, good: str) -> None:
        found = await verifier.verify(good)
        for part in (good, *good.split(".")):
            assert part not in repr(found)

    async def test_an_expired_token_is_refused(self, verifier: TokenVerifier, expired: str) -> None:
        assert_refused(await verifier.verify(expired))

    @pytest.mark.parametrize("at", [0, 5, -1, -20])
    async def test_a_changed_character_is_noticed(self, verifier: TokenVerifier, good: str, at: int) -> None:
        await verifier.verify(good)
        changed = "A" if good[at] != "A" else "Q"
        place = at % len(good)
        assert_refused(await verifier.verify(good[:place] + changed + good[place + 1 :]))

    async def test_it_refuses_as_long_as_it_cannot_check(self, blind: TokenVerifier, good: str) -> None:
        await blind.start()
        found = await blind.verify(good)
        assert isinstance(found, NotVerified)
        assert found.reason is ReasonCode.IDENTITY_UNAVAILABLE

    @_for_each_verifier
    @given(text=st.one_of(st.text(max_size=60), st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*", fullmatch=True)))
    async def test_anything_else_is_refused(self, verifier: TokenVerifier, text: str) -> None:
        assert_refused(await verifier.verify(text))


def assert_refused(found: VerifiedToken | NotVerified) -> None:
    assert isinstance(found, NotVerified)
    assert found.reason is ReasonCode.INVALID_TOKEN
    assert re.fullmatch(r'[^"\\\x00-\x1f\x7f-\uffff]+', found.detail), "it goes into a header"
