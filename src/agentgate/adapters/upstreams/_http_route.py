"""A tool's `http` options, compiled: which argument goes where in the request, and nowhere else.

An argument can fill a place that the declaration names and cannot make one: it is percent-encoded within
its path segment, `.` and `..` are refused in it, and it opens no query, header or host.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal
from urllib.parse import quote, unquote, urlencode

from agentgate.adapters.upstreams._answers import Misfit
from agentgate.adapters.upstreams._http_inject import FRAMING, is_header_name, is_header_value
from agentgate.core.strict_json import canonical

Body = Literal["json", "form", "none"]

_OPTIONS: Final = frozenset(
    {"method", "path", "query", "headers", "body", "result", "timeout_ms", "max_response_bytes"}
)
_BODY_OF: Final[dict[str, Body]] = {
    "GET": "none", "HEAD": "none", "DELETE": "none", "POST": "json", "PUT": "json", "PATCH": "json",
}  # fmt: skip
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_PATH_LITERAL: Final = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_OURS: Final = FRAMING | {"cookie", "proxy-authorization", "user-agent"}
"""Headers that a declaration may not set: they frame the message, route it, or carry state we do not keep."""


@dataclass(frozen=True, slots=True)
class Template:
    """Literal texts and argument names in turn: `texts[0] names[0] texts[1] … texts[-1]`."""

    texts: tuple[str, ...]
    names: tuple[str, ...]

    def fill(self, values: list[str]) -> str:
        parts = [self.texts[0]]
        for value, text in zip(values, self.texts[1:], strict=True):
            parts += (value, text)
        return "".join(parts)


@dataclass(frozen=True, slots=True)
class Route:
    """Everything that one tool's options say."""

    method: str
    segments: tuple[Template, ...]
    query: tuple[str, ...]
    headers: tuple[tuple[str, Template], ...]
    body: Body
    result: Literal["json", "text"] | tuple[str, ...]
    """A tuple is a JSON pointer's reference tokens."""
    timeout_s: float | None
    max_response_bytes: int | None
    placed: frozenset[str]
    """Arguments that go to path, query or headers; the others are the body."""

    def path(self, arguments: Mapping[str, Any]) -> str:
        return "".join("/" + _segment(template, arguments) for template in self.segments)

    def query_pairs(self, arguments: Mapping[str, Any]) -> list[tuple[str, str]]:
        """An array gives its name once for each item; an absent argument gives nothing."""
        pairs: list[tuple[str, str]] = []
        for name in self.query:
            if name in arguments:
                value = arguments[name]
                items = value if isinstance(value, list) else [value]
                pairs += ((name, _scalar(name, item)) for item in items)
        return pairs

    def header_values(self, arguments: Mapping[str, Any]) -> dict[str, str]:
        headers = {}
        for name, template in self.headers:
            value = template.fill([_scalar(arg, arguments.get(arg)) for arg in template.names])
            if not is_header_value(value):
                raise Misfit(f"the header {name} would get a character that is not printable ASCII")
            headers[name] = value
        return headers

    def body_bytes(self, arguments: Mapping[str, Any]) -> tuple[str, bytes] | None:
        """Content type and bytes of what has no other place; None for no body."""
        rest = {name: value for name, value in arguments.items() if name not in self.placed}
        if self.body == "json":
            return "application/json", canonical(rest)
        if self.body == "form":
            pairs = [(name, _scalar(name, value)) for name, value in rest.items()]
            return "application/x-www-form-urlencoded", urlencode(pairs).encode()
        if rest:
            # Leaving them out silently would send another call than the one that was decided on.
            raise Misfit("there are arguments for which the tool's declaration has no place")
        return None


def read_route(options: Mapping[str, Any], *, taken_header: str, taken_query: str) -> Route:
    """Compile a tool's options. `taken_*` are where the upstream injects its credential ("" for nowhere).

    Raises:
        ValueError: with a sentence that names the option.
    """
    unknown = sorted(set(options) - _OPTIONS)
    if unknown:
        raise ValueError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(_OPTIONS))}")
    method = options.get("method")
    if not isinstance(method, str) or method not in _BODY_OF:
        raise ValueError(f"method must be one of {', '.join(_BODY_OF)}")
    body = options.get("body", _BODY_OF[method])
    if body not in ("json", "form", "none"):
        raise ValueError("body must be json, form or none")
    if body != "none" and method in ("GET", "HEAD"):
        raise ValueError(f"body must be none for {method}")
    segments = _read_path(options.get("path"))
    query = _read_query(options.get("query", []), taken_query)
    headers = _read_headers(options.get("headers", {}), taken_header)
    timeout_ms = _positive(options, "timeout_ms")
    placed = [name for template in (*segments, *(value for _, value in headers)) for name in template.names]
    return Route(
        method=method,
        segments=segments,
        query=query,
        headers=headers,
        body=body,
        result=_read_result(options.get("result", "json")),
        timeout_s=timeout_ms / 1000 if timeout_ms is not None else None,
        max_response_bytes=_positive(options, "max_response_bytes"),
        placed=frozenset((*placed, *query)),
    )


def _read_template(text: str, option: str) -> Template:
    parts = _PLACEHOLDER.split(text)
    texts, names = tuple(parts[::2]), tuple(parts[1::2])
    if any("{" in literal or "}" in literal for literal in texts):
        raise ValueError(f"{option} has a brace that is not part of a {{name}}")
    return Template(texts, names)


def _read_path(path: Any) -> tuple[Template, ...]:
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError("path must be a text that starts with /")
    if "?" in path or "#" in path:
        raise ValueError("path must not have ? or #; name query arguments in the option query")
    segments = tuple(_read_template(segment, "path") for segment in path[1:].split("/"))
    for position, template in enumerate(segments):
        if not all(_PATH_LITERAL.fullmatch(text) for text in template.texts):
            raise ValueError("path has a character that must be percent-encoded")
        if not template.names and not template.texts[0] and position != len(segments) - 1:
            raise ValueError("path must not have an empty segment")
        if not template.names and unquote(template.texts[0]) in (".", ".."):
            raise ValueError("path must not have . or .. as a segment")
    return segments


def _read_query(query: Any, taken: str) -> tuple[str, ...]:
    if not isinstance(query, list) or not all(isinstance(name, str) and name for name in query):
        raise ValueError("query must be a list of argument names")
    if taken and taken in query:
        raise ValueError(f"query must not have {taken}: the credential is sent there")
    return tuple(query)


def _read_headers(headers: Any, taken: str) -> tuple[tuple[str, Template], ...]:
    if not isinstance(headers, Mapping) or not all(isinstance(value, str) for value in headers.values()):
        raise ValueError("headers must map names to texts")
    seen: set[str] = set()
    for name, value in headers.items():
        if not isinstance(name, str) or not is_header_name(name):
            raise ValueError("headers has a name that is not a header name")
        if name.lower() in _OURS or name.lower() in seen:
            raise ValueError(f"headers must not set {name}{' twice' if name.lower() in seen else ''}")
        if taken and name.lower() == taken.lower():
            raise ValueError(f"headers must not set {name}: the credential is sent there")
        if not is_header_value(value):
            raise ValueError(f"the header {name} must be printable ASCII, without line breaks")
        seen.add(name.lower())
    return tuple((name, _read_template(value, f"the header {name}")) for name, value in headers.items())


def _read_result(result: Any) -> Literal["json", "text"] | tuple[str, ...]:
    if result == "json":
        return "json"
    if result == "text":
        return "text"
    pointer = result.get("path") if isinstance(result, Mapping) and set(result) == {"path"} else None
    if not isinstance(pointer, str) or not (pointer == "" or pointer.startswith("/")):
        raise ValueError("result must be json, text or {path: a JSON pointer such as /data/items}")
    if re.search("~(?![01])", pointer):
        raise ValueError("result.path has a ~ that is neither ~0 nor ~1 (RFC 6901)")
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:])


def _positive(options: Mapping[str, Any], name: str) -> int | None:
    value = options.get(name)
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"{name} must be a whole number from 1")
    return value


def _scalar(name: str, value: Any) -> str:
    """A text, number or boolean as the text that goes on the wire."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return canonical(value).decode()
    raise Misfit(f"the argument {name} must be there and be a text, a number or a boolean")


def _segment(template: Template, arguments: Mapping[str, Any]) -> str:
    values = [_scalar(name, arguments.get(name)) for name in template.names]
    filled = template.fill([quote(value, safe="") for value in values])
    if values and (not filled or _climbs(values) or filled in (".", "..")):
        raise Misfit(f"the argument {' or '.join(template.names)} does not make a path segment")
    return filled


def _climbs(values: Collection[str]) -> bool:
    """Whether a server that decodes %2F before it resolves dots could be led out of its path."""
    return any(
        _CONTROL.search(value) or any(part in (".", "..") for part in re.split(r"[/\\]", value)) for value in values
    )
