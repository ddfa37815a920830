"""Credential kind `env`: an alias names an environment variable, read each time it is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentgate.adapters.credentials._options import Options, SecretRef
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Serves
from agentgate.ports.upstreams import Credential


class EnvCredentials:
    """Implements `Issuer`. A variable that is unset or empty is no credential. Scope and lifetime have no meaning for a
    fixed secret and change nothing."""

    serves = Serves.ALL

    def __init__(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """`{name: VARIABLE}`. `environ` is kept, not copied: settings alone read the environment.

        Raises:
            ValueError: with a sentence.
        """
        read = Options(options, environ)
        self._secret = SecretRef(read.text("name"), None, environ)
        read.end()

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        return Issued(Credential(ask.alias, self._secret.read()))

    async def revoke(self, issued: Issued) -> None:
        raise CredentialRefused("a variable cannot be taken back")

    async def aclose(self) -> None:
        """Nothing is open."""
