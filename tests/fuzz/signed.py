"""What is signed: packs, notes, envelopes, requests and tokens. A signature must not cover what was changed."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agentgate.adapters.signatures.rfc9421 import Rfc9421Verifier
from agentgate.adapters.tokens._issuer import IssuerKeys
from agentgate.adapters.tokens._jwks import KeySet, NoKeySet, read_key_set
from agentgate.adapters.tokens._whom import Nobody, Whom
from agentgate.adapters.tokens.jwt import JwtVerifier, Rules
from agentgate.core import archive, dsse, note
from agentgate.core.call import Role, is_id
from agentgate.core.merkle import Frontier
from agentgate.core.signature import SignatureKey
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.core.tiles import (
    Tile,
    TileInvalid,
    consistency_body,
    parse_bundle,
    parse_consistency_body,
    parse_hashes,
    parse_tile,
    parse_tlog_proof,
    tlog_proof,
)
from agentgate.core.tiles import bundle as bundle_of
from agentgate.core.verification.seals import NoKey, Trust, read_trust
from agentgate.core.verification.verify import is_view, verify, verify_view
from agentgate.ports.identity import SignedRequest, VerifiedToken
from tests import signing
from tests.fakes import FakeClock
from tests.fuzz.target import edited, edits_of, finish, target, text_of
from tests.packs import HMAC_KEY, ORIGIN, TRUST, Maker, ZipPack, a_secret, enveloped, log_key
from tests.token_issuer import public_jwk, sign

_VERIFIED: Final = 0

# --- packs ---


@cache
def _pack() -> ZipPack:
    """Signed with an Ed25519 key, so that it is the same in every run."""
    return Maker(envelope_secret=a_secret(7)).make()


@cache
def _trust() -> Trust:
    envelope = dsse.PublicKey.from_pem(_pack().files["keys/envelope.pub.pem"])
    return Trust((HMAC_KEY,), (envelope,), (log_key(),))


def _zip() -> bytes:
    return _pack().zip()


@target(*edits_of(bytes(9_000)), b"PK\x03\x04")
def pack_zip(raw: bytes) -> None:
    """Edits of a zip, byte by byte."""
    found = edited(_zip(), raw)
    assert verify(found, _trust()).exit_status != _VERIFIED or found == _zip(), "an accepted forgery"


@target(*(bytes([number]) + program for number, program in enumerate((*edits_of(b"x" * 60), *edits_of(b"x" * 60)))))
def pack_files(raw: bytes) -> None:
    """Edits of one file of a pack, or none of it (255), packed anew as its writer would."""
    files = dict(_pack().files)
    names = sorted(files)
    name = names[raw[0] % len(names)] if raw else names[0]
    if raw[1:2] == b"\xff":
        del files[name]
    else:
        files[name] = edited(files[name], raw[1:])
    same = files == _pack().files
    report = verify(archive.canonical_zip(files), _trust())
    assert (report.exit_status == _VERIFIED) == same, "an accepted forgery" if not same else "a refused pack"


@target(*edits_of(b"x" * 60), b"\xff")
def pack_files_without_hmac(raw: bytes) -> None:
    """Edits of the envelope and of what names it, for who has the envelope's key alone."""
    files = dict(_pack().files)
    for name in ("pack.dsse.json", "pack.sigstore.json", "keys/envelope.pub.pem"):
        files[name] = edited(files[name], raw)
    report = verify(archive.canonical_zip(files), replace(_trust(), hmac_keys=(), log_keys=()))
    assert report.exit_status != _VERIFIED or files == _pack().files, "an accepted forgery"


@cache
def _json_pack() -> bytes:
    return Maker().json()


@target(*edits_of(bytes(6_000)))
def pack_json(raw: bytes) -> None:
    """Edits of a pack that is one JSON document."""
    found = edited(_json_pack(), raw)
    report = verify(found, Trust(hmac_keys=(HMAC_KEY,)))
    assert report.exit_status != _VERIFIED or found == _json_pack(), "an accepted forgery"


@target("PK\x03\x04", '{"integrity":{}}', "<!doctype html>", "%PDF-1.7")
def pack_raw(raw: bytes) -> None:
    """Any bytes as a pack, as its signature, and as an earlier checkpoint."""
    assert verify(raw, TRUST, raw).exit_status != _VERIFIED
    assert verify(raw, Trust()).exit_status != _VERIFIED
    is_view(raw)
    assert verify_view(b"%PDF-1.7", raw, TRUST, raw).exit_status != _VERIFIED
    with contextlib.suppress(NoKey):
        read_trust(raw)


# --- envelopes of packs ---


@cache
def _envelope() -> bytes:
    return enveloped({"pack.json": b"{}"}, a_secret(7))["pack.dsse.json"]


@target(*edits_of(bytes(600)))
def dsse_envelope(raw: bytes) -> None:
    """Edits of an envelope, and any bytes as one."""
    key = _trust().envelope_keys[0]
    for found in (raw, edited(_envelope(), raw)):
        for parse_it in (dsse.parse_envelope, dsse.parse_bundle):
            try:
                envelope = parse_it(found)
                is_signed = envelope.signed_by([key]) is not None
                dsse.parse_statement(envelope.payload)
            except dsse.EnvelopeInvalid:
                continue
            whole = json.loads(_envelope())
            payload = base64.b64decode(whole["payload"])
            kind = whole["payloadType"]
            assert not is_signed or (envelope.payload, envelope.payload_type) == (payload, kind), "an accepted forgery"
    with contextlib.suppress(dsse.EnvelopeInvalid):
        dsse.PublicKey.from_pem(raw)


# --- the log ---


@cache
def _note() -> bytes:
    """A checkpoint with a witness's cosignature."""
    witness = a_secret(9)
    made = Maker().checkpoint()
    text = made.partition(b"\n\n")[0].decode() + "\n"
    return made + note.cosign(text, _witness(), witness.sign, 1_800_000_000).encode()


def _witness() -> note.NoteKey:
    return note.NoteKey("witness.test", a_secret(9).public_key().public_bytes_raw(), note.COSIGNATURE_V1)


@target(*edits_of(bytes(300)))
def signed_note(raw: bytes) -> None:
    """Edits of a checkpoint that its log and a witness have signed."""
    found = edited(_note(), raw)
    text = _note().partition(b"\n\n")[0] + b"\n"
    for read in (
        lambda: note.open_checkpoint(found, [log_key()], ORIGIN).text,
        lambda: note.open_note(found, [log_key(), _witness()]).text,
        lambda: note.checkpoint_of(found).text if note.cosignatures(found, [_witness()]) else text.decode(),
    ):
        try:
            assert read().encode() == text, "an accepted forgery"
        except note.NoteInvalid:
            continue


@target(
    "o\n5\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n\n\N{EM DASH} o AAAAAAAA\n",
    log_key().text,
    log_key().text.replace("gate", "\udcff").encode(errors="surrogateescape"),
    _witness().text,
    "o\n" + "9" * 30 + "\nAAAA\n\n\N{EM DASH} o AAAAAAAA\n",
)
def note_raw(raw: bytes) -> None:
    """Any bytes as a note, a checkpoint or a key."""
    text = text_of(raw)
    keys = [log_key(), _witness()]
    for read in (
        lambda: note.open_note(raw, keys),
        lambda: note.checkpoint_of(raw),
        lambda: note.signers_of(raw),
        lambda: note.cosignatures(raw, keys),
        lambda: note.parse_checkpoint(text),
    ):
        try:
            found = read()
        except note.NoteInvalid:
            continue
        assert not isinstance(found, note.SignedNote), "an accepted forgery"
        assert not isinstance(found, note.Checkpoint) or note.parse_checkpoint(found.text) == found
    for parse_it in (note.parse_key, note.parse_witness_key):
        try:
            assert parse_it(text).text == text
        except note.NoteInvalid:
            continue


_HASH: Final = base64.b64encode(hashlib.sha256(b"x").digest()).decode()


@target(
    "tile/0/x001/x234/067.p/9",
    "tile/entries/000",
    tlog_proof(3, [bytes(32)], b"note\n"),
    consistency_body(3, [bytes(32)], b"note\n"),
    f"c2sp.org/tlog-proof@v1\nextra AA==\nindex 7\n{_HASH}\n\nnote",
    bundle_of([b"a", b""]),
    bytes(8),
    b"\0\0\0\0\0\0\0\1" + bytes(32),
)
def tiles(raw: bytes) -> None:
    """Paths, bundles, tiles, proofs and frontiers: each has one form alone."""
    for read, write in (
        (lambda: parse_tile(text_of(raw)), lambda one: one.path.encode()),
        (lambda: parse_bundle(raw), bundle_of),
        (lambda: parse_hashes(raw, 2), b"".join),
        (lambda: parse_tlog_proof(raw), lambda one: raw if one.extra is not None else _written(one)),
        (lambda: parse_consistency_body(raw), lambda one: consistency_body(one.old, one.hashes, one.checkpoint)),
    ):
        try:
            found = cast("Any", read)()
        except TileInvalid:
            continue
        assert cast("Any", write)(found) == raw, "a second form"
        assert not isinstance(found, Tile) or found.index < 1 << 63
    with contextlib.suppress(ValueError):
        assert Frontier.from_bytes(raw).to_bytes() == raw


def _written(proof: Any) -> bytes:
    return tlog_proof(proof.index, proof.hashes, proof.checkpoint)


# --- requests ---

_NOW: Final = 1_800_000_000
_SIGNER: Final = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_SECRET: Final = "a-shared-secret-of-the-tests-4711"
_BODY: Final = b'{"agent_id":"bot"}'
_URL: Final = "http://gate.example/api/tools/call"
_KEYS: Final = {
    "k-1": SignatureKey("ed25519", _SIGNER.public_key().public_bytes_raw()),
    "k-2": SignatureKey("hmac-sha256", _SECRET.encode()),
}


@cache
def _verifier() -> Rfc9421Verifier:
    clock = FakeClock()
    clock.moment = datetime.fromtimestamp(_NOW, UTC)
    return Rfc9421Verifier(clock, 60.0)


@cache
def _signed() -> bytes:
    """A signed request: method, URL, fields, a line end, the body."""
    made = signing.Envelope("k-1", _SIGNER.sign, _BODY, _URL, parameters={"created": _NOW})
    lines = [
        made.method,
        made.url,
        "host: gate.example",
        *(f"{name}: {value}" for name, value in made.headers().items()),
    ]
    return "\n".join([*lines, "", ""]).encode() + _BODY


def _as_request(raw: bytes) -> SignedRequest | None:
    head, blank, body = raw.partition(b"\n\n")
    lines = head.decode("latin-1").split("\n")
    if not blank or len(lines) < 2:
        return None
    fields = [(name, value) for name, _, value in (line.partition(": ") for line in lines[2:])]
    return SignedRequest(lines[0], lines[1], fields, body)


def _said(request: SignedRequest) -> tuple[Any, ...]:
    kind = [value.strip() for name, value in request.fields if name.lower() == "content-type"]
    return request.method, request.url, request.body, kind


@target(*edits_of(bytes(620)))
def signed_request(raw: bytes) -> None:
    """Edits of a signed request (RFC 9421)."""
    original = _as_request(_signed())
    found = _as_request(edited(_signed(), raw))
    if found is None or original is None:
        return
    key_id = _verifier().signer(found, _KEYS.get)
    assert not isinstance(key_id, str) or (key_id, _said(found)) == ("k-1", _said(original)), "an accepted forgery"


_THREE: Final = ("signature-input", "signature", "content-digest")
_FIELDS: Final = f'sig=("@method" "@target-uri" "content-digest" "content-type");created={_NOW};keyid="k-1"'


@target(
    f"{_FIELDS}\nsig=:AAAA:\nsha-256=:AAAA:",
    f'{_FIELDS};alg="ed25519";nonce="n";expires={_NOW + 1}\nsig=:AAAA:;a\nsha-512=:AAAA:',
    'a=1, a=("x";sf);b=?1;c=@1;d=%"x"\na=*AA*\n',
    "a=(\n\n",
)
def signature_fields(raw: bytes) -> None:
    """Any `Signature-Input`, `Signature` and `Content-Digest`, in three lines."""
    given = (*raw.decode("latin-1").split("\n", 2), "", "")
    fields = [("content-type", "application/json"), *zip(_THREE, given, strict=False)]
    found = _verifier().signer(SignedRequest("POST", _URL, fields, _BODY), _KEYS.get)
    assert not isinstance(found, str), "an accepted forgery"


@target(
    signing.digest(_BODY),
    signing.digest(_BODY, "sha-512"),
    f"{signing.digest(b'x')}, {signing.digest(_BODY, 'sha-512')}",
    "md5=:AAAA:",
    "sha-256=:AAAA:;a=1",
    "sha-256=::",
)
def content_digest(raw: bytes) -> None:
    """Any `Content-Digest` that the holder of a key has signed."""
    text = raw.decode("latin-1")
    if "\n" in text or "\r" in text or text != text.strip():
        return
    made = signing.Envelope(
        "k-2", signing.hmac_with(_SECRET), _BODY, _URL, parameters={"created": _NOW}, fields={"content-digest": text}
    )
    found = _verifier().signer(SignedRequest("POST", _URL, list(made.headers().items()), _BODY), _KEYS.get)
    fits = {hashlib.sha256(_BODY).digest(), hashlib.sha512(_BODY).digest()}
    held = {base64.b64decode(one + "==") for one in re.findall(r"=:([A-Za-z0-9+/]*)=*:", text) if len(one) % 4 != 1}
    assert not isinstance(found, str) or fits & held, "a digest of another body"


# --- tokens ---

_ISSUER: Final = "https://id.example.org"
_AUDIENCE: Final = "https://gate.example.org/mcp"
_CLAIMS: Final = {
    "iss": _ISSUER,
    "aud": _AUDIENCE,
    "exp": 1_900_000_000,
    "sub": "bot",
    "client_id": "bot",
    "scope": "a",
}
_RULES: Final = Whom(
    people_clients=frozenset({"console"}),
    person=("email",),
    roles_claim=("groups",),
    roles={"sre": frozenset({Role.OPERATOR})},
    role_clients=frozenset({"ci-bot"}),
    all_tenants=frozenset({"everywhere"}),
    tenant_claim=("t", "id"),
    tier_claim=("tier",),
    prefix="x:",
)


class _Keys:
    """An issuer's keys that are at hand."""

    def __init__(self, keys: KeySet) -> None:
        self._keys = keys

    def begin(self) -> None: ...

    def fresh(self) -> KeySet:
        return self._keys

    async def current(self) -> KeySet:
        return self._keys

    async def newer(self) -> KeySet:
        return self._keys


@cache
def _token() -> tuple[str, JwtVerifier]:
    key = a_secret(11)
    keys = read_key_set(json.dumps({"keys": [public_jwk(key, "k")]}).encode())
    rules = Rules(_ISSUER, frozenset({_AUDIENCE}), frozenset({"EdDSA", "RS256"}))
    made = sign(key, "EdDSA", {"typ": "at+jwt", "alg": "EdDSA", "kid": "k"}, _CLAIMS)
    return made, JwtVerifier(rules, cast("IssuerKeys", _Keys(keys)), FakeClock())


@target(*edits_of(bytes(330)))
def access_token(raw: bytes) -> None:
    """Edits of a token, and any bytes as one."""
    good, verifier = _token()
    for token in (edited(good.encode(), raw), raw):
        found = finish(verifier.verify(token.decode("latin-1")))
        if isinstance(found, VerifiedToken):
            assert token.rpartition(b".")[0] == good.encode().rpartition(b".")[0], "an accepted forgery"


def _signed_claims(raw: bytes) -> None:
    """Any payload that the issuer has signed."""
    _, verifier = _token()
    token = sign(a_secret(11), "EdDSA", {"typ": "at+jwt", "alg": "EdDSA", "kid": "k"}, raw)
    found = finish(verifier.verify(token))
    assert not isinstance(found, VerifiedToken) or found.principal.roles == {Role.AGENT}


@target(
    json.dumps(_CLAIMS),
    json.dumps({"azp": "console", "email": "ann@example.org", "groups": ["sre", "everywhere"], "t": {"id": "acme"}}),
    json.dumps({**_CLAIMS, "aud": [_AUDIENCE], "act": {"sub": "x"}, "scp": ["a"], "nbf": 1, "iat": 1.5}),
    json.dumps({"client_id": "ci-bot", "groups": "sre", "t": {"id": "acme"}, "tier": "gold", "agentgate_session": "s"}),
)
def token_claims(raw: bytes) -> None:
    """Any claims: nobody gets what the rules do not say."""
    _signed_claims(raw)
    try:
        claims = parse(raw)
    except NotStrictJson:
        return
    if not isinstance(claims, dict):
        return
    try:
        found = _RULES.principal(claims, frozenset())
    except Nobody:
        return
    assert is_id(found.name) and is_id(found.tenant) and found.name.startswith("x:")
    clients = [claims[name] for name in ("azp", "client_id") if name in claims]
    trusted = bool(clients) and clients in (["console"] * len(clients), ["ci-bot"] * len(clients))
    assert trusted or (found.roles == {Role.AGENT} and not found.tenants_all), "roles for a stranger"
    assert found.roles <= {Role.AGENT, Role.OPERATOR}


@target(
    json.dumps({"keys": [public_jwk(a_secret(11), "k")]}),
    json.dumps(
        {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}, {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}
    ),
    json.dumps({"keys": [{"kty": "oct", "k": "AAAA"}, {"kty": "OKP", "crv": "Ed448", "x": "AA", "kid": 1}]}),
)
def key_set(raw: bytes) -> None:
    """Any JWK Set: no shared secret is ever a key to verify with."""
    try:
        found = read_key_set(raw)
    except NoKeySet:
        return
    assert found.find(None, "HS256") is None
    assert found.find(None, "none") is None
