"""`GET /audit`: the log for auditors, page by page or as one stream (DESIGN §6)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Final, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agentgate.core import query as core
from agentgate.core.call import is_tool_name
from agentgate.core.decision import Verdict
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.event import Kind, Outcome
from agentgate.edges import filters
from agentgate.edges.desks import Auditor, TheDesks, refused
from agentgate.edges.problem import Problem, unfit
from agentgate.edges.schemas import TOOL_PATTERN, TRACE_PATTERN, ref
from agentgate.pipeline.records.audit import Page, Span

MOST_AT_ONCE: Final = 1_000
USUAL: Final = 100
_PRIVATE: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

router = APIRouter(tags=["evidence"])


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("has characters that nobody sees")
    return text


def _tool_name(text: str) -> str:
    if not is_tool_name(text):
        raise ValueError("is no tool's name")
    return text


_Text = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_printable)]
_Tool = Annotated[str, AfterValidator(_tool_name), Field(json_schema_extra={"pattern": TOOL_PATTERN})]
_Trace = Annotated[str, Field(pattern=TRACE_PATTERN)]
"""Names and ids as events have them: what an export was of stands in its leaf for good, so no free text may pass."""


class Asked(BaseModel):
    """What may be asked. A filter that is misspelt must not become an answer to another question: it is refused."""

    model_config = ConfigDict(extra="forbid")
    tenant: filters.Id | None = Field(None, description="Of an auditor of all tenants: only this one")
    session: filters.Id | None = Field(None, description="Its id")
    agent: filters.Who | None = Field(None, description="The name of an agent, or `person:NAME`")
    tool: _Tool | None = None
    decision: Verdict | None = None
    reason: ReasonCode | None = None
    outcome: Outcome | None = None
    kind: list[Kind] | None = Field(None, description="May be said several times")
    trace_id: _Trace | None = None
    since: filters.Moment | None = Field(None, description="RFC 3339 with its offset, or a day (UTC)")
    until: filters.Moment | None = Field(None, description="As `since`; what is at it is not in it")
    text: _Text | None = Field(None, description="Is in the event's body, in any case")
    order: Literal["asc", "desc"] = "asc"
    first: int = Field(0, ge=0, lt=2**53, description="Only events with this index or a higher one")
    limit: int | None = Field(None, ge=1, lt=2**31, description="On a page at most 1000 (100)")
    cursor: str | None = Field(None, max_length=64, description="`next` of the page before")
    form: Literal["json", "jsonl", "csv", "oscal", "otlp"] | None = Field(
        None, alias="format", description="Everything but `json` is streamed, and recorded as an export"
    )

    def query(self) -> core.Query:
        return core.Query(
            tenant=self.tenant,
            session=self.session,
            agent=self.agent,
            tool=self.tool,
            decision=self.decision,
            reason_code=self.reason,
            outcome=self.outcome,
            kinds=None if self.kind is None else tuple(self.kind),
            trace_id=self.trace_id,
            since=self.since,
            until=self.until,
            text=self.text,
        )

    def span(self, limit: int | None) -> Span:
        return Span(self.first, self.order == "desc", limit)


@router.get(
    "/audit",
    responses={
        200: {
            "description": "`{events, next, size}`; with another format, or `Accept: application/x-ndjson`, a stream",
            "content": {
                "application/json": {"schema": {"anyOf": [ref("AuditPage"), ref("OscalResults")]}},
                "application/x-ndjson": {},
                "text/csv": {},
            },
        },
        400: {"description": "The cursor is not of this query"},
        422: {"description": "A filter that is none, or a value that it cannot have"},
        503: {"description": "The log cannot be read, or does not take the record of an export"},
    },
)
async def audit(request: Request, desks: TheDesks, auditor: Auditor, asked: Annotated[Asked, Query()]) -> Response:
    """Events that fit all filters, oldest first; `order=desc` for the newest first.

    A page is at most `limit` events, `next` the cursor of the next one, null when nothing was left. Every other
    `format` than `json` is all that fits, streamed, and recorded as an export. An auditor sees the own tenant's
    events; one of all tenants sees all, with those that are of no tenant.
    """
    filters.check_said_once(request, but="kind")
    form = asked.form or ("jsonl" if _wants_lines(request) else "json")
    if form == "json":
        page = await desks.audit.page(auditor, asked.query(), asked.span(_page_of(asked.limit)), asked.cursor)
        if isinstance(page, Refused):
            raise _refused(page)
        return Response(_page(page), media_type="application/json", headers=_PRIVATE)
    if asked.cursor is not None:
        raise unfit("a stream has no cursor; say `first` to go on")
    begun = await desks.audit.export(auditor, asked.query(), asked.span(asked.limit), form)
    if isinstance(begun, Refused):
        raise _refused(begun)
    export, parts = begun
    headers = {**_PRIVATE, "Content-Disposition": f'attachment; filename="audit.{export.extension}"'}
    return StreamingResponse(await _begun(parts), media_type=export.media_type, headers=headers)


async def _begun(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same parts, the first of them read already: what fails before it is still a refusal, not half an answer."""
    start = await anext(parts, b"")

    async def all_of_them() -> AsyncIterator[bytes]:
        yield start
        async for part in parts:
            yield part

    return all_of_them()


def _page(page: Page) -> bytes:
    events = b",".join(core.as_line(record) for record in page.records)
    rest: Sequence[bytes] = (orjson.dumps(page.next), b"%d" % page.size)
    return b'{"events":[%s],"next":%s,"size":%s}' % (events, *rest)


def _page_of(limit: int | None) -> int:
    if limit is not None and limit > MOST_AT_ONCE:
        raise unfit(f"a page has at most {MOST_AT_ONCE} events; format=jsonl streams all")
    return limit or USUAL


def _wants_lines(request: Request) -> bool:
    accepted = request.headers.get("accept", "").lower().split(",")
    return any(one.partition(";")[0].strip() == "application/x-ndjson" for one in accepted)


def _refused(why: Refused) -> Problem:
    if why.reason is ReasonCode.INVALID_REQUEST:
        return Problem(400, why.reason, why.detail)
    return refused(why)
