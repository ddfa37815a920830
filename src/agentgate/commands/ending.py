"""How a command line ends that cannot go on: in one sentence with the cure, and a status that is not 0."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import typer
from typer.core import TyperGroup

from agentgate.commands.terminal import Status, die

NAME: Final = "agentgate"
EXIT_INTERRUPTED: Final = 130


class CommandLine(TyperGroup):
    """All commands: whatever keeps one from being carried out is said in a sentence, and never shown as a traceback."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **more: Any) -> Any:
        """Does not return."""
        more["standalone_mode"] = False
        try:
            with _in_a_sentence():
                status = super().main(args, NAME, *rest, **more)
                _flush()
        except typer.Exit as end:
            status = end.exit_code
        sys.exit(status if isinstance(status, int) else 0)


@contextlib.contextmanager
def _in_a_sentence() -> Iterator[None]:
    try:
        yield
    except typer.TyperException as error:
        die(_usage(error), error.exit_code)
    except typer.Abort as end:
        if isinstance(end.__context__, KeyboardInterrupt | EOFError):
            print(file=sys.stderr)  # behind the question
            die("stopped, nothing was done", EXIT_INTERRUPTED)
        die("you did not say yes, so nothing was done", Status.REFUSED)
    except OSError as error:
        _give_up_stdout()
        if error.errno == errno.EPIPE:  # nobody reads on (`| head`): they know
            raise typer.Exit(Status.REFUSED) from None
        die(why(error, "standard output"), Status.REFUSED)


def why(error: Exception, about: object) -> str:
    """In words; of what the system refused, for which file: `about` where it does not say."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    file = error.filename if error.filename is not None else about
    return f"{file} cannot be read or written: {error.strerror}"


def _usage(error: typer.TyperException) -> str:
    """What was wrong with the call, and where to read how it goes."""
    context = getattr(error, "ctx", None)
    if context is None:
        return _line(error)
    path = context.command_path
    if error.message == context.get_help():  # a group was named, and no command of it
        return f"say which command: {', '.join(context.command.list_commands(context))}; `{path} --help` tells more"
    return f"{_line(error)}; `{path} --help` tells more"


def _line(error: typer.TyperException) -> str:
    said = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
    return said[:1].lower() + said[1:]


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _give_up_stdout() -> None:
    """For what Python still wants to flush at its end."""
    with contextlib.suppress(OSError, ValueError):  # a stream that is no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
