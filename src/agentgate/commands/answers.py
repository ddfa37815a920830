"""What comes back from a gateway: its answer, its refusal, something that is no gateway's, or silence."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

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


class NotAGateway(Exception):
    """Something answered, and it was not an AgentGate."""


def answer_of(response: httpx.Response) -> Answer:
    """Raises Refusal, NotAGateway."""
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


def fitting(answer: Answer, wants: tuple[str, ...]) -> Answer:
    """The same, if it has what is wanted of it. Raises NotAGateway."""
    if missing := [name for name in wants if name not in answer]:
        raise NotAGateway(f"an answer without {', '.join(missing)}, which is none of an AgentGate of this version")
    return answer


@contextmanager
def or_silence() -> Iterator[None]:
    """What goes wrong on the wire is Unanswered."""
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
        raise Unanswered(why(error), may_have_arrived=False) from None
    except httpx.TimeoutException:
        raise Unanswered("it took the request and does not answer", may_have_arrived=True) from None
    except httpx.TransportError as error:
        raise Unanswered(why(error), may_have_arrived=True) from None


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
