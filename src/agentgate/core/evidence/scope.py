"""What an evidence pack is of, and which events belong in: the scope's own, and the wider ones that concern it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentgate.core.containment import Scope as KillScope
from agentgate.core.containment import flag, flags_of
from agentgate.core.event import Kind, Record
from agentgate.core.evidence.sections import OF_HOLDS, OF_KILLS, OF_TOOLS
from agentgate.core.query import Query

NAMED: Final = ("kill_id", "hold_id")
"""The fields in which kills and holds have their ids."""
WIDER: Final = frozenset({*OF_KILLS, *OF_HOLDS, *OF_TOOLS, Kind.EXPORTED})
"""Kinds of events that concern a scope without being in its sessions."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a pack is of: a session, an agent's sessions, or a whole tenant; each within times, if they are given.

    Times are RFC 3339 with microseconds and a `Z`; `until` is exclusive. Clocks of members differ a little, so a pack
    holds *all* events of the scope from the first to the last index that `query` finds: then a session's numbers run
    without a gap in it, and one that is missing shows.
    """

    tenant: str
    session: str | None = None
    agent: str | None = None
    since: str | None = None
    until: str | None = None

    @property
    def told(self) -> dict[str, str]:
        """What is given of it, by name."""
        names = ("tenant", "session", "agent", "since", "until")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @property
    def query(self) -> Query:
        """Finds the scope's own events, of an agent's more than these: `owns` tells."""
        return Query(tenant=self.tenant, session=self.session, since=self.since, until=self.until)

    def owns(self, record: Record, sessions_of_agent: frozenset[str]) -> bool:
        """Whether an event that `query` found is in the scope. `sessions_of_agent` are those that the agent opened."""
        if self.agent is None:
            return True
        fields = record.fields
        return fields.get("principal") == self.agent or fields.get("session") in sessions_of_agent


def ended_before(scope: Scope, own: Sequence[Record], size: int) -> tuple[Query, int]:
    """Finds the ends of what was over before the scope begins, among the events below the index that is returned: of
    kills, and of holds where the scope says since when."""
    if scope.since is None:
        return Query(kinds={Kind.RELEASED}), own[0].index if own else 0
    return Query(kinds={Kind.RELEASED, Kind.UNHELD}, until=scope.since), own[0].index if own else size


class Concern:
    """Tells of events of `WIDER` kinds, one by one in log order, which concern a scope: kills over its calls, holds on
    it, its exports, and what was said of the tools that it called.

    A kill concerns whoever it covered while it was in force, whether or not it cut anything. What was before or after
    the scope's own events is so by the log's order: clocks of members differ. `over` are the kills and holds whose ends
    `ended_before` finds, each with the field of `NAMED` that has its id: people name both, and may name them alike.
    """

    def __init__(self, scope: Scope, own: Sequence[Record], over: Collection[tuple[str, str]]) -> None:
        self._scope = scope
        self._known = {record.fields["id"] for record in own}
        self._flags = _flags(scope, own)
        self._tools = {record.fields["tool"] for record in own if record.kind is Kind.DECIDED}
        self._last = own[-1].index if own else -1
        self._over = over
        self._kills: set[str] = set()

    def keeps(self, record: Record) -> bool:
        fields = record.fields
        if fields["id"] in self._known or self._is_after(record):
            return False
        if record.kind in OF_KILLS:
            if record.kind is Kind.KILLED and self._is_covering(record):
                self._kills.add(fields["kill_id"])
            return fields["kill_id"] in self._kills
        if record.kind in OF_TOOLS:
            return fields["tool"] in self._tools and record.index < self._last
        return _is_about(self._scope, fields) and not self._is_before(record)

    def _is_before(self, record: Record) -> bool:
        """Of a hold, whether it was over; of an export, whether it was made."""
        if record.kind in OF_HOLDS:
            return ("hold_id", record.fields["hold_id"]) in self._over
        since = self._scope.since
        return since is not None and record.fields["at"] < since

    def _is_after(self, record: Record) -> bool:
        until = self._scope.until
        return until is not None and record.fields["at"] >= until and record.index > self._last

    def _is_covering(self, order: Record) -> bool:
        fields = order.fields
        if ("kill_id", fields["kill_id"]) in self._over:
            return False
        if self._scope.session is not None and order.index > self._last:
            return False
        return flag(KillScope(fields["scope"]), fields.get("tenant", ""), fields["target"]) in self._flags


def _flags(scope: Scope, own: Sequence[Record]) -> set[str]:
    """Of all kills that would cover one of the calls, or what the scope itself is of."""
    flags: set[str] = set()
    for record in own:
        if record.kind is Kind.DECIDED:
            fields = record.fields
            flags.update(
                flags_of(
                    tenant=scope.tenant,
                    tool=fields["tool"],
                    server=fields.get("server", ""),
                    agent=_name(fields["principal"]),
                    session=fields.get("session", ""),
                )
            )
    if scope.session is not None:
        flags.add(flag(KillScope.SESSION, scope.tenant, scope.session))
    if scope.agent is not None:
        flags.add(flag(KillScope.AGENT, scope.tenant, _name(scope.agent)))
    return flags


def _name(principal: str) -> str:
    """What a kill calls an agent: its id without the kind."""
    return principal.partition(":")[2]


def _is_about(scope: Scope, fields: Mapping[str, Any]) -> bool:
    """Whether a hold or an export names what the scope is of. A hold over all tenants is no tenant's affair: why it was
    given may be another's."""
    if fields.get("tenant", "") != scope.tenant:
        return False
    if scope.session is not None:
        return fields.get("of_session") in (scope.session, "")
    return scope.agent is None or fields.get("of_agent") == scope.agent or fields.get("of_session") == ""
