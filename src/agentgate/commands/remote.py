"""The control routes of a running gateway, as the command line uses them.

An answer is the JSON object that the gateway sent, a refusal is `Refusal` with what the problem document says, silence
is `Unanswered`. Nothing is retried but an order to stop, which its id makes one kill however often it is said.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

import httpx

from agentgate.core.hosts import is_loopback

Answer = Mapping[str, Any]

CONNECT_S: Final = 5.0
ANSWER_S: Final = 30.0
"""A kill may be waited for as long as the gateway's drain timeout (2 s unless configured) before it is answered."""
_STREAM: Final = httpx.Timeout(300.0, connect=CONNECT_S)
"""A long log is looked through while nothing fits."""

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Trusts nobody, and is not asked: to load whom a machine trusts takes as long as a command does."""


class Refusal(Exception):
    """The gateway said no: `status`, the `reason_code` and the `detail` of its problem document."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail


class Unanswered(Exception):
    """No answer. `may_have_arrived` is False when it is certain that the request did not."""

    def __init__(self, why: str, *, may_have_arrived: bool) -> None:
        super().__init__(why)
        self.may_have_arrived = may_have_arrived


class NotAGateway(Exception):
    """Something answered, and it was not an AgentGate."""


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


class Remote:
    """One gateway, or what stands before several, and one person's key. Not for several threads at once."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        answer_s: float = ANSWER_S,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Raises ValueError with a sentence when `url` or `key` cannot be one."""
        self.url = url.rstrip("/")
        host = _checked(url)
        if not key or not key.isascii() or not key.isprintable():
            raise ValueError("the key has characters that no key has")
        self.is_clear_text = httpx.URL(url).scheme == "http" and not is_loopback(host)
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    # --- kills ---

    def kill(self, order: Mapping[str, Any]) -> Answer:
        """Give an order that has an `id`, which makes it one kill however often it is said.

        Raises:
            Refusal, Unanswered, NotAGateway
        """
        return self._order("/kills", order, wants=("id", "drained"))

    def progress(self, kill_id: str) -> Answer:
        """How far a kill has come, with `active`. Raises as `kill` does."""
        return self._ask("GET", f"/kills/{quote(kill_id, safe='')}", wants=("id", "drained", "active"))

    def kills(self, newest: int | None = None) -> Listing:
        """Kills in force. Raises as `kill` does."""
        response = self._send("GET", "/kills", params={"limit": newest} if newest is not None else None)
        kills = _fitting(self._answer(response), ("kills",))["kills"]
        total = response.headers.get("X-Total-Count", "")
        return Listing(kills, int(total) if total.isdecimal() else len(kills))

    def release(self, kill_id: str, *, force: bool = False) -> Answer:
        """`status` is `released`, or `pending` where more persons have to ask. Raises as `kill` does."""
        path = f"/kills/{quote(kill_id, safe='')}/release"
        return self._ask("POST", path, {"force": force}, wants=("id", "status"))

    def resume(self, *, force: bool = False) -> Answer:
        """End every pause: `released` ids, or `status` `pending`. Raises as `kill` does."""
        return self._ask("POST", "/system/resume", {"force": force}, wants=("status",))

    # --- members and calls ---

    def members(self) -> list[Answer]:
        """Raises as `kill` does."""
        return list(self._ask("GET", "/members", wants=("members",))["members"])

    def attest_gone(self, member: str) -> Answer:
        """Raises as `kill` does."""
        return self._ask("POST", f"/members/{quote(member, safe='')}/gone", {}, wants=("member", "presence"))

    def calls(self) -> list[Answer]:
        """Calls in flight in every member. Raises as `kill` does."""
        return list(self._ask("GET", "/calls", wants=("calls",))["calls"])

    # --- events ---

    def events(self, asked: Mapping[str, Any]) -> Answer:
        """One page of the log: `events`, `next`, `size`. Raises as `kill` does."""
        return _fitting(self._answer(self._send("GET", "/audit", params=asked)), ("events", "next", "size"))

    def export(self, asked: Mapping[str, Any]) -> Iterator[bytes]:
        """All that fits, as the gateway writes it. Raises as `kill` does, also in the middle of it."""
        with self._on_the_wire(), self._client.stream("GET", "/audit", params=asked, timeout=_STREAM) as response:
            if response.status_code >= 300:
                response.read()
                self._answer(response)
            try:
                yield from response.iter_bytes()
            except httpx.TransportError as error:
                why = f"its answer broke off, what came is not complete ({_reason(error)})"
                raise Unanswered(why, may_have_arrived=True) from None

    # --- evidence ---

    @contextmanager
    def pack(self, asked: Mapping[str, str]) -> Iterator[Download]:
        """An evidence pack, once the gateway has made it. Raises as `kill` does, also in the middle of it."""
        with self._on_the_wire(), self._client.stream("GET", "/evidence", params=asked) as response:
            if response.status_code >= 300:
                response.read()
                self._answer(response)
            said = response.headers
            events, size = said.get("X-AgentGate-Events", ""), said.get("Content-Length", "")
            if not events.isdecimal() or not size.isdecimal():
                raise NotAGateway("something that is no evidence pack")
            hmac = said.get("X-Evidence-HMAC", "").removeprefix("sha256=") or None
            pack_id = said.get("X-AgentGate-Pack-Id", "")
            yield Download(int(events), int(size), pack_id, hmac, response.iter_bytes())

    # --- retention ---

    def retention(self) -> Answer:
        """How long bodies are kept, and what is due. Raises as `kill` does."""
        return self._ask("GET", "/retention", wants=("days", "due", "before"))

    def prune(self, order: Mapping[str, Any]) -> Answer:
        """A part of a prune; `next` is what the following one says as `after`. Raises as `kill` does."""
        return self._ask("POST", "/retention/prune", dict(order), wants=("sessions", "bodies", "next"))

    def holds(self) -> list[Answer]:
        """Legal holds in force. Raises as `kill` does."""
        return list(self._ask("GET", "/holds", wants=("holds",))["holds"])

    def hold(self, order: Mapping[str, Any]) -> Answer:
        """Give a hold that has an `id`, which makes it one however often it is said. Raises as `kill` does."""
        return self._order("/holds", order, wants=("id", "status"))

    def release_hold(self, hold_id: str, reason: str) -> Answer:
        """Raises as `kill` does."""
        path = f"/holds/{quote(hold_id, safe='')}/release"
        return self._ask("POST", path, {"reason": reason}, wants=("id", "status"))

    # --- approvals ---

    def approvals(self, asked: Mapping[str, Any]) -> Answer:
        """A page: `approvals`, and `next` of the following one. Raises as `kill` does."""
        return _fitting(self._answer(self._send("GET", "/approvals", params=asked)), ("approvals", "next"))

    def approval(self, approval_id: str) -> Answer:
        """One with its call. Raises as `kill` does."""
        return self._ask("GET", f"/approvals/{quote(approval_id, safe='')}", wants=("id", "state", "call"))

    def answer_approval(self, approval_id: str, verb: str, order: Mapping[str, Any]) -> Answer:
        """`approve`, `deny`, `edit` or `void`. Raises as `kill` does."""
        path = f"/approvals/{quote(approval_id, safe='')}/{verb}"
        return self._ask("POST", path, dict(order), wants=("id", "state", "votes"))

    # --- tools ---

    def tools(self, asked: Mapping[str, str]) -> Answer:
        """`tools` and `servers`; of one `name` with its definitions. Raises as `kill` does."""
        return _fitting(self._answer(self._send("GET", "/tools", params=asked)), ("tools", "servers"))

    def accept_tool(self, name: str, order: Mapping[str, Any]) -> Answer:
        """Raises as `kill` does."""
        return self._ask("POST", f"/tools/{quote(name, safe='')}/accept", dict(order), wants=("name", "served"))

    def reject_tool(self, name: str) -> Answer:
        """Raises as `kill` does."""
        return self._ask("POST", f"/tools/{quote(name, safe='')}/reject", {}, wants=("name", "state"))

    # --- webhooks ---

    def webhooks(self) -> list[Answer]:
        """Raises as `kill` does."""
        return list(self._ask("GET", "/webhooks", wants=("webhooks",))["webhooks"])

    # --- the wire ---

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, *, wants: tuple[str, ...]) -> Answer:
        return _fitting(self._answer(self._send(method, path, body)), wants)

    def _order(self, path: str, order: Mapping[str, Any], *, wants: tuple[str, ...]) -> Answer:
        """Once more where the answer was lost: the order's id makes it one."""
        try:
            return self._ask("POST", path, dict(order), wants=wants)
        except Unanswered as silence:
            if not silence.may_have_arrived:
                raise
            return self._ask("POST", path, dict(order), wants=wants)

    def _send(
        self, method: str, path: str, body: dict[str, Any] | None = None, params: Mapping[str, Any] | None = None
    ) -> httpx.Response:
        with self._on_the_wire():
            return self._client.request(method, path, json=body, params=params)

    @contextmanager
    def _on_the_wire(self) -> Iterator[None]:
        try:
            yield
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Unanswered(_reason(error), may_have_arrived=False) from None
        except httpx.TimeoutException:
            raise Unanswered("it took the request and does not answer", may_have_arrived=True) from None
        except httpx.TransportError as error:
            raise Unanswered(_reason(error), may_have_arrived=True) from None

    def _answer(self, response: httpx.Response) -> Answer:
        try:
            said = response.json()
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise NotAGateway(f"HTTP {response.status_code}, which is no answer of an AgentGate")
        if response.status_code < 300:
            return said
        reason, detail = said.get("reason_code"), said.get("detail")
        if not isinstance(reason, str) or not isinstance(detail, str):
            raise NotAGateway(f"HTTP {response.status_code}, which is no refusal of an AgentGate")
        raise Refusal(response.status_code, reason, detail)


def _shown(key: str) -> dict[str, str]:
    """A person's access token is a bearer's; a key may be that too, and has gone in a header of its own since v0.2."""
    return {"Authorization": f"Bearer {key}"} if key.count(".") == 2 else {"X-API-Key": key}


def _checked(url: str) -> str:
    """The host of `url`. Raises ValueError."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is not a URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ValueError(f"{url!r} is not a URL of a gateway, such as http://127.0.0.1:8000")
    return parsed.host


def _fitting(answer: Answer, wants: tuple[str, ...]) -> Answer:
    if missing := [name for name in wants if name not in answer]:
        raise NotAGateway(f"an answer without {', '.join(missing)}, which is none of an AgentGate of this version")
    return answer


def _reason(error: httpx.TransportError) -> str:
    """What went wrong, in the words of the lowest layer that has some."""
    cause: BaseException = error
    while (below := cause.__cause__ or cause.__context__) is not None and str(below):
        cause = below
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"this machine does not trust its certificate ({cause.verify_message}): SSL_CERT_FILE names another CA"
    if isinstance(cause, ssl.SSLError):
        return f"it speaks no TLS there ({cause.reason})"
    text = getattr(cause, "strerror", None) or str(cause)
    return text[:1].lower() + text[1:] if text else type(error).__name__
