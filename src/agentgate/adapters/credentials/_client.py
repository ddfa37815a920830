"""HTTP to a source of credentials: one bounded answer, from the place that was configured and nowhere else."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import aiohttp
from yarl import URL

from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.ports.credentials import CredentialRefused

MAX_ANSWER_BYTES: Final = 1 << 18


class Client:
    """Follows no redirect, keeps no cookie, takes no proxy from the environment. Texts of errors are our own."""

    def __init__(self, ca_file: str | None = None) -> None:
        """Raises ValueError where `ca_file` is no file of certificates."""
        try:
            self._tls = ssl.create_default_context(cafile=str(Path(ca_file)) if ca_file is not None else None)
        except OSError as error:  # SSLError is one
            raise ValueError(f"ca_file: {error.strerror or 'no certificates'}") from None
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Status and body. Raises CredentialRefused. The deadline is the caller's."""
        if self._session is None:  # not in __init__: a session belongs to the running loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=self._tls, keepalive_timeout=4.0),
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                timeout=aiohttp.ClientTimeout(total=None),
                headers={"Accept-Encoding": "identity", "User-Agent": "agentgate"},
            )
        try:
            async with self._session.request(
                method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False
            ) as answer:
                raw = b""
                async for part in answer.content.iter_any():
                    raw += part
                    if len(raw) > MAX_ANSWER_BYTES:
                        answer.close()
                        raise CredentialRefused(f"its source answered more than {MAX_ANSWER_BYTES} bytes")
                return answer.status, raw
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise CredentialRefused(f"its source cannot be reached ({type(error).__name__})") from None

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()


def json_object(raw: bytes) -> dict[str, Any]:
    """Raises CredentialRefused where it is none."""
    try:
        value = parse(raw)
    except NotStrictJson:
        raise CredentialRefused("its source answered what is not strict JSON") from None
    if not isinstance(value, dict):
        raise CredentialRefused("its source answered what is no JSON object")
    return value


def seconds(value: Any) -> float | None:
    """A lifetime in an answer; None where it names none. Raises CredentialRefused where it is no number above 0."""
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal() and len(value) < 12:
        value = int(value)  # some write it as a text
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise CredentialRefused("its source gave one that has expired, or says no lifetime that could be understood")
    return float(value)
