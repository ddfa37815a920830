"""The sources of credentials: asked for no longer than a call can wait, and asked to take back until they have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Final

from agentgate.core.redaction.scrub import MIN_SECRET_CHARS
from agentgate.ports.ambient import Clock
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Issuer

_RETRY_S: Final = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_REVOCATION_S: Final = 5.0
_LAST_REVOCATIONS_S: Final = 3.0

logger = logging.getLogger("agentgate.credentials")


@dataclass(frozen=True, slots=True)
class Bounded:
    """An issuer, and the longest that a call waits for it."""

    issuer: Issuer
    timeout_s: float = 5.0

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        """What the issuer gives, if it can be used. Raises CredentialRefused."""
        try:
            async with asyncio.timeout(self.timeout_s):
                issued = await self.issuer.issue(ask, before)
        except CredentialRefused:
            raise
        except TimeoutError:
            raise CredentialRefused(f"its source did not answer within {self.timeout_s:g} s") from None
        except Exception as error:  # noqa: BLE001 - a source that lies may lead to any; no text: it could quote it
            raise CredentialRefused(f"its source failed ({type(error).__name__})") from None
        if not issued.credential.secret:
            raise CredentialRefused("its source gave an empty one")
        if len(issued.credential.secret) < MIN_SECRET_CHARS:
            raise CredentialRefused(
                f"it is shorter than {MIN_SECRET_CHARS} characters, so no answer could be rid of it"
            )
        if not issued.expires_in_s > 0:
            raise CredentialRefused("its source gave one that has expired")
        return issued

    async def revoke(self, issued: Issued) -> None:
        """Have it taken back. Raises CredentialRefused: it is not, or nobody can say."""
        try:
            async with asyncio.timeout(_REVOCATION_S):
                await self.issuer.revoke(issued)
        except CredentialRefused:
            raise
        except Exception as error:  # noqa: BLE001 - as above: it is tried again
            raise CredentialRefused(type(error).__name__) from None


class Revocations:
    """What is being taken back. Nobody waits for that but the end of the process, for a few seconds."""

    def __init__(self, clock: Clock, count: Callable[[str, str], None]) -> None:
        """`count` is told the name of a count, and the alias."""
        self._clock = clock
        self._count = count
        self.running: set[asyncio.Task[None]] = set()

    def begin(self, alias: str, source: Bounded, issued: Issued, over_s: float) -> None:
        """Have a credential taken back that expires by itself at `over_s`, in boot time."""
        task = asyncio.create_task(self._revoke(alias, source, issued, over_s))
        self.running.add(task)
        task.add_done_callback(self.running.discard)

    async def aclose(self) -> None:
        if self.running:
            _, late = await asyncio.wait(self.running, timeout=_LAST_REVOCATIONS_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    async def _revoke(self, alias: str, source: Bounded, issued: Issued, over_s: float) -> None:
        """Until it is done, or the credential has expired by itself."""
        for pause_s in chain(_RETRY_S, repeat(_RETRY_S[-1])):
            try:
                await source.revoke(issued)
            except CredentialRefused as refused:
                logger.error("credential %s is not taken back: %s", alias, refused)
                self._count("credential_revocations_failed", alias)
            else:
                self._count("credentials_revoked", alias)
                return
            if self._clock.boot_s() + pause_s >= over_s:
                logger.error("credential %s was not taken back; it expires by itself", alias)
                return
            await asyncio.sleep(pause_s)
