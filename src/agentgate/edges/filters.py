"""What routes are asked with: ids, agents and times, as a query string says them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Request
from pydantic import AfterValidator, Field, WithJsonSchema

from agentgate.core.event import rfc3339
from agentgate.edges.problem import unfit
from agentgate.edges.schemas import ID_PATTERN

_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d")
_PRINCIPAL: Final = ("agent:", "person:")


def _principal(name: str) -> str:
    return name if name.startswith(_PRINCIPAL) else f"agent:{name}"


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
        if _DAY.fullmatch(text):
            moment = moment.replace(tzinfo=UTC)
        found = rfc3339(moment.astimezone(UTC))
    except (ValueError, OverflowError):
        raise ValueError("is no time, such as 2026-11-21T08:00:00Z or 2026-11-21") from None
    if moment.tzinfo is None:
        raise ValueError("must say its offset, as in 2026-11-21T08:00:00Z")
    return found


Id = Annotated[str, Field(pattern=ID_PATTERN)]
Who = Annotated[Id, AfterValidator(_principal)]
"""An agent's name, or `person:NAME`; a principal's id from then on."""
Moment = Annotated[
    str,
    Field(max_length=64),
    AfterValidator(_moment),
    WithJsonSchema({"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}),
]
"""RFC 3339 with its offset, or a day (UTC); a time as events say it from then on."""


def check_said_once(request: Request, *, but: str = "") -> None:
    """Refuse what names one thing several times, of which the answer would be of the last one. `but` may be."""
    names = [name for name, _ in request.query_params.multi_items() if name != but]
    for name in names:
        if names.count(name) > 1:
            raise unfit(f"{name} was said {names.count(name)} times")
