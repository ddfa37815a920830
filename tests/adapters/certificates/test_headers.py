"""What proxies say of client certificates, read strictly: every reading is the only one, or it is refused."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime, timedelta
from functools import cache
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from agentgate.adapters.certificates._headers import READERS, read_client_cert, read_subject_dn, read_xfcc
from agentgate.adapters.certificates._names import Names, NoCertificate

SPIFFE = "spiffe://example.org/agent/deploy-bot"
DAY = timedelta(days=1)
SINCE = datetime(2026, 1, 1, tzinfo=UTC)


@cache
def certificate(
    uris: tuple[str, ...] = (SPIFFE,),
    dns: tuple[str, ...] = ("bot.example.org",),
    cn: tuple[str, ...] = ("deploy-bot",),
) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([*(x509.NameAttribute(NameOID.COMMON_NAME, one) for one in cn),
                         x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example, Inc.")])  # fmt: skip
    names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
    builder = x509.CertificateBuilder(
        issuer_name=subject,
        subject_name=subject,
        public_key=key.public_key(),
        serial_number=7,
        not_valid_before=SINCE,
        not_valid_after=SINCE + 30 * DAY,
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(key, hashes.SHA256())


def sequence(raw: bytes) -> str:
    """RFC 9651 §3.3.5."""
    return f":{base64.b64encode(raw).decode()}:"


def client_cert(made: x509.Certificate | None = None) -> str:
    return sequence((made or certificate()).public_bytes(Encoding.DER))


def pem(made: x509.Certificate | None = None) -> str:
    return quote((made or certificate()).public_bytes(Encoding.PEM), safe="")


def digest(made: x509.Certificate | None = None) -> str:
    return hashlib.sha256((made or certificate()).public_bytes(Encoding.DER)).hexdigest()


# --- RFC 9440 ---------------------------------------------------------------------------------------------------------


def test_client_cert_is_its_certificates_names_and_time() -> None:
    found = read_client_cert(client_cert())
    assert (found.uris, found.dns, found.common_name) == ((SPIFFE,), ("bot.example.org",), "deploy-bot")
    assert (found.not_before, found.not_after) == (SINCE, SINCE + 30 * DAY)


def test_the_example_of_rfc_9440_is_read() -> None:
    """Appendix A: the certificate of `Let's Authenticate`, a subject alone with a DNS name."""
    example = (
        ":MIIBqDCCAU6gAwIBAgIBBzAKBggqhkjOPQQDAjA6MRswGQYDVQQKDBJMZXQncyBBdXRoZW50aWNhdGUxGzAZBgNVBAMMEkxBIEludGVybWVk"
        "aWF0ZSBDQTAeFw0yMDAxMTQyMjU1MzNaFw0yMTAxMjMyMjU1MzNaMA0xCzAJBgNVBAMMAkJDMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE8Y"
        "nXXfaUgmnMtOXU/IncWalRhebrXmckC8vdgJ1p5Be5F/3YC8OthxM4+k1M6aEAEFcGzkJiNy6J84y7uzo9M6NyMHAwCQYDVR0TBAIwADAfBgNV"
        "HSMEGDAWgBRm3WjLa38lbEYCuiCPct0ZaSED2DAOBgNVHQ8BAf8EBAMCBsAwEwYDVR0lBAwwCgYIKwYBBQUHAwIwHQYDVR0RAQH/BBMwEYEPYm"
        "RjQGV4YW1wbGUuY29tMAoGCCqGSM49BAMCA0gAMEUCIBHda/r1vaL6G3VliL4/Di6YK0Q6bMjeSkC3dFCOOB8TAiEAx/kHSB4urmiZ0NX5r5Xa"
        "rmPk0wmuydBVoU4hBVZ1yhk=:"
    )
    found = read_client_cert(example)
    assert (found.common_name, found.uris, found.dns) == ("BC", (), ())


DER = certificate().public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "value",
    [
        *["", ":", "::", ":AAAA:", "AAAA", ":not base64:", client_cert()[1:], client_cert()[:-1], f" {client_cert()}"],
        *[f"{client_cert()}, {client_cert()}", f"{client_cert()};a=1", f"({client_cert()})", f'"{client_cert()}"'],
        *[client_cert().replace("/", "_").replace("+", "-") + "x", client_cert()[:-1] + "====:"],
        sequence(DER.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x6a", 1)),  # of version 107
        sequence(DER.replace(b"\x55\x04\x03\x0c", b"\x55\x04\x03\x03")),  # its CN is a bit string
        *[sequence(DER + b"\0"), sequence(DER[:-1]), sequence(DER * 2), sequence(b""), sequence(b"\x30\x00")],
        *[sequence(certificate().public_bytes(Encoding.PEM)), pem(), f":{pem()}:", client_cert() + "\n"],
    ],
)
def test_what_is_not_one_byte_sequence_of_one_certificate_is_refused(value: str) -> None:
    with pytest.raises(NoCertificate):
        read_client_cert(value)


def test_a_common_name_is_one_or_none() -> None:
    assert read_client_cert(client_cert(certificate(cn=("a", "b")))).common_name is None
    assert read_client_cert(client_cert(certificate(cn=()))).common_name is None
    assert read_client_cert(client_cert(certificate((), ()))).uris == ()


# --- Envoy ------------------------------------------------------------------------------------------------------------


def test_the_examples_of_envoys_documentation_are_read() -> None:
    hashed = "468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"
    found = read_xfcc(
        f'By=http://frontend.lyft.com;Hash={hashed};Subject="/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client";'
        "URI=http://testclient.lyft.com".replace("/C=US/ST=CA/L=San Francisco/OU=Lyft/CN=Test Client",
                                                 "CN=Test Client,OU=Lyft,L=San Francisco,ST=CA,C=US")
    )  # fmt: skip
    assert (found.uris, found.dns, found.common_name) == (("http://testclient.lyft.com",), (), "Test Client")
    found = read_xfcc(
        f"By=http://frontend.lyft.com;Hash={hashed};URI=http://testclient.lyft.com;DNS=lyft.com;DNS=www.lyft.com"
    )
    assert found.dns == ("lyft.com", "www.lyft.com")
    assert found.subject is None


def test_the_certificate_itself_counts_where_it_is_sent() -> None:
    found = read_xfcc(f'Hash={digest()};Cert="{pem()}"')
    assert (found.uris, found.common_name, found.not_after) == ((SPIFFE,), "deploy-bot", SINCE + 30 * DAY)
    assert read_xfcc(f"Cert={pem()};URI={SPIFFE};Hash={digest().upper()}") == found


@pytest.mark.parametrize(
    "value",
    [
        f"Cert={pem()};URI=spiffe://example.org/agent/admin",
        f"Cert={pem()};DNS=admin.example.org",
        f'Cert={pem()};Subject="CN=admin"',
        f"Cert={pem()};Hash={'0' * 64}",
        f"Cert={pem()};Hash=",
        f"Cert={pem()}{pem()}",
        f"Cert={pem()}%00",
        "Cert=",
        'Cert="-----BEGIN CERTIFICATE-----"',
        f'Cert="{client_cert()}"',
    ],
)
def test_a_certificate_that_something_beside_it_contradicts_is_refused(value: str) -> None:
    with pytest.raises(NoCertificate):
        read_xfcc(value)


@pytest.mark.parametrize(
    "value",
    [
        *["", ";", ",", "=", "URI", "URI;", f"URI={SPIFFE};", f";URI={SPIFFE}", f"URI={SPIFFE},", f"URI ={SPIFFE}"],
        *[f"URI={SPIFFE},URI={SPIFFE}", f"URI=a,By=b;URI={SPIFFE}", f"URI= {SPIFFE}", f" URI={SPIFFE}", "URI=a b"],
        *['URI="a', 'URI=a"', 'URI="a"b', 'URI="a""b"', 'URI=""a', 'URI="a\\', r'Subject="CN=a\\"', "URI=a\\b"],
        *["Hash=a;Hash=b", 'Subject="CN=a";Subject="CN=b"', "Cert=a;cert=b", "Role=admin", "X-URI=a", "URI=a;x"],
        *["URI=a\x00", 'URI="a\nb"', 'Subject="no name"', 'Subject="CN"', 'Subject="CN=a,"', "URI=a=b"],
    ],
)
def test_an_element_that_could_be_read_in_two_ways_is_refused(value: str) -> None:
    with pytest.raises(NoCertificate):
        read_xfcc(value)


def test_several_elements_say_what_to_change() -> None:
    with pytest.raises(NoCertificate, match="SANITIZE_SET"):
        read_xfcc(f"URI=spiffe://example.org/agent/admin,By=x;URI={SPIFFE}")


def test_a_separator_within_quotes_is_none() -> None:
    found = read_xfcc(r'Subject="CN=a\,b\;c\=d,O=Example";URI="spiffe://x/a,URI=spiffe://x/admin;DNS=y"')
    assert found.uris == ("spiffe://x/a,URI=spiffe://x/admin;DNS=y",)
    assert found.common_name == "a,b;c=d"


PLAIN = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='",;=\\'), min_size=1, max_size=12
)
ANY = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="\\"), min_size=1, max_size=12)


def quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'


@given(st.lists(st.tuples(st.sampled_from(["URI", "uri", "DNS", "By"]), PLAIN | ANY), min_size=1, max_size=5))
def test_what_a_proxy_writes_is_what_is_read(pairs: list[tuple[str, str]]) -> None:
    """Everything that Envoy's grammar can say comes back as it went in, however it is quoted."""
    found = read_xfcc(";".join(f"{key}={quoted(text)}" for key, text in pairs))
    assert found.uris == tuple(text for key, text in pairs if key.lower() == "uri")
    assert found.dns == tuple(text for key, text in pairs if key == "DNS")


@given(PLAIN, ANY)
def test_no_text_within_quotes_becomes_a_name_of_another_kind(uri: str, text: str) -> None:
    found = read_xfcc(f"URI={uri};By={quoted(text)}")
    assert found == Names(uris=(uri,))


@given(st.sampled_from(sorted(READERS)), st.text(max_size=60) | st.from_regex(r'[:;=,"\\A-Za-z ]{0,40}'))
def test_whatever_comes_is_names_or_refused(header: str, value: str) -> None:
    try:
        found = READERS[header](value)
    except NoCertificate as why:
        said = str(why)
    else:
        assert isinstance(found, Names)
        return
    assert said.isascii()


# --- a subject alone --------------------------------------------------------------------------------------------------


def test_a_subject_is_compared_as_a_name_and_not_as_text() -> None:
    found = read_subject_dn("CN=deploy-bot,O=Example\\, Inc.")
    assert found.common_name == "deploy-bot"
    assert found.subject == read_subject_dn("CN=deploy-bot,2.5.4.10=Example\\2C Inc.").subject
    assert found.subject != read_subject_dn("O=Example\\, Inc.,CN=deploy-bot").subject


def test_a_subject_as_openssl_writes_it_is_read() -> None:
    """`openssl x509 -subject -nameopt RFC2253`, which Envoy and nginx send."""
    assert read_subject_dn("emailAddress=ops@example.org,CN=bot,serialNumber=7,O=Example").common_name == "bot"


@pytest.mark.parametrize("value", ["", " ", "CN", "=x", "CN=", "deploy-bot", "/CN=deploy-bot/O=Example", "CN=a,,O=b"])
def test_what_is_no_subject_is_refused(value: str) -> None:
    with pytest.raises(NoCertificate):
        read_subject_dn(value)
