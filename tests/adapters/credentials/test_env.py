"""The credential kind `env`."""

from __future__ import annotations

import pytest

from agentgate.adapters.credentials.env import EnvCredentials
from agentgate.pipeline.credentials.broker import Broker
from tests.contracts.credential_source import CredentialSourceContract, broker_of

NAMES = {"known": "KNOWN_TOKEN", "empty": "EMPTY_TOKEN", "unset": "UNSET_TOKEN"}


class TestEnvCredentials(CredentialSourceContract):
    @pytest.fixture
    def environ(self) -> dict[str, str]:
        return {"KNOWN_TOKEN": "s3cret-value", "EMPTY_TOKEN": "", "OTHER": "not configured"}

    @pytest.fixture
    def source(self, environ: dict[str, str]) -> Broker:
        return broker_of({alias: EnvCredentials({"name": name}, environ) for alias, name in NAMES.items()})

    async def test_an_unset_variable_is_no_credential(self, source: Broker) -> None:
        assert await source.credential("unset", scope=None, ttl_s=None) is None

    async def test_a_variable_is_not_an_alias(self, source: Broker) -> None:
        assert await source.credential("OTHER", scope=None, ttl_s=None) is None

    async def test_a_changed_variable_is_seen_by_the_next_call(self, source: Broker, environ: dict[str, str]) -> None:
        environ["KNOWN_TOKEN"] = "rotated"
        credential = await source.credential("known", scope=None, ttl_s=None)
        assert credential is not None
        assert credential.secret == "rotated"

    async def test_a_secret_that_no_answer_could_be_rid_of_is_not_given(
        self, source: Broker, environ: dict[str, str]
    ) -> None:
        environ["KNOWN_TOKEN"] = "abc"
        assert await source.credential("known", scope=None, ttl_s=None) is None


@pytest.mark.parametrize("options", [{}, {"name": ""}, {"name": 3}, {"name": "X", "nane": "Y"}])
def test_what_names_no_variable_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"name|option"):
        EnvCredentials(options, {})
