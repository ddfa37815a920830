"""`credentials` of the configuration: one issuer for each alias, and the broker that hands out what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote, urlsplit

from agentgate import settings as configuration
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.credentials.encrypted_file import EncryptedFileCredentials
from agentgate.adapters.credentials.env import EnvCredentials
from agentgate.adapters.credentials.file import FileCredentials
from agentgate.core.call import Call
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.hosts import is_loopback
from agentgate.core.redaction.scrub import MIN_SECRET_CHARS
from agentgate.pipeline.credentials.broker import Broker
from agentgate.pipeline.credentials.sources import Bounded
from agentgate.ports.ambient import Clock
from agentgate.ports.credentials import Ask, CredentialRefused, Issuer, Serves
from agentgate.ports.upstreams import Credential, CredentialSource
from agentgate.settings import CredentialPart, Settings

KINDS: Final = ("aws_sts", "encrypted_file", "env", "file", "oauth_client_credentials", "token_exchange", "vault")
_CHECK_S: Final = 60
_Make = Callable[[Mapping[str, Any], Mapping[str, str]], Issuer]


def make_issuer(alias: str, part: CredentialPart) -> Issuer:
    """Raises UnsafeConfiguration."""
    try:
        return _class(alias, part.kind)(part.options, configuration.environment())
    except ValueError as error:
        raise UnsafeConfiguration(f"credentials.{alias}: {error}") from None


def _class(alias: str, kind: str) -> _Make:
    # the HTTP client and Amazon's signer are for who has such a kind
    match kind:
        case "env":
            return EnvCredentials
        case "file":
            return FileCredentials
        case "encrypted_file":
            return EncryptedFileCredentials
        case "vault":
            from agentgate.adapters.credentials.vault import Vault  # as above

            return Vault
        case "oauth_client_credentials":
            from agentgate.adapters.credentials.oauth_client_credentials import OAuthClientCredentials  # as above

            return OAuthClientCredentials
        case "token_exchange":
            from agentgate.adapters.credentials.token_exchange import TokenExchange  # as above

            return TokenExchange
        case "aws_sts":
            from agentgate.adapters.credentials.aws_sts import AwsSts  # as above

            return AwsSts
        case _:
            raise configuration.unknown_kind(f"credentials.{alias}", kind, KINDS)


def make_broker(config: Settings, clock: Clock) -> Broker:
    """The broker of one process. Raises UnsafeConfiguration."""
    parts = config.credentials
    issuers = {alias: Bounded(make_issuer(alias, part), part.timeout_ms / 1000) for alias, part in parts.items()}
    for name, part_of in config.upstreams.items():
        _check_upstream(name, config)
        for_sessions = part_of.session_credential or part_of.credential
        if for_sessions is None or part_of.kind != "mcp":
            continue
        if issuers[for_sessions].issuer.serves is Serves.TOKEN:
            raise UnsafeConfiguration(
                f"upstreams.{name}: {for_sessions} is got for a caller's token, and sessions with a tool server begin "
                "without a caller: name another credential for them (session_credential)"
            )
    return Broker(issuers, clock)


def _check_upstream(name: str, config: Settings) -> None:
    """Whether a credential is going where it may. Raises UnsafeConfiguration."""
    part = config.upstreams[name]
    for alias in filter(None, (part.credential, part.session_credential)):
        if alias not in config.credentials:
            raise UnsafeConfiguration(f"upstreams.{name}: there is no credential {alias!r}")
        address = part.options.get("base_url", part.options.get("url"))
        if isinstance(address, str):
            parts = urlsplit(address)
            if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
                raise UnsafeConfiguration(
                    f"upstreams.{name}: its credential {alias} would travel readable; use https, or no credential"
                )
        only = config.credentials[alias].only
        if only and not (isinstance(address, str) and any(_is_under(address, prefix) for prefix in only)):
            raise UnsafeConfiguration(f"upstreams.{name}: the credential {alias} is for {', '.join(only)} only")


def _is_under(address: str, prefix: str) -> bool:
    """Whether an address has the same scheme, host and port, and a path at or below the prefix's."""
    ours, allowed = urlsplit(address), urlsplit(prefix)
    ports = {"http": 80, "https": 443}
    try:
        same = (ours.port or ports.get(ours.scheme)) == (allowed.port or ports.get(allowed.scheme))
    except ValueError:
        return False
    if any(unquote(segment) in (".", "..") for segment in ours.path.split("/")):
        return False
    base = allowed.path.rstrip("/")
    below = ours.path.rstrip("/") == base or ours.path.startswith(f"{base}/")
    return same and below and (ours.scheme, ours.hostname) == (allowed.scheme, allowed.hostname)


class Finding(NamedTuple):
    """Whether there is a credential now, and if not, why."""

    is_there: bool | None
    """None: it takes a caller to say."""
    text: str


async def check(config: Settings, scope: str | None) -> dict[str, Finding]:
    """Each alias, asked for once with that scope. What was given for that is taken back. Raises UnsafeConfiguration."""
    broker = make_broker(config, SystemClock())
    found: dict[str, Finding] = {}
    try:
        for alias, part in config.credentials.items():
            if part.kind == "token_exchange":
                found[alias] = Finding(None, "got for each caller's token")
                continue
            try:
                await broker.obtain(Ask(alias, scope, _CHECK_S))
                found[alias] = Finding(True, "there")
            except CredentialRefused as refused:
                found[alias] = Finding(False, str(refused))
    finally:
        await broker.aclose()
    return found


def encrypted(config: Settings, alias: str) -> EncryptedFileCredentials:
    """Where the secret of `alias` can be written. Raises UnsafeConfiguration."""
    part = config.credentials.get(alias)
    if part is None:
        raise UnsafeConfiguration(f"there is no credential {alias!r} in the configuration")
    issuer = make_issuer(alias, part)
    if not isinstance(issuer, EncryptedFileCredentials):
        raise UnsafeConfiguration(f"credentials.{alias}: only what is in an encrypted_file can be set, not {part.kind}")
    return issuer


def put(config: Settings, alias: str, secret: str) -> None:
    """Write a secret into the encrypted file of its alias.

    Raises:
        UnsafeConfiguration: there is no such file, it cannot be written, or the secret is too short.
    """
    issuer = encrypted(config, alias)
    if len(secret) < MIN_SECRET_CHARS:
        raise UnsafeConfiguration(
            f"credentials.{alias}: shorter than {MIN_SECRET_CHARS} characters, so no answer could be rid of it"
        )
    try:
        issuer.put(alias, secret)
    except CredentialRefused as refused:
        raise UnsafeConfiguration(f"credentials.{alias}: {refused}") from None
    except OSError as error:
        raise UnsafeConfiguration(f"credentials.{alias}: {error.filename}: {error.strerror}") from None


class OfProcess:
    """Implements `CredentialSource` for a tool server that is a process of ours: it was given its credential as it
    started, whoever calls later."""

    def __init__(self, source: CredentialSource) -> None:
        self._source = source

    async def credential(
        self, alias: str, *, scope: str | None, ttl_s: int | None, call: Call | None = None
    ) -> Credential | None:
        return await self._source.credential(alias, scope=None, ttl_s=None)
