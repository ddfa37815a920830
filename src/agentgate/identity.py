"""Whose access tokens are taken: `auth.oauth` in, what the doors ask out."""

from __future__ import annotations

from urllib.parse import urlsplit

from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.hosts import is_loopback
from agentgate.edges.caller import AccessTokens
from agentgate.edges.resource import PATH, ProtectedResource
from agentgate.ports.ambient import Clock
from agentgate.ports.identity import TokenVerifier
from agentgate.settings import OAuth, Settings


def make_tokens(config: Settings, clock: Clock, meter: PrometheusMeter) -> AccessTokens | None:
    """The issuer's tokens, where one is configured.

    Raises:
        UnsafeConfiguration: saying what to change.
    """
    part = config.auth.oauth
    if part is None:
        return None
    resource = _resource(config, part)
    verifier = _verifier(part, part.audience or (resource.resource,), clock, meter)
    return AccessTokens(verifier, resource, meter)


def _resource(config: Settings, part: OAuth) -> ProtectedResource:
    """The gateway by the name that tokens are issued for: where it is reached, or else its first audience."""
    base = config.server.base_url
    if base is None and not part.audience:
        raise UnsafeConfiguration(
            "auth.oauth: nothing says which tokens are for this gateway; set server.base_url or auth.oauth.audience"
        )
    resource = f"{base.rstrip('/')}/mcp" if base is not None else part.audience[0]
    try:
        parts = urlsplit(resource)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host or not _is_plain(resource):
        raise UnsafeConfiguration(
            "auth.oauth: clients must be told the gateway's URL: set server.base_url, or an https URL as first audience"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise UnsafeConfiguration(
            f"auth.oauth: tokens would go to {host} over plain http, where anybody between can take them: use https"
        )
    base = base if base is not None else f"{parts.scheme}://{parts.netloc}"
    return ProtectedResource(resource, part.issuer, part.required_scopes, f"{base.rstrip('/')}{PATH}/mcp")


def _is_plain(url: str) -> bool:
    """Whether a header can quote it, and a client compare it."""
    return url.isascii() and url.isprintable() and not set(url) & set(' "\\#?')


def _verifier(part: OAuth, audiences: tuple[str, ...], clock: Clock, meter: PrometheusMeter) -> TokenVerifier:
    # what reads tokens takes a start longer than everything else that it does for identity
    from agentgate.adapters.tokens._issuer import IssuerKeys, KeyFile, KeyUrl, Unreadable  # for who has an issuer
    from agentgate.adapters.tokens._jwks import read_key_set  # for who has an issuer
    from agentgate.adapters.tokens.jwt import AGENT_CLAIMS, JwtVerifier, Rules  # for who has an issuer

    if part.jwks_url is not None and part.jwks_file is not None:
        raise UnsafeConfiguration("auth.oauth: jwks_url and jwks_file are both set: drop one of them")
    try:
        source: KeyFile | KeyUrl = KeyUrl(part.issuer, part.jwks_url)
        if part.jwks_file is not None:
            source = KeyFile(part.jwks_file)
            read_key_set(source.read_now())
        rules = Rules(
            issuer=part.issuer,
            audiences=frozenset(audiences),
            algorithms=frozenset(part.algorithms),
            required_scopes=frozenset(part.required_scopes),
            agent_claims=(part.agent_claim,) if part.agent_claim is not None else AGENT_CLAIMS,
            tenant_claim=part.tenant_claim,
            session_claim=part.session_claim,
            leeway_s=part.leeway_s,
        )
    except (ValueError, Unreadable) as error:
        raise UnsafeConfiguration(f"auth.oauth: {error}") from None

    def on_reading(is_well: bool) -> None:
        meter.health("token_issuer", is_well=is_well)

    return JwtVerifier(rules, IssuerKeys(source, clock, on_reading=on_reading), clock)
