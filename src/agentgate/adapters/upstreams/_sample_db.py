"""The demo's SQL: reads on a connection that cannot write, writes that SQL text never reaches.

Reads run directly on the event loop: 5 µs there for a small query, over 100 µs through a thread. So a
hostile query must not hold the loop. The progress handler ends a statement after 20 ms, but SQLite calls it
between instructions only: hence every single instruction is made cheap (short values, few and harmless
functions). Compiling is not covered by it at all, and SQL text can ask for exponential work there (chains of
common table expressions, subqueries that double an expression): hence only short statements of one SELECT
and one subquery are compiled.
"""

from __future__ import annotations

import math
import re
import sqlite3
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from time import monotonic
from typing import Any, Final

from agentgate.adapters.upstreams._answers import ToolError

_MAX_READ_S: Final = 0.02
_INSTRUCTIONS_PER_CHECK: Final = 20
_MAX_ROWS: Final = 200
_MAX_RESULT_CHARS: Final = 1 << 20
_MAX_FILE_PAGES: Final = 4096
"""16 MiB: an agent with an approval to insert cannot fill the disk."""
MAX_SQL_CHARS: Final = 4096
_MAX_WORDS: Final = 96
_MAX_SELECTS: Final = 2
_MAX_KNOWN_TEXTS: Final = 256
_MAX_FUNCTIONS: Final = 16
"""Function uses in one statement: they run without a check between them when they stand in one row."""
_MAX_EXACT: Final = 2**53 - 1
_TOKEN: Final = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^]]*(?:\]|\Z)|\w+|\S""", re.DOTALL
)
"""As SQLite's tokenizer splits: comment, quoted (a doubled quote is two tokens), word, anything else."""

_LIMITS: Final = {
    sqlite3.SQLITE_LIMIT_LENGTH: 16_384,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: MAX_SQL_CHARS,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 50,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 10,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 8,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 50,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
}

_FUNCTIONS: Final = frozenset(
    {"abs", "avg", "coalesce", "count", "group_concat", "ifnull", "iif", "length", "like", "lower", "max", "min"}
    | {"nullif", "round", "substr", "substring", "sum", "total", "typeof", "upper", "row_number", "rank"}
    | {"date", "datetime", "julianday", "strftime", "time", "current_date", "current_time", "current_timestamp"}
)
"""Linear in their arguments, and none makes a long value from a short one (as zeroblob, printf and replace do)."""

_SAYS: Final = {
    sqlite3.SQLITE_AUTH: "only SELECT on the sample tables with common functions is allowed",
    sqlite3.SQLITE_INTERRUPT: "the query takes too long",
    sqlite3.SQLITE_TOOBIG: "a value is too long",
    sqlite3.SQLITE_FULL: "the sample database is full",
    sqlite3.SQLITE_BUSY: "the sample database is busy",
    sqlite3.SQLITE_READONLY: "the connection is read-only",
    sqlite3.SQLITE_CONSTRAINT: "the row contradicts a constraint of the table",
}


class SampleDatabase:
    """The SQLite file of the demo, made at first use. Everything it refuses is a `ToolError`."""

    def __init__(self, path: Path) -> None:
        self._writer = sqlite3.connect(path, isolation_level=None, timeout=_MAX_READ_S, check_same_thread=False)
        _create(self._writer)
        self._tables = _tables(self._writer)
        for limit, value in _LIMITS.items():
            self._writer.setlimit(limit, value)
        uri = f"{path.resolve().as_uri()}?mode=ro"
        self._reader = sqlite3.connect(
            uri, uri=True, isolation_level=None, timeout=_MAX_READ_S, check_same_thread=False, cached_statements=64
        )
        for limit, value in _LIMITS.items():
            self._reader.setlimit(limit, value)
        self._reader.set_authorizer(self._authorize)
        self._reader.set_progress_handler(self._is_late, _INSTRUCTIONS_PER_CHECK)
        self._readable = frozenset(self._tables) | {"sqlite_master", "sqlite_schema"}
        self._deadline = 0.0
        self._functions = 0
        self._known_texts: set[str] = set()

    def query(self, sql: str) -> dict[str, Any]:
        """`{rows, query}`, with `truncated: true` when there were more rows than fit."""
        if sql not in self._known_texts:
            _check_text(sql)
            if len(self._known_texts) >= _MAX_KNOWN_TEXTS:
                self._known_texts.clear()
            self._known_texts.add(sql)
        self._functions = 0
        self._deadline = monotonic() + _MAX_READ_S
        try:
            cursor = self._reader.execute(sql)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            raise ToolError(_explain(error)) from None
        try:
            if cursor.description is None:
                raise ToolError("the query is not a SELECT")
            names = [column[0] for column in cursor.description]
            rows, truncated = _collect(names, cursor)
        except sqlite3.Error as error:
            raise ToolError(_explain(error)) from None
        finally:
            cursor.close()  # an abandoned statement would hold its read transaction
        return {"rows": rows, "query": sql, **({"truncated": True} if truncated else {})}

    def insert(self, table: str, data: Mapping[str, Any]) -> dict[str, Any]:
        """`{inserted_id, table}`."""
        self._check_names(table, data)
        values = {"updated_at": _now(self._writer), **data}
        names = ", ".join(f'"{name}"' for name in values)
        marks = ", ".join("?" for _ in values)
        # S608: table and column names were looked up in the real schema; values are bound.
        cursor = self._write(f'INSERT INTO "{table}" ({names}) VALUES ({marks})', values.values())  # noqa: S608
        return {"inserted_id": cursor.lastrowid, "table": table}

    def update(self, table: str, changes: Mapping[str, Any], where: Mapping[str, Any]) -> dict[str, Any]:
        """`{updated, table}`. Without `where` it is the table's first row, never all of them."""
        self._check_names(table, {**changes, **where})
        values = {"updated_at": _now(self._writer), **changes}
        assignments = ", ".join(f'"{name}" = ?' for name in values)
        first = f'"id" = (SELECT min("id") FROM "{table}")'  # noqa: S608 - a name of the real schema
        condition = " AND ".join(f'"{name}" IS ?' for name in where) or first
        sql = f'UPDATE "{table}" SET {assignments} WHERE {condition}'  # noqa: S608 - as in insert()
        cursor = self._write(sql, [*values.values(), *where.values()])
        return {"updated": cursor.rowcount, "table": table}

    def close(self) -> None:
        self._reader.close()
        self._writer.close()

    def _check_names(self, table: str, given: Iterable[str]) -> None:
        """Refuse names that the real schema does not have: the rest may be put into SQL text."""
        columns = self._tables.get(table)
        if columns is None:
            raise ToolError(f"there is no such table; there are {', '.join(sorted(self._tables))}")
        if not columns.issuperset(given):
            raise ToolError(f"the table {table} has the columns {', '.join(sorted(columns))} and no others")

    def _write(self, sql: str, values: Iterable[Any]) -> sqlite3.Cursor:
        bound = tuple(values)
        if not all(value is None or isinstance(value, str | int | float) for value in bound):
            raise ToolError("a column takes a text, a number, a boolean or null")
        try:
            return self._writer.execute(sql, bound)
        except (sqlite3.Error, ValueError, OverflowError) as error:
            raise ToolError(_explain(error)) from None

    def _authorize(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """Called by SQLite while it compiles a statement, once for each thing that the statement names."""
        if action == sqlite3.SQLITE_SELECT:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ and first in self._readable:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _FUNCTIONS:
            self._functions += 1
            return sqlite3.SQLITE_OK if self._functions <= _MAX_FUNCTIONS else sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_DENY

    def _is_late(self) -> bool:
        return monotonic() > self._deadline


def _check_text(sql: str) -> None:
    """Refuse text whose compilation could be more than its length suggests."""
    words = [token.lower() for token in _TOKEN.findall(sql[: MAX_SQL_CHARS + 1]) if _is_word(token)]
    if len(sql) > MAX_SQL_CHARS or len(words) > _MAX_WORDS or words.count("select") > _MAX_SELECTS or "with" in words:
        raise ToolError(
            f"the demo takes one SELECT with at most one subquery, without WITH, of up to {_MAX_WORDS} words "
            f"and {MAX_SQL_CHARS} characters"
        )


def _is_word(token: str) -> bool:
    """Names, keywords, numbers and quoted texts: what an expression is made of, besides its operators."""
    return token[0] not in "-/(),;.<>=!|&~+%"


def _create(connection: sqlite3.Connection) -> None:
    """Fill an empty file; of several processes that start at once, one does."""
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA journal_mode = WAL")  # readers are not held up by a writer, and are twice as fast
    connection.execute(
        "PRAGMA synchronous = NORMAL"
    )  # sample data may lose its last write, and the loop does not fsync
    connection.execute(f"PRAGMA max_page_count = {_MAX_FILE_PAGES}")
    connection.execute("BEGIN IMMEDIATE")
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
            script = resources.files(__package__).joinpath("_demo", "sample.sql").read_text(encoding="utf-8")
            for statement in script.split(";\n"):
                connection.execute(statement)
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    connection.execute(f"PRAGMA busy_timeout = {int(_MAX_READ_S * 1000)}")


def _tables(connection: sqlite3.Connection) -> dict[str, frozenset[str]]:
    rows = connection.execute(
        "SELECT m.name, c.name FROM sqlite_master m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
    ).fetchall()
    return {table: frozenset(column for of, column in rows if of == table) for table, _ in rows}


def _now(connection: sqlite3.Connection) -> str:
    return str(connection.execute("SELECT current_timestamp").fetchone()[0])


def _collect(names: list[str], cursor: Iterable[tuple[Any, ...]]) -> tuple[list[dict[str, Any]], bool]:
    """Rows as JSON objects, and whether there were more than fit."""
    rows: list[dict[str, Any]] = []
    left = _MAX_RESULT_CHARS
    for row in cursor:
        values = [_as_json(value) for value in row]
        left -= sum(len(value) if isinstance(value, str) else 8 for value in values)
        if left < 0 or len(rows) == _MAX_ROWS:
            return rows, True
        rows.append(dict(zip(names, values, strict=True)))
    return rows, False


def _as_json(value: Any) -> Any:
    """SQLite knows values that strict JSON does not: blobs become hex; infinities and long integers, texts."""
    kind = type(value)
    if kind is bytes:
        return value.hex()
    if (kind is int and not -_MAX_EXACT <= value <= _MAX_EXACT) or (kind is float and not math.isfinite(value)):
        return str(value)
    return value


def _explain(error: Exception) -> str:
    """A sentence for SQLite's refusal. Its own texts quote the statement, which may hold a secret."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return "the statement must be one SELECT, without NUL characters"
    text = str(error)
    if text.startswith("not authorized"):  # a function; SQLite has no code of its own for that
        return _SAYS[sqlite3.SQLITE_AUTH]
    for beginning in ("no such table", "no such column", "no such function", "ambiguous column name"):
        if text.startswith(beginning):
            return f"the query was refused: {beginning}"
    if text.endswith("syntax error") or text == "incomplete input":
        return "the query was refused: syntax error"
    return _SAYS.get(code & 0xFF, f"the statement was refused ({getattr(error, 'sqlite_errorname', 'SQLITE_ERROR')})")
