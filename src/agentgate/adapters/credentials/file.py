"""Credential kind `file`: the text of a file that nobody else can read, read each time it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentgate.adapters.credentials._options import Options, read_private
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Serves
from agentgate.ports.upstreams import Credential


class FileCredentials:
    """Implements `Issuer`. Refused unless the file is ours (or root's) and for its owner alone; a last line break is
    not part of the secret."""

    serves = Serves.ALL

    def __init__(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """`{path: FILE}`.

        Raises:
            ValueError: with a sentence.
        """
        read = Options(options, environ)
        self._path = Path(read.text("path"))
        read.end()

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        # in a thread: a file may be on a server that does not answer
        return Issued(Credential(ask.alias, await asyncio.to_thread(read_private, self._path)))

    async def revoke(self, issued: Issued) -> None:
        raise CredentialRefused("a file cannot be taken back")

    async def aclose(self) -> None:
        """Nothing is open."""
