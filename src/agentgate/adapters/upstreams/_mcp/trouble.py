"""Why there is no session with a server, or no answer, in words of our own: none of an address, a path or a secret."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import ssl
from contextlib import suppress
from typing import Final

import aiohttp


class Trouble(ValueError):
    """Why there can be no session, in a sentence of our own: an exception of a library may quote the server."""


def why(error: BaseException | None) -> str:
    """What kept a connection from being made, or a command from being started."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return "its certificate is not trusted"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return "it speaks no TLS there"
        case aiohttp.ClientConnectorDNSError() | socket.gaierror():
            return "its name is not known"
        case TimeoutError():
            return "it timed out"
        case OSError(errno=int(number)) if number > 0:
            return os.strerror(number).lower()
        case None:
            return "it is not said why"
        case _:
            return type(error).__name__


def not_started(error: OSError, folder: str | None) -> str:
    """Why a command does not run, which would be in `folder`."""
    if folder is not None and not os.path.isdir(folder):  # noqa: PTH112 - pathlib's raises where it may not look
        return "its cwd is no folder that it may be in"
    return "command not found" if isinstance(error, FileNotFoundError) else f"the command does not run: {why(error)}"


def ended(status: int) -> str:
    """How a child ended, by what `returncode` is."""
    if status >= 0:
        return f"it exited with status {status}"
    with suppress(ValueError):
        return f"it was ended by {signal.Signals(-status).name}"
    return f"it was ended by signal {-status}"


class Mark:
    """Texts for errors of our own that travel where a server's errors do: no server knows the mark."""

    def __init__(self) -> None:
        self._mark: Final = secrets.token_hex(16)
        self._pattern: Final = re.compile(self._mark + r":(\w+)(?:: ([^;]*))?;")

    def say(self, kind: str) -> str:
        """`kind` is a word, and may go on with `: ` and its cause."""
        return f"{self._mark}:{kind};"

    def heard(self, text: str) -> str | None:
        """The kind that `say` was given, where `text` has it."""
        found = self._pattern.search(text)
        return found[1] if found is not None else None

    def cause(self, text: str) -> str:
        """What `say` was given behind the kind; nothing where it was none."""
        found = self._pattern.search(text)
        return found[2] or "" if found is not None else ""
