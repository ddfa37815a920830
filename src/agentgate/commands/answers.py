"""What comes back from a gateway: its answer, its refusal, something that is no gateway's, or silence."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any, Final, TypeVar

import httpx

T = TypeVar("T")

MAX_ANSWER_BYTES: Final = 256 * 2**20
"""A page of a thousand events is a quarter of it."""
_LISTS: Final = frozenset({"approvals", "calls", "events", "holds", "kills", "members", "tools", "webhooks"})
"""What is a list of objects wherever a gateway says it."""

Answer = Mapping[str, Any]
"""The JSON object that the gateway sent."""


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


class Abandoned(Exception):
    """Whoever gave an order did not wait for its answer (Ctrl-C): whether it was carried out is not known."""


class NotAGateway(Exception):
    """Something answered, and it was not an AgentGate."""


def content_of(response: httpx.Response) -> bytes:
    """All of an answer that is not kept in pieces. Raises NotAGateway where it is longer than any."""
    found = bytearray()
    for part in response.iter_bytes():
        found += part
        if len(found) > MAX_ANSWER_BYTES:
            raise NotAGateway(f"more than {MAX_ANSWER_BYTES} bytes, which is no answer of an AgentGate")
    return bytes(found)


def answer_of(status: int, content: bytes) -> Answer:
    """Raises Refusal, NotAGateway."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise NotAGateway(f"HTTP {status}, which is no answer of an AgentGate")
    if status < 300:
        return said
    reason, detail = said.get("reason_code"), said.get("detail")
    if not isinstance(reason, str) or not isinstance(detail, str):
        raise NotAGateway(f"HTTP {status}, which is no refusal of an AgentGate")
    raise Refusal(status, reason, detail)


def fitting(answer: Answer, wants: tuple[str, ...]) -> Answer:
    """The same, if it has what is wanted of it. Raises NotAGateway."""
    if missing := [name for name in wants if name not in answer or (name in _LISTS and not _are_rows(answer[name]))]:
        raise NotAGateway(f"an answer without {', '.join(missing)}, which is none of an AgentGate of this version")
    return answer


def _are_rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(row, dict) for row in value)


def number_of(header: str | None) -> int | None:
    """A count that a header says; None for what is none."""
    return int(header) if header and header.isdecimal() and len(header) < 16 else None


def within(most_s: float, ask: Callable[[], T]) -> T:
    """What `ask` comes to. A client's own time is for each read: an answer that drips would be waited for for ever.

    Raises:
        Unanswered: it takes longer, and goes on without us until this process ends.
    """
    done: Future[T] = Future()

    def work() -> None:
        try:
            done.set_result(ask())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    if done not in wait([done], most_s).done:
        raise Unanswered(f"its answer was not whole after {most_s:g} s", may_have_arrived=True)
    return done.result()


@contextmanager
def or_silence() -> Iterator[None]:
    """What goes wrong on the wire is Unanswered; what comes and cannot be unpacked is NotAGateway."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Unanswered(why(error), may_have_arrived=False) from None
    except httpx.TimeoutException:
        raise Unanswered("it took the request and does not answer", may_have_arrived=True) from None
    except httpx.TransportError as error:
        raise Unanswered(why(error), may_have_arrived=True) from None
    except httpx.DecodingError:
        raise NotAGateway("something that is not packed as it says") from None


def why(error: httpx.TransportError) -> str:
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
