"""Client certificates that a trusted proxy has checked, and tells of in a header.

The header is believed from the proxies' addresses alone. From anywhere else it is somebody who would like to be
somebody: refused, not ignored. A trusted proxy that tells of none has seen none.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, Final

from agentgate.adapters.certificates._headers import MAX_CHARS, READERS
from agentgate.adapters.certificates._names import Names, NoCertificate, read_subject
from agentgate.core.call import AgentId, Principal, PrincipalKind, Role, TenantId, is_id
from agentgate.ports.ambient import Clock
from agentgate.ports.identity import NotTaken

MAX_REMEMBERED: Final = 1000
HEADERS: Final = frozenset(name.lower().encode() for name in READERS)
_STAR: Final = "([A-Za-z0-9_-][A-Za-z0-9._-]*)"
"""What a `*` stands for: one segment of a path, or labels of a name; never a slash, and no dot at its start."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One pattern of a certificate's names, and whom it stands for."""

    name: str
    """`uri`, `dns`, `cn` or `subject`."""
    pattern: str
    kind: PrincipalKind
    whom: str
    """A `*` in it is what the pattern's stood for."""
    roles: frozenset[Role]
    tenant: str = "default"
    tier: str = ""
    _matches: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _subject: Any = field(init=False, repr=False, compare=False)
    _names: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises ValueError."""
        try:
            subject = read_subject(self.pattern) if self.name == "subject" else None
        except NoCertificate as error:
            raise ValueError(f"auth.mtls.map: {error}") from None
        flags = re.IGNORECASE if self.name == "dns" else 0
        object.__setattr__(self, "_subject", subject)
        object.__setattr__(self, "_matches", re.compile(_with_stars(self.pattern), flags | re.ASCII))
        object.__setattr__(self, "_names", re.compile(_with_stars(self.whom), re.ASCII))

    def whom_of(self, names: Names) -> set[str]:
        """Whom this entry says the certificate is: nobody, one, or several, which is one too many."""
        if self.name == "subject":
            return {self.whom} if names.subject == self._subject else set()
        told = {"uri": names.uris, "dns": names.dns}.get(self.name, (names.common_name,))
        found = [self._matches.fullmatch(one) for one in told if one is not None]
        stars = {
            match[1].lower() if self.name == "dns" else match[1] for match in found if match and "*" in self.pattern
        }
        if "*" in self.whom:  # of a name whose case means nothing: else another certificate were another agent
            return {self.whom.replace("*", star) for star in stars}
        return {self.whom} if any(found) else set()

    def may_be(self, principal: Principal) -> bool:
        """Whether a certificate that fits this entry could be that principal's, with at least its roles."""
        own = (self.kind, self.tenant) == (principal.kind, principal.tenant)
        return own and self.roles >= principal.roles and self._names.fullmatch(principal.name) is not None


def _with_stars(text: str) -> str:
    return _STAR.join(map(re.escape, text.split("*")))


@dataclass(frozen=True, slots=True)
class _Known:
    found: Principal | NotTaken
    not_before: datetime | None = None
    not_after: datetime | None = None


class ProxiedCertificates:
    """Reads one header, of some proxies. What a header says is remembered; its time is looked at each time."""

    def __init__(
        self, header: str, proxies: Sequence[IPv4Network | IPv6Network], entries: Sequence[Entry], clock: Clock
    ) -> None:
        self._header = header.lower().encode()
        self._read = READERS[header]
        self._proxies = tuple(proxies)
        self._entries = tuple(entries)
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._is_proxy = lru_cache(1024)(self._in_proxies)

    def holder(self, headers: Mapping[bytes, bytes], client_host: str | None) -> Principal | NotTaken | None:
        """See `ports.CertificateReader`."""
        value = headers.get(self._header)
        if value is None:
            others = not HEADERS.isdisjoint(headers)
            return NotTaken("A client certificate is told of in a header that is not configured") if others else None
        if client_host is None or not self._is_proxy(client_host):
            return NotTaken("A client certificate is told of by an address that is no trusted proxy")
        if len(HEADERS.intersection(headers)) > 1:
            return NotTaken("A client certificate is told of in two headers")
        known = self._known.get(value)
        if known is None:
            known = self._find(value)
            self._known[value] = known
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(value)
        if known.not_after is not None and self._clock.now() > known.not_after:
            return NotTaken("The client certificate has expired")
        if known.not_before is not None and self._clock.now() < known.not_before:
            return NotTaken("The client certificate is not valid yet")
        return known.found

    def knows(self, principal: Principal) -> bool:
        """See `ports.CertificateReader`."""
        return any(entry.may_be(principal) for entry in self._entries)

    def _in_proxies(self, host: str) -> bool:
        try:
            address = ip_address(host)
        except ValueError:
            return False
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._proxies)

    def _find(self, value: bytes) -> _Known:
        try:
            if len(value) > MAX_CHARS:
                raise NoCertificate("The header of the client certificate is too long")
            names = self._read(_text(value))
            return _Known(self._principal(names), names.not_before, names.not_after)
        except NoCertificate as why:
            return _Known(NotTaken(str(why)))

    def _principal(self, names: Names) -> Principal | NotTaken:
        for entry in self._entries:
            found = entry.whom_of(names)
            if len(found) > 1:
                raise NoCertificate("The client certificate has names of several holders")
            for whom in found:
                if not is_id(whom):
                    raise NoCertificate("The client certificate names nobody that could be somebody here")
                tenant = TenantId(entry.tenant)
                return Principal(entry.kind, AgentId(whom), tenant, entry.roles, "mtls", tier=entry.tier)
        return NotTaken("The client certificate stands for nobody here", is_stranger=True)


def _text(value: bytes) -> str:
    try:
        return value.decode("ascii")
    except UnicodeDecodeError:
        raise NoCertificate("The header of the client certificate is not ASCII") from None
