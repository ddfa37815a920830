"""An OAuth 2.0 token endpoint (RFC 6749 §3.2) as a client: one request, an answer that is checked, and revocation."""

from __future__ import annotations

import base64
import re
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

from agentgate.adapters.credentials._client import Client, json_object, seconds
from agentgate.adapters.credentials._options import Options, scoped
from agentgate.ports.credentials import Ask, CredentialRefused, Issued
from agentgate.ports.upstreams import Credential

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_ERRORS: Final = frozenset(
    {
        "invalid_request",
        "invalid_client",
        "invalid_grant",
        "unauthorized_client",
        "unsupported_grant_type",
        "invalid_scope",
        "invalid_target",
    }
)
"""RFC 6749 §5.2 and RFC 8693 §2.2.2. Anything else in an error could be anything, and is not passed on."""
_UNSAID_S: Final = 60.0
"""For how long a token is used whose answer says nothing of that."""


class TokenEndpoint:
    """What both kinds that ask one have in common: where it is, who we are there, and which scopes we may ask for.

    Its options: `token_url`, `client_id`, `client_secret`, `client_auth` (basic or post), `scope` or `scopes`,
    `audience`, `resource`, `revocation_url`, `ca_file`.
    """

    def __init__(self, options: Options) -> None:
        """Takes its own options. Raises ValueError."""
        self._url = options.url("token_url")
        self._client_id = options.text("client_id")
        self._secret = options.secret("client_secret")
        self._in_body = options.one_of("client_auth", ("basic", "post")) == "post"
        self._scope = options.maybe_text("scope")
        self._scopes = options.texts("scopes")
        self._audience = options.maybe_text("audience")
        self._resource = options.maybe_text("resource")
        self._revocation_url = options.maybe_url("revocation_url")
        self._client = Client(options.maybe_text("ca_file"))

    async def token(self, ask: Ask, form: dict[str, str], *, issued_types: tuple[str, ...] = ()) -> Issued:
        """A token for no more than the asked scope: an answer that names more is not used.

        Raises:
            CredentialRefused
        """
        by_scope, plain = self._scopes, self._scope
        scope = scoped(by_scope, plain, ask.scope) if by_scope is not None else ask.scope or plain
        whole = {"scope": scope, "audience": self._audience, "resource": self._resource}
        answer = await self._post(self._url, form | {name: text for name, text in whole.items() if text is not None})
        token, kind = answer.get("access_token"), answer.get("token_type")
        if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
            raise CredentialRefused("its source answered without an access token")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise CredentialRefused("its source gave a token that is no bearer token")
        if issued_types and answer.get("issued_token_type") not in issued_types:
            raise CredentialRefused("its source gave a token of another type than was asked for")
        granted = answer.get("scope", scope or "")
        if not isinstance(granted, str) or (scope is not None and not set(granted.split()) <= set(scope.split())):
            raise CredentialRefused("its source gave one for more than the scope that was asked for")
        lifetime_s = seconds(answer.get("expires_in"))
        return Issued(
            Credential(ask.alias, token),
            lifetime_s if lifetime_s is not None else _UNSAID_S,
            token if self._revocation_url is not None else None,
        )

    async def revoke(self, issued: Issued) -> None:
        """RFC 7009. A token that the server does not know is answered with 200 as well."""
        if self._revocation_url is None or issued.revocation is None:
            raise CredentialRefused("there is no revocation_url to take it back at")
        form = {"token": issued.revocation, "token_type_hint": "access_token"}
        await self._post(self._revocation_url, form, has_answer=False)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _post(self, url: str, form: dict[str, str], *, has_answer: bool = True) -> dict[str, Any]:
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        secret = self._secret.read()
        if self._in_body:
            form = form | {"client_id": self._client_id, "client_secret": secret}
        else:  # RFC 6749 §2.3.1: both are encoded as in a form first
            pair = f"{quote_plus(self._client_id)}:{quote_plus(secret)}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        status, raw = await self._client.send("POST", url, headers=headers, body=urlencode(form).encode())
        if status == 200:
            return json_object(raw) if has_answer else {}
        try:
            code = json_object(raw).get("error")
        except CredentialRefused:
            code = None
        said = f" ({code})" if isinstance(code, str) and code in _ERRORS else ""
        raise CredentialRefused(f"its source answered {status}{said}")
