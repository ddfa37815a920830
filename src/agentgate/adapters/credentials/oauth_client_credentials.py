"""Credential kind `oauth_client_credentials`: access tokens for the gateway itself (RFC 6749 §4.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentgate.adapters.credentials._options import Options
from agentgate.adapters.credentials._token_endpoint import TokenEndpoint
from agentgate.ports.credentials import Ask, Issued, Serves


class OAuthClientCredentials(TokenEndpoint):
    """Implements `Issuer`. One token serves a tenant; its lifetime is the server's, and we use it for no longer than
    policy says. Taken back (RFC 7009) where there is a `revocation_url`."""

    serves = Serves.TENANT

    def __init__(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """The options of `TokenEndpoint`.

        Raises:
            ValueError: with a sentence.
        """
        read = Options(options, environ)
        super().__init__(read)
        read.end()

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        return await self.token(ask, {"grant_type": "client_credentials"})
