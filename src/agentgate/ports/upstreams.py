"""Where calls go, and what they carry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from agentgate.core.call import Access, ArgumentCheck, Call
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode


class Delivered(NamedTuple):
    """The upstream answered. `value` is JSON; `status` its own status where it has one (HTTP)."""

    value: Any
    status: int | None = None


@dataclass(frozen=True, slots=True)
class Undelivered:
    """The upstream did not do it, or nobody can say.

    `reached` is False only when it is certain that nothing was sent: then the effect is known to be none.
    """

    reason: ReasonCode
    detail: str
    reached: bool = True
    status: int | None = None
    fault: Mapping[str, Any] | None = None
    """The upstream's own error object, where its protocol has one: JSON-RPC's `{code, message, data?}`."""


@dataclass(frozen=True, slots=True, repr=False)
class Credential:
    """A secret by its alias. It never leaves the gateway but to the upstream, and shows itself in no text."""

    alias: str
    secret: str
    """Its one value, or the most secret of several."""
    values: Mapping[str, str] = field(default_factory=dict)
    """All of them by name where it has several: `username` and `password`; STS's three."""
    others: tuple[str, ...] = ()
    """What else the upstream was given under this alias, by sessions of the gateway's own."""

    def __repr__(self) -> str:
        return f"Credential({self.alias!r}, ***)"

    @property
    def secrets(self) -> tuple[str, ...]:
        """Everything that must not come back in an answer: of `user:password` the password by itself, too."""
        password = self.secret.partition(":")[2]
        return tuple(dict.fromkeys((self.secret, *filter(None, (password,)), *self.values.values(), *self.others)))


class Upstream(Protocol):
    """Where calls go. One instance for each configured upstream."""

    def validate_options(self, options: Mapping[str, Any]) -> None:
        """Raises ValueError with a sentence when a tool's options are not what this kind takes."""
        ...

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        """Run the granted call. Cancellation ends it for good: sockets closed, nothing shielded, no retry
        left behind. The gate sets the deadline. Never raises but CancelledError."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What the configuration says of one tool of a server; None and empty: as of the server's tools in general."""

    access: Access | None = None
    labels: tuple[str, ...] = ()
    timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a tool server says it offers, at one moment."""

    server: str
    """The upstream's configured name."""
    identity: Mapping[str, Any]
    """Who it says it is: `name` and `version` of MCP's Implementation, and the URL or command it was reached at."""
    tools: tuple[Mapping[str, Any], ...]
    """Tool definitions (MCP `Tool`) as they came."""
    capabilities: Mapping[str, Any]
    """MCP's ServerCapabilities in JSON."""
    instructions: str = ""
    of_client: bool = False
    """Heard in a session of one client's, where a server may list more or less than it does to others: a tool that is
    not in it is not missing."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """How it stands with a tool server."""

    server: str
    is_up: bool
    detail: str
    """One sentence: since when, or why not and when it is tried again."""
    protocol: str = ""


class Audience(Protocol):
    """Who hears what a tool server says beside any call."""

    async def listed(self, listing: Listing) -> None:
        """The server was (re)connected, or its list was read anew: the whole list, changed or not. Called from every
        session with the server, since a server may tell each one something else."""
        ...

    async def changed(self, server: str, method: str, params: Mapping[str, Any]) -> None:
        """The server announced `notifications/resources/list_changed`, `…/prompts/list_changed`,
        `…/resources/updated`. (`…/tools/list_changed` arrives as `listed`.)"""
        ...


class ToolServer(Upstream, Protocol):
    """An upstream that brings its own tools, and may change them."""

    async def run(self, audience: Audience) -> None:
        """Keep connected until cancelled: connect, list, hear of changes; after a loss again, with backoff. Never
        raises but CancelledError: a server that is down only is down."""
        ...

    def state(self) -> ServerState: ...

    def drop(self, is_over: Callable[[Call], bool]) -> None:
        """End at once what is kept of calls beyond their answers: those that are `is_over` were killed."""
        ...


class CredentialSource(Protocol):
    """Turns an alias into a secret, as late as possible."""

    async def credential(
        self, alias: str, *, scope: str | None, ttl_s: int | None, call: Call | None = None
    ) -> Credential | None:
        """One for this call, or for the gateway itself: good for no more than `scope`, given for at most `ttl_s`
        seconds. None when it cannot be had now; the call is then refused. Waits a bounded time, and ends when it is
        cancelled."""
        ...


class Schemas(Protocol):
    """Compiles JSON Schemas: 2020-12 unless they say an older draft."""

    def compile(self, schema: Mapping[str, Any]) -> ArgumentCheck:
        """Raises ValueError with a sentence when `schema` is not one."""
        ...

    def examine(self, schema: Mapping[str, Any]) -> None:
        """The same, but cheap and without its patterns: for a schema of somebody whom nobody trusts yet."""
        ...
