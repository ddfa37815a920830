"""The auditor's routes: sessions, and packs of a session, an agent or a tenant."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from agentgate.core.call import Principal
from agentgate.core.errors import ReasonCode
from agentgate.core.evidence.scope import Scope
from agentgate.edges import filters, wire
from agentgate.edges.desks import Auditor, Desks, Id, Operator, TheDesks, unless_refused
from agentgate.edges.problem import Problem
from agentgate.edges.schemas import Responses, answers, ref
from agentgate.pipeline.records.evidence import EvidenceDesk, Export, Form

logger = logging.getLogger("agentgate.evidence")
router = APIRouter(tags=["evidence"])

_FORMS: Final[tuple[Form, ...]] = ("json", "html", "pdf", "zip")
_FORMS_SAID: Final = "json, html, pdf or zip"
_FORM_SCHEMA: Final[dict[str, JsonValue]] = {"enum": list(_FORMS)}
_EARLIER: Final = "The size of a checkpoint that you keep: a zip then proves that the log continues it"
_MAX_SIZE: Final = 2**53
_USUAL_SESSIONS: Final = 1_000
_MOST_SESSIONS: Final = 10_000
_PATIENCE_S: Final = 30.0
_SLOWEST_BYTES_PER_S: Final = 100_000
"""Who reads a pack more slowly than so keeps others from theirs."""


class AskedOfSession(BaseModel):
    """How a pack is to be. A member that is misspelt must not make it a pack of something else: it is refused."""

    model_config = ConfigDict(extra="forbid")
    tenant: filters.Id | None = Field(None, description="Another tenant than the key's own, for who sees it")
    form: str = Field("json", alias="format", description=_FORMS_SAID, json_schema_extra=_FORM_SCHEMA)
    checkpoint_size: int | None = Field(None, ge=0, lt=_MAX_SIZE, description=_EARLIER)


class Asked(AskedOfSession):
    """What a pack is to be of, too."""

    session: filters.Id | None = Field(None, description="One session; this or an agent")
    agent: filters.Who | None = Field(None, description="What one agent did, and its sessions; or `person:NAME`")
    since: filters.Moment | None = Field(None, description="RFC 3339 with its offset, or a day (UTC)")
    until: filters.Moment | None = Field(None, description="As `since`; what is at it is not in it")


_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}
_RESPONSES: Final[Responses] = {
    200: {
        "description": "The pack; `X-Evidence-HMAC` is over its bytes, where a key is set",
        "content": {
            "application/json": {"schema": ref("EvidencePack")},
            "text/html": {"schema": {"type": "string"}},
            "application/pdf": _BINARY,
            "application/zip": _BINARY,
        },
    },
    400: {"description": "A format that there is none of"},
    404: {"description": "A tenant that is not for this auditor. Of whom nothing is on record, the pack is empty"},
    413: {"description": "More than a pack may be of: ask for a part of it (`since`, `until`)"},
    503: {"description": "The log cannot be read, does not take the record of the export, or has no time stamp for it"},
}


@router.get(
    "/sessions", responses={200: answers("Their ids", "Sessions"), 503: {"description": "The log cannot be read"}}
)
async def list_sessions(
    desks: TheDesks,
    viewer: Operator,
    limit: Annotated[int, Query(ge=1, le=_MOST_SESSIONS)] = _USUAL_SESSIONS,
    after: Annotated[filters.Id | None, Query(description="`next` of the page before")] = None,
) -> dict[str, Any]:
    """The sessions in the log that the viewer may see, sorted by id. `next` is null on the last page."""
    found = await desks.evidence.sessions(viewer, after=after or "", limit=limit + 1)
    page = found[:limit]
    return {"sessions": page, "next": page[-1] if len(found) > limit else None}


@router.get("/sessions/{session_id}/evidence", response_class=Response, responses=_RESPONSES)
async def session_evidence(
    request: Request, desks: TheDesks, auditor: Auditor, session_id: Id, asked: Annotated[AskedOfSession, Query()]
) -> Response:
    """The evidence pack of one session."""
    filters.check_said_once(request)
    wanted = _form(asked.form)
    scope = Scope(_tenant(auditor, asked.tenant), session=session_id)
    return await _answer(desks, auditor, scope, wanted, asked.checkpoint_size)


@router.get("/evidence", response_class=Response, responses=_RESPONSES)
async def evidence(request: Request, desks: TheDesks, auditor: Auditor, asked: Annotated[Asked, Query()]) -> Response:
    """The evidence pack of a session, an agent or a whole tenant, of all time or from `since` to before `until`."""
    filters.check_said_once(request)
    wanted = _form(asked.form)
    if asked.session is not None and asked.agent is not None:
        raise Problem(422, ReasonCode.INVALID_REQUEST, "a pack is of a session or of an agent: name one of them")
    if asked.since is not None and asked.until is not None and asked.since >= asked.until:
        raise Problem(422, ReasonCode.INVALID_REQUEST, "since must be before until")
    scope = Scope(
        _tenant(auditor, asked.tenant), session=asked.session, agent=asked.agent, since=asked.since, until=asked.until
    )
    return await _answer(desks, auditor, scope, wanted, asked.checkpoint_size)


def _form(text: str) -> Form:
    for form in _FORMS:
        if text == form:
            return form
    raise Problem(
        400,
        ReasonCode.INVALID_REQUEST,
        f"format must be {_FORMS_SAID}",
        error="Invalid format",
        hint=f"Use format={_FORMS_SAID}",
        received=text[:64],
    )


def _tenant(auditor: Principal, tenant: str | None) -> str:
    if tenant is None:
        return auditor.tenant
    if not auditor.sees(tenant):
        raise Problem(404, ReasonCode.NOT_FOUND, "no such session")
    return tenant


async def _answer(desks: Desks, auditor: Principal, scope: Scope, form: Form, earlier_size: int | None) -> Response:
    found = await desks.evidence.export(auditor, scope, form, earlier_size=earlier_size)
    export = unless_refused(found)
    return Sent(desks.evidence, export, _headers(scope, export))


class Sent(Response):
    """A pack, piece by piece. Its place is free again when it has gone, or when its reader takes too long: packs that
    nobody reads on must not fill the memory."""

    def __init__(
        self, desk: EvidenceDesk, export: Export, headers: Mapping[str, str], patience_s: float = _PATIENCE_S
    ) -> None:
        super().__init__(headers=headers, media_type=export.media_type)
        self._desk = desk
        self._export = export
        self._deadline_s = patience_s + export.size / _SLOWEST_BYTES_PER_S

    async def __call__(self, scope: wire.Scope, receive: wire.Receive, send: wire.Send) -> None:
        try:
            async with asyncio.timeout(self._deadline_s):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                for chunk in self._export.chunks():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            logger.warning(
                "a pack of %d bytes was not read within %.0f s: cut off", self._export.size, self._deadline_s
            )
        finally:
            self._desk.sent()


def _headers(scope: Scope, export: Export) -> dict[str, str]:
    name = (scope.session or scope.agent or scope.tenant).replace(":", "-")
    headers = {
        "Content-Disposition": f'attachment; filename="evidence-{name}.{export.extension}"',
        "Content-Length": str(export.size),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "X-AgentGate-Events": str(export.events),
        "X-AgentGate-Pack-Id": export.pack_id,
    }
    if export.hmac is not None and export.extension != "json":  # a JSON pack carries its own, over its body
        headers["X-Evidence-HMAC"] = f"sha256={export.hmac}"
    return headers | dict(export.headers or {})
