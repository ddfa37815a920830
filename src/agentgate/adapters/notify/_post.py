"""One POST to where an endpoint is, and nowhere else.

The address is checked when the socket for it is made: whatever a name resolved to, then or before, a connection goes
to an address that was looked at. There are no redirects, no proxies of the environment, no cookies, and nobody reads
what is answered.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agentgate import __version__
from agentgate.core.hosts import is_host, is_public
from agentgate.ports.notices import Failure

WITHIN_S: Final = 10.0
_REFUSED_FOR_GOOD: Final = frozenset({400, 413, 415, 422})
_MOST_WAIT_S: Final = 3_600.0


class NotPublic(OSError):
    """The address is not one of the internet's."""


class _Names(AbstractResolver):
    """The system's resolver, in threads of an endpoint's own. A question that nobody answers holds its thread for
    longer than we wait: in the loop's few, it would be in the way of calls."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(2, "agentgate-webhook")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look = partial(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, look)
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=of, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for of, _, proto, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


class Post:
    """An endpoint's URL, and the way to it."""

    def __init__(
        self,
        url: str,
        *,
        allow_private: bool = False,
        within_s: float = WITHIN_S,
        resolver: AbstractResolver | None = None,
    ) -> None:
        """Raises ValueError with a sentence when `url` cannot be used."""
        self._url = _checked(url, allow_private=allow_private)
        parts = urlsplit(self._url)
        self.shown = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
        """Without path and query, which may be the secret."""
        self._allow_private = allow_private
        self._within_s = within_s
        self._resolver = resolver if resolver is not None else _Names()
        self._session: aiohttp.ClientSession | None = None

    async def send(self, body: bytes, headers: Mapping[str, str]) -> Failure | None:
        """None when it was taken (2xx)."""
        if self._session is None:  # not in __init__: a session belongs to the running loop
            self._session = self._open()
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as answer:
                return _failure(answer.status, answer.headers.get("Retry-After", ""))
        except TimeoutError:
            return Failure(f"no answer within {self._within_s:g} s")
        except aiohttp.ClientConnectorCertificateError:
            return Failure("its certificate does not verify")
        except aiohttp.ClientConnectorDNSError:
            return Failure("its name cannot be resolved")
        except aiohttp.ClientConnectorError as error:
            why = error.os_error
            return Failure(f"cannot connect: {os.strerror(why.errno) if why.errno else why}")
        except (aiohttp.ClientError, OSError, ValueError) as error:  # its text may have the URL
            return Failure(f"the exchange failed: {type(error).__name__}")

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._resolver.close()

    def _open(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=4,
            resolver=self._resolver,
            use_dns_cache=False,
            socket_factory=None if self._allow_private else _guarded,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=self._within_s),
            trust_env=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": f"AgentGate/{__version__}", "Content-Type": "application/json"},
        )


def _guarded(info: aiohttp.AddrInfoType) -> socket.socket:
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise NotPublic("its address is not public, and allow_private is not set")
    return socket.socket(family, kind, protocol)


def _checked(url: str, *, allow_private: bool) -> str:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("the URL is none") from None
    if not is_host(parts.hostname or ""):
        raise ValueError("the URL's host cannot be one")
    if parts.scheme not in ("https", "http") or not parts.hostname:
        raise ValueError("the URL must start with https://")
    if parts.username is not None or parts.password is not None:
        raise ValueError("the URL must not have a user or a password in it")
    if parts.scheme == "http" and not allow_private:
        raise ValueError("the URL must start with https:// (http:// only with allow_private: true)")
    return url


def _failure(status: int, retry_after: str) -> Failure | None:
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        return Failure(f"it answers {status}, and redirects are not followed")
    wait_s = min(float(retry_after), _MOST_WAIT_S) if retry_after.isascii() and retry_after.isdecimal() else 0.0
    return Failure(f"it answers {status}", status in _REFUSED_FOR_GOOD, wait_s)
