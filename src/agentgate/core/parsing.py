"""Which arguments are programs, paths or addresses, by `parse` of the policy's data, and where they are in a call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from agentgate.core.call import is_tool_name
from agentgate.core.errors import PolicyInvalid

ParseRules = Mapping[str, Mapping[str, str]]
"""{tool: {argument: kind}}. An argument is a name, or a JSON Pointer into objects such as `/filter/query`."""
MOST_TEXTS: Final = 64
"""In one list of texts: each of them is parsed."""
MOST_CHARS: Final = 16_384
"""In all texts of a list."""


def read_parse(data: Mapping[str, Any]) -> ParseRules:
    """Raises PolicyInvalid. Whether a kind is one that can be parsed, the parsers say."""
    about = data.get("parse", {})
    if not isinstance(about, dict):
        raise PolicyInvalid("data.parse must map tools to arguments and their kinds")
    for tool, arguments in about.items():
        if not is_tool_name(tool):
            raise PolicyInvalid(f"data.parse: {tool[:64]!r} is not the name of a tool")
        if not isinstance(arguments, dict) or not all(
            isinstance(kind, str) and name not in {"", "/"} for name, kind in arguments.items()
        ):
            raise PolicyInvalid(f"data.parse.{tool} must map names of arguments to kinds")
    return about


def texts_of(arguments: Mapping[str, Any], name: str) -> list[str] | None:
    """The texts of an argument: one, or a list of them; empty where it is not there. None: it is something else."""
    found: Any = arguments
    for step in _steps(name):
        if not isinstance(found, dict):
            return None
        if step not in found:
            return []
        found = found[step]
    if isinstance(found, str):
        return [found]
    if isinstance(found, list) and len(found) <= MOST_TEXTS and all(isinstance(one, str) for one in found):
        return found if sum(map(len, found)) <= MOST_CHARS else None
    return None


def _steps(name: str) -> list[str]:
    if not name.startswith("/"):
        return [name]
    return [step.replace("~1", "/").replace("~0", "~") for step in name[1:].split("/")]
