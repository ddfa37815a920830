"""What policy is told of arguments that are programs, paths or addresses: read by parsers, never matched.

A kind is `shell`, `path`, `url`, `domain` or `sql:DIALECT`. SQL has no meaning without a dialect: where a string or a
comment ends differs from one to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from agentgate.adapters.parsers import _paths, _urls

Parse = Callable[[str], dict[str, Any]]
SQL_DIALECTS: Final = frozenset({"mysql", "postgres", "sqlite"})
"""Those whose statements end where the parser says that they end. In T-SQL `select 1 delete from t` is two."""
_REMEMBERED: Final = 256


class ArgumentParsers:
    """An ArgumentParser. One text is read once as long as it is remembered; results must not be changed."""

    def __init__(self) -> None:
        self._parsers: dict[str, Parse] = {}

    def prepare(self, kinds: Iterable[str]) -> None:
        """Raises ValueError: a kind that is none."""
        for kind in kinds:
            if kind not in self._parsers:
                self._parsers[kind] = lru_cache(_REMEMBERED)(_parser(kind))

    def parse(self, kind: str, text: str) -> Mapping[str, Any]:
        parser = self._parsers.get(kind)
        if parser is None:
            return {"kind": kind, "error": "no such parser"}
        return parser(text)


def _parser(kind: str) -> Parse:
    family, _, dialect = kind.partition(":")
    read = _reader(family, dialect)

    def parse(text: str) -> dict[str, Any]:
        try:
            return {"kind": family, **read(text)}
        except ValueError as error:
            return {"kind": family, "error": str(error)}
        except RecursionError:
            return {"kind": family, "error": "nested too deeply"}

    return parse


def _reader(family: str, dialect: str) -> Parse:
    if family == "sql" and dialect in SQL_DIALECTS:
        from agentgate.adapters.parsers import _sql  # a quarter of a second, which most gateways have no use for

        return lambda text: _sql.read(text, dialect)
    if family == "shell" and not dialect:
        from agentgate.adapters.parsers import _shell  # a native parser, loaded where it is wanted too

        return _shell.read
    if not dialect and family in _SIMPLE:
        return _SIMPLE[family]
    known = ", ".join((*sorted(_SIMPLE), "shell", *(f"sql:{one}" for one in sorted(SQL_DIALECTS))))
    raise ValueError(f"{family if not dialect else f'{family}:{dialect}'!r} is none of {known}")


_SIMPLE: Final[Mapping[str, Parse]] = {"path": _paths.read, "url": _urls.read_url, "domain": _urls.read_domain}
