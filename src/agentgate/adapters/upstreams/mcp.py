"""Upstream kind `mcp`: a server of the Model Context Protocol, behind a command (stdio) or a URL (Streamable HTTP).

Both eras: servers with sessions (2024-11-05 to 2025-11-25) and without (2026-07-28). What goes through is passed on
as it is; what a server may do to us is bounded: answers, lists, lines, questions, sessions. Nothing of a client
reaches a server but the arguments that were decided on, and its answers to the server's questions.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from agentgate.adapters.upstreams._answers import CLOSED, NO_GRANT
from agentgate.adapters.upstreams._mcp.calls import Calls
from agentgate.adapters.upstreams._mcp.link import Link
from agentgate.adapters.upstreams._mcp.listening import Wanted
from agentgate.adapters.upstreams._mcp.orders import SHARE_TAKEN, check_options, down, read_order
from agentgate.adapters.upstreams._mcp.parking import Parking
from agentgate.adapters.upstreams._mcp.sessions import Sessions, ShareTaken
from agentgate.adapters.upstreams._mcp.settings import (
    Place,
    ServerSettings,
    read_command,
    read_credential_place,
    read_env,
)
from agentgate.adapters.upstreams._mcp.shared import Shared
from agentgate.core.call import Call
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.peer import Peer, peer_of
from agentgate.ports.upstreams import Audience, Credential, Delivered, Schemas, ServerState, Undelivered

_log = logging.getLogger("agentgate.mcp")


class McpUpstream:
    """Implements `ToolServer`.

    Args:
        name: the upstream's configured name.
        command: program and arguments of a server on stdio. It sees `env`, and PATH, HOME, LANG and TMPDIR of ours.
        url: of a server on HTTP; https unless the host is loopback or `insecure`.
        check_output: hold structured answers to the tool's `outputSchema`; needs `schemas`.
        max_response_bytes: of one message of the server.
        recheck_s: how old a list of tools may be when a call relies on it.
        max_sessions: with the server beside the shared one: of clients that have sessions themselves, and of calls
            that the server may ask about.
        max_sessions_per_caller: how many of them one caller may have; half of them, if nothing is said.
        inject: how a credential is sent: for a URL as kind `http` (but in a header only), for a command
            `{kind: env, name}`.
        credential: awaited whenever a session begins and when a list is read, which needs it as well.

    Raises:
        ValueError: with a sentence that names the setting.
    """

    def __init__(  # noqa: PLR0913 - each is a setting of its own
        self,
        name: str,
        *,
        command: Sequence[str] | None = None,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        check_output: bool = False,
        max_response_bytes: int = 1 << 20,
        recheck_s: float = 60.0,
        max_sessions: int = 100,
        max_sessions_per_caller: int | None = None,
        connect_timeout_s: float = 10.0,
        insecure: bool = False,
        inject: Mapping[str, Any] | None = None,
        schemas: Schemas | None = None,
        credential: Callable[[], Awaitable[Credential | None]] | None = None,
    ) -> None:
        words, address = read_command(command, url, insecure=insecure)
        if address and (env or cwd):
            raise ValueError("env and cwd are for a command")
        if min(max_response_bytes, max_sessions, recheck_s, connect_timeout_s) <= 0:
            raise ValueError("max_response_bytes, max_sessions, recheck_s and connect_timeout_s must be above zero")
        if check_output and schemas is None:
            raise ValueError("check_output needs something that compiles schemas")
        injection, secret_env = read_credential_place(inject, is_url=bool(address))
        if words and credential is not None and secret_env is None:
            raise ValueError("a credential for a command needs `inject: {kind: env, name: …}`")
        place = Place(words, address, read_env(env), cwd, injection, secret_env)
        self._settings = ServerSettings(name, place, max_response_bytes, recheck_s, connect_timeout_s)
        self._credential = credential
        self._audience: Audience | None = None
        self._wanted = Wanted()
        self._shared = Shared(name, lambda: self._open_link(None))
        self._sessions = Sessions(self._open_link, max_sessions, max_sessions_per_caller)
        self._calls = Calls(schemas if check_output else None, connect_timeout_s)
        self._parking = Parking(self._shared, self._sessions, self._calls)

    # --- ToolServer -------------------------------------------------------------------------------------------

    def validate_options(self, options: Mapping[str, Any]) -> None:
        """See `Upstream.validate_options`."""
        check_options(options)

    async def run(self, audience: Audience) -> None:
        """See `ToolServer.run`."""
        self._audience = audience
        try:
            await self._shared.run()
        finally:
            await self._sessions.aclose()

    def state(self) -> ServerState:
        """See `ToolServer.state`."""
        return self._shared.state()

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        """See `Upstream.send`. A JSON-RPC error is UPSTREAM_ERROR with its `fault`; `isError` results are delivered."""
        if type(grant) is not Grant:
            return NO_GRANT
        if grant.call.tool is None or self._shared.is_closed:
            return CLOSED
        peer = peer_of(grant.call)
        try:
            order = read_order(grant.call, peer)
            header = self._settings.place.header_of(credential)
        except ValueError as error:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, f"nothing was sent: {error}", reached=False)
        headers = dict([header]) if header is not None else {}
        link = self._shared.link
        if link is None:
            return self._shared.down()
        if peer is not None and self._parking.is_for(link, order, peer):
            return await self._parking.send(order, grant, peer, headers)
        has_session = peer is not None and peer.session_key is not None and not peer.is_modern
        if peer is not None and has_session and not self._shared.is_modern_only:
            found = await self._own_session(peer, grant.call)
            if isinstance(found, Undelivered):
                return found
            link = found
        return await self._calls.send(link, order, grant.call, peer, headers)

    def drop(self, is_over: Callable[[Call], bool]) -> None:
        """See `ToolServer.drop`."""
        self._parking.drop(is_over)
        self._sessions.drop(is_over)
        self._wanted.forget(is_over)

    async def aclose(self) -> None:
        """See `Upstream.aclose`."""
        self._parking.drop(lambda _: True)
        await self._shared.aclose()
        await self._sessions.aclose()

    # --- sessions ---------------------------------------------------------------------------------------------

    def _open_link(self, peer: Peer | None) -> Link:
        assert self._audience is not None
        shared = self._shared.link if peer is not None else None
        known = shared.tools.listing if shared is not None else None
        return Link(
            self._settings,
            self._audience,
            peer=peer,
            credential=self._credential,
            named=str(known.identity["name"]) if known is not None else "",
            wanted=self._wanted if peer is None else Wanted(),
        )

    async def _own_session(self, peer: Peer, call: Call) -> Link | Undelivered:
        """The session of a client that has one; the shared one where the server has no such sessions."""
        try:
            link = await self._sessions.of_client(peer, call)
        except ShareTaken:
            return SHARE_TAKEN
        if link is None:
            return down("the server has as many sessions as it may have")
        if link.is_up:
            return link
        shared = self._shared.link
        if shared is not None and shared.wire.is_modern and link.was_refused:
            self._shared.is_modern_only = True
            return shared
        _log.debug("%s: a client gets no session of its own: %s", self._settings.name, link.failure())
        return down("no session with the server")
