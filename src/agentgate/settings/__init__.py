"""The only reader of the environment and of agentgate.yaml: one frozen `Settings`, checked before anything starts.

The environment (`AGENTGATE_*`, v0.2's names included) goes over the file, the file over the defaults.
`docs/configuration.md` lists every variable; a test keeps it and `ENVIRONMENT` alike.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from agentgate.core.errors import UnsafeConfiguration
from agentgate.settings.document import NamedTwice, load_yaml
from agentgate.settings.identity import Auth, Certificate, Key, OAuth, Signature
from agentgate.settings.part import EnvRef, FileRef
from agentgate.settings.reach import CredentialPart, UpstreamPart, WebhookPart
from agentgate.settings.refusals import (
    DEFAULT_SECRETS,
    MIN_HMAC_KEY_BYTES,
    MIN_SECRET_CHARS,
    refuse_guessable,
    refuse_public_without_keys,
    refuse_unsafe,
    refuse_unsafe_keys,
    unknown_kind,
)
from agentgate.settings.sections import LogPart
from agentgate.settings.tree import Settings
from agentgate.settings.variables import ENVIRONMENT, refuse_misspelt, refuse_service_link, unread

__all__ = (
    "DEFAULT_SECRETS",
    "ENVIRONMENT",
    "MIN_HMAC_KEY_BYTES",
    "MIN_SECRET_CHARS",
    "Auth",
    "Certificate",
    "CredentialPart",
    "EnvRef",
    "FileRef",
    "Key",
    "LogPart",
    "OAuth",
    "Settings",
    "Signature",
    "UpstreamPart",
    "WebhookPart",
    "config_file",
    "environment",
    "first_error",
    "load",
    "load_yaml",
    "refuse_guessable",
    "refuse_public_without_keys",
    "refuse_unsafe_keys",
    "secret_of",
    "signing_key_from_environment",
    "unknown_kind",
    "unread",
    "where",
    "workers_folder",
)

_LISTS: Final = frozenset({"AGENTGATE_HOSTS", "AGENTGATE_ORIGINS"})


def load(
    environment: Mapping[str, str] | None = None,
    *,
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Settings:
    """The settings in force. Without `environment` it is the process's own.

    `overrides` (the command line's) are dotted places with their values, and go over everything.

    Raises:
        UnsafeConfiguration: the file cannot be read, a value is not allowed, a variable is misspelt, or the
            combination is unsafe; the text says what to change.
    """
    environment = os.environ if environment is None else environment
    if (overrides or {}).get("server.port") is None:
        refuse_service_link(environment)
    tree = _read(config_file(config, environment))
    for variable, place in ENVIRONMENT.items():
        text = environment.get(variable)
        if text:
            _put(tree, place, _listed(text) if variable in _LISTS else text)
    if trace_db := environment.get("AGENTGATE_TRACE_DB"):
        _put(tree, ("log", "url"), f"sqlite:///{trace_db}")
    for dotted, value in (overrides or {}).items():
        if value is not None:
            _put(tree, tuple(dotted.split(".")), value)
    _imply_kind(tree, "containment", "redis")
    _imply_kind(tree, "policy", "opa")
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        raise UnsafeConfiguration(first_error(error)) from None
    refuse_misspelt(settings, environment)
    settings = _resolved(settings, environment)
    refuse_unsafe(settings)
    return settings


def config_file(config: Path | None, environment: Mapping[str, str] | None = None) -> Path | None:
    """The file that `load` reads: the one that was said, or that of AGENTGATE_CONFIG."""
    named = (os.environ if environment is None else environment).get("AGENTGATE_CONFIG")
    return config or (Path(named) if named else None)


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        tree = load_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnsafeConfiguration(f"the configuration {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date or a number that is none
        raise UnsafeConfiguration(f"the configuration {path} is not YAML{where(error)}") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UnsafeConfiguration(f"the configuration {path} must be a mapping of sections")
    return tree


def where(error: Exception) -> str:
    """The place of a YAML error. Its own text quotes the file, and with it perhaps a secret."""
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        what = ", where a name is there twice" if isinstance(error, NamedTwice) else ""
        return f": line {mark.line + 1}, column {mark.column + 1}{what}"
    return " in UTF-8" if isinstance(error, UnicodeError | yaml.YAMLError) else ": a date or a number in it is none"


def _put(tree: dict[str, Any], place: tuple[str, ...], value: Any) -> None:
    *sections, name = place
    for section in sections:
        inner = tree.get(section)
        if not isinstance(inner, dict | None):  # what is written there must not be lost under what is put there
            raise UnsafeConfiguration(f"{section}: must be a mapping")
        tree[section] = inner = dict(inner or {})
        tree = inner
    tree[name] = value


def _listed(text: str) -> list[str]:
    return [item.strip() for item in text.split(",") if item.strip()]


def _imply_kind(tree: dict[str, Any], section: str, kind: str) -> None:
    """A section with a `url` and no `kind` is of the kind that has one."""
    part = tree.get(section)
    if isinstance(part, dict) and part.get("url") and "kind" not in part:
        _put(tree, (section, "kind"), kind)


def first_error(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"setting {place}: there is none of this name; docs/configuration.md lists them"
    # never the input itself: it may be a secret
    return f"setting {place or 'file'}: {first['msg'].removeprefix('Value error, ')}"


def _resolved(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Secrets that are named by variable or file, read."""
    evidence = settings.evidence
    if evidence.signing_key is None and evidence.hmac_key is not None:
        secret = secret_of("evidence.hmac_key", evidence.hmac_key, environment)
        settings = settings.model_copy(update={"evidence": evidence.model_copy(update={"signing_key": secret})})
    redaction = settings.redaction
    if redaction.secret is None and redaction.key is not None:
        secret = secret_of("redaction.key", redaction.key, environment)
        settings = settings.model_copy(update={"redaction": redaction.model_copy(update={"secret": secret})})
    return settings


def secret_of(name: str, ref: EnvRef | FileRef, environment: Mapping[str, str]) -> str:
    """What a setting refers to. Raises UnsafeConfiguration."""
    if isinstance(ref, EnvRef):
        secret = environment.get(ref.env)
        if not secret:
            raise UnsafeConfiguration(f"{name} names the variable {ref.env}, which is not set")
        return secret
    try:
        return ref.file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UnsafeConfiguration(f"{name}: {ref.file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UnsafeConfiguration(f"{name}: {ref.file} is not text; write the key in base64") from None


def environment() -> Mapping[str, str]:
    """The process's variables, for the few parts that look a name up later: credentials, the compiler."""
    return os.environ


def signing_key_from_environment() -> str | None:
    """The HMAC key of evidence, for commands that need nothing else."""
    return os.environ.get("AGENTGATE_SIGNING_KEY")


def workers_folder(config: Settings) -> Path:
    """What the workers of a service tell each other, for as long as it runs."""
    return config.data_dir / "workers"
