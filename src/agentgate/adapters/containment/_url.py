"""Where a Redis is and how to log in, read from its URL.

Our own forty lines: redis-py's parser costs 0.2 s of every start to import, and passes options on that it does
not know. Here an unknown option stops the start, because a misspelt `ssl_ca_certs` must not mean "trust all".
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from agentgate.core.errors import UnsafeConfiguration

_FORMS: Final = "redis://[[user]:password@]host[:port][/db], rediss://… (TLS) or unix://[[user]:password@]/path[?db=n]"
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})


@dataclass(frozen=True, slots=True)
class Address:
    """One Redis. Either `path` (a unix socket) or `host` is set; the password is never shown."""

    host: str = ""
    port: int = 6379
    path: str = ""
    username: str = ""
    password: str | None = field(default=None, repr=False)
    db: int = 0
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else f"redis{'s' if self.tls else ''}://{self.host}:{self.port}"


def parse_url(url: str) -> Address:
    """The address that `url` names.

    Raises:
        UnsafeConfiguration: not a URL of a known form, or with an option that is not known. The text names
            the fault and never repeats the URL, which may hold a password.
    """
    try:
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query, strict_parsing=bool(parts.query)).items()}
        known = _TLS_OPTIONS | {"db"} if parts.scheme == "rediss" else {"db"}
        if unknown := options.keys() - known:
            raise UnsafeConfiguration(f"Redis URL: unknown option {', '.join(sorted(unknown))}; known: {sorted(known)}")
        return _address(parts, options)
    except (ValueError, OSError) as error:
        # ValueError: port or db is no number, the query is none. OSError: a certificate file cannot be read.
        raise UnsafeConfiguration(f"Redis URL: {error}; expected {_FORMS}") from None


def _address(parts: SplitResult, options: dict[str, str]) -> Address:
    username = unquote(parts.username or "")
    password = None if parts.password is None else unquote(parts.password)
    if parts.scheme == "unix":
        db = int(options.get("db", "0"))
        if not parts.path or parts.hostname:
            raise ValueError("a unix socket needs an absolute path")
        return Address(path=unquote(parts.path), username=username, password=password, db=db)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("the scheme is not known or the host is missing")
    return Address(
        host=parts.hostname,
        port=parts.port or 6379,
        username=username,
        password=password,
        db=int(options.get("db") or parts.path.lstrip("/") or "0"),
        tls=_tls(options) if parts.scheme == "rediss" else None,
    )


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """Certificates are always checked: against `ssl_ca_certs` where given, else against the system's roots."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context
