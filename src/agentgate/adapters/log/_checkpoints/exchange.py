"""What is said to a checkpoint webhook and to a witness (c2sp.org/tlog-witness), and how their answers are read."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from agentgate.adapters.log._intake import told
from agentgate.core.note import NoteInvalid, NoteKey, cosignatures

if TYPE_CHECKING:
    import aiohttp

_MAX_ANSWER_BYTES: Final = 65_536
_SIZE: Final = re.compile(rb"(0|[1-9][0-9]{0,18})\n")


class NotKnown(Exception):
    """There is no answer, or it is not what the protocol has."""


class Conflict(Exception):
    """A witness has cosigned a checkpoint of another size than the request went from."""

    def __init__(self, size: int) -> None:
        super().__init__(f"it has cosigned a tree of {size}")
        self.size = size


class Unproven(Exception):
    """A witness does not accept that the checkpoint continues the last one that it has cosigned."""


@dataclass(frozen=True, slots=True)
class Webhook:
    """Who is sent every checkpoint, at most one in `every_s`, and shows the newest at the same URL.

    `optional`: a start goes on when it does not answer.
    """

    url: str
    secret: str | None = None
    every_s: float = 10.0
    optional: bool = False

    @property
    def shown(self) -> str:
        """The URL without what may be secret in it."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"


@dataclass(frozen=True, slots=True)
class Witness:
    """Who cosigns checkpoints: its submission prefix, and the key that its cosignatures are verified under."""

    url: str
    key: NoteKey

    @property
    def id(self) -> str:
        return f"{self.key.name}+{self.key.hash.hex()}"

    def verified(self, note: bytes, lines: bytes) -> list[str]:
        """The lines that are its cosignatures of the note, without newlines. Raises NotKnown when there is none."""
        if b"\n\n" in b"\n" + lines:  # the note's signatures would become part of the text that is signed
            raise NotKnown("it answers with an empty line among its signatures")
        try:
            found = [one.line for one in cosignatures(note + lines, [self.key])]
        except NoteInvalid as error:
            raise NotKnown(f"it answers with a cosignature that does not hold: {error}") from error
        if not found:
            raise NotKnown("it answers without a cosignature of the key that is configured")
        return found[:1]


class Exchange:
    """One HTTP client for all of them: no proxy of the environment, no redirect, no long answer, no long wait."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, webhook: Webhook) -> bytes | None:
        """The newest checkpoint that the webhook has; None for 404. Raises OSError, NotKnown."""
        status, body, _ = await self._ask("GET", webhook.url, None, {})
        if status == 404:
            return None
        if status != 200:
            raise NotKnown(f"it answers {status}")
        return body

    async def post(self, webhook: Webhook, note: bytes) -> None:
        headers = {"Content-Type": "text/plain; charset=utf-8"}
        if webhook.secret is not None:
            digest = hmac.new(webhook.secret.encode(), note, hashlib.sha256).hexdigest()
            headers["X-AgentGate-Signature"] = f"sha256={digest}"
        status, _, _ = await self._ask("POST", webhook.url, note, headers)
        if not 200 <= status < 300:
            raise NotKnown(f"it answers {status}")

    async def add_checkpoint(self, witness: Witness, body: bytes) -> bytes:
        """The signature lines that the witness answers with.

        Raises:
            Conflict, Unproven: what the witness has seen is something else.
            OSError, NotKnown: it was not reached, or does not want to.
        """
        url = f"{witness.url.rstrip('/')}/add-checkpoint"
        status, answer, media_type = await self._ask("POST", url, body, {"Content-Type": "text/plain; charset=utf-8"})
        if status == 200:
            return answer
        if status == 409 and media_type == "text/x.tlog.size" and _SIZE.fullmatch(answer):
            raise Conflict(int(answer))
        if status == 422:
            raise Unproven("it answers 422: the checkpoint does not continue what it has cosigned")
        raise NotKnown(f"it answers {status}")

    async def _ask(self, method: str, url: str, data: bytes | None, headers: dict[str, str]) -> tuple[int, bytes, str]:
        import aiohttp  # for who has told somebody of checkpoints: a tenth of a second

        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=self._within_s)
            self._session = aiohttp.ClientSession(timeout=timeout, trust_env=False)
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as answer:
                body = await answer.content.read(_MAX_ANSWER_BYTES + 1)
                while len(body) <= _MAX_ANSWER_BYTES and (more := await answer.content.read(_MAX_ANSWER_BYTES)):
                    body += more
                if len(body) > _MAX_ANSWER_BYTES:
                    raise NotKnown(f"it answers with more than {_MAX_ANSWER_BYTES} bytes")
                return answer.status, body, answer.content_type
        except aiohttp.ClientError as error:
            raise NotKnown(told(error)) from error

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
