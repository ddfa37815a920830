"""Lua scripts in Redis: each is run by its digest, and told anew where Redis has forgotten it."""

from __future__ import annotations

import hashlib
from importlib.resources import files

import hiredis

from agentgate.adapters.containment._link import Link
from agentgate.adapters.containment._resp import Answer, NoAnswer, Word


class Script:
    """One of the files beside this module."""

    def __init__(self, name: str, link: Link, deadline_s: float) -> None:
        self._text = files(__package__).joinpath(name).read_text(encoding="utf-8")
        # SHA-1 is how Redis names scripts; nothing rests on it.
        self._sha = hashlib.sha1(self._text.encode(), usedforsecurity=False).hexdigest()
        self._link = link
        self._deadline_s = deadline_s

    async def run(self, *words: Word, deadline_s: float | None = None) -> Answer:
        connection = self._link.current()
        if connection is None:
            found = await self._link.wait()
            if isinstance(found, NoAnswer):
                return found
            connection, deadline_s = found, deadline_s or self._deadline_s / 2
        answer = await connection.command("EVALSHA", self._sha, *words, deadline_s=deadline_s)
        if isinstance(answer, hiredis.ReplyError) and str(answer).startswith("NOSCRIPT"):
            # After a restart or SCRIPT FLUSH. The text runs it and makes it known, in one go.
            answer = await connection.command("EVAL", self._text, *words, deadline_s=deadline_s)
        return answer
