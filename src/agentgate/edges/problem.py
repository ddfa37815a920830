"""Refusals of a door itself, as problem documents (RFC 9457) with a `reason_code`.

v0.2's `error` text stays beside them where v0.2 had one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import Any

import orjson

from agentgate.core.errors import ReasonCode

PROBLEM_JSON = b"application/problem+json"


class Problem(Exception):
    """A request that a door refuses. Raised inside routes; the edge turns it into its document."""

    def __init__(
        self, status: int, reason: ReasonCode, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.detail = detail
        self.headers = dict(headers or {})
        self.members = members

    def document(self) -> dict[str, Any]:
        return {
            "type": f"urn:agentgate:reason:{self.reason}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reason_code": self.reason.value,
            "error": self.detail,
            **self.members,
        }

    def body(self) -> bytes:
        return orjson.dumps(self.document())


def method_not_allowed(methods: Collection[str]) -> Problem:
    """405 with the methods that the path does answer to."""
    allowed = sorted({*methods, *(["HEAD"] if "GET" in methods else [])})
    return Problem(
        405,
        ReasonCode.METHOD_NOT_ALLOWED,
        f"This path answers to {', '.join(allowed)}",
        error="Method Not Allowed",
        headers={"Allow": ", ".join(allowed)},
    )


def unfit(detail: str) -> Problem:
    """422 for what a control route was asked, and cannot do for anybody."""
    return Problem(422, ReasonCode.INVALID_REQUEST, detail, error="Invalid request")
