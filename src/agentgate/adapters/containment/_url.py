"""Where a Redis is and how to log in, read from its URL.

Our own lines: redis-py's parser costs 0.2 s of every start to import, and passes options on that it does
not know. Here an unknown option stops the start, because a misspelt `ssl_ca_certs` must not mean "trust all".
"""

from __future__ import annotations

import ssl
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.hosts import is_host

_FORMS: Final = (
    "redis://[[user]:password@]host[:port][/db], rediss://… (TLS), unix://[[user]:password@]/path[?db=n] or "
    "redis+sentinel://[[user]:password@]host[:port][,host[:port]…]/service[/db], rediss+sentinel://… (TLS)"
)
_TLS_OPTIONS: Final = frozenset({"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
_SENTINEL_PORT: Final = 26379


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


@dataclass(frozen=True, slots=True)
class Service:
    """A Redis that Sentinels know by a name. Of `master` everything is known but host and port."""

    name: str
    sentinels: tuple[Address, ...]
    master: Address

    def __str__(self) -> str:
        hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis{'s' if self.master.tls else ''}+sentinel://{hosts}/{self.name}"


def parse_url(url: str) -> Address | Service:
    """What `url` names.

    Raises:
        UnsafeConfiguration: not a URL of a known form, or with an option that is not known. The text names
            the fault and never repeats the URL, which may hold a password.
    """
    try:
        scheme, _, rest = url.partition("://")
        if scheme in ("redis+sentinel", "rediss+sentinel"):
            known = _SENTINEL_OPTIONS | (_TLS_OPTIONS if scheme.startswith("rediss") else frozenset())
            return _service(rest, known, is_tls=scheme.startswith("rediss"))
        parts = urlsplit(url)
        options = _options(parts, {"db"} | (_TLS_OPTIONS if parts.scheme == "rediss" else frozenset()))
        return _address(parts, options)
    except (ValueError, OSError) as error:
        # ValueError: port or db is no number, the query is none. OSError: a certificate file cannot be read.
        raise UnsafeConfiguration(f"Redis URL: {error}; expected {_FORMS}") from None


def _options(parts: SplitResult, known: Set[str]) -> dict[str, str]:
    try:
        found = parse_qs(parts.query, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError("the options are not name=value") from None
    options = {name: values[-1] for name, values in found.items()}
    if unknown := options.keys() - known:
        raise UnsafeConfiguration(f"Redis URL: unknown option {', '.join(sorted(unknown))}; known: {sorted(known)}")
    return options


def _service(rest: str, known: Set[str], *, is_tls: bool) -> Service:
    """`rest` is what follows the `://`. It is taken apart here, because no library knows of several hosts."""
    authority, _, path = rest.partition("/")
    login, _, hosts = authority.rpartition("@")
    parts = urlsplit(f"//{login}@host/{path}")
    options = _options(parts, known)
    name, _, db = parts.path.removeprefix("/").partition("/")
    if not name:
        raise ValueError("the name of the service is missing")
    tls = _tls(options) if is_tls else None
    username, password = _login(parts)
    return Service(
        name=unquote(name),
        sentinels=tuple(_sentinel(host, options, tls) for host in hosts.split(",")),
        master=Address(username=username, password=password, db=_db(db or "0"), tls=tls),
    )


def _sentinel(host: str, options: dict[str, str], tls: ssl.SSLContext | None) -> Address:
    parts = urlsplit(f"//{host}")
    if not parts.hostname or parts.netloc != host:
        raise ValueError("the host of a Sentinel is missing")
    _check_host(parts.hostname)
    return Address(
        host=parts.hostname,
        port=_port(parts, _SENTINEL_PORT),
        username=options.get("sentinel_username", ""),
        password=options.get("sentinel_password"),
        tls=tls,
    )


def _check_host(host: str) -> None:
    if not is_host(host):
        raise ValueError("a host is none")


def _port(parts: SplitResult, default: int) -> int:
    # Not the library's text: what stands in the wrong place may be a part of the password.
    try:
        return parts.port or default
    except ValueError:
        raise ValueError("a port is not a number of a port") from None


def _db(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("the database is not a number")
    return int(text)


def _login(parts: SplitResult) -> tuple[str, str | None]:
    return unquote(parts.username or ""), None if parts.password is None else unquote(parts.password)


def _address(parts: SplitResult, options: dict[str, str]) -> Address:
    username, password = _login(parts)
    if parts.scheme == "unix":
        db = _db(options.get("db", "0"))
        if not parts.path or parts.hostname:
            raise ValueError("a unix socket needs an absolute path")
        return Address(path=unquote(parts.path), username=username, password=password, db=db)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname:
        raise ValueError("the scheme is not known or the host is missing")
    _check_host(parts.hostname)
    return Address(
        host=parts.hostname,
        port=_port(parts, 6379),
        username=username,
        password=password,
        db=_db(options.get("db") or parts.path.lstrip("/") or "0"),
        tls=_tls(options) if parts.scheme == "rediss" else None,
    )


def _tls(options: dict[str, str]) -> ssl.SSLContext:
    """Certificates are always checked: against `ssl_ca_certs` where given, else against the system's roots."""
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    if certificate := options.get("ssl_certfile"):
        context.load_cert_chain(certificate, options.get("ssl_keyfile"))
    return context
