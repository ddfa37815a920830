"""Signed envelopes as a client makes them (RFC 9421, RFC 9530), with nothing but hashes and keys: not with the library
that the gateway checks with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

PATH = "/api/tools/call"
COVERED = ("@method", "@target-uri", "content-digest", "content-type")
Signing = Callable[[bytes], bytes]


def hmac_with(secret: str) -> Signing:
    return lambda base: hmac.digest(secret.encode(), base, "sha256")


def public_text(key: Ed25519PrivateKey) -> str:
    """A public key as `signature: {ed25519: …}` has it."""
    return base64.b64encode(key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode()


def digest(body: bytes, algorithm: str = "sha-256") -> str:
    found = hashlib.new(algorithm.replace("-", ""), body).digest()
    return f"{algorithm}=:{base64.b64encode(found).decode()}:"


@dataclass(slots=True)
class Envelope:
    """A request that is signed as its fields say, right or wrong."""

    key_id: str
    sign: Signing
    body: bytes
    url: str
    """As its client knows it."""
    components: Sequence[str] = COVERED
    parameters: dict[str, Any] = field(default_factory=dict)
    """Over `created` (now) and `keyid`; None takes one away."""
    fields: dict[str, str] = field(default_factory=dict)
    """More headers; covered where `components` names them."""
    label: str = "sig"
    method: str = "POST"
    values: dict[str, str | None] = field(default_factory=dict)
    """What is signed for a component that has parameters, where it is not the component's own value."""

    def value(self, component: str) -> str:
        given = self.values.get(component)
        if given is not None:
            return given
        component = component.partition(";")[0].strip('"')
        parts = urlsplit(self.url)
        derived = {
            "@method": self.method,
            "@target-uri": self.url,
            "@authority": parts.netloc,
            "@scheme": parts.scheme,
            "@path": parts.path,
            "@query": f"?{parts.query}",
            "@request-target": f"{parts.path}{'?' if parts.query else ''}{parts.query}",
        }
        return derived[component] if component in derived else self.headers_to_sign()[component]

    def headers_to_sign(self) -> dict[str, str]:
        return {"content-type": "application/json", "content-digest": digest(self.body), **self.fields}

    def input(self) -> str:
        """The value of @signature-params."""
        given = {"created": int(time.time()), "keyid": self.key_id, **self.parameters}
        said = "".join(
            f";{name}={json.dumps(value) if isinstance(value, str) else value}"
            for name, value in given.items()
            if value is not None
        )
        listed = " ".join(name if ";" in name else f'"{name}"' for name in self.components)
        return f"({listed}){said}"

    def headers(self) -> dict[str, str]:
        """All that is sent."""
        params = self.input()
        lines = [f"{name if ';' in name else json.dumps(name)}: {self.value(name)}" for name in self.components]
        base = "\n".join([*lines, f'"@signature-params": {params}'])
        signature = base64.b64encode(self.sign(base.encode())).decode()
        return {
            **self.headers_to_sign(),
            "signature-input": f"{self.label}={params}",
            "signature": f"{self.label}=:{signature}:",
        }


def post(client: httpx.Client, envelope: Envelope, *, to: str = "", **changed: str | None) -> httpx.Response:
    """Send it, with some headers changed or (None) taken away after it was signed; underscores stand for hyphens."""
    headers = envelope.headers()
    for name, value in changed.items():
        if value is None:
            headers.pop(name.replace("_", "-"))
        else:
            headers[name.replace("_", "-")] = value
    return client.post(to or envelope.url, content=envelope.body, headers=headers)


def body(agent: str, request_id: str, tool: str, arguments: dict[str, Any], **more: Any) -> bytes:
    envelope = {
        "agent_id": agent,
        "agent_version": "1.2.0",
        "request_id": request_id,
        "tool": tool,
        "arguments": arguments,
        **more,
    }
    return json.dumps(envelope).encode()
