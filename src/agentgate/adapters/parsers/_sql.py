"""SQL, read by sqlglot: which statements, which tables, which functions. Nothing is guessed: what the parser does not
know as a statement of the dialect is an error or of kind `other`, and never a `select`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Final

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.tokenizer_core import Token, TokenType

MAX_CHARS: Final = 8192
MAX_TOKENS: Final = 1000
MAX_DEPTH: Final = 32
FREE_STEPS: Final = 200
STEPS_PER_TOKEN: Final = 2
"""From word to word, and back where the parser tries anew. A list may have dozens of texts, each with its own."""

# It quotes statements that it does not know, and they may hold what must not be in a log.
logging.getLogger("sqlglot").disabled = True

_COMMENT: Final = re.compile(r"--|/\*|\*/")
_HASH_COMMENT: Final = re.compile(r"--|/\*|\*/|#")
_RUN_COMMENT: Final = re.compile(r"/\*M?!")
_NAMES: Final = frozenset({TokenType.VAR, TokenType.IDENTIFIER})
_OF_WORDS: Final = re.compile(r"[\w$]")
_READS: Final = (exp.Select, exp.SetOperation, exp.Values)
_KINDS: Final[tuple[tuple[type[exp.Expr], str], ...]] = (
    (exp.Insert, "insert"),
    (exp.Update, "update"),
    (exp.Delete, "delete"),
    (exp.Merge, "merge"),
    (exp.Create, "create"),
    (exp.Drop, "drop"),
    (exp.Alter, "alter"),
    (exp.TruncateTable, "truncate"),
    (exp.Into, "select_into"),
    (exp.Lock, "lock"),
    (exp.Copy, "copy"),
    (exp.Pragma, "pragma"),
    (exp.Attach, "attach"),
    (exp.Detach, "detach"),
    (exp.Set, "set"),
    (exp.Parameter, "variable"),
    (exp.Use, "use"),
    (exp.Transaction, "transaction"),
    (exp.Commit, "transaction"),
    (exp.Rollback, "transaction"),
    (exp.Grant, "grant"),
    (exp.Describe, "describe"),
    (exp.Show, "show"),
)
_TARGETS: Final = (
    exp.Insert, exp.Update, exp.Delete, exp.Merge, exp.Create, exp.Drop, exp.Alter, exp.TruncateTable, exp.Into,
    exp.Copy,
)  # fmt: skip
_KNOWN: Final = tuple(kind for kind, _ in _KINDS)
_UNKNOWN: Final = (exp.Command, exp.Operator)
_ACTING: Final = frozenset({"next_value_for", "read_csv", "read_parquet", "to_file", "net_func", "predict", "secret"})
"""Functions that the parser has names for, and that do more than compute."""
_ACTING_PREFIXES: Final = ("ai_", "ml_", "generate_embedding", "generate_text", "features_at_time")


def read(text: str, dialect: str) -> dict[str, Any]:
    """`{statements: [{kinds, reads, writes, functions, unknown_functions}], comments}`.

    `kinds` has all that a statement does, in subqueries and common table expressions too; only a plain query is
    `["select"]`. Tables are written as in the statement, in lower case unless quoted, `schema.table`.

    Raises:
        ValueError: too large, not SQL of the dialect, or with escapes that depend on the server's settings.
    """
    if len(text) > MAX_CHARS:
        raise ValueError(f"longer than {MAX_CHARS} characters")
    if "\\" in text:
        raise ValueError("a backslash, which servers read by their settings")
    if not text.replace("\n", " ").replace("\t", " ").replace("\r", " ").isprintable():
        raise ValueError("a character that cannot be seen")
    if dialect == "mysql" and _RUN_COMMENT.search(text):
        raise ValueError("a comment that is a statement to the server")
    rules, parser = _dialect(dialect)
    try:
        tokens = rules.tokenize(text)
        if len(tokens) > MAX_TOKENS:
            raise ValueError(f"more than {MAX_TOKENS} words")
        _check_depth(token.text for token in tokens)
        _check_words(tokens, text)
        reader = parser(dialect=rules)
        reader.steps_left = FREE_STEPS + STEPS_PER_TOKEN * len(tokens)
        found = [one for one in reader.parse(tokens, text) if one is not None]
    except SqlglotError:
        raise ValueError(f"not SQL of {dialect}") from None
    except _TooHardError:
        raise ValueError("it can be read in too many ways") from None
    if not found:
        raise ValueError("no statement")
    comment = _HASH_COMMENT if dialect == "mysql" else _COMMENT
    return {"statements": [_statement(one) for one in found], "comments": comment.search(text) is not None}


class _TooHardError(Exception):
    """No ValueError, which the parser takes for a word that does not fit here."""


@cache
def _dialect(name: str) -> tuple[Dialect, type[Any]]:
    """The rules of a dialect, and its parser with an end: what can be read in two ways at each word of hundreds would
    be read in 2^hundreds ways."""
    rules = Dialect.get_or_raise(name)

    class Bounded(rules.parser_class):  # type: ignore[misc, name-defined]
        steps_left = FREE_STEPS

        def _advance(self, times: int = 1) -> None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise _TooHardError
            super()._advance(times)

    return rules, Bounded


def _check_words(tokens: Sequence[Token], text: str) -> None:
    """Raises ValueError: a number and a word run together. `1.0FROM users` is a name to one reader, and to a server
    a number and what is to be read."""
    for token, after in pairwise(tokens):
        if token.end + 1 != after.start:
            continue
        last, first = text[token.end], text[after.start]
        if token.token_type is TokenType.NUMBER and (first == "." or _OF_WORDS.match(first)):
            raise ValueError("a number and a word that run together")
        if _OF_WORDS.match(last) and _OF_WORDS.match(first):
            raise ValueError("words that run together")
    if any(token.token_type in _NAMES and text[token.start].isdigit() for token in tokens):
        raise ValueError("a name that begins with a digit")


def _check_depth(texts: Iterable[str]) -> None:
    depth = 0
    for text in texts:
        depth += (text in {"(", "[", "{"}) - (text in {")", "]", "}"})
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")


def _statement(root: exp.Expr) -> dict[str, Any]:
    kinds: set[str] = set()
    reads: set[str] = set()
    writes: set[str] = set()
    functions: set[str] = set()
    unknown: set[str] = set()
    outermost = root.unnest()
    if isinstance(outermost, _READS):
        kinds.add("select")
    elif not isinstance(outermost, _KNOWN):
        kinds.add("other")
    for node in root.walk():
        if isinstance(node, _UNKNOWN):
            raise ValueError("a statement that is not understood")
        if isinstance(node, _KNOWN):
            kinds.update(name for kind, name in _KINDS if isinstance(node, kind))
        if isinstance(node, exp.In) and node.args.get("field") is not None:
            raise ValueError("IN without a list: to SQLite what follows is a table")
        if isinstance(node, exp.Table):
            if name := _table(node):
                if _is_target(node):
                    writes.add(name)
                elif not _is_of_with(node, name):
                    reads.add(name)
        elif isinstance(node, exp.Func):
            name, is_known = _function(node)
            functions.add(name)
            if not is_known:
                unknown.add(name)
    return {
        "kinds": sorted(kinds),
        "reads": sorted(reads),
        "writes": sorted(writes),
        "functions": sorted(functions),
        "unknown_functions": sorted(unknown),
    }


def _identifier(node: Any) -> str:
    if isinstance(node, exp.Identifier):
        return str(node.this) if node.args.get("quoted") else str(node.this).lower()
    return str(getattr(node, "name", "")).lower()


def _table(node: exp.Table) -> str:
    """Empty for a function in the place of a table."""
    if isinstance(node.this, exp.Func):
        return ""
    parts = (node.args.get("catalog"), node.args.get("db"), node.this)
    return ".".join(_identifier(part) for part in parts if part)


def _is_target(node: exp.Table) -> bool:
    """Whether the table is what a statement writes to."""
    child: exp.Expr = node
    parent = node.parent
    while isinstance(parent, exp.Schema | exp.Alias | exp.Tuple):
        child, parent = parent, parent.parent
    return isinstance(parent, _TARGETS) and child.arg_key in {"this", "tables", "expressions"}


def _is_of_with(node: exp.Table, name: str) -> bool:
    """Whether the name is that of a common table expression which is certainly in scope there: defined before, or
    around it and recursive. Of any doubt, it is a table."""
    if node.args.get("db"):
        return False
    child: exp.Expr = node
    parent = node.parent
    while parent is not None:
        if isinstance(parent, exp.With):
            if name in _names_before(parent, child):
                return True
            parent = parent.parent  # the query that it belongs to: its own names are those of this very With
            if parent is None:
                return False
        else:
            around = parent.args.get("with_")
            if around is not None and around is not child and name in map(_cte_name, around.expressions):
                return True
        child, parent = parent, parent.parent
    return False


def _names_before(around: exp.With, inside: exp.Expr) -> set[str]:
    names: set[str] = set()
    for one in around.expressions:
        if one is inside:
            return names | {_cte_name(one)} if around.args.get("recursive") else names
        names.add(_cte_name(one))
    return set()


def _cte_name(node: exp.Expr) -> str:
    alias = node.args.get("alias")
    return _identifier(alias.this) if isinstance(alias, exp.TableAlias) else ""


def _function(node: exp.Func) -> tuple[str, bool]:
    """Its name in lower case, and whether it is one that the parser knows to compute and nothing else."""
    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        name, is_known = _identifier(node.this) if isinstance(node.this, exp.Identifier) else str(node.this), False
    else:
        name = node.sql_name().lower()
        is_known = name not in _ACTING and not name.startswith(_ACTING_PREFIXES)
    parent = node.parent
    if isinstance(parent, exp.Dot) and parent.expression is node:
        return f"{parent.this.sql().lower()}.{name.lower()}", False
    return name.lower(), is_known
