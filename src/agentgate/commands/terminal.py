"""What all commands share: the two consoles, exit statuses, options, questions, and how a command ends that cannot go
on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from agentgate import settings as configuration
from agentgate.core.errors import AgentGateError
from agentgate.core.visible import visible
from agentgate.settings import Settings

out = Console(emoji=False, highlight=False, soft_wrap=True)
err = Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)


class Status(IntEnum):
    """How a command ends that did not simply do what it was told."""

    REFUSED = 1
    USAGE = 2
    START = 3
    NOT_YET = 4


Config = Annotated[Path | None, typer.Option("--config", help="agentgate.yaml (AGENTGATE_CONFIG)")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where log, keys and demo files live (AGENTGATE_DATA_DIR)")
]


def wide() -> Console:
    """For tables: as wide as the terminal; into a file or a pipe every row is one line."""
    return out if out.is_terminal else Console(emoji=False, highlight=False, width=1_000)


def say_json(value: object) -> None:
    print(json.dumps(value, indent=2))


def tell(answer: Mapping[str, Any], as_json: bool, say: Callable[[Mapping[str, Any]], None]) -> None:
    """As JSON for programs, or as `say` puts it."""
    if as_json:
        say_json(answer)
    else:
        say(answer)


def safe(text: object) -> str:
    """For a console: what strangers wrote neither hides nor colours anything."""
    return escape(visible(text))


def settings_of(config: Path | None, overrides: dict[str, Any]) -> Settings:
    """The settings in force; ends with a sentence when they must not be."""
    with or_die(Status.START):
        return configuration.load(config=config, overrides=overrides)


@contextmanager
def or_die(status: Status) -> Iterator[None]:
    """What cannot be done ends the command with its sentence."""
    try:
        yield
    except AgentGateError as error:
        die(str(error), status)


def die(sentence: str, status: int) -> NoReturn:
    """What is wrong may be in the words of whoever is wrong."""
    err.print("agentgate:", "\n".join(map(safe, sentence.split("\n"))))
    raise typer.Exit(status)


def none_before(command: str, *options: object) -> None:
    """End with a sentence when options were said before the name of a command, where they would count for nothing."""
    if any(option is not None and option is not False for option in options):
        die(f"options of `{command}` go behind its name", Status.USAGE)


def ask(question: str) -> None:
    """Go on if somebody says yes."""
    if not _is_somebody_here():
        die("nobody is here to be asked; say --yes", Status.USAGE)
    typer.confirm(question, abort=True, err=True)


def _is_somebody_here() -> bool:
    return sys.stdin.isatty()
