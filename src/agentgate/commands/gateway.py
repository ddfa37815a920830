"""Where the gateway is that a command talks to, with which key, and what is said when it does not answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import httpx
import typer

from agentgate import settings as configuration
from agentgate.commands.answers import Abandoned, NotAGateway, Refusal, Unanswered
from agentgate.commands.ending import EXIT_INTERRUPTED
from agentgate.commands.remote import ANSWER_S, NotText, Remote, host_of
from agentgate.commands.terminal import Status, die, err, safe, settings_of
from agentgate.commands.words import plain
from agentgate.core.hosts import is_loopback
from agentgate.settings import Settings

Url = Annotated[
    str | None, typer.Option("--url", help="The gateway (AGENTGATE_URL; else as configured, http://127.0.0.1:8000)")
]
ApiKey = Annotated[
    str | None,
    typer.Option("--key", help="Your key; better AGENTGATE_KEY. Else AGENTGATE_ADMIN_API_KEY, or DATA_DIR/admin.key"),
]
AsJson = Annotated[bool, typer.Option("--json", help="What the gateway answered, as JSON")]
Reason = Annotated[str, typer.Option("--reason", help="Why, for the record: up to 500 characters")]

_ELSEWHERE: Final = "say where the gateway is with --url or AGENTGATE_URL"
_NOT_THERE: Final = f"start it with `agentgate serve`, or {_ELSEWHERE}"


@contextmanager
def the_gateway(
    url: str | None,
    key: str | None,
    config: Path | None,
    data_dir: Path | None,
    *,
    needs: str,
    answer_s: float = ANSWER_S,
) -> Iterator[Remote]:
    """The gateway that a command talks to; what it does not get ends in one sentence. `needs` names the role."""
    given = configuration.environment()
    url, key = url or given.get("AGENTGATE_URL"), key or given.get("AGENTGATE_KEY")
    if not url or not key:
        settings = settings_of(config, {"data_dir": data_dir})
        said = url if data_dir is None else None
        url = url or _url_of(settings)
        key = key or given.get("AGENTGATE_ADMIN_API_KEY") or _admin_key_of(settings, said)
    try:
        remote = Remote(url, key, answer_s=answer_s)
    except ValueError as error:
        die(str(error), Status.USAGE)
    if remote.is_clear_text:
        err.print(f"agentgate: your key goes to {safe(remote.url)} in clear text")
    try:
        with remote:
            yield remote
    except NotText as error:
        die(str(error), Status.USAGE)
    except Unanswered as silence:
        die(f"the gateway {remote.url} does not answer: {silence}; {_NOT_THERE}", Status.REFUSED)
    except Abandoned:
        die(f"the answer was not waited for: whether {remote.url} has done it is not known", EXIT_INTERRUPTED)
    except NotAGateway as error:
        die(f"{remote.url} answers {error}; {_ELSEWHERE}", Status.REFUSED)
    except Refusal as refusal:
        is_told = re.search(rf"\bneeds (an? )?{needs}\b", refusal.detail)
        also = f"; this wants a key with the role {needs}" if refusal.status in (401, 403) and not is_told else ""
        die(f"{refusal.status} {refusal.reason}: {plain(refusal.detail)}{also}", Status.REFUSED)


def _url_of(settings: Settings) -> str:
    """Where a gateway with these settings is reached."""
    if settings.server.base_url is None and settings.server.port == 0:
        die("the configured port is 0: say with --url where the gateway is", Status.USAGE)
    return settings.server.base_url or _address_of(settings)


def _address_of(settings: Settings) -> str:
    server = settings.server
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(server.host, server.host)  # noqa: S104 - compared with
    return f"http://[{host}]:{server.port}" if ":" in host else f"http://{host}:{server.port}"


def _admin_key_of(settings: Settings, url: str | None) -> str:
    """The configured admin key, or the one that the first start left in the data directory. What is in these files is
    for the gateway of these: a `url` that may be anybody's is not sent it."""
    if url is not None and not _is_of(settings, url):
        die(f"no key for {url}, which is not the configured gateway: set AGENTGATE_KEY, or say --key", Status.USAGE)
    if settings.auth.admin_key is not None:
        return settings.auth.admin_key
    path = settings.data_dir / "admin.key"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError as error:
        hint = "set AGENTGATE_KEY, or say --key, or AGENTGATE_DATA_DIR where a gateway of this machine keeps its own"
        die(f"no key: {hint} ({path}: {error.strerror})", Status.USAGE)


def _is_of(settings: Settings, url: str) -> bool:
    """Whether `url` is on this machine, or has the scheme, host and port of the configured gateway. One that is none is
    told as such by who would ask it."""
    host = host_of(url)
    if host is None or is_loopback(host):
        return True
    own = (settings.server.base_url, _address_of(settings))
    return _origin(url) in [_origin(one) for one in own if one is not None and host_of(one) is not None]


def _origin(url: str) -> tuple[str, str, int | None]:
    parsed = httpx.URL(url)
    return parsed.scheme, parsed.host, parsed.port
