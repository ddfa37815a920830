"""The credential source `env`."""

from __future__ import annotations

import pytest

from agentgate.adapters.credentials.env import EnvCredentials
from tests.contracts.credential_source import CredentialSourceContract

NAMES = {"known": "KNOWN_TOKEN", "empty": "EMPTY_TOKEN", "unset": "UNSET_TOKEN"}


class TestEnvCredentials(CredentialSourceContract):
    @pytest.fixture
    def environ(self) -> dict[str, str]:
        return {"KNOWN_TOKEN": "s3cret-value", "EMPTY_TOKEN": "", "OTHER": "not configured"}

    @pytest.fixture
    def source(self, environ: dict[str, str]) -> EnvCredentials:
        return EnvCredentials(NAMES, environ)

    async def test_an_unset_variable_is_no_credential(self, source: EnvCredentials) -> None:
        assert await source.credential("unset", scope=None, ttl_s=None) is None

    async def test_a_variable_is_not_an_alias(self, source: EnvCredentials) -> None:
        assert await source.credential("OTHER", scope=None, ttl_s=None) is None

    async def test_a_changed_variable_is_seen_by_the_next_call(
        self, source: EnvCredentials, environ: dict[str, str]
    ) -> None:
        environ["KNOWN_TOKEN"] = "rotated"
        credential = await source.credential("known", scope=None, ttl_s=None)
        assert credential is not None
        assert credential.secret == "rotated"
