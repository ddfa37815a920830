"""Writes this member's events: gives each its id, time and number, and appends it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agentgate.core.call import MemberId, TraceId
from agentgate.core.decision import Receipt
from agentgate.core.event import SALT_BYTES, Event, Origin
from agentgate.core.redaction.redactor import Redactor
from agentgate.ports.ambient import Clock, Entropy, Made, Worker
from agentgate.ports.log import Appended, Log

EventMaker = Callable[[Origin], Event]


class Recorder:
    """The one place from which this process writes to the log.

    `counter` makes a member's own events contiguous, so that a missing one is seen even by a reader that
    trusts neither the index nor the clock.
    """

    def __init__(
        self,
        log: Log,
        clock: Clock,
        entropy: Entropy,
        worker: Worker | None = None,
        *,
        member: MemberId,
        version: str,
        redactor: Redactor,
    ) -> None:
        """`worker` reads and redacts what is large; without one that holds up everything else."""
        self._log = log
        self._clock = clock
        self._entropy = entropy
        self._counter = 0
        self._version = version
        self._orphans: dict[str, Event | None] = {}
        self.member = member
        self.redactor = redactor
        """What every text of a caller's goes through before it is in an event."""
        self._worker = worker

    def become(self, member: MemberId) -> None:
        """Write as another incarnation from now on."""
        self.member = member
        self._counter = 0

    def origin(self) -> Origin:
        now = self._clock.now()
        self._counter += 1
        chance = self._entropy.token(SALT_BYTES + 10)
        return Origin(
            id=_uuid7(int(now.timestamp() * 1000), chance[SALT_BYTES:].hex()),
            at=now,
            member=self.member,
            counter=self._counter,
            version=self._version,
            salt=chance[:SALT_BYTES],
        )

    async def read(self, work: Callable[[], Made]) -> Made:
        """What `work` makes of something large that is to be recorded, while other calls go on."""
        return work() if self._worker is None else await self._worker.run(work)

    def reason(self, text: str, most: int) -> str:
        """What a person says of why, as it may be written down: at most so many characters."""
        # no store's text can hold a NUL: those in it hide no secret, and those that redaction decodes (`%00`) go too
        return self.redactor.text(text.replace("\0", "")).replace("\0", "")[:most]

    def write(self, event: Event) -> Awaitable[Appended]:
        """Append an event that may be refused for what it spends or whose it is. Awaiting raises LogUnavailable."""
        return self._log.append(event)

    async def settled(self) -> None:
        """Wait until everything that was written before is in the log or never will be. Raises LogUnavailable."""
        await self._log.settled()

    def orphaned(self, key: str, outcome: Event | None = None) -> None:
        """Remember a call of which nobody could say whether its `outcome` is durable, by its trace id; without one,
        whether its ALLOW is, by that event's id: the call was refused then, and another try has the same trace id."""
        self._orphans[key] = outcome

    def take_orphans(self) -> dict[str, Event | None]:
        taken, self._orphans = self._orphans, {}
        return taken

    async def note(self, make: EventMaker) -> Receipt:
        """Append an event that nothing can refuse. Raises LogUnavailable."""
        receipt = await self._log.append(make(self.origin()))
        if not isinstance(receipt, Receipt):
            raise TypeError(f"the log refused an event that claims nothing: {receipt}")
        return receipt


def new_trace_id(entropy: Entropy) -> TraceId:
    """A UUIDv4 (RFC 9562 §5.4)."""
    text = entropy.token(16).hex()
    return TraceId(f"{text[:8]}-{text[8:12]}-4{text[13:16]}-{_VARIANT[text[16]]}{text[17:20]}-{text[20:]}")


def _uuid7(milliseconds: int, chance: str) -> str:
    """A UUIDv7 (RFC 9562 §5.7): new ids land at the end of an index."""
    text = f"{milliseconds:012x}"
    return f"{text[:8]}-{text[8:]}-7{chance[:3]}-{_VARIANT[chance[3]]}{chance[4:7]}-{chance[8:]}"


_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}
