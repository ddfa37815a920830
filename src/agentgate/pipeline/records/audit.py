"""Reading the log for auditors: page by page, or all that fits in one export.

Looking at a page leaves no event; an export does, as a pack does, before its first byte: who took what.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from agentgate.core.call import Principal
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import Record
from agentgate.core.events.keeping import exported
from agentgate.core.query import Query
from agentgate.core.strict_json import canonical_plain
from agentgate.pipeline.records.record import Recorder
from agentgate.ports.evidence import Export
from agentgate.ports.log import LogReader
from agentgate.ports.notices import Meter

Forms = Mapping[str, Callable[[Query], Export]]
"""By its name, what begins an export of what a query asks for."""

_AT_ONCE: Final = 64
"""So many records become bytes before calls get their turn again."""
_INDEX_BYTES: Final = 8
_CHECK_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Page:
    """Some records. `next` is where to go on, None when nothing was left; `size` is how long the log was, so that
    who wants what comes after asks from there."""

    records: list[Record]
    next: str | None
    size: int


@dataclass(frozen=True, slots=True)
class Span:
    """Which part of the log is looked at, in which order, and how many records are enough."""

    first: int = 0
    newest: bool = False
    limit: int | None = None


class AuditDesk:
    """Queries and exports, within what the auditor may see: the own tenant, or all for who is of all tenants."""

    def __init__(self, *, reader: LogReader, recorder: Recorder, meter: Meter, forms: Forms) -> None:
        self._reader = reader
        self._recorder = recorder
        self._meter = meter
        self._forms = forms

    async def page(self, auditor: Principal, query: Query, span: Span, cursor: str | None = None) -> Page | Refused:
        """At most `span.limit` records that fit. A cursor goes on where another page of the same query ended.

        Raises:
            LogUnavailable
        """
        seen = self._seen_by(auditor, query)
        if isinstance(seen, Refused):
            return seen
        size = await self._reader.size()
        first, below = span.first, size
        if cursor is not None:
            place = _place(cursor, seen, span)
            if place is None:
                return Refused(ReasonCode.INVALID_REQUEST, "the cursor is not of this query")
            first, below = (first, min(size, place)) if span.newest else (max(first, place), size)
        records: list[Record] = []
        async for record in self._reader.search(seen, first=first, below=below, newest=span.newest):
            records.append(record)
            if len(records) == span.limit:
                last = record.index if span.newest else record.index + 1
                return Page(records, _cursor(last, seen, span), size)
        return Page(records, None, size)

    async def export(
        self, auditor: Principal, query: Query, span: Span, form: str
    ) -> tuple[Export, AsyncIterator[bytes]] | Refused:
        """Everything that fits and is in the log now, as bytes while it is read.

        Raises:
            KeyError: there is no such form.
            LogUnavailable: no export without a record. Once bytes were given, they break off.
        """
        seen = self._seen_by(auditor, query)
        if isinstance(seen, Refused):
            return seen
        export = self._forms[form](seen)
        size = await self._reader.size()
        tenant, what = seen.tenant or "", _what(seen)
        await self._recorder.note(
            lambda origin: exported(origin, actor=auditor.id, tenant=tenant, form=form, what=what)
        )
        self._meter.count("exports", form)
        return export, self._written(export, seen, span, size)

    async def _written(self, export: Export, query: Query, span: Span, size: int) -> AsyncIterator[bytes]:
        records = self._reader.search(query, first=span.first, below=size, newest=span.newest)
        async for part in written(export, records, span.limit):
            yield part

    def _seen_by(self, auditor: Principal, query: Query) -> Query | Refused:
        if query.tenant is None:
            return query if auditor.tenants_all else replace(query, tenant=auditor.tenant)
        if not auditor.sees(query.tenant):
            return Refused(ReasonCode.FORBIDDEN, "your key is of another tenant")
        return query


async def written(export: Export, records: AsyncIterator[Record], limit: int | None = None) -> AsyncIterator[bytes]:
    """An export of the first `limit` of these records, piece by piece."""
    if start := export.start():
        yield start
    some: list[Record] = []
    number = 0
    if limit != 0:
        async for record in records:
            some.append(record)
            number += 1
            if len(some) == _AT_ONCE or number == limit:
                if part := export.write(some):
                    yield part
                some = []
            if number == limit:
                break
    if some and (part := export.write(some)):
        yield part
    if end := export.end():
        yield end


def _what(query: Query) -> dict[str, str]:
    """What an export is of, as its event says it: names and times. A text that was looked for is only counted, for a
    leaf holds no free text."""
    what = {
        name if name in ("since", "until") else f"of_{name}": value if isinstance(value, str) else ",".join(value)
        for name, value in query.said().items()
        if name not in ("text", "tenant")
    }
    if query.text is not None:
        what["by_text"] = "yes"
    return what


# A cursor is a place in the log and a checksum of it with the query. It needs no secret: who makes one up gets
# another part of what the same key may read anyway.


def _cursor(index: int, query: Query, span: Span) -> str:
    place = index.to_bytes(_INDEX_BYTES, "big")
    return base64.urlsafe_b64encode(place + _check(place, query, span)).rstrip(b"=").decode()


def _place(cursor: str, query: Query, span: Span) -> int | None:
    """The index in a cursor, or None if it is not one of this query in this order."""
    try:
        raw = base64.b64decode(cursor + "==", altchars=b"-_", validate=True)
    except ValueError:
        return None
    index = int.from_bytes(raw[:_INDEX_BYTES], "big")
    return index if _cursor(index, query, span) == cursor else None


def _check(place: bytes, query: Query, span: Span) -> bytes:
    asked = canonical_plain({"query": query.said(), "newest": span.newest, "first": span.first})
    return hashlib.sha256(b"agentgate audit cursor\0" + place + asked).digest()[:_CHECK_BYTES]
