"""Approvals as the log has them: looked up, and who may answer which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from agentgate.core import kept
from agentgate.core.approval import Approval, State, Vote, Wanted, from_row, may_not_answer
from agentgate.core.call import Call, Principal, Tool, TraceId
from agentgate.core.errors import ReasonCode, Refused
from agentgate.core.strict_json import reread
from agentgate.ports.ambient import Clock
from agentgate.ports.keys import Sealer
from agentgate.ports.log import LogReader

SEALED: Final = "sealed"
"""The column that is not read where many approvals are: it may be a megabyte each."""
MOST_LISTED: Final = 1_000
"""At once."""


class ApprovalBook:
    """What there is; it changes nothing."""

    def __init__(self, reader: LogReader, sealer: Sealer, clock: Clock) -> None:
        self._reader = reader
        self._sealer = sealer
        self._clock = clock

    async def list(
        self,
        viewer: Principal,
        state: State | None = None,
        *,
        prefix: str = "",
        after: Approval | None = None,
        limit: int = MOST_LISTED,
    ) -> list[Approval]:
        """The first approvals of the viewer's tenant whose id begins so, oldest first, without what is sealed; those
        that the log has `after` one. Raises LogUnavailable."""
        wanted = Wanted(
            self._clock.now(),
            None if viewer.tenants_all else viewer.tenant,
            state,
            prefix,
            # by their place in the log, which grows: of the times that members write one may be behind another
            after.idx + 1 if after is not None else 0,
        )
        return [from_row(row) for row in await self._reader.approvals(wanted, limit)]

    async def get(self, viewer: Principal, approval_id: str) -> Approval | None:
        """None for another tenant's too: its existence is not the viewer's business."""
        approval = await self.approval(approval_id)
        return approval if approval is not None and viewer.sees(approval.tenant) else None

    async def approval(self, approval_id: str) -> Approval | None:
        """For the gateway itself. Raises LogUnavailable."""
        rows = await self._reader.projection("approvals", id=approval_id)
        return from_row(rows[0]) if rows else None

    async def votes(self, approval: Approval) -> tuple[Vote, ...]:
        """Who has said yes, the first one first. Raises LogUnavailable."""
        if not approval.votes:
            return ()
        rows = await self._reader.projection("votes", approval=approval.id)
        return tuple(Vote(row["person"], row["at"]) for row in sorted(rows, key=lambda row: row["ordinal"]))

    def question(self, approval: Approval) -> Any:
        """`{arguments, context}` as the agent sent them or an approver edited them, while they are kept; None after."""
        value = self._value(approval)
        return {name: value[name] for name in ("arguments", "context")} if value is not None else None

    def original(self, approval: Approval) -> Any:
        """`{arguments, context}` as the agent sent them, where they were edited; None otherwise."""
        value = self._value(approval)
        return value.get("original") if value is not None else None

    def sent(self, approval: Approval, call: Call) -> Call:
        """The call that `approval` keeps, as the agent sent it: another one where that was edited, however often."""
        original = self.original(approval)
        if original is None:
            return call
        return replace(call, arguments=original["arguments"], context=original["context"])

    def kept(self, approval: Approval, tool: Tool | None, trace_id: TraceId) -> Call | None:
        """The call itself, with `tool` as it is now; None when it is not kept, or is another one with that tool."""
        plain = self._plain(approval)
        if plain is None:
            return None
        try:
            call = kept.unpack(plain, tool, trace_id, self._sealer.digest_key)
        except kept.NotKept:
            return None
        return call if approval.is_about(call) else None

    def _plain(self, approval: Approval) -> bytes | None:
        return self._sealer.unseal(approval.sealed, approval.id.encode()) if approval.sealed is not None else None

    def _value(self, approval: Approval) -> Any:
        plain = self._plain(approval)
        return reread(plain) if plain is not None else None

    def state_now(self, approval: Approval) -> State:
        return approval.state_at(self._clock.now())

    async def answerable(
        self, person: Principal, approval_id: str, states: Sequence[State] = (State.PENDING,)
    ) -> Approval | Refused:
        """An approval in one of `states` that `person` may answer. Raises LogUnavailable."""
        approval = await self.get(person, approval_id)
        if approval is None:
            return Refused(ReasonCode.NOT_FOUND, "no such approval")
        forbidden = may_not_answer(approval, person)
        if forbidden is not None:
            return Refused(ReasonCode.FORBIDDEN, forbidden)
        state = self.state_now(approval)
        if state not in states:
            reason = ReasonCode.EXPIRED if state is State.EXPIRED else ReasonCode.CONFLICT
            return Refused(reason, approval.said_to_be(state))
        return approval

    async def open(self) -> tuple[Approval, ...]:
        """All that wait, or that wait to be used, without what is sealed. Raises LogUnavailable."""
        rows: tuple[Mapping[str, Any], ...] = ()
        for state in (State.PENDING, State.APPROVED):
            rows += tuple(await self._reader.projection("approvals", without=SEALED, state=state.value))
        return tuple(one for one in map(from_row, rows) if self.state_now(one) is one.state)
