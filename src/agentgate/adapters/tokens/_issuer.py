"""The keys of one issuer: where they are read, for how long they are believed, and when they are read again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from agentgate.adapters.tokens._jwks import KeySet, NoKeySet, read_key_set
from agentgate.core.hosts import is_host, is_loopback
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.ports.ambient import Clock

MAX_DOCUMENT_BYTES: Final = 262_144
FETCH_S: Final = 5.0
"""For everything that one reading needs: who calls for the first time waits for it."""
MAX_AGE_S: Final = 600.0
"""Keys are read again after it, while calls go on with the ones that are here."""
MAX_STALE_S: Final = 3600.0
"""Then they are believed no more: whoever can keep us from the issuer must not keep a withdrawn key alive."""
COOL_DOWN_S: Final = 10.0
"""Between two readings of which the first failed or was for a key that nobody knew: tokens are free to make up."""

logger = logging.getLogger("agentgate.tokens")


class Unreadable(Exception):
    """The keys could not be read. The text says why, in words of ours."""


class KeySource(Protocol):
    """Where the JWK Set of an issuer is."""

    async def read(self) -> bytes:
        """The bytes of the JWK Set. Raises Unreadable."""
        ...


class KeyFile:
    """A file, for gateways that reach no issuer. It is read again when a token names a key that was not in it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def read(self) -> bytes:
        return self.read_now()

    def read_now(self) -> bytes:
        """Raises Unreadable."""
        try:
            with self._path.open("rb") as file:
                raw = file.read(MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            raise Unreadable(f"{self._path}: {error.strerror}") from None
        if len(raw) > MAX_DOCUMENT_BYTES:
            raise Unreadable(f"{self._path} has more than {MAX_DOCUMENT_BYTES} bytes")
        return raw


class KeyUrl:
    """`jwks_url`, or what the issuer's metadata names (RFC 8414, then OpenID Connect Discovery)."""

    def __init__(self, issuer: str, jwks_url: str | None) -> None:
        """Raises ValueError naming the URL that may not be asked."""
        require_safe(issuer, "issuer")
        if "?" in issuer:
            raise ValueError("issuer may not have a query (RFC 8414)")
        if jwks_url is not None:
            require_safe(jwks_url, "jwks_url")
        self._issuer = issuer
        self._jwks_url = jwks_url

    async def read(self) -> bytes:
        async with aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=aiohttp.ClientTimeout(total=FETCH_S),
            headers={"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "agentgate"},
        ) as session:
            return await _get(session, self._jwks_url or await self._discover(session))

    async def _discover(self, session: aiohttp.ClientSession) -> str:
        parts = urlsplit(self._issuer)
        path = parts.path.rstrip("/")
        origin = f"{parts.scheme}://{parts.netloc}"
        why = "the issuer has no metadata"
        for url in (
            f"{origin}/.well-known/oauth-authorization-server{path}",
            f"{origin}{path}/.well-known/openid-configuration",
        ):
            try:
                document = parse(await _get(session, url))
            except (Unreadable, NotStrictJson) as error:
                why = str(error)
                continue
            return self._jwks_uri(document)
        raise Unreadable(why)

    def _jwks_uri(self, document: Any) -> str:
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise Unreadable("the metadata is another issuer's (its issuer is not exactly the configured one)")
        found = document.get("jwks_uri")
        if not isinstance(found, str):
            raise Unreadable("the metadata has no jwks_uri")
        try:
            require_safe(found, "jwks_uri")
        except ValueError as error:
            raise Unreadable(str(error)) from None
        return found


async def _get(session: aiohttp.ClientSession, url: str) -> bytes:
    """The body of a 200, whole. No redirect is followed: the address would be somebody else's choice."""
    try:
        async with session.get(URL(url, encoded=True), allow_redirects=False) as response:
            if response.status != 200:
                raise Unreadable(f"{urlsplit(url).netloc} answered {response.status}")
            body = bytearray()
            async for part in response.content.iter_any():
                body += part
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise Unreadable(f"{urlsplit(url).netloc} answered with more than {MAX_DOCUMENT_BYTES} bytes")
            return bytes(body)
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise Unreadable(f"{urlsplit(url).netloc} does not answer ({type(error).__name__})") from None


def require_safe(url: str, name: str) -> None:
    """Keys come over https, or over http from this very machine. Raises ValueError."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(f"{name} is not a URL") from None
    if parts.scheme not in ("http", "https") or not host or not is_host(host) or "@" in parts.netloc or parts.fragment:
        raise ValueError(f"{name} must be an https URL without a user and a fragment")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError(f"{name} is plain http, so anybody between could give us keys: use https")


class IssuerKeys:
    """An issuer's keys as they are believed now. One reading at a time, whoever asks."""

    def __init__(self, source: KeySource, clock: Clock, *, on_reading: Callable[[bool], None]) -> None:
        """`on_reading` hears of every reading whether it went well."""
        self._source = source
        self._clock = clock
        self._on_reading = on_reading
        self._keys: KeySet | None = None
        self._read_at = 0.0
        self._not_before = 0.0
        self._reading: asyncio.Task[None] | None = None

    def begin(self) -> asyncio.Task[None] | None:
        """Read, or go on reading. None where it is too early to ask again."""
        if self._reading is None or self._reading.done():
            if self._clock.boot_s() < self._not_before:
                return None
            self._reading = asyncio.create_task(self._read())
        return self._reading

    def fresh(self) -> KeySet | None:
        """The keys, where they were read a short time ago: what a call costs when all is well."""
        return self._believed(MAX_AGE_S)

    async def current(self) -> KeySet | None:
        """The keys, or None when there are none that may be believed. Waits only if it would be None otherwise."""
        believed = self.fresh()
        if believed is not None:
            return believed
        reading = self.begin()
        believed = self._believed(MAX_STALE_S)
        if believed is None and reading is not None:
            await asyncio.shield(reading)
            believed = self._believed(MAX_STALE_S)
        return believed

    async def newer(self) -> KeySet | None:
        """The keys, read again because a token names one that is not among them; rarely, however many do."""
        reading = self.begin()
        if reading is not None:
            self._not_before = self._clock.boot_s() + COOL_DOWN_S
            await asyncio.shield(reading)
        return self._believed(MAX_STALE_S)

    def _believed(self, age_s: float) -> KeySet | None:
        return self._keys if self._keys is not None and self._clock.boot_s() - self._read_at < age_s else None

    async def _read(self) -> None:
        asked_at = self._clock.boot_s()
        try:
            async with asyncio.timeout(FETCH_S):
                keys = read_key_set(await self._source.read())
        except (Unreadable, NoKeySet, TimeoutError) as error:
            self._not_before = self._clock.boot_s() + COOL_DOWN_S
            logger.warning("the token issuer's keys stay as they were: %s", str(error) or f"not within {FETCH_S:g} s")
            self._on_reading(False)
            return
        if self._keys is None or keys.fingerprint != self._keys.fingerprint:
            self._keys = keys  # otherwise the same object goes on to stand for the same keys
        self._read_at = asked_at
        self._on_reading(True)

    async def aclose(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._reading
