"""What a host's name says: whether it is one, and how far a message to it travels."""

from __future__ import annotations

import ipaddress
from typing import Final

_UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All of IPv6 that was ever given out. The rest is for a machine, a link or a site, or holds an IPv4 address (mapped,
NAT64) that this machine or a router takes out again."""
_NOT_THE_INTERNET: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # a cloud's own services behind a public address
            "192.0.0.0/24",  # protocols', and a cloud's metadata
            "192.88.99.0/24",  # relays into 6to4
            "2001::/32",  # Teredo, which holds an IPv4 address
            "2002::/16",  # 6to4, which does, too
            "3fff::/20",  # examples
        ),
    )
)
"""What Python's own tables do not know, or did not always."""


def is_host(text: str) -> bool:
    """Whether a resolver can be asked for it. No name is looked up: with an empty label (`a..b`) or one of more than 63
    characters that ends in a UnicodeError, where whoever connects expects an OSError."""
    try:
        text.encode("idna")
    except UnicodeError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine's own name or address, in brackets or without. No name is looked up."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def in_a_header(host: str) -> str:
    """`host` as `Host` names it, so that the same one is written in one way: in lower case and without a port, and an
    IPv6 address in brackets, as short as it can be, without the zone that nobody sends."""
    if ":" not in host:
        return host.lower()
    try:
        return f"[{ipaddress.IPv6Address(host.strip('[]').partition('%')[0])}]"
    except ValueError:
        name, _, port = host.lower().rpartition(":")
        return name if port.isdecimal() and ":" not in name else host.lower()


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet's own: not private, loopback, link-local (nor a cloud's metadata),
    multicast or shared with a carrier's customers, and none that hides an IPv4 address."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if not found.is_global or found.is_multicast:
        return False
    if found.version == 6 and found not in _UNICAST:
        return False
    return not any(found in network for network in _NOT_THE_INTERNET if network.version == found.version)
