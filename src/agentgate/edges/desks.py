"""What every control route stands on: the desks it works with, and the role that it asks for.

The role of a route is declared where the route is; `tests/edges/test_routes.py` fails on one without.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Path, Request
from pydantic import BaseModel, ConfigDict

from agentgate.core.call import Principal, Role
from agentgate.core.errors import OUTAGE, ReasonCode, Refused
from agentgate.edges.caller import Callers
from agentgate.edges.problem import Problem
from agentgate.edges.resource import ProtectedResource
from agentgate.edges.schemas import ID_PATTERN
from agentgate.pipeline.approvals.desk import ApprovalDesk
from agentgate.pipeline.approvals.edits import EditDesk
from agentgate.pipeline.calls.deferred import DeferredDesk
from agentgate.pipeline.containment.control import Containment
from agentgate.pipeline.containment.members import Membership
from agentgate.pipeline.limits.refusals import RefusalLimiter
from agentgate.pipeline.notices.desk import NoticeDesk
from agentgate.pipeline.policy.desk import PolicyDesk
from agentgate.pipeline.records.audit import AuditDesk
from agentgate.pipeline.records.evidence import EvidenceDesk
from agentgate.pipeline.records.retention import RetentionDesk
from agentgate.pipeline.records.tree import TreeDesk
from agentgate.pipeline.tools.pins import PinDesk
from agentgate.ports.upstreams import ServerState

_Done = TypeVar("_Done")
Bundle = tuple[bytes, str]
"""A policy bundle's bytes and its ETag."""


@dataclass(frozen=True, slots=True)
class Desks:
    """What the control routes work with."""

    callers: Callers
    containment: Containment
    membership: Membership
    approvals: ApprovalDesk
    deferred: DeferredDesk
    refusals: RefusalLimiter
    edits: EditDesk
    evidence: EvidenceDesk
    retention: RetentionDesk
    audit: AuditDesk
    policy: PolicyDesk
    bundle: Callable[[], Bundle | None]
    policy_path: str
    tree: TreeDesk
    pins: PinDesk
    notices: NoticeDesk
    server_states: Callable[[], Mapping[str, ServerState]]
    resource: ProtectedResource | None = None
    """What clients are told of the token issuer, where one is configured."""
    base_url: str | None = None
    """Where the gateway is reached, where that is configured."""


class EmptyBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


def needs(role: Role) -> Callable[[Request], Awaitable[Principal]]:
    """A dependency that admits callers with `role`, and shows the role to the route table test."""

    async def admit(request: Request) -> Principal:
        desks: Desks = request.app.state.desks
        return await desks.callers.person(*_presented(request), role)

    admit.role = role  # type: ignore[attr-defined]
    return admit


async def _agent(request: Request) -> Principal:
    desks: Desks = request.app.state.desks
    return await desks.callers.agent(*_presented(request))


_agent.role = Role.AGENT  # type: ignore[attr-defined]


def _presented(request: Request) -> tuple[dict[bytes, bytes], str | None]:
    """Headers and address."""
    client = request.scope.get("client")
    return dict(request.scope["headers"]), client[0] if client else None


async def anybody() -> None:
    """The dependency of a route that wants no key: said, not forgotten."""


anybody.role = None  # type: ignore[attr-defined]


async def _desks(request: Request) -> Desks:
    desks: Desks = request.app.state.desks
    return desks


TheDesks = Annotated[Desks, Depends(_desks)]
Agent = Annotated[Principal, Depends(_agent)]
Operator = Annotated[Principal, Depends(needs(Role.OPERATOR))]
Approver = Annotated[Principal, Depends(needs(Role.APPROVER))]
Auditor = Annotated[Principal, Depends(needs(Role.AUDITOR))]
Admin = Annotated[Principal, Depends(needs(Role.ADMIN))]
Opa = Annotated[Principal, Depends(needs(Role.OPA))]
Id = Annotated[str, Path(pattern=ID_PATTERN)]

_REFUSED_STATUS = {
    ReasonCode.FORBIDDEN: 403,
    ReasonCode.NOT_FOUND: 404,
    ReasonCode.CONFLICT: 409,
    ReasonCode.EXPIRED: 409,
    ReasonCode.INVALID_REQUEST: 422,
    ReasonCode.ARGUMENTS_INVALID: 422,
    ReasonCode.POLICY_UNAVAILABLE: 503,
    ReasonCode.POLICY_TIMEOUT: 503,
    ReasonCode.RETENTION_FLOOR: 409,
    ReasonCode.RETENTION_UNAVAILABLE: 503,
    ReasonCode.CLOCK_UNTRUSTED: 409,
    ReasonCode.PACK_TOO_LARGE: 413,
    ReasonCode.TIMESTAMP_UNAVAILABLE: 503,
}


def refused(why: Refused) -> Problem:
    """What a desk would not do, as the door says it."""
    status = 503 if why.reason in OUTAGE else _REFUSED_STATUS.get(why.reason, 403)
    return Problem(status, why.reason, why.detail)


def unless_refused(outcome: _Done | Refused) -> _Done:
    """What a desk has done. Raises Problem for what it would not do."""
    if isinstance(outcome, Refused):
        raise refused(outcome)
    return outcome
