"""What people page through: sessions and approvals. Agents make as many of them as they like, so whoever lists them is
given a page at a time, and what is not on it stays in the database."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, or_, select

from agentgate.adapters.log import _schema as schema
from agentgate.core.approval import MAY_EXPIRE, State, Wanted
from agentgate.core.event import rfc3339

Statement = Select[*tuple[Any, ...]]

_BEHIND_ALL: Final = "\U0010ffff"
"""Sorts behind every letter that an id has."""
_approvals, _sessions = schema.approvals.c, schema.sessions.c
APPROVAL_COLUMNS: Final = tuple(one for one in schema.columns_of(schema.approvals) if one.name != "sealed")


def sessions(log_id: str, tenant: str | None, principal: str | None, after: str, limit: int) -> Statement:
    statement = select(_sessions.session).where(_sessions.log_id == log_id, _sessions.session > after)
    if tenant is not None:
        statement = statement.where(_sessions.tenant == tenant)
    if principal is not None:
        statement = statement.where(_sessions.principal == principal)
    return statement.group_by(_sessions.session).order_by(_sessions.session).limit(limit)


def approvals(log_id: str, wanted: Wanted, limit: int) -> Statement:
    """Rows of `APPROVAL_COLUMNS`."""
    statement = select(*APPROVAL_COLUMNS).where(_approvals.log_id == log_id, _approvals.idx >= wanted.first)
    if wanted.tenant is not None:
        statement = statement.where(_approvals.tenant == wanted.tenant)
    if wanted.prefix:  # as a range, which the key leads to
        statement = statement.where(_approvals.id >= wanted.prefix, _approvals.id < wanted.prefix + _BEHIND_ALL)
    if wanted.state is not None:
        statement = statement.where(_is_in(wanted.state, rfc3339(wanted.now)))
    return statement.order_by(_approvals.idx).limit(limit)


def _is_in(state: State, now: str) -> ColumnElement[bool]:
    """As `Approval.state_at` says it of one."""
    if state is State.EXPIRED:  # whether that is recorded yet or not
        over = and_(_approvals.state.in_([one.value for one in MAY_EXPIRE]), _approvals.expires_at <= now)
        return or_(_approvals.state == state.value, over)
    stored = _approvals.state == state.value
    return and_(stored, _approvals.expires_at > now) if state in MAY_EXPIRE else stored
