"""Combinations of settings that must not start."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from agentgate.core.call import key_sha256
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.hosts import in_a_header, is_loopback
from agentgate.core.redaction.marks import MIN_KEY_BYTES, Mode
from agentgate.core.retention import BelowFloor, Rule
from agentgate.settings.identity import Auth
from agentgate.settings.tree import Settings

MIN_SECRET_CHARS: Final = 16
MIN_HMAC_KEY_BYTES: Final = 32
"""As long as the hash; a shorter key would be the weakest part of a signature (RFC 2104 §3)."""
_HMAC_KEYS: Final = frozenset({"AGENTGATE_SIGNING_KEY", "AGENTGATE_REDACTION_KEY"})
DEFAULT_SECRETS: Final = frozenset({"approved", "admin-secret-change-me", "change-me-in-production-please"})
_WORDS: Final = frozenset({"", "test", "secret", "password", "changeme", "admin", "agent", "key", "hello", "123456"})
"""What a digest is of that somebody made to try things out, or of a variable that was not set."""


def refuse_unsafe(settings: Settings) -> None:
    """Raises UnsafeConfiguration; each sentence says what to change."""
    _refuse_unsafe_secrets(settings)
    _refuse_contradictions(settings)
    _refuse_unsafe_retention(settings)
    refuse_unsafe_keys(settings.auth)
    _refuse_incomplete(settings)


def _refuse_unsafe_secrets(settings: Settings) -> None:
    hook = settings.log.checkpoint_webhook
    secrets = {
        "AGENTGATE_ADMIN_API_KEY": settings.auth.admin_key,
        "AGENTGATE_SIGNING_KEY": settings.evidence.signing_key,
        "AGENTGATE_APPROVAL_TOKEN": settings.approvals.static_token,
        "AGENTGATE_WEBHOOK_SECRET": settings.webhook.secret,
        "AGENTGATE_REDACTION_KEY": settings.redaction.secret,
        "log.checkpoint_webhook.secret": hook.secret if hook is not None else None,
    }
    seen: dict[str, str] = {}
    for name, secret in secrets.items():
        if secret is None:
            continue
        if secret in DEFAULT_SECRETS:
            raise UnsafeConfiguration(f"{name} is a default that everybody knows; set a random one")
        refuse_guessable(name, secret, MIN_HMAC_KEY_BYTES if name in _HMAC_KEYS else MIN_SECRET_CHARS)
        if secret in seen:
            raise UnsafeConfiguration(f"{name} equals {seen[secret]}; give each its own secret")
        seen[secret] = name


def refuse_guessable(name: str, secret: str, least: int) -> None:
    """Raises UnsafeConfiguration."""
    if len(secret.encode()) < least or len(set(secret)) < 5:
        raise UnsafeConfiguration(f"{name} is too easy to guess; set at least {least} random characters")


def _refuse_contradictions(settings: Settings) -> None:
    if settings.evidence.timestamp_url is None and (
        settings.evidence.timestamp_required or settings.evidence.timestamp_ca is not None
    ):
        raise UnsafeConfiguration("evidence wants time stamps, but evidence.timestamp_url names no authority: set it")
    if settings.server.workers > 1 and settings.log.kind == "sqlite":
        raise UnsafeConfiguration(
            "several workers need a log that they can share: set log.url to PostgreSQL, or workers: 1"
        )
    if settings.server.workers > 1 and settings.containment.kind == "local":
        raise UnsafeConfiguration(
            "several workers need kill flags that they can share: set containment.url to a Redis, or workers: 1"
        )
    if settings.containment.kind == "local" and settings.containment.url:
        raise UnsafeConfiguration("containment.kind is local, but containment.url is set: drop one of them")
    if settings.policy.kind == "wasm" and settings.policy.url:
        raise UnsafeConfiguration("policy.kind is wasm, but policy.url is set: drop one of them")


def _refuse_incomplete(settings: Settings) -> None:
    if settings.policy.kind == "opa" and not settings.policy.url:
        raise UnsafeConfiguration("policy.kind is opa, but policy.url (AGENTGATE_OPA_URL) is not set")
    if settings.containment.kind == "redis" and not settings.containment.url:
        raise UnsafeConfiguration("containment.kind is redis, but containment.url (AGENTGATE_REDIS_URL) is not set")
    if settings.redaction.mode is not Mode.REDACT and settings.redaction.secret is None:
        raise UnsafeConfiguration(
            f"redaction.mode {settings.redaction.mode} needs a key of at least {MIN_KEY_BYTES} bytes: set redaction.key"
        )


def _refuse_unsafe_retention(settings: Settings) -> None:
    try:
        Rule(settings.retention.days, forced=settings.retention.force_below_floor)
    except BelowFloor as error:
        raise UnsafeConfiguration(f"retention.days: {error} (retention.force_below_floor: true)") from None
    if settings.log.retention_url is not None and settings.log.kind != "postgresql":
        raise UnsafeConfiguration("log.retention_url names a role of PostgreSQL, and the log is in SQLite: drop it")


def refuse_unsafe_keys(auth: Auth) -> None:
    """Raises UnsafeConfiguration: a key that everybody knows, or two that are one."""
    if auth.admin_key is not None and not auth.admin_key.isascii():
        raise UnsafeConfiguration("AGENTGATE_ADMIN_API_KEY must be ASCII: headers carry nothing else reliably")
    known = {key_sha256(secret) for secret in DEFAULT_SECRETS | _WORDS}
    seen = {key_sha256(auth.admin_key): "the admin key"} if auth.admin_key is not None else {}
    ids: set[str] = set()
    for key in auth.keys:
        if key.sha256 in known:
            raise UnsafeConfiguration(f"the key {key.id} is one that everybody knows; make a random one")
        same = key.sha256 or repr(key.signature)
        if same in seen:
            raise UnsafeConfiguration(f"the key {key.id} is the same key as {seen[same]}; give each its own")
        if key.id in ids:
            raise UnsafeConfiguration(f"there are two keys with the id {key.id}")
        seen[same] = key.id
        ids.add(key.id)


def refuse_public_without_keys(settings: Settings, *, has_agent_keys: bool) -> None:
    """Without an agent key everybody who reaches the port is the principal `local`: loopback only, and under no name
    by which others come through a proxy on this machine.

    Raises:
        UnsafeConfiguration
    """
    if has_agent_keys:
        return
    if not settings.is_loopback:
        raise UnsafeConfiguration(
            f"listening on {settings.server.host} without any agent key would let everybody in; "
            "make one with `agentgate keys create --agent NAME`, or listen on 127.0.0.1"
        )
    server = settings.server
    base = {urlsplit(server.base_url).hostname or "": "server.base_url"} if server.base_url is not None else {}
    for name, setting in (base | dict.fromkeys(server.hosts, "server.hosts")).items():
        if not is_loopback(in_a_header(name)):
            raise UnsafeConfiguration(
                f"{setting} names {name}, and without any agent key everybody would be let in whom a proxy on this "
                "machine serves under that name; make one with `agentgate keys create --agent NAME`, or drop it"
            )


def unknown_kind(what: str, kind: str, known: Iterable[str]) -> UnsafeConfiguration:
    return UnsafeConfiguration(f"{what}: there is no kind {kind!r}; there is {', '.join(sorted(known))}")
