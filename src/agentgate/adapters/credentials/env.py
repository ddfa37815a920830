"""Credential source `env`: an alias names an environment variable, read each time it is needed."""

from __future__ import annotations

from collections.abc import Mapping

from agentgate.ports.upstreams import Credential


class EnvCredentials:
    """Implements `CredentialSource`. A variable that is unset or empty is no credential."""

    def __init__(self, names: Mapping[str, str], environ: Mapping[str, str]) -> None:
        """`names` is alias → variable name; `environ` is handed in because settings alone read the environment.

        It is kept, not copied, and no value of it is remembered: a rotated secret is used by the next call.
        """
        self._names = dict(names)
        self._environ = environ

    async def credential(self, alias: str, *, scope: str | None, ttl_s: int | None) -> Credential | None:
        """`scope` and `ttl_s` have no meaning for a fixed secret and change nothing."""
        name = self._names.get(alias)
        secret = self._environ.get(name, "") if name is not None else ""
        return Credential(alias, secret) if secret else None
