"""How a credential gets into a request (header, bearer token, basic authentication, query parameter or signature), and
which URLs it may travel to."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from agentgate.core.hosts import is_host, is_loopback
from agentgate.ports.upstreams import Credential

_PRINTABLE: Final = re.compile(r"[\x20-\x7e]*")
_TOKEN: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
FRAMING: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "host", "keep-alive"}
    | {"proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers that nobody may set: they frame the message, or say where it goes."""

_KNOWN: Final[dict[str, frozenset[str]]] = {
    "bearer": frozenset(),
    "header": frozenset({"name", "prefix"}),
    "basic": frozenset({"username"}),
    "query": frozenset({"name"}),
    "sigv4": frozenset({"region", "service"}),
}


def read_url(name: str, url: str, *, insecure: bool) -> SplitResult:
    """The parts of an upstream's URL. Raises ValueError with a sentence that calls it `name`."""
    parts = urlsplit(url)
    try:
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"{name} has a port that is not a number") from None
    if parts.scheme not in ("http", "https") or not host or not is_host(host) or not url.isascii():
        raise ValueError(f"{name} must be https://host[:port][/path] in ASCII")
    if parts.username is not None or parts.fragment or any(c in url for c in "#{}\\ \t\r\n"):
        raise ValueError(f"{name} must not have a user or a fragment; name a credential instead")
    if parts.scheme == "http" and not insecure and not is_loopback(host):
        raise ValueError(f"{name} must be https unless the host is loopback; `insecure: true` allows plain http")
    return parts


def is_header_value(text: str) -> bool:
    """Printable ASCII: no CR, LF or NUL can start another header."""
    return _PRINTABLE.fullmatch(text) is not None


def is_header_name(text: str) -> bool:
    return _TOKEN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Injection:
    """Where the secret goes: a header (`name`, after `prefix`), a query parameter (`name`), or nowhere: it signs the
    request (AWS Signature Version 4)."""

    into: Literal["header", "query", "signature"]
    name: str
    prefix: str = ""
    basic: bool = False
    username: str | None = None
    region: str = ""
    service: str = ""

    def of(self, credential: Credential) -> str | None:
        """As `value`; of one with a user name of its own, basic authentication is both."""
        username = credential.values.get("username")
        if self.basic and self.username is None and username is not None:
            if ":" in username:
                return None
            return self.value(f"{username}:{credential.values.get('password', credential.secret)}")
        return self.value(credential.secret)

    def value(self, secret: str) -> str | None:
        """The header's or parameter's value; None when the secret cannot be sent safely."""
        if not is_header_value(secret) or self.into == "signature":
            return None
        if not self.basic:
            return self.prefix + secret
        pair = secret if self.username is None else f"{self.username}:{secret}"
        return "Basic " + base64.b64encode(pair.encode()).decode()


def read_injection(config: Mapping[str, Any] | None) -> Injection:
    """The injection that `{kind: bearer | header | basic | query | sigv4, …}` describes; bearer when nothing does.

    Raises:
        ValueError: with a sentence.
    """
    config = config if config is not None else {"kind": "bearer"}
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _KNOWN:
        raise ValueError(f"inject.kind must be one of {', '.join(_KNOWN)}")
    unknown = sorted(set(config) - _KNOWN[kind] - {"kind"})
    if unknown:
        raise ValueError(f"inject does not know {', '.join(unknown)} for kind {kind}")
    texts = {name: value for name, value in config.items() if name != "kind"}
    if not all(isinstance(value, str) and is_header_value(value) for value in texts.values()):
        raise ValueError("inject takes texts of printable ASCII")
    if kind == "bearer":
        return Injection("header", "Authorization", "Bearer ")
    if kind == "basic":
        username = texts.get("username")
        if username is not None and ":" in username:
            raise ValueError("inject.username must not have a colon")
        return Injection("header", "Authorization", basic=True, username=username)
    if kind == "sigv4":
        region, service = texts.get("region", ""), texts.get("service", "")
        if not region or not service:
            raise ValueError("inject for sigv4 needs the region and the service of AWS")
        return Injection("signature", "Authorization", region=region, service=service)
    name = texts.get("name", "")
    if kind == "query":
        if not name:
            raise ValueError("inject.name must be the query parameter's name")
        return Injection("query", name)
    if not is_header_name(name):
        raise ValueError("inject.name must be a header name")
    if name.lower() in FRAMING:
        raise ValueError(f"inject.name must not be {name}: it frames or routes the request")
    return Injection("header", name, texts.get("prefix", ""))
