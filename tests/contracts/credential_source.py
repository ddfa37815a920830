"""What every source of credentials promises (ports.CredentialSource)."""

from __future__ import annotations

from agentgate.ports.upstreams import CredentialSource


class CredentialSourceContract:
    """Subclasses give a fixture `source`: `known` has the secret `s3cret-value`, `empty` is an alias without one."""

    async def test_a_known_alias_has_its_secret(self, source: CredentialSource) -> None:
        credential = await source.credential("known", scope="read", ttl_s=60)
        assert credential is not None
        assert (credential.alias, credential.secret) == ("known", "s3cret-value")

    async def test_an_alias_without_a_secret_is_none(self, source: CredentialSource) -> None:
        assert await source.credential("empty", scope=None, ttl_s=None) is None

    async def test_an_unknown_alias_is_none(self, source: CredentialSource) -> None:
        assert await source.credential("nobody", scope=None, ttl_s=None) is None

    async def test_no_representation_shows_the_secret(self, source: CredentialSource) -> None:
        credential = await source.credential("known", scope=None, ttl_s=None)
        assert "s3cret-value" not in f"{credential!r} {credential} {source!r}"
