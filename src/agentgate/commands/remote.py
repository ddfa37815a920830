"""The control routes of a running gateway, as the command line uses them.

Nothing is retried but an order to stop, which its id makes one kill however often it is said.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import httpx

from agentgate.commands.answers import (
    Abandoned,
    Answer,
    NotAGateway,
    Unanswered,
    answer_of,
    content_of,
    fitting,
    number_of,
    or_silence,
    why,
    within,
)
from agentgate.core.hosts import is_host, is_loopback

CONNECT_S: Final = 5.0
ANSWER_S: Final = 30.0
"""A kill may be waited for as long as the gateway's drain timeout (2 s unless configured) before it is answered."""
_STREAM: Final = httpx.Timeout(300.0, connect=CONNECT_S)
"""A long log is looked through while nothing fits."""

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is not asked: to load whom a machine trusts takes as long as a command does."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The newest kills in force, oldest first, and how many there are in all."""

    kills: list[Answer]
    total: int


@dataclass(frozen=True, slots=True)
class Download:
    """A pack that comes: of how many events, of how many bytes, and these."""

    events: int
    size: int
    pack_id: str
    hmac: str | None
    """Of a view, over all its bytes, in hexadecimals."""
    parts: Iterator[bytes]


class NotText(Exception):
    """Nothing was asked: it has half a character, as a shell hands on what is not UTF-8."""


class Remote:
    """One gateway, or what stands before several, and one person's key. Not for several threads at once.

    Whatever is asked may end in Refusal, Unanswered or NotAGateway, an order in Abandoned too; what comes in pieces
    also in the middle of it. What cannot be asked is NotText.
    """

    def __init__(
        self, url: str, key: str, *, answer_s: float = ANSWER_S, transport: httpx.BaseTransport | None = None
    ) -> None:
        """Raises ValueError with a sentence when `url` or `key` cannot be one."""
        self.url = url.rstrip("/")
        host = host_of(url)
        if host is None:
            raise ValueError(f"{url!r} is not a URL of a gateway, such as http://127.0.0.1:8000")
        if not key or not fits_header(key):
            raise ValueError("the key has characters that no key has")
        self.is_clear_text = httpx.URL(url).scheme == "http" and not is_loopback(host)
        self._whole_s = CONNECT_S + answer_s
        self._client = httpx.Client(
            base_url=self.url,
            headers=_shown(key),
            timeout=httpx.Timeout(answer_s, connect=min(CONNECT_S, answer_s)),
            verify=True if self.url.startswith("https:") else _NO_TLS,
            trust_env=not is_loopback(host),  # a proxy has no business between two processes of one machine
            transport=transport,
        )

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def kill(self, order: Mapping[str, Any]) -> Answer:
        """Give an order that has an `id`, which makes it one kill however often it is said."""
        return self._order("/kills", order, wants=("id", "drained"))

    def progress(self, kill_id: str) -> Answer:
        """How far a kill has come, with `active`."""
        return self._get(_path("kills", kill_id), wants=("id", "drained", "active"))

    def kills(self, newest: int | None = None) -> Listing:
        """Kills in force."""
        answer, headers = self._send("GET", "/kills", asked={"limit": newest} if newest is not None else None)
        kills = fitting(answer, ("kills",))["kills"]
        total = number_of(headers.get("X-Total-Count"))
        return Listing(kills, len(kills) if total is None else total)

    def release(self, kill_id: str, *, force: bool = False) -> Answer:
        """`status` is `released`, or `pending` where more persons have to ask."""
        return self._post(_path("kills", kill_id, "release"), {"force": force}, wants=("id", "status"))

    def resume(self, *, force: bool = False) -> Answer:
        """End every pause: `released` ids, or `status` `pending`."""
        return self._post("/system/resume", {"force": force}, wants=("status",))

    def members(self) -> list[Answer]:
        return list(self._get("/members", wants=("members",))["members"])

    def attest_gone(self, member: str) -> Answer:
        return self._post(_path("members", member, "gone"), {}, wants=("member", "presence"))

    def calls(self) -> list[Answer]:
        """Calls in flight in every member."""
        return list(self._get("/calls", wants=("calls",))["calls"])

    def events(self, asked: Mapping[str, Any]) -> Answer:
        """One page of the log: `events`, `next`, `size`."""
        return self._get("/audit", asked, wants=("events", "next", "size"))

    def export(self, asked: Mapping[str, Any]) -> Iterator[bytes]:
        """All that fits, as the gateway writes it."""
        with self._begun("/audit", asked, timeout=_STREAM) as response:
            try:
                yield from response.iter_bytes()
            except httpx.TransportError as error:
                broke_off = f"its answer broke off, what came is not complete ({why(error)})"
                raise Unanswered(broke_off, may_have_arrived=True) from None

    @contextmanager
    def pack(self, asked: Mapping[str, str]) -> Iterator[Download]:
        """An evidence pack, once the gateway has made it."""
        with self._begun("/evidence", asked) as response:
            said = response.headers
            events, size = number_of(said.get("X-AgentGate-Events")), number_of(said.get("Content-Length"))
            if events is None or size is None:
                raise NotAGateway("something that is no evidence pack")
            hmac = said.get("X-Evidence-HMAC", "").removeprefix("sha256=") or None
            pack_id = said.get("X-AgentGate-Pack-Id", "")
            yield Download(events, size, pack_id, hmac, response.iter_bytes())

    def retention(self) -> Answer:
        """How long bodies are kept, and what is due."""
        return self._get("/retention", wants=("days", "due", "before"))

    def prune(self, order: Mapping[str, Any]) -> Answer:
        """A part of a prune; `next` is what the following one says as `after`."""
        return self._post("/retention/prune", order, wants=("sessions", "bodies", "next"))

    def holds(self) -> list[Answer]:
        """Legal holds in force."""
        return list(self._get("/holds", wants=("holds",))["holds"])

    def hold(self, order: Mapping[str, Any]) -> Answer:
        """Give a hold that has an `id`, which makes it one however often it is said."""
        return self._order("/holds", order, wants=("id", "status"))

    def release_hold(self, hold_id: str, reason: str) -> Answer:
        return self._post(_path("holds", hold_id, "release"), {"reason": reason}, wants=("id", "status"))

    def approvals(self, asked: Mapping[str, Any]) -> Answer:
        """A page: `approvals`, and `next` of the following one."""
        return self._get("/approvals", asked, wants=("approvals", "next"))

    def approval(self, approval_id: str) -> Answer:
        """One with its call."""
        return self._get(_path("approvals", approval_id), wants=("id", "state", "call"))

    def answer_approval(self, approval_id: str, verb: str, order: Mapping[str, Any]) -> Answer:
        """`approve`, `deny`, `edit` or `void`."""
        return self._post(_path("approvals", approval_id, verb), order, wants=("id", "state", "votes"))

    def tools(self, asked: Mapping[str, str]) -> Answer:
        """`tools` and `servers`; of one `name` with its definitions."""
        return self._get("/tools", asked, wants=("tools", "servers"))

    def accept_tool(self, name: str, order: Mapping[str, Any]) -> Answer:
        return self._post(_path("tools", name, "accept"), order, wants=("name", "served"))

    def reject_tool(self, name: str) -> Answer:
        return self._post(_path("tools", name, "reject"), {}, wants=("name", "state"))

    def webhooks(self) -> list[Answer]:
        return list(self._get("/webhooks", wants=("webhooks",))["webhooks"])

    def _get(self, path: str, asked: Mapping[str, Any] | None = None, *, wants: tuple[str, ...]) -> Answer:
        return fitting(self._send("GET", path, asked=asked)[0], wants)

    def _post(self, path: str, body: Mapping[str, Any], *, wants: tuple[str, ...]) -> Answer:
        try:
            return fitting(self._send("POST", path, dict(body))[0], wants)
        except KeyboardInterrupt:
            raise Abandoned from None

    def _order(self, path: str, order: Mapping[str, Any], *, wants: tuple[str, ...]) -> Answer:
        """Once more where the answer was lost: the order's id makes it one."""
        try:
            return self._post(path, order, wants=wants)
        except Unanswered as silence:
            if not silence.may_have_arrived:
                raise
            return self._post(path, order, wants=wants)

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, asked: Mapping[str, Any] | None = None
    ) -> tuple[Answer, httpx.Headers]:
        request = self._request(method, path, json=body, params=asked)

        def answered() -> tuple[httpx.Response, bytes]:
            with closing(self._client.send(request, stream=True)) as response:
                return response, content_of(response)

        with or_silence():
            response, content = within(self._whole_s, answered)
        return answer_of(response.status_code, content), response.headers

    @contextmanager
    def _begun(self, path: str, asked: Mapping[str, Any], **how: Any) -> Iterator[httpx.Response]:
        """What comes in pieces, once it is sure that it is what was asked for."""
        request = self._request("GET", path, params=asked, **how)
        with or_silence(), closing(self._client.send(request, stream=True)) as response:
            if response.status_code >= 300:
                answer_of(response.status_code, content_of(response))
            yield response

    def _request(self, method: str, path: str, **what: Any) -> httpx.Request:
        with _text():
            return self._client.build_request(method, path, **what)


def _path(*parts: str) -> str:
    with _text():
        return "".join(f"/{quote(part, safe='')}" for part in parts)


@contextmanager
def _text() -> Iterator[None]:
    try:
        yield
    except UnicodeEncodeError as error:
        raise NotText(f"{error.object[error.start]!r} is half a character: what is said must be UTF-8") from None


def _shown(key: str) -> dict[str, str]:
    """A person's access token is a bearer's; a key may be that too, and has gone in a header of its own since v0.2."""
    return {"Authorization": f"Bearer {key}"} if key.count(".") == 2 else {"X-API-Key": key}


def fits_header(value: str) -> bool:
    """Whether a header can say it: asked beforehand, for the HTTP client's own refusal quotes what may be a secret."""
    return value.isascii() and value.isprintable() and value == value.strip()


def host_of(url: str) -> str | None:
    """The host of an http(s) URL as the client reads it; None where that is none."""
    try:
        parsed = httpx.URL(url)
        host = parsed.host
    except (httpx.InvalidURL, UnicodeError):  # the second of a name that is IDNA and then is not (`xn--a`)
        return None
    return host if parsed.scheme in ("http", "https") and host and is_host(host) else None
