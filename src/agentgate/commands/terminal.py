"""What all commands share: the two consoles, exit statuses, options, and how a command ends that cannot go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from agentgate import settings as configuration
from agentgate.core.errors import UnsafeConfiguration
from agentgate.settings import Settings

out = Console(emoji=False, highlight=False, soft_wrap=True)
err = Console(stderr=True, emoji=False, highlight=False, soft_wrap=True)

EXIT_REFUSED: Final = 1
EXIT_USAGE: Final = 2
EXIT_START: Final = 3
EXIT_NOT_YET: Final = 4

Config = Annotated[Path | None, typer.Option("--config", help="agentgate.yaml (AGENTGATE_CONFIG)")]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Where log, keys and demo files live (AGENTGATE_DATA_DIR)")
]


def wide() -> Console:
    """For tables: as wide as the terminal; into a file or a pipe every row is one line."""
    return out if out.is_terminal else Console(emoji=False, highlight=False, width=1_000)


def settings_of(config: Path | None, overrides: dict[str, Any]) -> Settings:
    """The settings in force; ends with a sentence when they must not be."""
    try:
        return configuration.load(config=config, overrides=overrides)
    except UnsafeConfiguration as error:
        die(str(error), EXIT_START)


def die(sentence: str, status: int) -> NoReturn:
    err.print(f"agentgate: {escape(sentence)}")
    raise typer.Exit(status)
