"""URLs and host names, read so strictly that no two programs can disagree about which host is meant."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Final

import idna

MAX_CHARS: Final = 8192
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?#]*)([/?#].*)?")
_AUTHORITY: Final = re.compile(r"(?:([^@]*)@)?(\[[0-9A-Fa-f:.]+\]|[^@:\[\]]*)(?::([0-9]{1,5}))?")
_BRACKETED: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]")
_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443, "ftp": 21}
_NUMERIC: Final = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_AMBIGUOUS: Final = re.compile("[\u00df\u1e9e\u03c2\u200c\u200d]")
_MAX_HOST: Final = 253
_MAX_PORT: Final = 65_535


def read_url(text: str) -> dict[str, Any]:
    """`{scheme, host, port, userinfo, ip}` of an absolute URL; `port` is the scheme's own where none is said, or 0.

    Raises:
        ValueError: not a URL that everybody reads alike.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    if not text.isprintable() or " " in text or "\\" in text:
        raise ValueError("a space, a backslash, or a character that cannot be seen")
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError("not an absolute URL with a host")
    authority = _AUTHORITY.fullmatch(found[2])
    if authority is None:
        raise ValueError("a host, port or user that can be read in several ways")
    userinfo, host, port = authority.groups()
    scheme = found[1].lower()
    number = int(port) if port else _PORTS.get(scheme, 0)
    if number > _MAX_PORT:
        raise ValueError("no such port")
    return {"scheme": scheme, **_host(host), "port": number, "userinfo": userinfo is not None}


def read_domain(text: str) -> dict[str, Any]:
    """`{host, ip}` of a bare host name or address. Raises ValueError, as `read_url`."""
    return _host(text)


def _host(text: str) -> dict[str, Any]:
    """In lower case, international names in their `xn--` form, and without a dot at the end."""
    if text.startswith("["):
        return _address_6(text)
    if not text or len(text) > _MAX_HOST:
        raise ValueError("no host, or too long a one")
    if _AMBIGUOUS.search(text):
        raise ValueError("a letter that old and new rules of international names write differently")
    if text.isascii():
        host = text.lower()
    else:
        try:
            host = idna.encode(text, uts46=True, std3_rules=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise ValueError("an international name that does not hold") from None
    host = host.removesuffix(".")
    labels = host.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError("not a host name")
    if _NUMERIC.fullmatch(labels[-1]):
        return _address(host)
    _check_international(labels)
    return {"host": host, "ip": False}


def _address(host: str) -> dict[str, Any]:
    """What ends in a number is an address to every program, in whatever odd form."""
    try:
        return {"host": str(ipaddress.IPv4Address(host)), "ip": True}
    except ValueError:
        raise ValueError("an address in an odd form") from None


def _address_6(text: str) -> dict[str, Any]:
    try:
        return {"host": str(ipaddress.IPv6Address(text[1:-1] if _BRACKETED.fullmatch(text) else "")), "ip": True}
    except ValueError:  # its words quote the text
        raise ValueError("not an address") from None


def _check_international(labels: list[str]) -> None:
    for label in labels:
        if label.startswith("xn--"):
            try:
                idna.decode(label)
            except (idna.IDNAError, UnicodeError):
                raise ValueError("an international name that does not hold") from None
