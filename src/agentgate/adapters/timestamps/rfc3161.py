"""Time stamps of an authority that speaks RFC 3161 over HTTP (§3.4).

The authority learns the SHA-256 of a signature, and nothing of what was signed. What it answers is checked before it
goes into a pack; which authority to believe is the auditor's choice, unless certificates are given here.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Final

import httpx
from cryptography.x509 import Certificate, ObjectIdentifier
from rfc3161_client import (
    HashAlgorithm,
    TimeStampRequest,
    TimestampRequestBuilder,
    TimeStampResponse,
    VerificationError,
    VerifierBuilder,
    decode_timestamp_response,
)

from agentgate.core.errors import TimestampUnavailable

MAX_REPLY_BYTES: Final = 65_536
_GRANTED: Final = 0
_SHA256: Final = ObjectIdentifier("2.16.840.1.101.3.4.2.1")


class Rfc3161Authority:
    """One authority at one URL. `roots`: then its signature has to lead to one of these."""

    def __init__(self, url: str, *, timeout_s: float = 10.0, roots: Sequence[Certificate] = ()) -> None:
        """Raises ValueError when `url` is not an http(s) URL. Plain http is usual here: the reply is signed."""
        if not url.startswith(("https://", "http://")):
            raise ValueError("the URL of a time stamp authority must start with https:// or http://")
        self._url = url
        self._timeout_s = timeout_s
        self._roots = tuple(roots)
        self._client: httpx.AsyncClient | None = None

    async def stamp(self, message: bytes) -> bytes:
        """See `ports.TimestampAuthority`."""
        request = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
        raw = await self._ask(request.as_bytes())
        try:
            reply = decode_timestamp_response(raw)
            if reply.status != _GRANTED:
                raise TimestampUnavailable(f"the time stamp authority refused (status {reply.status})")
            self._check(request, reply, message)
        except ValueError as error:
            text = f"the time stamp authority answered something that is no time stamp: {error}"
            raise TimestampUnavailable(text) from error
        return raw

    def _check(self, request: TimeStampRequest, reply: TimeStampResponse, message: bytes) -> None:
        """Whether it is an answer to this very request. Raises TimestampUnavailable."""
        info = reply.tst_info
        imprint = info.message_imprint
        if (imprint.hash_algorithm, imprint.message) != (_SHA256, hashlib.sha256(message).digest()):
            raise TimestampUnavailable("the time stamp is of something else")
        if info.nonce != request.nonce:
            raise TimestampUnavailable("the time stamp answers another request")
        if not self._roots:
            return
        builder = VerifierBuilder.from_request(request)
        for root in self._roots:
            builder = builder.add_root_certificate(root)
        try:
            builder.build().verify_message(reply, message)
        except VerificationError as error:
            raise TimestampUnavailable(f"the time stamp does not hold: {error}") from error

    async def _ask(self, request: bytes) -> bytes:
        headers = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self._timeout_s)
        try:
            async with (
                asyncio.timeout(self._timeout_s),  # the whole of it: the client's own is for each read
                self._client.stream("POST", self._url, content=request, headers=headers) as response,
            ):
                if response.status_code != httpx.codes.OK:
                    raise TimestampUnavailable(f"the time stamp authority answered HTTP {response.status_code}")
                reply = bytearray()
                async for part in response.aiter_bytes():
                    reply += part
                    if len(reply) > MAX_REPLY_BYTES:
                        raise TimestampUnavailable("the time stamp authority's answer is too long")
                return bytes(reply)
        except (
            httpx.HTTPError,
            httpx.InvalidURL,
            UnicodeError,
            TimeoutError,
        ) as error:  # UnicodeError: a host that is none
            text = str(error) or type(error).__name__
            raise TimestampUnavailable(f"the time stamp authority does not answer: {text}") from error

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()
