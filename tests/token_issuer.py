"""A token issuer on loopback: real keys, real HTTP, real tokens; and bad ones, for those who ask.

with Issuer() as issuer:
    token = issuer.mint(aud="https://gate.example.org/mcp", client_id="bot")
    issuer.rotate()          # a new key signs, the old one is gone
    issuer.down = True       # answers 503
"""

from __future__ import annotations

import base64
import contextlib
import functools
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.api_jws import PyJWS

from tests.web import Handler, serving

AUDIENCE = "https://gate.example.org/mcp"
_numbers = itertools.count(1)
_ALGORITHMS: dict[str, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}


@functools.cache
def rsa_key(number: int = 0, bits: int = 2048) -> rsa.RSAPrivateKey:
    """One of a few RSA keys; making one takes a tenth of a second. `number` tells them apart."""
    return rsa.generate_private_key(65537, bits)


def kty(key: Any) -> str:
    if isinstance(key, rsa.RSAPrivateKey):
        return "RSA"
    return "EC" if isinstance(key, ec.EllipticCurvePrivateKey) else "OKP"


def public_jwk(key: Any, kid: str | None, **more: Any) -> dict[str, Any]:
    """The public half of a key as an entry of a JWK Set."""
    entry: dict[str, Any] = _ALGORITHMS[kty(key)].to_jwk(key.public_key(), as_dict=True)
    entry.pop("key_ops", None)
    return {**entry, "use": "sig", **({"kid": kid} if kid is not None else {}), **more}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def sign(key: Any, algorithm: str, header: bytes | Mapping[str, Any], payload: bytes | Mapping[str, Any]) -> str:
    """A compact JWS of exactly these bytes, whatever they are."""
    raw = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload)]
    signing_input = ".".join(b64(part) for part in raw)
    return f"{signing_input}.{b64(signature(key, algorithm, signing_input.encode()))}"


def signature(key: Any, algorithm: str, message: bytes) -> bytes:
    worker = PyJWS().get_algorithm_by_name(algorithm)
    made: bytes = worker.sign(message, worker.prepare_key(key))
    return made


class Issuer:
    """Serves its metadata and keys; `asked` are the paths that somebody wanted."""

    def __init__(self, path: str = "", *, now: Callable[[], float] = time.time) -> None:
        self._path = path
        self._now = now
        self.url = ""
        self.asked: list[str] = []
        self.down = False
        self.go_on = threading.Event()
        """Answers wait for it."""
        self.go_on.set()
        self.metadata: dict[str, Any] = {}
        self.documents: dict[str, bytes] = {}
        """Further paths, and what is there; goes over everything else."""
        self.redirect: dict[str, str] = {}
        self.keys: list[dict[str, Any]] = []
        self.key: Any = None
        self.kid = ""
        self.algorithm = ""
        self._ends = contextlib.ExitStack()

    def __enter__(self) -> Issuer:
        issuer = self

        class Served(Handler):
            def do_GET(self) -> None:
                issuer.asked.append(self.path)
                issuer.go_on.wait(20)
                with contextlib.suppress(OSError):  # who asked has seen enough
                    if (place := issuer.redirect.get(self.path)) is not None:
                        self.say(302, Location=place)
                    elif issuer.down:
                        self.say(503)
                    else:
                        body = issuer.document(self.path)
                        self.say(404 if body is None else 200, body or b"")

        self._origin = self._ends.enter_context(serving(Served))
        self.url = f"{self._origin}{self._path}"
        self.metadata = {"issuer": self.url, "jwks_uri": f"{self._origin}/jwks"}
        self.rotate(rsa_key())
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._ends.close()

    @property
    def jwks_url(self) -> str:
        return f"{self._origin}/jwks"

    def document(self, path: str) -> bytes | None:
        if path in self.documents:
            return self.documents[path]
        if path == "/jwks":
            return json.dumps({"keys": self.keys}).encode()
        if path == f"/.well-known/oauth-authorization-server{self._path}":
            return json.dumps(self.metadata).encode()
        return None

    def rotate(self, key: Any = None, algorithm: str | None = None, *, keep: bool = False) -> None:
        """Sign with another key from now on; the former ones are withdrawn unless `keep`."""
        self.key = key if key is not None else ec.generate_private_key(ec.SECP256R1())
        self.kid = f"key-{next(_numbers)}"
        self.algorithm = algorithm or {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}[kty(self.key)]
        self.keys = [*(self.keys if keep else []), public_jwk(self.key, self.kid)]

    def claims(self, **more: Any) -> dict[str, Any]:
        """What a good token says. A claim that is given as `...` is left out."""
        now = int(self._now())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "iat": now,
            "exp": now + 300,
            "jti": f"t-{next(_numbers)}",
            "sub": "user-7",
            "client_id": "token-bot",
            "scope": "tools:call profile",
        } | more
        return {name: value for name, value in claims.items() if value is not ...}

    def mint(self, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token with the present key. Members of its header can be added, changed, or left out (`...`)."""
        members = {"typ": "at+jwt", "alg": self.algorithm, "kid": self.kid, **(header or {})}
        kept = {name: value for name, value in members.items() if value is not ...}
        return sign(self.key, self.algorithm, kept, self.claims(**claims))
