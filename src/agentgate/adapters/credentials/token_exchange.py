"""Credential kind `token_exchange`: the caller's access token for one that its user has at the upstream (RFC 8693)."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any, Final

from agentgate.adapters.credentials._options import Options
from agentgate.adapters.credentials._token_endpoint import TokenEndpoint
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Serves

_GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_TYPE: Final = "urn:ietf:params:oauth:token-type:"


class TokenExchange(TokenEndpoint):
    """Implements `Issuer`. Without a token of the caller's there is nothing to exchange: an agent that came with an API
    key is refused, never given somebody else's. With an `actor_token` the answer says who acts for whom."""

    serves = Serves.TOKEN

    def __init__(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """The options of `TokenEndpoint`, and `actor_token: {env | file}`, `subject_token_type` and `actor_token_type`
        (access_token, jwt or id_token).

        Raises:
            ValueError: with a sentence.
        """
        read = Options(options, environ)
        super().__init__(read)
        known = ("access_token", "jwt", "id_token")
        self._subject_type = _TYPE + read.one_of("subject_token_type", known)
        self._actor = read.maybe_secret("actor_token")
        self._actor_type = _TYPE + read.one_of("actor_token_type", known)
        read.end()

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        if ask.call is None or ask.call.bearer is None:
            raise CredentialRefused("the caller has no access token that could be exchanged")
        form = {
            "grant_type": _GRANT,
            "subject_token": ask.call.bearer,
            "subject_token_type": self._subject_type,
            "requested_token_type": _TYPE + "access_token",
        }
        if self._actor is not None:
            form |= {"actor_token": self._actor.read(), "actor_token_type": self._actor_type}
        issued = await self.token(ask, form, issued_types=(_TYPE + "access_token", _TYPE + "jwt"))
        if hmac.compare_digest(issued.credential.secret.encode(), ask.call.bearer.encode(errors="replace")):
            raise CredentialRefused("its source gave the caller's own token back")
        return issued
