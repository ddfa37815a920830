"""A server that is a child process: JSON-RPC by lines on its stdin and stdout (MCP's stdio transport).

The SDK's own transport hands LOGNAME, SHELL, TERM and USER on, reads lines of any length, and leaves the
grandchildren of a server that ends by itself. This one gives the child what was configured and four variables,
reads bounded lines, and ends the whole process group.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import anyio
import jiter
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError
from mcp_types.jsonrpc import PARSE_ERROR, ErrorData, jsonrpc_message_adapter

from agentgate.adapters.upstreams._mcp.settings import Place, ServerSettings
from agentgate.core.redaction.scrub import scrub_text
from agentgate.ports.upstreams import Credential

INHERITED: Final = ("PATH", "HOME", "LANG", "TMPDIR")
"""All that a child sees of our environment. Credentials of others are in the rest of it."""

_CHUNK: Final = 1 << 16
_GRACE_S: Final = 0.5
_TERM_S: Final = 1.0
_MAX_LOGGED_CHARS: Final = 500
_MAX_LOGGED_LINES: Final = 1_000
_MAX_SKIPPED: Final = 64
"""How many times its limit a line may have; a server that goes on is cut off."""
_ID: Final = re.compile(rb'"id"\s*:\s*(\d{1,15})\b')
_ENDS: Final = 512

_log = logging.getLogger("agentgate.mcp.stdio")

Streams = tuple[MemoryObjectReceiveStream[SessionMessage | Exception], MemoryObjectSendStream[SessionMessage]]


def _environment(place: Place, credential: Credential | None) -> dict[str, str]:
    """What was configured, the credential, and of our own environment `INHERITED` only."""
    env = {name: os.environ[name] for name in INHERITED if name in os.environ} | dict(place.env)
    if credential is not None and place.secret_env is not None:
        env[place.secret_env] = credential.secret
    return env


class LongLine:
    """A line that was not read: its two ends, in which its id may be."""

    def __init__(self) -> None:
        self.head = b""
        self.tail = b""
        self.size = 0

    def add(self, part: bytes) -> None:
        self.head = self.head or part[:_ENDS]
        self.tail = (self.tail + part[-_ENDS:])[-_ENDS:]
        self.size += len(part)


class Lines:
    """Cuts chunks into lines of at most `most` bytes. What is longer comes as its ends, and costs no memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun = bytearray()
        self._long: LongLine | None = None

    def feed(self, chunk: bytes) -> Iterator[bytes | LongLine]:
        """Raises OverflowError where a line goes on and on."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._add(part)
            if self._long is not None:
                yield self._long
                self._long = None
            else:
                yield bytes(self._begun)
                self._begun.clear()
        self._add(rest)

    def _add(self, part: bytes) -> None:
        if self._long is None and len(self._begun) + len(part) > self._most:
            self._long = LongLine()
            self._long.add(bytes(self._begun))
            self._begun.clear()
        if self._long is None:
            self._begun += part
            return
        self._long.add(part)
        if self._long.size > _MAX_SKIPPED * self._most:
            raise OverflowError


@asynccontextmanager
async def child_process(
    settings: ServerSettings,
    credential: Credential | None,
    *,
    max_line_bytes: int,
    say: Callable[[str], str],
    on_exit: Callable[[int], None],
) -> AsyncIterator[Streams]:
    """The streams to and from a child, which ends with the block: its whole process group.

    Args:
        credential: whatever the child writes to stderr, its secrets are not in our log.
        say: makes the text of an error of ours that no server can forge.
        on_exit: told the `returncode` of a child that has ended by itself.

    Raises:
        OSError: it could not be started.
    """
    process = await asyncio.create_subprocess_exec(
        *settings.place.command,
        env=_environment(settings.place, credential),
        cwd=settings.place.cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    incoming, read = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    write, outgoing = anyio.create_memory_object_stream[SessionMessage](0)
    tasks = [
        asyncio.create_task(_read(process, incoming, max_line_bytes, say)),
        asyncio.create_task(_write(process, outgoing, incoming)),
        asyncio.create_task(_log_errors(process, settings.name, credential.secrets if credential is not None else ())),
    ]
    try:
        yield read, write
    finally:
        assert process.stdout is not None
        has_ended = process.stdout.at_eof()
        for stream in (read, write, incoming, outgoing):
            stream.close()
        ending = asyncio.ensure_future(_end(process, tasks))
        try:
            status = await asyncio.shield(ending)
            if has_ended and status is not None:
                on_exit(status)
        except asyncio.CancelledError:  # no hurry of ours leaves a process behind
            _kill_group(process.pid, signal.SIGKILL)
            await ending
            raise


async def _read(
    process: asyncio.subprocess.Process,
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
    max_line_bytes: int,
    say: Callable[[str], str],
) -> None:
    assert process.stdout is not None
    lines = Lines(max_line_bytes)
    try:
        async with incoming:
            while chunk := await process.stdout.read(_CHUNK):
                for line in lines.feed(chunk):
                    message = _message(line, say)
                    if message is not None:
                        await incoming.send(message)
    except OverflowError:
        _log.warning("a server wrote a line without end; it is cut off")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, ConnectionError):
        return  # the session has gone, or the pipe: both end here


def _message(line: bytes | LongLine, say: Callable[[str], str]) -> SessionMessage | None:
    """The line as a message. One that is none is an error to whom it answers, where that can be seen."""
    if isinstance(line, LongLine):
        return _unreadable(line.head, say("too_large")) or _unreadable(line.tail, say("too_large"))
    if not line.strip():
        return None
    try:
        value = jiter.from_json(line, catch_duplicate_keys=True, allow_inf_nan=False)
    except ValueError:
        kind = "not_strict"
    else:
        try:  # the rest of strictness is for whoever uses the value: one odd number must not cost a whole list
            return SessionMessage(jsonrpc_message_adapter.validate_python(value, by_name=False))
        except ValueError:
            kind = "not_jsonrpc"
    return _unreadable(line[:_ENDS], say(kind)) or _unreadable(line[-_ENDS:], say(kind))


def _unreadable(part: bytes, why: str) -> SessionMessage | None:
    found = _ID.search(part)
    if found is None:
        _log.debug("a line of a server is not JSON-RPC")
        return None
    error = ErrorData(code=PARSE_ERROR, message=why)
    return SessionMessage(JSONRPCError(jsonrpc="2.0", id=int(found[1]), error=error))


async def _write(
    process: asyncio.subprocess.Process,
    outgoing: MemoryObjectReceiveStream[SessionMessage],
    incoming: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    assert process.stdin is not None
    try:
        async with outgoing:
            async for item in outgoing:
                text = item.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()
    except (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        return  # the session has gone, or the server no longer listens
    finally:
        incoming.close()  # nobody waits for answers to what cannot be sent


async def _log_errors(process: asyncio.subprocess.Process, name: str, secrets: tuple[str, ...]) -> None:
    """The child's stderr into our log at debug, line by line and bounded; the rest is read and dropped."""
    assert process.stderr is not None
    lines = Lines(_MAX_LOGGED_CHARS)
    left = _MAX_LOGGED_LINES
    while chunk := await process.stderr.read(_CHUNK):
        if left <= 0 or not _log.isEnabledFor(logging.DEBUG):
            continue
        with suppress(OverflowError):
            for line in lines.feed(chunk):
                text = line if isinstance(line, bytes) else line.head
                said = scrub_text(text.decode(errors="replace"), secrets)
                _log.debug("%s: %s", name, said[:_MAX_LOGGED_CHARS])
                left -= 1


async def _end(process: asyncio.subprocess.Process, tasks: list[asyncio.Task[Any]]) -> int | None:
    """Close its stdin, wait a moment, then end the group: the protocol's order of shutting down.

    Its status, if it ended without a signal of ours.
    """
    assert process.stdin is not None
    process.stdin.close()
    await _wait(process, _GRACE_S)
    status = process.returncode
    if process.returncode is None and _kill_group(process.pid, signal.SIGTERM):
        await _wait(process, _TERM_S)
    _kill_group(process.pid, signal.SIGKILL)  # grandchildren outlive a server that has gone by itself
    await _wait(process, _TERM_S)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    transport = getattr(process, "_transport", None)  # nothing public closes pipes that a stray still holds
    if transport is not None:
        with suppress(PermissionError, ProcessLookupError):
            transport.close()
    return status


async def _wait(process: asyncio.subprocess.Process, most_s: float) -> None:
    """By polling: `process.wait` also waits for pipes that a grandchild may hold."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + most_s
    while process.returncode is None and loop.time() < deadline:  # noqa: ASYNC110 - as above
        await asyncio.sleep(0.005)


def _kill_group(group: int, how: signal.Signals) -> bool:
    try:
        os.killpg(group, how)
    except (ProcessLookupError, PermissionError):
        return False
    return True
