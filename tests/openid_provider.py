"""A real OpenID provider (npm's `oidc-provider`) on loopback, for tests. `scripts/services` puts it into its cache.

with OpenIdProvider(people={"alice": {"groups": ["sre"]}}) as provider:
    provider.issuer                                    # for auth.oauth.issuer
    provider.agent_token("deploy-bot")                 # client credentials
    provider.person_token("alice")                     # the authorization code flow with PKCE, as a browser walks it
    provider.rotate()                                  # another key signs, the former ones stay published
    provider.withdraw()                                # … and are gone

Its token endpoint takes token exchange (RFC 8693) too: an access token of its own as `subject_token`, and `resource`
or `audience`; what it issues has the same `sub`, and `act: {sub: CLIENT}`. Access tokens are JWTs (RFC 9068, ES256).
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from tests.outside.tools import cache, digest, found

HERE = Path(__file__).parent / "openid"
RESOURCE = "https://gate.example.org/mcp"
"""What its tokens are for unless they are asked for something else; `auth.oauth.audience` of the gateway."""
SCOPE = "tools"
CONSOLE = "console"
"""The public client with which people log in."""
CALLBACK = "https://console.example.org/callback"
_STEPS = 10
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"


def _folder() -> Path:
    names = ("../outside/node/.node-version", "package.json", "package-lock.json", "provider.mjs")
    return Path(found(cache() / f"openid-node-{digest(HERE, *names)}", "tests/openid"))


class OpenIdProvider:
    """One provider process. Every agent is a client with the secret that `secret_of` tells."""

    def __init__(
        self,
        *,
        agents: Mapping[str, Mapping[str, Any]] | None = None,
        people: Mapping[str, Mapping[str, Any]] | None = None,
        scopes: Sequence[str] = (SCOPE,),
        ttl_s: int = 300,
    ) -> None:
        """`agents` and `people` by name, with the further claims that their tokens have."""
        self._agents = dict(agents if agents is not None else {"deploy-bot": {}, "research-bot": {}})
        self._people = dict(people if people is not None else {"alice": {}})
        self._scopes = tuple(scopes)
        self._ttl_s = ttl_s
        self._secrets = {name: secrets.token_urlsafe(32) for name in self._agents}
        self.issuer = ""
        self._process: subprocess.Popen[str] | None = None
        self._http = httpx.Client(trust_env=False, timeout=10)

    def __enter__(self) -> OpenIdProvider:
        folder = _folder()
        wanted = {
            "clients": [*map(self._client, self._agents), _CONSOLE_CLIENT],
            "agents": self._agents,
            "people": self._people,
            "scopes": self._scopes,
            "ttl_s": self._ttl_s,
            "default_resource": RESOURCE,
        }
        self._process = subprocess.Popen(
            [str(folder / "node"), str(folder / "provider.mjs"), json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # nor that it keeps everything in memory
            text=True,
        )
        self.issuer = self._heard()["issuer"]
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        if self._process is not None:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()  # which ends it
            self._process.wait(10)
            self._process.stdout.close()

    def _client(self, name: str) -> dict[str, Any]:
        return {
            "client_id": name,
            "client_secret": self._secrets[name],
            "grant_types": ["client_credentials", EXCHANGE],
            "scope": " ".join(self._scopes),
        }

    def _heard(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        while not (line := self._process.stdout.readline()).startswith("{") and line:
            pass  # it tells of what it would rather have in production
        assert line, f"the OpenID provider ended with {self._process.wait(10)}"
        said: dict[str, Any] = json.loads(line)
        return said

    def _say(self, word: str) -> list[str]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        kids: list[str] = self._heard()["kids"]
        return kids

    def rotate(self) -> list[str]:
        """Sign with another key; the key ids that are published now, the signing one first."""
        return self._say("rotate")

    def withdraw(self) -> list[str]:
        """Sign with another key, and publish no other."""
        return self._say("withdraw")

    def secret_of(self, agent: str) -> str:
        return self._secrets[agent]

    @property
    def token_endpoint(self) -> str:
        return f"{self.issuer}/token"

    def agent_token(self, agent: str = "deploy-bot", *, resource: str = RESOURCE, scope: str = SCOPE) -> str:
        """An access token by client credentials."""
        asked = {"grant_type": "client_credentials", "resource": resource, "scope": scope}
        return self._token(asked, auth=(agent, self._secrets[agent]))

    def exchanged(self, subject_token: str, agent: str = "deploy-bot", *, resource: str = RESOURCE) -> str:
        """A token for `agent` on behalf of whom `subject_token` stands for (RFC 8693)."""
        asked = {"grant_type": EXCHANGE, "subject_token": subject_token, "subject_token_type": ACCESS_TOKEN}
        return self._token({**asked, "resource": resource}, auth=(agent, self._secrets[agent]))

    def person_token(self, person: str = "alice", *, resource: str = RESOURCE, scope: str = SCOPE) -> str:
        """An access token by the authorization code flow with PKCE (RFC 7636), of somebody who logs in and agrees."""
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "client_id": CONSOLE,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": f"openid {scope}",
            "resource": resource,
            "login_hint": person,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        with httpx.Client(trust_env=False, timeout=10) as browser:
            answer = browser.get(f"{self.issuer}/auth", params=query)
            for _ in range(_STEPS):
                if not answer.is_redirect:
                    raise AssertionError(f"the login ended with {answer.status_code}: {answer.text}")
                place = urljoin(str(answer.url), answer.headers["location"])
                if place.startswith(CALLBACK):
                    code = parse_qs(urlsplit(place).query)["code"][0]
                    break
                answer = browser.get(place)
            else:
                raise AssertionError("the login goes on and on")
        asked = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
        return self._token({**asked, "code_verifier": verifier, "client_id": CONSOLE, "resource": resource})

    def _token(self, asked: dict[str, str], auth: tuple[str, str] | None = None) -> str:
        answer = self._http.post(self.token_endpoint, data=asked, auth=auth or httpx.USE_CLIENT_DEFAULT)
        assert answer.status_code == 200, answer.text
        token: str = answer.json()["access_token"]
        return token


_CONSOLE_CLIENT = {
    "client_id": CONSOLE,
    "token_endpoint_auth_method": "none",
    "grant_types": ["authorization_code"],
    "response_types": ["code"],
    "redirect_uris": [CALLBACK],
}
