"""SQLite logs of earlier schema versions: what they lack, and how one is read that nobody has opened since."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sqlalchemy.schema import CreateTable

from agentgate.adapters.log import _schema as schema
from agentgate.adapters.log._sqlite.statements import DIALECT
from agentgate.core.projection.tables import STRETCH_BITS

NEW_IN: Final = {
    3: (schema.subtrees, schema.cosignatures, schema.body_segments, schema.holds, schema.prunes),
    4: (schema.pins,),
    6: (schema.votes, schema.answers, schema.cursors),
}
"""The tables that a version has and those before it lack."""
SUBTREES_SINCE: Final = 3
STRETCHES_SINCE: Final = 5
_APPROVALS_SINCE: Final = 6
_OF_THE_REQUEST: Final = """
    SELECT {of} FROM events e WHERE e.log_id = a.log_id AND e.kind = 'approval_requested'
      AND json_extract(CAST(e.leaf AS TEXT), '$.approval_id') = a.id ORDER BY e.idx LIMIT 1"""
APPROVALS_OF_OLD: Final = f"""
    SELECT a.log_id, a.id, a.tenant, a.session, a.requested_by, a.tool, a.trace_id, a.digest, a.policy_revision,
      a.requested_at, a.expires_at, a.state, a.decided_by, a.token_sha256, a.sealed, 1 AS quorum, '[]' AS approvers,
      CASE WHEN a.token_sha256 IS NOT NULL THEN 1 ELSE 0 END AS votes, NULL AS on_behalf_of,
      '' AS server, '' AS tool_sha256, coalesce(({_OF_THE_REQUEST.format(of="e.kill_position")}), 0) AS position,
      NULL AS edited_from, NULL AS edited_to, 0 AS executes, NULL AS why,
      coalesce(({_OF_THE_REQUEST.format(of="e.idx")}), 0) AS idx"""
"""What the approvals of an earlier version are now: one yes was enough for each, and nobody could edit one."""


def views(version: int) -> Iterator[str]:
    """What a reader makes for itself, so that its statements find what they know."""
    if version < STRETCHES_SINCE:  # such a log has the index over sessions
        yield f"""CREATE TEMPORARY VIEW stretches AS
       SELECT log_id, tenant, session, idx >> {STRETCH_BITS} AS stretch FROM events WHERE {schema.IN_A_SESSION}"""  # noqa: S608  # a number
    if version < _APPROVALS_SINCE:
        yield f"CREATE TEMPORARY VIEW approvals AS {APPROVALS_OF_OLD} FROM main.approvals a"


def stand_ins(version: int) -> Iterator[str]:
    """What an audit makes for itself: what is lacked, with nothing in it, and the approvals as they are now."""
    for since, lacked in NEW_IN.items():
        for table in lacked if version < since else ():
            make = str(CreateTable(table).compile(dialect=DIALECT))
            yield make.replace("CREATE TABLE", "CREATE TEMPORARY TABLE", 1)
    if version < _APPROVALS_SINCE:
        yield f"CREATE TEMPORARY TABLE approvals AS {APPROVALS_OF_OLD} FROM main.approvals a"
