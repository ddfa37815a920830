"""The environment's names: which are read, and what becomes of one that looks like ours and is not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pydantic import BaseModel

from agentgate.core.errors import UnsafeConfiguration
from agentgate.settings.tree import Settings

_OURS: Final = "AGENTGATE_"
ENVIRONMENT: Final[Mapping[str, tuple[str, ...]]] = {
    "AGENTGATE_DATA_DIR": ("data_dir",),
    "AGENTGATE_HOST": ("server", "host"),
    "AGENTGATE_PORT": ("server", "port"),
    "AGENTGATE_WORKERS": ("server", "workers"),
    "AGENTGATE_BASE_URL": ("server", "base_url"),
    "AGENTGATE_HOSTS": ("server", "hosts"),
    "AGENTGATE_ORIGINS": ("server", "origins"),
    "AGENTGATE_LOG_LEVEL": ("server", "log_level"),
    "AGENTGATE_ADMIN_API_KEY": ("auth", "admin_key"),
    "AGENTGATE_OPA_URL": ("policy", "url"),
    "AGENTGATE_OPA_TOKEN": ("policy", "token"),
    "AGENTGATE_POLICY_PATH": ("policy", "path"),
    "AGENTGATE_POLICY_VERSION": ("policy", "label"),
    "AGENTGATE_REDIS_URL": ("containment", "url"),
    "AGENTGATE_RATE_WINDOW_SECONDS": ("containment", "rate_window_s"),
    "AGENTGATE_DATABASE_URL": ("log", "url"),
    "AGENTGATE_CHECKPOINT_FILE": ("log", "checkpoint_file"),
    "AGENTGATE_RETENTION_DATABASE_URL": ("log", "retention_url"),
    "AGENTGATE_RETENTION_DAYS": ("retention", "days"),
    "AGENTGATE_SIGNING_KEY": ("evidence", "signing_key"),
    "AGENTGATE_APPROVAL_TOKEN": ("approvals", "static_token"),
    "AGENTGATE_REDACTION_MODE": ("redaction", "mode"),
    "AGENTGATE_REDACTION_KEY": ("redaction", "secret"),
    "AGENTGATE_WEBHOOK_URL": ("webhook", "url"),
    "AGENTGATE_WEBHOOK_SECRET": ("webhook", "secret"),
    "AGENTGATE_WEBHOOK_ALLOW_PRIVATE": ("webhook", "allow_private"),
}
"""Variable to place in `Settings`. AGENTGATE_CONFIG names the file, and AGENTGATE_TRACE_DB is v0.2's database path."""
_OF_SETTINGS: Final = frozenset({*ENVIRONMENT, "AGENTGATE_CONFIG", "AGENTGATE_TRACE_DB"})
READ: Final = _OF_SETTINGS | {f"{_OURS}{name}" for name in ("URL", "KEY", "API_KEY", "OPA_BIN", "CACHE")}
"""Also by commands, and to find the compiler of policies."""

_LETTERS_FOR_SLIPS: Final = (4, 12)
"""Of a name behind the prefix, for one slip, and for two: others have short names of their own, as `TRACE_ID`."""


def refuse_misspelt(settings: Settings, environment: Mapping[str, str]) -> None:
    """What a variable was meant to say, such as where Redis is, would be left out without a word.

    Raises:
        UnsafeConfiguration: a variable that nothing reads is one of ours but for a slip or two.
    """
    for name in unread(settings, environment):
        slips, near = min((_slips(name, known), known) for known in _OF_SETTINGS)
        if slips <= sum(len(near) - len(_OURS) >= letters for letters in _LETTERS_FOR_SLIPS):
            raise UnsafeConfiguration(f"there is no variable {name}; did you mean {near}?")


def refuse_service_link(environment: Mapping[str, str]) -> None:
    """Kubernetes tells every pod of a service called agentgate in a variable that is ours.

    Raises:
        UnsafeConfiguration: it did, and nobody has set the variable for the pod itself.
    """
    if environment.get("AGENTGATE_PORT", "").startswith(("tcp://", "udp://", "sctp://")):
        raise UnsafeConfiguration(
            "AGENTGATE_PORT is what Kubernetes sets for a service called agentgate, and no port: "
            "set enableServiceLinks: false for the pod, or AGENTGATE_PORT to the port"
        )


def unread(settings: Settings, environment: Mapping[str, str]) -> list[str]:
    """The variables with our prefix that nothing reads, and that the configuration does not name for a secret of its
    own. Others set such as well: compose files, and Kubernetes for a service of our name."""
    found = {name for name, text in environment.items() if name.startswith(_OURS) and text and name not in READ}
    return sorted(found.difference(_texts(settings))) if found else []


def _texts(settings: Settings) -> Iterator[str]:
    """Everything that is written in it, however deep; YAML may have a thing within itself."""
    waiting: list[object] = [settings]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif id(one) not in seen:
            seen.add(id(one))
            if isinstance(one, BaseModel):
                waiting.extend(value for _, value in one)
            elif isinstance(one, Mapping):
                waiting.extend(one.values())
            elif isinstance(one, list | tuple):
                waiting.extend(one)


def _slips(one: str, other: str) -> int:
    """How many letters are left out, added, others, or swapped with the next one (optimal string alignment)."""
    rows = [list(range(len(other) + 1))]
    for i, mine in enumerate(one, 1):
        row = [i]
        for j, theirs in enumerate(other, 1):
            least = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (mine != theirs))
            if i > 1 and j > 1 and (mine, one[i - 2]) == (other[j - 2], theirs):
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]
