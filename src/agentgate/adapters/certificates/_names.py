"""What a client certificate calls its holder."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

MAX_NAMES: Final = 64
UNREADABLE: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)
"""What the library raises for bytes that are no certificate, and for names that it cannot hold."""
_OPENSSLS: Final = {
    "emailAddress": NameOID.EMAIL_ADDRESS,
    "serialNumber": NameOID.SERIAL_NUMBER,
    "SN": NameOID.SURNAME,
    "GN": NameOID.GIVEN_NAME,
    "title": NameOID.TITLE,
    "initials": NameOID.INITIALS,
    "pseudonym": NameOID.PSEUDONYM,
    "dnQualifier": NameOID.DN_QUALIFIER,
    "generationQualifier": NameOID.GENERATION_QUALIFIER,
    "postalCode": NameOID.POSTAL_CODE,
    "businessCategory": NameOID.BUSINESS_CATEGORY,
    "organizationIdentifier": NameOID.ORGANIZATION_IDENTIFIER,
}
"""Names of attributes that RFC 4514 does not list and that OpenSSL, and with it Envoy and nginx, writes."""


class NoCertificate(Exception):
    """A header that says nothing that could be believed. The text says why, without a word of the header."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one certificate, and when it is valid, as far as that was told."""

    subject: x509.Name | None = None
    uris: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None

    @property
    def common_name(self) -> str | None:
        """The one CN; None where there are several."""
        found = self.subject.get_attributes_for_oid(NameOID.COMMON_NAME) if self.subject is not None else []
        return str(found[0].value) if len(found) == 1 else None


def names_of(certificate: x509.Certificate) -> Names:
    """Raises NoCertificate."""
    try:
        try:
            names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except x509.ExtensionNotFound:
            names = x509.SubjectAlternativeName([])
        uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
        dns = tuple(names.get_values_for_type(x509.DNSName))
        subject = certificate.subject
    except (*UNREADABLE, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise NoCertificate("The client certificate has names that cannot be read") from None
    if len(uris) + len(dns) > MAX_NAMES:
        raise NoCertificate("The client certificate has too many names")
    return Names(subject, uris, dns, certificate.not_valid_before_utc, certificate.not_valid_after_utc)


def read_der(raw: bytes) -> x509.Certificate:
    """Raises NoCertificate."""
    try:
        return x509.load_der_x509_certificate(raw)
    except UNREADABLE:
        raise NoCertificate("The client certificate is not one in DER") from None


def read_subject(text: str) -> x509.Name:
    """A distinguished name as RFC 4514 (and 2253) writes it. Raises NoCertificate."""
    try:
        name = x509.Name.from_rfc4514_string(text, _OPENSSLS)
    except UNREADABLE:
        raise NoCertificate("The subject of the client certificate is not written as RFC 4514 has it") from None
    if not list(name):
        raise NoCertificate("The client certificate has no subject")
    return name
