"""The three ways in which proxies tell of a client certificate, each read strictly: what is not clear is refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from agentgate.adapters.certificates._names import UNREADABLE, Names, NoCertificate, names_of, read_der, read_subject

MAX_CHARS: Final = 16_384
_BINARY: Final = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_BARE: Final = re.compile(r'[^",;=\\\x00-\x20\x7f]*')
_QUOTED: Final = re.compile(r'"((?:[^"\\\x00-\x1f\x7f]|\\[^\\\x00-\x1f\x7f])*)"')
"""Envoy escapes quotes and nothing else, so that two backslashes before a quote could mean two things: refused."""
_KEY: Final = re.compile(r"[A-Za-z]{1,16}")
_PERCENT: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+:@/-]|%[0-9A-Fa-f]{2})*")
_PEM: Final = re.compile(rb"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\r\n]+-----END CERTIFICATE-----[\r\n]*")
_REPEATED: Final = frozenset({"by", "uri", "dns"})
_KEYS: Final = frozenset({"hash", "cert", "chain", "subject"}) | _REPEATED


def read_client_cert(value: str) -> Names:
    """`Client-Cert` (RFC 9440): one Byte Sequence (RFC 9651) of one certificate in DER."""
    found = _BINARY.fullmatch(value)
    if found is None:
        raise NoCertificate("Client-Cert is not one Byte Sequence (RFC 9440)")
    try:
        raw = base64.b64decode(found[1], validate=True)
    except binascii.Error:
        raise NoCertificate("Client-Cert is not in base64") from None
    return names_of(read_der(raw))


def read_subject_dn(value: str) -> Names:
    """`X-SSL-Client-S-DN`: a distinguished name alone, as nginx's `$ssl_client_s_dn` is."""
    return Names(read_subject(value))


class _Pair(NamedTuple):
    key: str
    value: str
    ends: str
    """`;` within an element, `,` before another one, and nothing at the end."""


def _pairs(value: str) -> Iterator[_Pair]:
    """What stands in an `X-Forwarded-Client-Cert`."""
    at = 0
    while True:
        key = _KEY.match(value, at)
        if key is None or value[key.end() : key.end() + 1] != "=":
            raise NoCertificate("X-Forwarded-Client-Cert is not made of key=value")
        at = key.end() + 1
        quoted = _QUOTED.match(value, at)
        bare = _BARE.match(value, at)
        found = quoted or bare
        if found is None:
            raise NoCertificate("X-Forwarded-Client-Cert is not made of key=value")
        at = found.end()
        ends = value[at : at + 1]
        if ends not in ("", ";", ","):
            raise NoCertificate("X-Forwarded-Client-Cert has a value that must stand in quotes")
        yield _Pair(key[0].lower(), quoted[1].replace('\\"', '"') if quoted else found[0], ends)
        if not ends:
            return
        at += 1


def read_xfcc(value: str) -> Names:
    """Envoy's `X-Forwarded-Client-Cert`: the one element that the last proxy made. An element before it would be what
    a client said, or a proxy further away (`forward_client_cert_details: SANITIZE_SET` leaves none)."""
    said: dict[str, list[str]] = {}
    for key, text, ends in _pairs(value):
        if ends == ",":
            raise NoCertificate("X-Forwarded-Client-Cert has several elements: have the proxy set it (SANITIZE_SET)")
        if key not in _KEYS or (key in said and key not in _REPEATED):
            raise NoCertificate("X-Forwarded-Client-Cert has a key twice, or one that is not known")
        said.setdefault(key, []).append(text)
    told = Names(
        read_subject(said["subject"][0]) if said.get("subject", [""])[0] else None,
        tuple(text for text in said.get("uri", []) if text),
        tuple(text for text in said.get("dns", []) if text),
    )
    if "cert" not in said:
        return told
    return _confirmed(told, _read_pem(said["cert"][0]), said.get("hash", [None])[0])


def _read_pem(text: str) -> x509.Certificate:
    if _PERCENT.fullmatch(text) is None:
        raise NoCertificate("The certificate in X-Forwarded-Client-Cert is not URL-encoded")
    raw = unquote_to_bytes(text)
    if _PEM.fullmatch(raw) is None:
        raise NoCertificate("X-Forwarded-Client-Cert has not one certificate in PEM")
    try:
        return x509.load_pem_x509_certificate(raw)
    except UNREADABLE:
        raise NoCertificate("X-Forwarded-Client-Cert has not one certificate in PEM") from None


def _confirmed(told: Names, certificate: x509.Certificate, digest: str | None) -> Names:
    """The certificate's own names, where what is said beside it does not contradict them."""
    names = names_of(certificate)
    contradicted = (
        (told.subject is not None and told.subject != names.subject)
        or not set(told.uris) <= set(names.uris)
        or not set(told.dns) <= set(names.dns)
    )
    if contradicted:
        raise NoCertificate("X-Forwarded-Client-Cert names another holder than its certificate")
    if digest is not None and digest.lower() != hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest():
        raise NoCertificate("X-Forwarded-Client-Cert has the hash of another certificate")
    return names


READERS: Final[Mapping[str, Callable[[str], Names]]] = {
    "X-Forwarded-Client-Cert": read_xfcc,
    "Client-Cert": read_client_cert,
    "X-SSL-Client-S-DN": read_subject_dn,
}
