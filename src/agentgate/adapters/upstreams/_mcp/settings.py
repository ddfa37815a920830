"""What the configuration says of one MCP server, read once and refused with a sentence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentgate.adapters.upstreams._http_inject import Injection, is_header_value, read_injection, read_url
from agentgate.adapters.upstreams._mcp.trouble import Trouble
from agentgate.core.call import Access
from agentgate.ports.upstreams import Credential, ToolRule

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_TRUSTS: Final = ("accepted", "first_use")
_OF_A_TOOL: Final = frozenset({"access", "labels", "timeout_ms"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server is, a `command` or a `url`, and how its credential gets there."""

    command: tuple[str, ...]
    url: str
    env: Mapping[str, str]
    cwd: str | None
    injection: Injection | None
    """For a URL."""
    secret_env: str | None
    """For a command: the variable that carries the credential."""

    @property
    def shown(self) -> dict[str, str]:
        """As an operator may read it: of a command its first word, since others may be secret."""
        return {"url": self.url} if self.url else {"command": self.command[0]}

    def header_of(self, credential: Credential | None) -> tuple[str, str] | None:
        """The header that carries it. Raises Trouble when it cannot be sent."""
        if credential is None or self.injection is None:
            return None
        value = self.injection.of(credential)
        if value is None:
            raise Trouble(f"the credential {credential.alias} has characters that cannot be sent")
        return self.injection.name.lower(), value


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """One MCP server: where it is, and its limits."""

    name: str
    place: Place
    max_response_bytes: int
    recheck_s: float
    connect_timeout_s: float


def read_command(command: Any, url: Any, *, insecure: bool) -> tuple[tuple[str, ...], str]:
    """The command's words, or the URL: exactly one of them.

    Raises:
        ValueError: with a sentence.
    """
    if (command is None) == (url is None):
        raise ValueError("an MCP server has either a command (a list of words) or a url")
    if url is not None:
        if not isinstance(url, str):
            raise ValueError("url must be a text")
        read_url("url", url, insecure=insecure)
        return (), url
    if isinstance(command, str) or not isinstance(command, Sequence) or not command:
        raise ValueError("command must be a list: the program, then its arguments")
    if not all(isinstance(word, str) and "\0" not in word for word in command) or not command[0]:
        raise ValueError("command must be a list of texts")
    return tuple(command), ""


def read_env(env: Mapping[Any, Any] | None) -> dict[str, str]:
    """Raises ValueError with a sentence where `env` is not variables with texts."""
    read = dict(env or {})
    for name, value in read.items():
        if not isinstance(name, str) or _ENV_NAME.fullmatch(name) is None:
            raise ValueError(f"env has {name!r}, which is no variable's name")
        if not isinstance(value, str) or "\0" in value:
            raise ValueError(f"env.{name} must be a text")
    return read


def read_credential_place(inject: Mapping[str, Any] | None, *, is_url: bool) -> tuple[Injection | None, str | None]:
    """How the credential travels: a header for a URL, a variable of the environment for a command.

    Raises:
        ValueError: with a sentence.
    """
    kind = inject.get("kind") if inject is not None else None
    if is_url:
        if kind in ("env", "query", "sigv4"):
            raise ValueError("inject.kind for a url must be bearer, header or basic")
        return read_injection(inject), None
    if inject is None:
        return None, None
    name = inject.get("name")
    if kind != "env" or set(inject) != {"kind", "name"}:
        raise ValueError("inject for a command must be {kind: env, name: …}")
    if not isinstance(name, str) or _ENV_NAME.fullmatch(name) is None:
        raise ValueError("inject.name must be a variable's name")
    return None, name


def read_labels(labels: Any, where: str = "labels") -> tuple[str, ...]:
    """Raises ValueError with a sentence where they are not short printable texts."""
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise ValueError(f"{where} must be a list of texts")
    if not all(isinstance(label, str) and 0 < len(label) <= 128 and is_header_value(label) for label in labels):
        raise ValueError(f"{where} takes printable ASCII texts of at most 128 characters")
    return tuple(labels)


def read_access(access: object, where: str = "access") -> Access:
    try:
        return Access(access)  # type: ignore[arg-type]  # what it is not, it says
    except ValueError:
        raise ValueError(f"{where} must be read or write") from None


def read_trust(trust: object) -> str:
    if trust not in _TRUSTS:
        raise ValueError("trust must be accepted or first_use")
    return str(trust)


def read_tools(tools: Any) -> dict[str, ToolRule]:
    """The `tools` of a server's settings by the tool's own name.

    Raises:
        ValueError: with a sentence.
    """
    if tools is not None and not isinstance(tools, Mapping):
        raise ValueError("tools must be a mapping")
    read: dict[str, ToolRule] = {}
    for name, said in (tools or {}).items():
        if not isinstance(said, Mapping):
            raise ValueError(f"tools.{name} must be a mapping")
        if unknown := sorted(map(str, set(said) - _OF_A_TOOL)):
            raise ValueError(f"tools.{name} does not know {', '.join(unknown)}")
        timeout_ms = said.get("timeout_ms")
        if timeout_ms is not None and (isinstance(timeout_ms, bool) or not isinstance(timeout_ms, int)):
            raise ValueError(f"tools.{name}.timeout_ms must be a whole number")
        if timeout_ms is not None and timeout_ms < 1:
            raise ValueError(f"tools.{name}.timeout_ms must be above zero")
        read[str(name)] = ToolRule(
            access=read_access(said["access"], f"tools.{name}.access") if "access" in said else None,
            labels=read_labels(said.get("labels", ()), f"tools.{name}.labels"),
            timeout_s=timeout_ms / 1000 if timeout_ms is not None else None,
        )
    return read
