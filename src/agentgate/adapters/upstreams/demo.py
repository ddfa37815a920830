"""Upstream kind `demo`: real small tools, so that a new installation has something to govern.

SQL over a sample database, files in a sandbox, HTTP to a service of its own on loopback, a slow tool and a
rate limited one. None of them reaches anything outside its directory and 127.0.0.1.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentgate.adapters.upstreams._answers import CLOSED, NO_GRANT, ToolError
from agentgate.adapters.upstreams._demo_tools import DEMO_TOOLS, DemoTool
from agentgate.adapters.upstreams._sample_db import SampleDatabase
from agentgate.adapters.upstreams._sandbox import Sandbox
from agentgate.core.decision import Grant
from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Credential, Delivered, Undelivered

if TYPE_CHECKING:
    from agentgate.adapters.upstreams._sample_api import SampleApi

__all__ = ["DEMO_TOOLS", "DemoTool", "DemoUpstream"]

Arguments = Mapping[str, Any]
Result = dict[str, Any] | Undelivered

_MAX_SLEEP_S = 60.0


class DemoUpstream:
    """Implements `Upstream`. Makes `directory`/sample.db and `directory`/files at first start and keeps them."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = SampleDatabase(directory / "sample.db")
        self._sandbox = Sandbox(directory / "files")
        self._api: SampleApi | None = None
        self._closed = False
        # Quick tools answer on the spot: awaiting them would cost the hot path a coroutine each.
        self._quick: dict[str, Callable[[Arguments], Result]] = {
            "db_query": lambda a: self._database.query(_text(a, "query")),
            "db_insert": lambda a: self._database.insert(_text(a, "table"), _columns(a, "data")),
            "db_update": self._update,
            "file_read": lambda a: self._sandbox.read(_text(a, "path")),
            "file_write": lambda a: self._sandbox.write(_text(a, "path"), _text(a, "content", "")),
            "rate_limited_tool": lambda a: {"status": "ok", "echo": dict(a)},
        }
        self._waiting: dict[str, Callable[[Arguments], Awaitable[Result]]] = {
            "api_get": lambda a: self._service().get(_text(a, "endpoint")),
            "api_post": lambda a: self._service().post(_text(a, "endpoint"), a.get("payload")),
            "slow": _slow,
        }

    def validate_options(self, options: Mapping[str, Any]) -> None:
        """Demo tools take no options.

        Raises:
            ValueError: there are some.
        """
        if options:
            raise ValueError(f"a demo tool has no options, but got {', '.join(sorted(options))}")

    async def send(self, grant: Grant, credential: Credential | None) -> Delivered | Undelivered:
        """See `Upstream.send`. A tool that says no is UPSTREAM_ERROR with a sentence; `credential` is not used."""
        if type(grant) is not Grant:
            return NO_GRANT
        if self._closed:
            return CLOSED
        call = grant.call
        try:
            quick = self._quick.get(call.tool_name)
            if quick is not None:
                result = quick(call.arguments)
            elif call.tool_name in self._waiting:
                result = await self._waiting[call.tool_name](call.arguments)
            else:
                return Undelivered(ReasonCode.UPSTREAM_ERROR, "the demo has no such tool", reached=False)
        except ToolError as error:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, str(error))
        except OSError as error:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, _say(error))
        except ValueError:
            return Undelivered(ReasonCode.UPSTREAM_ERROR, "an argument cannot be used")
        return result if isinstance(result, Undelivered) else Delivered(result)

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._api is not None:
            await self._api.aclose()
        self._database.close()
        self._sandbox.close()

    def _service(self) -> SampleApi:
        if self._api is None:
            from agentgate.adapters.upstreams._sample_api import SampleApi  # an HTTP client and server: for its callers

            self._api = SampleApi()
        return self._api

    def _update(self, arguments: Arguments) -> Result:
        changes = {**_columns(arguments, "data"), **_columns(arguments, "set")}
        return self._database.update(_text(arguments, "table"), changes, _columns(arguments, "where"))


async def _slow(arguments: Arguments) -> Result:
    seconds = arguments.get("seconds")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= _MAX_SLEEP_S:
        raise ToolError(f"seconds must be a number from 0 to {_MAX_SLEEP_S:g}")
    await asyncio.sleep(seconds)
    return {"status": "ok", "slept_s": seconds}


def _text(arguments: Arguments, name: str, default: str | None = None) -> str:
    value = arguments.get(name, default)
    if not isinstance(value, str):
        raise ToolError(f"{name} must be a text")
    return value


def _columns(arguments: Arguments, name: str) -> Mapping[str, Any]:
    value = arguments.get(name, {})
    if not isinstance(value, dict):
        raise ToolError(f"{name} must be an object of columns")
    return value


def _say(error: OSError) -> str:
    """Without the file's name, which is an argument."""
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "the path leads through something that is not a directory of the sandbox"
    return os.strerror(error.errno) if error.errno is not None else "the tool failed"
