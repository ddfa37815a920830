"""What every kind of credential promises (ports.Issuer), seen through the broker that hands it out
(ports.CredentialSource)."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

import pytest

from agentgate.core.call import Call
from agentgate.pipeline.credentials.broker import Broker
from agentgate.pipeline.credentials.sources import Bounded
from agentgate.ports.credentials import Issuer
from tests.fakes import FakeClock, NullMeter, a_call


def broker_of(issuers: Mapping[str, Issuer], *, timeout_s: float = 5.0, clock: FakeClock | None = None) -> Broker:
    broker = Broker({alias: Bounded(one, timeout_s) for alias, one in issuers.items()}, clock or FakeClock())
    broker.meter = NullMeter()
    return broker


class CredentialSourceContract:
    """Subclasses give a fixture `source`: `known` has the secret `SECRET`, `empty` is an alias without one."""

    SECRET: str | None = "s3cret-value"
    """None: nobody knows it beforehand."""
    SCOPE: str | None = "read"

    @pytest.fixture
    def call(self) -> Call:
        """One that `known` is good for."""
        return a_call()

    async def test_a_known_alias_has_its_secret(self, source: Broker, call: Call) -> None:
        credential = await source.credential("known", scope=self.SCOPE, ttl_s=60, call=call)
        assert credential is not None
        assert credential.alias == "known"
        assert credential.secret
        assert self.SECRET in (None, credential.secret)
        assert credential.secret in credential.secrets

    async def test_an_alias_without_a_secret_is_none(self, source: Broker, call: Call) -> None:
        assert await source.credential("empty", scope=self.SCOPE, ttl_s=None, call=call) is None

    async def test_an_unknown_alias_is_none(self, source: Broker, call: Call) -> None:
        assert await source.credential("nobody", scope=None, ttl_s=None, call=call) is None

    async def test_no_representation_and_no_log_shows_the_secret(
        self, source: Broker, call: Call, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        credential = await source.credential("known", scope=self.SCOPE, ttl_s=None, call=call)
        await source.credential("empty", scope=self.SCOPE, ttl_s=None, call=call)
        assert credential is not None
        said = f"{credential!r} {credential} {source!r} {caplog.text}"
        assert not [secret for secret in credential.secrets if secret in said]

    async def test_a_call_that_is_cancelled_meanwhile_spoils_nothing_for_the_next(
        self, source: Broker, call: Call
    ) -> None:
        task = asyncio.create_task(source.credential("known", scope=self.SCOPE, ttl_s=60, call=call))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # some kinds are done by then
        assert await source.credential("known", scope=self.SCOPE, ttl_s=60, call=call) is not None

    async def test_nothing_is_given_once_it_is_closed(self, source: Broker, call: Call) -> None:
        await source.aclose()
        assert await source.credential("known", scope=self.SCOPE, ttl_s=60, call=call) is None
