"""Who is told of things: `webhooks` of the configuration in, the desk that follows the log for them out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from agentgate import settings as configuration
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.event import rfc3339
from agentgate.core.notice import NOTICES, PING, Notice, wanted
from agentgate.pipeline.notices.desk import NoticeDesk
from agentgate.pipeline.notices.endpoint import Rules, Subscription
from agentgate.settings import EnvRef, FileRef, Settings, WebhookPart

if TYPE_CHECKING:
    from agentgate.adapters.meters.prometheus import PrometheusMeter
    from agentgate.logs import LogStore
    from agentgate.ports.ambient import Clock, Entropy
    from agentgate.ports.notices import Courier, Failure

OLD: Final = "webhook"
"""The name of v0.2's one, which has no other."""


def make_notices(config: Settings, log: LogStore, clock: Clock, entropy: Entropy, meter: PrometheusMeter) -> NoticeDesk:
    """The desk of one process. Raises UnsafeConfiguration."""
    return NoticeDesk(
        make_subscriptions(config, clock),
        reader=log,
        bookmarks=log.bookmarks,
        clock=clock,
        entropy=entropy,
        meter=meter,
        rules=Rules(base_url=config.server.base_url),
    )


def make_subscriptions(config: Settings, clock: Clock) -> list[Subscription]:
    """Every endpoint. Raises UnsafeConfiguration: naming the endpoint and what is wrong with it."""
    found: dict[str, Subscription] = {}
    secrets: dict[str, str] = {}
    for place, part in _parts(config):
        try:
            one = _subscription(place, part, clock, secrets)
        except ValueError as error:
            raise UnsafeConfiguration(f"{place}: {error}") from None
        if one.name in found:
            raise UnsafeConfiguration(f"{place}: there is another endpoint {one.name}; give it a name of its own")
        found[one.name] = one
    return list(found.values())


async def ping(config: Settings, clock: Clock, entropy: Entropy, only: str | None) -> list[tuple[str, Failure | None]]:
    """Send one `ping` to every endpoint, or to those whose name or address is `only`; what came of it.

    Raises:
        UnsafeConfiguration
    """
    said = []
    for one in make_subscriptions(config, clock):
        if only in (None, one.name, one.courier.shown):
            notice = Notice(entropy.token(16).hex(), PING, rfc3339(clock.now()), {"name": one.name})
            said.append((f"{one.name} ({one.courier.shown})", await one.courier.deliver(notice)))
        await one.courier.aclose()
    return said


def _parts(config: Settings) -> Iterator[tuple[str, WebhookPart]]:
    old = config.webhook
    if old.url is not None:
        yield OLD, WebhookPart(name=OLD, url=old.url, secret=old.secret, allow_private=old.allow_private)
    for number, part in enumerate(config.webhooks):
        if part.kind == "webhook" and part.secret is None:
            raise UnsafeConfiguration(f"webhooks[{number}].secret is missing: without it nobody knows who it is from")
        yield f"webhooks[{number}]", part


def _subscription(place: str, part: WebhookPart, clock: Clock, secrets: dict[str, str]) -> Subscription:
    """Raises ValueError, UnsafeConfiguration."""
    # the HTTP client is for who has a webhook
    from agentgate.adapters.notify._post import Post  # as above
    from agentgate.adapters.notify.slack import SlackCourier  # as above
    from agentgate.adapters.notify.webhook import WebhookCourier  # as above

    for pattern in part.events:
        if not any(wanted(kind, (pattern,)) for kind in NOTICES):
            raise ValueError(f"events: there is nothing that {pattern!r} is about; there is {', '.join(NOTICES)}")
    url = _value(f"{place}.url", part.url)
    post = Post(url, allow_private=part.allow_private)
    courier: Courier
    if part.kind == "slack":
        courier = SlackCourier(post)
    else:
        secret = _value(f"{place}.secret", part.secret) if part.secret is not None else None
        if secret is not None and place != OLD:  # that one is looked at with the other variables
            _check_secret(f"{place}.secret", secret, secrets)
        courier = WebhookCourier(post, secret, clock)
    name = part.name or f"{part.kind}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    return Subscription(name, courier, part.events, part.tenants)


def _check_secret(place: str, secret: str, seen: dict[str, str]) -> None:
    if secret in configuration.DEFAULT_SECRETS or len(secret) < configuration.MIN_SECRET_CHARS or len(set(secret)) < 5:
        raise UnsafeConfiguration(
            f"{place} is too easy to guess; set at least {configuration.MIN_SECRET_CHARS} random characters"
        )
    if secret in seen:
        raise UnsafeConfiguration(f"{place} equals {seen[secret]}; give each its own secret")
    seen[secret] = place


def _value(place: str, given: str | EnvRef | FileRef) -> str:
    if isinstance(given, str):
        return given
    return configuration.secret_of(place, given, configuration.environment())
