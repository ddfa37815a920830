"""The statements of the connection that appends: a few for every batch, and one for each rare effect."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from agentgate.adapters.log._postgres.connection import UNSAFE
from agentgate.core.projection.tables import KEYS, Drop, Effect, Put

OF_HEAD, OF_SESSION, OF_SPENT, OF_MEMBER, OF_HOLD = range(5)
"""What a row of `LOOK` is of."""
SPENT: Final = ("kind", "key", "idx")
ANSWER: Final = (
    "key", "tenant", "principal", "session", "tool", "trace_id", "digest", "outcome", "reason_code", "at", "idx",
    "sealed",
)  # fmt: skip
"""The columns of rows that `APPEND` carries, as it has them."""
STANDING: Final = ("left_idx", "gone_idx", "attested_idx")

LOOK: Final = f"""
    SELECT {OF_HEAD}, NULL::text, NULL::text, {UNSAFE}, size, kill_position, NULL::bigint[] FROM head WHERE log_id = $1
    UNION ALL
    SELECT {OF_SESSION}, w.tenant, w.session,
      (SELECT s.principal FROM sessions s WHERE s.log_id = $1 AND s.tenant = w.tenant AND s.session = w.session),
      (SELECT max(e.session_number) FROM events e
       WHERE e.log_id = $1 AND e.tenant = w.tenant AND e.session = w.session AND e.session <> ''),
      NULL, NULL
    FROM unnest($2::text[], $3::text[]) AS w(tenant, session)
    UNION ALL
    SELECT {OF_SPENT}, w.kind, w.key, NULL, NULL, NULL, NULL FROM unnest($4::text[], $5::text[]) AS w(kind, key)
    WHERE EXISTS (SELECT FROM spent s WHERE s.log_id = $1 AND s.kind = w.kind AND s.key = w.key)
    UNION ALL
    SELECT {OF_MEMBER}, member, NULL, NULL, joined_idx, NULL, ARRAY[left_idx, gone_idx, attested_idx] FROM members
    WHERE $6::boolean AND log_id = $1 AND (left_idx IS NULL OR member = ANY ($7::text[]))
    UNION ALL
    SELECT {OF_HOLD}, id, tenant, session, NULL, NULL, NULL FROM holds
    WHERE $8::boolean AND log_id = $1 AND released_idx IS NULL
"""  # noqa: S608  # constants of this package

APPEND: Final = f"""
    WITH moved AS (
      UPDATE head SET size = $3, kill_position = $4
      WHERE log_id = $1 AND size = $2::bigint AND ({UNSAFE}) IS NULL RETURNING 1
    ), added_bodies AS (
      INSERT INTO bodies (log_id, idx, salt, body)
      SELECT $1, r.* FROM unnest($5::bigint[], $15::bytea[], $16::bytea[]) r WHERE EXISTS (SELECT FROM moved)
    ), added_sessions AS (
      INSERT INTO sessions (log_id, tenant, session, principal, first_at, idx)
      SELECT $1, r.* FROM unnest($17::text[], $18::text[], $19::text[], $20::text[], $21::bigint[]) r
      WHERE EXISTS (SELECT FROM moved)
    ), added_spent AS (
      INSERT INTO spent (log_id, kind, key, idx)
      SELECT $1, r.* FROM unnest($22::text[], $23::text[], $24::bigint[]) r WHERE EXISTS (SELECT FROM moved)
    ), added_answers AS (
      INSERT INTO answers (log_id, {", ".join(ANSWER)})
      SELECT $1, r.* FROM unnest($25::text[], $26::text[], $27::text[], $28::text[], $29::text[], $30::text[],
                                 $31::text[], $32::text[], $33::text[], $34::text[], $35::bigint[], $36::bytea[]) r
      WHERE EXISTS (SELECT FROM moved) ON CONFLICT DO NOTHING
    )
    INSERT INTO events
      (log_id, idx, event_id, kind, tenant, session, session_number, at, kill_position, leaf, leaf_hash)
    SELECT $1, r.* FROM unnest($5::bigint[], $6::text[], $7::text[], $8::text[], $9::text[], $10::bigint[],
                               $11::text[], $12::bigint[], $13::bytea[], $14::bytea[]) r
    WHERE EXISTS (SELECT FROM moved)
"""  # noqa: S608  # as above
"""Everything in one message. Without a transaction around it, it commits by itself."""

IDS: Final = "SELECT event_id FROM events WHERE log_id = $1 AND idx >= $2 AND idx < $3 ORDER BY idx"
COUNT: Final = "SELECT max(idx) FROM events WHERE log_id = $1"
RECEIPT: Final = "SELECT idx, kill_position FROM events WHERE log_id = $1 AND event_id = $2 AND leaf_hash = $3"
LEAF_HASH: Final = "SELECT leaf_hash FROM events WHERE log_id = $1 AND idx = $2"
BACKEND: Final = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
END: Final = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = {} AND backend_start = '{}' AND pid <> pg_backend_pid()"""
"""Not our own: a pooler may have given us the same one again."""
OFTEN: Final = (LOOK, APPEND, IDS, COUNT, RECEIPT, LEAF_HASH)


def is_bulk(effect: Effect) -> bool:
    """Whether `APPEND` carries it: rows that nothing else in a batch touches. What drops answers is of earlier ones."""
    return isinstance(effect, Put) and effect.table in ("spent", "sessions", "answers")


def of_effect(effect: Effect) -> str:
    if isinstance(effect, Put):
        return _put(effect.table, tuple(effect.row))
    if isinstance(effect, Drop):
        return f"DELETE FROM {effect.table} WHERE log_id = $1 AND idx <= $2"  # noqa: S608  # a name of ours
    return _change(effect.table, tuple(effect.columns), bool(effect.states))


@lru_cache
def _put(table: str, columns: tuple[str, ...]) -> str:
    values = ", ".join(f"${number}" for number in range(1, len(columns) + 2))
    return f"INSERT INTO {table} (log_id, {', '.join(columns)}) VALUES ({values}) ON CONFLICT DO NOTHING"  # noqa: S608  # names of ours


@lru_cache
def _change(table: str, columns: tuple[str, ...], states: bool) -> str:
    keys = ("log_id", *KEYS[table])
    where = [f"{key} = ${number}" for number, key in enumerate(keys, 1)]
    to = [f"{column} = ${number}" for number, column in enumerate(columns, len(keys) + 1)]
    if states:
        where.append(f"state = ANY (${len(keys) + len(columns) + 1})")
    return f"UPDATE {table} SET {', '.join(to)} WHERE {' AND '.join(where)}"  # noqa: S608  # names of ours
