"""The webhook and the witnesses: each is told of the newest checkpoint beside the calls, and again when that failed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import Final, Literal

from agentgate.adapters.log._checkpoints.continuity import Ground, prove
from agentgate.adapters.log._checkpoints.exchange import Conflict, Exchange, NotKnown, Unproven, Webhook, Witness
from agentgate.adapters.log._intake import told
from agentgate.core.errors import LogBroken, LogUnavailable
from agentgate.core.merkle import consistency_ranges
from agentgate.core.tiles import consistency_body

logger = logging.getLogger("agentgate.checkpoints")

_LAST_WITHIN_S: Final = 2.0
_PAUSES_S: Final = (1.0, 2.0, 5.0, 10.0, 30.0)
_FAULTS: Final = (OSError, TimeoutError, LogUnavailable, NotKnown, Conflict, Unproven)


@dataclass(slots=True)
class Standing:
    """How it stands with the files, the webhook or one witness. `failures` only grows."""

    kind: Literal["file", "webhook", "witness"]
    name: str
    size: int = 0
    """Of the newest checkpoint that it has taken."""
    failures: int = 0
    trouble: str | None = None

    def fail(self, error: BaseException) -> None:
        why = told(error)
        if self.trouble != why:
            unforeseen = None if isinstance(error, _FAULTS) else error
            logger.warning("%s %s: %s", self.kind, self.name, why, exc_info=unforeseen)
        self.failures += 1
        self.trouble = why


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint and its note."""

    size: int
    root: bytes
    note: bytes


class Follower:
    """Takes the newest checkpoint that there is, one at a time, and again after a pause when that failed."""

    def __init__(self, standing: Standing, every_s: float) -> None:
        self.standing = standing
        self._every_s = every_s
        self._newest: Signed | None = None
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def newest(self) -> bytes | None:
        """The newest checkpoint that it can show."""
        return None

    async def recognise(self, signed: Signed) -> None:
        """Raise LogBroken if it has seen what `signed` does not continue."""

    async def take(self, signed: Signed) -> None:
        """Raises OSError, LogUnavailable, or what `Exchange` raises."""
        raise NotImplementedError

    def tell(self, signed: Signed) -> None:
        self._newest = signed
        self._news.set()
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name=f"agentgate-{self.standing.kind}")

    async def _follow(self) -> None:
        failed = 0
        while True:
            await self._news.wait()
            self._news.clear()
            if await self._try():
                failed = 0
                await asyncio.sleep(self._every_s)
            else:
                self._news.set()
                await asyncio.sleep(_PAUSES_S[min(failed, len(_PAUSES_S) - 1)])
                failed += 1

    async def _try(self) -> bool:
        signed = self._newest
        if signed is None or signed.size <= self.standing.size:
            return True
        try:
            await self.take(signed)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is told and tried again: nobody sees a task end
            self.standing.fail(error)
            return False
        self.standing.size, self.standing.trouble = signed.size, None
        return True

    async def aclose(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WITHIN_S):
                    await self._try()


class WebhookFollower(Follower):
    def __init__(self, webhook: Webhook, exchange: Exchange) -> None:
        super().__init__(Standing("webhook", webhook.shown), webhook.every_s)
        self._webhook = webhook
        self._exchange = exchange

    async def newest(self) -> bytes | None:
        """Raises LogUnavailable when it must be asked and does not answer."""
        try:
            return await self._exchange.fetch(self._webhook)
        except _FAULTS as error:
            if not self._webhook.optional:
                raise LogUnavailable(
                    f"log.checkpoint_webhook {self._webhook.shown} cannot say which checkpoint is the newest: "
                    f"{told(error)}; make it answer, or set its `optional: true`"
                ) from error
            self.standing.fail(error)
            return None

    async def take(self, signed: Signed) -> None:
        await self._exchange.post(self._webhook, signed.note)


class WitnessFollower(Follower):
    def __init__(self, witness: Witness, exchange: Exchange, ground: Ground) -> None:
        super().__init__(Standing("witness", witness.key.name), 0.0)
        self._witness = witness
        self._exchange = exchange
        self._ground = ground
        self._old = 0
        """The size that the witness has cosigned last, as far as is known."""

    async def recognise(self, signed: Signed) -> None:
        try:
            await self.take(signed)
        except Conflict as error:
            raise LogBroken(
                f"witness {self.standing.name} has cosigned {error.size} events, and this database has signed "
                f"{signed.size}: it was rolled back or replaced"
            ) from error
        except Unproven as error:
            raise LogBroken(
                f"witness {self.standing.name} has cosigned another tree of {self._old} events: "
                "the database was replaced, or somebody else signs with its key"
            ) from error
        except _FAULTS as error:
            self.standing.fail(error)
        else:
            self.standing.size = signed.size

    async def take(self, signed: Signed) -> None:
        if signed.size < self._old:  # another replica was quicker, and has signed more than this
            return
        for _ in range(2):
            try:
                lines = await self._exchange.add_checkpoint(self._witness, await self._body(signed))
            except Conflict as error:
                if error.size > signed.size:
                    if error.size > await self._ground.durable():
                        raise
                    self._old = error.size  # another replica was quicker
                    return
                if error.size == self._old == signed.size:
                    raise Unproven("it has cosigned another tree of the same size") from error
                self._old = error.size
                continue
            except Unproven as error:
                if self._old == 0:  # nothing had to be proven
                    raise NotKnown("it does not accept a first checkpoint") from error
                raise
            self._old = signed.size
            for line in self._witness.verified(signed.note, lines):
                await self._ground.put_cosignature(self._witness.id, signed.size, line)
            return
        raise NotKnown("it keeps naming another size")

    async def _body(self, signed: Signed) -> bytes:
        ranges = [] if self._old == 0 else consistency_ranges(self._old, signed.size)
        proof = await prove(self._ground, ranges)
        return consistency_body(self._old, proof, signed.note)
