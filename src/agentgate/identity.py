"""Whose keys, access tokens and certificates are taken: `auth` in, what the doors ask out."""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from agentgate import keyfile
from agentgate import settings as configuration
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.core.call import KnownKey, PrincipalKind
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.hosts import is_loopback
from agentgate.core.signature import SignatureKey, is_anybodys
from agentgate.edges.caller import AccessTokens, Keyring
from agentgate.edges.resource import PATH, ProtectedResource
from agentgate.kinds import admin_key
from agentgate.pipeline.records.keys import KeyBook
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.ambient import Clock
from agentgate.ports.identity import CertificateReader, TokenVerifier
from agentgate.settings import Certificate, EnvRef, FileRef, Key, OAuth, Settings, Signature

if TYPE_CHECKING:
    from agentgate.adapters.tokens._whom import Whom

logger = logging.getLogger("agentgate")


class Keys:
    """The keys that are configured and those of the key file, as they are from one look to the next."""

    def __init__(self, config: Settings, recorder: Recorder, clock: Clock, meter: PrometheusMeter) -> None:
        """Raises UnsafeConfiguration: they cannot be read."""
        self.ring = Keyring((), admin_key=admin_key(config), now=clock.now)
        self.book = KeyBook(recorder)
        self._meter = meter
        self._followed = keyfile.FollowedKeys(keyfile.key_file(config.data_dir), config.auth.keys)
        self.read()
        if self._followed.trouble is not None:
            raise UnsafeConfiguration(self._followed.trouble)

    def read(self) -> None:
        """Take over what has changed among them."""
        told = self._followed.trouble
        keys = self._followed.look()
        trouble = self._followed.trouble
        if keys is not None:
            known = known_keys(keys)
            self.ring.replace(known, is_whole=trouble is None)
            if trouble is None:  # the keys of a file that cannot be read are still given to whom they were
                self.book.take(known, self._followed.version)
            if trouble != told:
                logger.error("the key file: %s", f"{trouble}; the keys in it are refused" if trouble else "whole again")
        self._meter.health("key_file", is_well=trouble is None)


def known_keys(keys: Iterable[Key]) -> tuple[KnownKey, ...]:
    """The keys as the doors know them, with what signatures are checked with.

    Raises:
        UnsafeConfiguration: saying what to change.
    """
    return tuple(
        key.known() if key.signature is None else replace(key.known(), signature=_material(key.id, key.signature))
        for key in keys
    )


@cache  # read at the start, as everything in the configuration
def _material(key_id: str, part: Signature) -> SignatureKey:
    place = f"the key {key_id}: signature"
    if part.hmac is not None:
        return SignatureKey("hmac-sha256", _shared_secret(f"{place}.hmac", part.hmac))
    key = SignatureKey("ed25519", _public_key(f"{place}.ed25519", part.ed25519 or ""))
    if is_anybodys(key):
        raise UnsafeConfiguration(
            f"{place}.ed25519 is a key that anybody can sign with (a placeholder?); make a real one"
        )
    return key


def _shared_secret(place: str, ref: EnvRef | FileRef) -> bytes:
    if isinstance(ref, FileRef) and ref.file.exists() and ref.file.stat().st_mode & 0o077:
        raise UnsafeConfiguration(f"{place}: {ref.file} can be read by others; run: chmod 600 {ref.file}")
    secret = configuration.secret_of(place, ref, configuration.environment())
    configuration.refuse_guessable(place, secret, configuration.MIN_HMAC_KEY_BYTES)
    return secret.encode()


def _public_key(place: str, given: str | FileRef) -> bytes:
    try:
        if isinstance(given, FileRef):
            key = load_pem_public_key(given.file.read_bytes())
            if not isinstance(key, Ed25519PublicKey):
                raise UnsafeConfiguration(f"{place}: {given.file} is no Ed25519 public key")
        else:
            key = Ed25519PublicKey.from_public_bytes(base64.b64decode(given, validate=True))
    except OSError as error:
        raise UnsafeConfiguration(f"{place}: {error.filename}: {error.strerror}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnsafeConfiguration(f"{place} must be the 32 bytes of a public key in base64, or a PEM file") from None
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def make_tokens(config: Settings, clock: Clock, meter: PrometheusMeter) -> AccessTokens | None:
    """The tokens of all issuers, where one is configured.

    Raises:
        UnsafeConfiguration: saying what to change.
    """
    parts = config.auth.oauth
    if not parts:
        return None
    if len({part.issuer for part in parts}) < len(parts):
        raise UnsafeConfiguration("auth.oauth: an issuer is there twice: drop one of them")
    resource = _resource(config, parts)
    return AccessTokens(_verifier(parts, resource.resource, clock, meter), resource, meter)


def make_certificates(config: Settings, clock: Clock) -> CertificateReader | None:
    """The certificates that trusted proxies tell of, where some are configured.

    Raises:
        UnsafeConfiguration: saying what to change.
    """
    part = config.auth.mtls
    if part is None:
        return None
    # reads X.509, and only few have proxies that tell of certificates
    from agentgate.adapters.certificates.proxied import Entry, ProxiedCertificates  # for who has such a proxy

    try:
        entries = [Entry(**entry) for entry in map(_entry, part.map)]
    except ValueError as error:
        raise UnsafeConfiguration(str(error)) from None
    return ProxiedCertificates(part.header, part.proxies, entries, clock)


def _entry(part: Certificate) -> dict[str, Any]:
    kind, pattern = next((name, found) for name in ("uri", "dns", "cn", "subject") if (found := getattr(part, name)))
    return {
        "name": kind,
        "pattern": pattern,
        "kind": PrincipalKind.AGENT if part.agent is not None else PrincipalKind.PERSON,
        "whom": part.agent or part.person,
        "roles": frozenset(part.roles),
        "tenant": part.tenant,
        "tier": part.tier or "",
    }


def _resource(config: Settings, parts: tuple[OAuth, ...]) -> ProtectedResource:
    """The gateway by the name that tokens are issued for: where it is reached, or else its first audience."""
    base = config.server.base_url
    if base is None and not all(part.audience for part in parts):
        raise UnsafeConfiguration(
            "auth.oauth: nothing says which tokens are for this gateway; set server.base_url or auth.oauth.audience"
        )
    resource = f"{base.rstrip('/')}/mcp" if base is not None else parts[0].audience[0]
    try:
        url = urlsplit(resource)
        host, _ = url.hostname or "", url.port
    except ValueError:
        url, host = urlsplit(""), ""
    if url.scheme not in ("http", "https") or not host or not _is_plain(resource):
        raise UnsafeConfiguration(
            "auth.oauth: clients must be told the gateway's URL: set server.base_url, or an https URL as first audience"
        )
    if url.scheme == "http" and not is_loopback(host):
        raise UnsafeConfiguration(
            f"auth.oauth: tokens would go to {host} over plain http, where anybody between can take them: use https"
        )
    base = base if base is not None else f"{url.scheme}://{url.netloc}"
    scopes = tuple(dict.fromkeys(scope for part in parts for scope in part.required_scopes))
    issuers = tuple(part.issuer for part in parts)
    return ProtectedResource(resource, issuers, scopes, f"{base.rstrip('/')}{PATH}/mcp")


def _is_plain(url: str) -> bool:
    """Whether a header can quote it, and a client compare it."""
    return url.isascii() and url.isprintable() and not set(url) & set(' "\\#?')


def _verifier(parts: tuple[OAuth, ...], resource: str, clock: Clock, meter: PrometheusMeter) -> TokenVerifier:
    # what reads tokens takes a start longer than everything else that it does for identity
    from agentgate.adapters.tokens._issuer import IssuerKeys, KeyFile, KeyUrl, Unreadable  # for who has an issuer
    from agentgate.adapters.tokens._jwks import read_key_set  # for who has an issuer
    from agentgate.adapters.tokens.issuers import Issuers  # for who has several
    from agentgate.adapters.tokens.jwt import JwtVerifier, Rules  # for who has an issuer

    well: dict[str, bool] = {}

    def make(part: OAuth) -> JwtVerifier:
        if part.jwks_url is not None and part.jwks_file is not None:
            raise ValueError("jwks_url and jwks_file are both set: drop one of them")
        source: KeyFile | KeyUrl = KeyUrl(part.issuer, part.jwks_url)
        if part.jwks_file is not None:
            source = KeyFile(part.jwks_file)
            read_key_set(source.read_now())
        rules = Rules(
            issuer=part.issuer,
            audiences=frozenset(part.audience or (resource,)),
            algorithms=frozenset(part.algorithms),
            required_scopes=frozenset(part.required_scopes),
            whom=_whom(part),
            leeway_s=part.leeway_s,
        )

        def on_reading(is_well: bool) -> None:
            well[part.issuer] = is_well
            meter.health("token_issuer", is_well=all(well.values()))

        return JwtVerifier(rules, IssuerKeys(source, clock, on_reading=on_reading), clock)

    try:
        verifiers = {part.issuer: make(part) for part in parts}
    except (ValueError, Unreadable) as error:
        raise UnsafeConfiguration(f"auth.oauth: {error}") from None
    return Issuers(verifiers) if len(verifiers) > 1 else verifiers[parts[0].issuer]


def _whom(part: OAuth) -> Whom:
    from agentgate.adapters.tokens._whom import AGENT_CLAIMS, Whom  # for who has an issuer

    claims = part.claims

    def path(claim: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
        return (claim,) if isinstance(claim, str) else claim

    agent = path(claims.agent)
    return Whom(
        agent=(agent,) if agent is not None else AGENT_CLAIMS,
        person=path(claims.person),
        people_clients=frozenset(part.people_clients),
        roles_claim=path(claims.roles),
        roles={value: frozenset(roles) for value, roles in part.roles.items()},
        role_clients=frozenset(part.role_clients),
        all_tenants=frozenset(part.all_tenants),
        tenant=part.tenant or "default",
        tenant_claim=path(claims.tenant),
        tier=part.tier or "",
        tier_claim=path(claims.tier),
        on_behalf_of=path(claims.on_behalf_of),
        session=path(claims.session) or ("agentgate_session",),
        prefix=part.prefix,
    )
