"""What kinds of data a call touches: labels, derived by the gateway and never taken from a caller.

A call's labels are those of its tool, of its tool's server, and of what was found in its result. A session keeps the
labels of all its calls; they only grow.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from agentgate.core.call import Tool
from agentgate.core.errors import PolicyInvalid
from agentgate.core.redaction.sensitive import SECRET

OF_SECRETS: Final = "secret"
OF_PERSONS: Final = "pii"
OF_UNREAD: Final = (OF_PERSONS, OF_SECRETS)
"""Of a result that could not be looked through."""
MOST: Final = 32
"""Labels of one tool or server: they are recorded with every call."""
_MAX_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class LabelRules:
    """`labels` and `result_labels` of the policy's data."""

    tools: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    servers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    of_results: bool = False
    """Whether results are looked through for secrets and personal data."""

    def of(self, tool: Tool) -> tuple[str, ...]:
        """Of a tool and its server, wherever they are said: in the configuration or in the policy's data."""
        more = (*self.servers.get(tool.upstream, ()), *self.tools.get(tool.name, ()))
        return tuple(dict.fromkeys((*tool.labels, *more))) if more else tool.labels


def of_findings(kinds: Iterable[str]) -> tuple[str, ...]:
    """The labels of a result in which redaction's detectors found these classes."""
    return tuple(sorted({OF_SECRETS if kind == SECRET else OF_PERSONS for kind in kinds}))


def read_labels(data: Mapping[str, Any]) -> LabelRules:
    """Raises PolicyInvalid: something is not of the form in docs/policy.md; the text says what."""
    about = _mapping(data.get("labels", {}), "labels")
    if unknown := sorted(about.keys() - {"tools", "servers"}):
        raise PolicyInvalid(f"data.labels: {unknown[0][:64]!r} is neither tools nor servers")
    of_results = data.get("result_labels", False)
    if not isinstance(of_results, bool):
        raise PolicyInvalid("data.result_labels must be true or false")
    tools, servers = (
        {name: _labels(said, f"labels.{key}.{name}") for name, said in _mapping(about.get(key, {}), key).items()}
        for key in ("tools", "servers")
    )
    return LabelRules(tools, servers, of_results)


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise PolicyInvalid(f"data.{where} must map names to labels")
    return value


def _labels(value: Any, where: str) -> tuple[str, ...]:
    if (
        not isinstance(value, list)
        or len(value) > MOST
        or not all(isinstance(one, str) and 0 < len(one) <= _MAX_CHARS and one.isprintable() for one in value)
    ):
        raise PolicyInvalid(f"data.{where} must be a list of at most {MOST} labels")
    return tuple(value)
