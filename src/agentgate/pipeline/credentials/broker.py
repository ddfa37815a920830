"""Gives credentials to calls: kept until they expire, taken back when a kill covers one of those who used them.

One credential serves every call of the same alias, scope, lifetime and tenant; one that was got for a caller's own
token serves calls with that token alone. Whatever goes wrong in getting one, the call is refused and the log says why.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from agentgate.core.call import Call
from agentgate.core.containment import flags_over
from agentgate.pipeline.containment.flights import IsOver
from agentgate.pipeline.credentials.sources import Bounded, Revocations
from agentgate.ports.ambient import Clock
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Serves
from agentgate.ports.notices import Meter
from agentgate.ports.upstreams import Credential

MAX_KEPT: Final = 10_000
"""Credentials kept at once. Past it the tenant with the most gives up its oldest."""
MAX_USERS: Final = 1_000
"""Sessions and tools that one credential may serve; the next is given another one."""
MARGIN: Final = 0.1
"""The last part of a lifetime, in which no call is given the credential any more: it has to arrive and be checked."""
MAX_MARGIN_S: Final = 30.0
_LEAST_S: Final = 1.0
_MAX_OWN: Final = 8
"""Former values of an alias that a tool server may still hold from when its session began."""

logger = logging.getLogger("agentgate.credentials")


class _Key(NamedTuple):
    alias: str
    scope: str | None
    ttl_s: int | None
    tenant: str | None
    owner: str | None
    """Of one that not the whole tenant shares: a digest of whose it is."""


@dataclass(slots=True, eq=False)
class _Entry:
    """A credential that is being asked for, or that is kept."""

    key: _Key
    asked_s: float
    """Its lifetime is counted from here."""
    users: dict[tuple[str, ...], Call] = field(default_factory=dict)
    """Who was given it, by the flags that stop them, without their arguments."""
    task: asyncio.Task[Issued] | None = None
    issued: Issued | None = None
    born_s: float = 0.0
    """As `asked_s`, but prolonging does not move it."""
    until_s: float = 0.0
    """No call is given it from then on."""
    ends_s: float = float("inf")
    """It is good for nothing from then on."""
    end: asyncio.TimerHandle | None = None
    is_doomed: bool = False
    """A kill covered one of its users."""


class Broker:
    """Implements `CredentialSource` with one issuer for each alias. It belongs to one running loop."""

    def __init__(self, issuers: Mapping[str, Bounded], clock: Clock) -> None:
        self._issuers = dict(issuers)
        self._clock = clock
        self.meter: Meter | None = None
        """Who counts; there is none before the gateway is put together."""
        self._current: dict[_Key, _Entry] = {}
        """What the next call is given."""
        self._live: dict[_Entry, None] = {}
        """All that may still be good for something, the oldest first."""
        self._own: dict[str, list[str]] = {}
        self._told: dict[str, tuple[str, int]] = {}
        self._revocations = Revocations(clock, self._count)
        self._closed = False

    def __repr__(self) -> str:
        return f"Broker({', '.join(self._issuers)})"

    async def credential(
        self, alias: str, *, scope: str | None, ttl_s: int | None, call: Call | None = None
    ) -> Credential | None:
        try:
            return await self.obtain(Ask(alias, scope, ttl_s, call))
        except CredentialRefused as refused:
            self._tell(alias, str(refused))
            self._count("credentials_unavailable", alias)
            return None

    async def obtain(self, ask: Ask) -> Credential:
        """As `credential`, and says why there is none.

        Raises:
            CredentialRefused
        """
        bounded = self._issuers.get(ask.alias)
        if bounded is None or self._closed:
            raise CredentialRefused("there is no such alias" if bounded is None else "the gateway is ending")
        if bounded.issuer.serves is Serves.ALL:
            return self._handed_out(ask, await bounded.issue(ask))
        key = _key(ask, bounded.issuer.serves)
        while True:
            entry = self._entry(key, ask, bounded)
            assert entry.task is not None
            issued = await asyncio.shield(entry.task)
            # a kill of one who waited for it takes it from all who did: this call is then given another
            if self._now() >= entry.ends_s:
                raise CredentialRefused("it was over before it came")
            if not entry.is_doomed:
                return self._handed_out(ask, issued)

    def drop(self, is_over: IsOver) -> None:
        """Take back what was given to calls that are over. Nobody waits for that: it is tried until it is done."""
        for entry in tuple(self._live):
            if any(map(is_over, entry.users.values())):
                self._give_back(entry)

    async def aclose(self) -> None:
        """Take back within a few seconds everything that can be."""
        self._closed = True
        for entry in tuple(self._live):
            self._give_back(entry)
        await self._revocations.aclose()
        for bounded in self._issuers.values():
            await bounded.issuer.aclose()

    def _tell(self, alias: str, why: str) -> None:
        """Once a second for each alias and reason, however many calls there are."""
        told = (why, int(self._now()))
        name = alias if alias in self._issuers else ""  # of names that nobody configured there is no end
        if self._told.get(name) != told:
            self._told[name] = told
            logger.warning("no credential %s: %s", alias, why)

    def _count(self, name: str, alias: str) -> None:
        if self.meter is not None:
            self.meter.count(name, alias if alias in self._issuers else "other")

    def _now(self) -> float:
        return self._clock.boot_s()

    def _handed_out(self, ask: Ask, issued: Issued) -> Credential:
        credential = issued.credential
        own = self._own.setdefault(ask.alias, [])
        if ask.call is None:
            own.extend(value for value in credential.secrets if value not in own)
            del own[:-_MAX_OWN]
        return replace(credential, others=tuple(own))

    # --- what is kept ---

    def _entry(self, key: _Key, ask: Ask, bounded: Bounded) -> _Entry:
        """The entry for a key, with this call among its users. Raises CredentialRefused."""
        flags = flags_over(ask.call) if ask.call is not None else ()
        entry = self._current.get(key)
        if entry is None or (len(entry.users) >= MAX_USERS and flags not in entry.users):
            entry = self._begin(key, ask, bounded, None)
        elif entry.issued is not None and self._now() >= entry.until_s:
            entry = self._begin(key, ask, bounded, entry)
        if ask.call is not None and flags not in entry.users:
            entry.users[flags] = _bare(ask.call)
        return entry

    def _begin(self, key: _Key, ask: Ask, bounded: Bounded, before: _Entry | None) -> _Entry:
        """Ask the source: who asks first asks for all that ask meanwhile."""
        self._make_room()
        entry = _Entry(key, self._now())
        prolonged = before.issued if before is not None else None
        if before is not None and prolonged is not None and prolonged.revocation is not None:
            left_s = key.ttl_s - (self._now() - before.born_s) if key.ttl_s is not None else None
            if left_s is None or left_s >= _LEAST_S:
                entry.users = dict(before.users)
                ask = replace(ask, ttl_s=int(left_s) if left_s is not None else None)
            else:
                prolonged = None
        task = entry.task = asyncio.create_task(bounded.issue(ask, prolonged))
        task.add_done_callback(lambda _: self._arrived(entry, before, task))
        self._current[key] = entry
        self._live[entry] = None
        return entry

    def _make_room(self) -> None:
        """Of the tenant that has the most: one that opens sessions without end takes nothing from the others."""
        if len(self._live) < MAX_KEPT:
            return
        ((tenant, _),) = Counter(entry.key.tenant for entry in self._live).most_common(1)
        oldest = next((entry for entry in self._live if entry.key.tenant == tenant and entry.issued is not None), None)
        if oldest is None:
            raise CredentialRefused("too many are being asked for at once")
        self._give_back(oldest)

    def _arrived(self, entry: _Entry, before: _Entry | None, task: asyncio.Task[Issued]) -> None:
        if task.cancelled() or task.exception() is not None:
            self._forget(entry)
            return
        issued = entry.issued = task.result()
        entry.born_s = entry.asked_s
        former = before.issued if before is not None else None
        if before is not None and former is not None and former.revocation == issued.revocation is not None:
            entry.born_s = before.born_s
            self._forget(before)
        if entry.is_doomed or self._closed:
            self._give_back(entry)
            return
        now = self._now()
        ends_s = entry.asked_s + issued.expires_in_s
        if entry.key.ttl_s is not None:
            ends_s = min(ends_s, entry.born_s + entry.key.ttl_s)
        entry.ends_s, left_s = ends_s, ends_s - now
        entry.until_s = ends_s - min(left_s * MARGIN, MAX_MARGIN_S)
        if left_s != float("inf"):
            # for what policy allowed, and not for as long as the source would have it
            entry.end = asyncio.get_running_loop().call_later(left_s, self._give_back, entry)

    def _forget(self, entry: _Entry) -> None:
        self._live.pop(entry, None)
        if self._current.get(entry.key) is entry:
            del self._current[entry.key]
        if entry.end is not None:
            entry.end.cancel()

    def _give_back(self, entry: _Entry) -> None:
        """Nobody is given it any more, and its source is told so where it listens."""
        entry.is_doomed = True
        self._forget(entry)
        issued = entry.issued
        if issued is not None and issued.revocation is not None:
            alias, over_s = entry.key.alias, entry.asked_s + issued.expires_in_s
            self._revocations.begin(alias, self._issuers[alias], issued, over_s)


def _key(ask: Ask, serves: Serves) -> _Key:
    call = ask.call
    if call is None:
        return _Key(ask.alias, ask.scope, ask.ttl_s, None, None)
    owner = None
    if serves is not Serves.TENANT:
        own = call.session if serves is Serves.SESSION else call.bearer or ""
        whole = "\0".join((call.caller.id, call.caller.on_behalf_of or "", own))
        owner = hashlib.sha256(whole.encode(errors="replace")).hexdigest()
    return _Key(ask.alias, ask.scope, ask.ttl_s, call.tenant, owner)


def _bare(call: Call) -> Call:
    """Enough of a call to say whether a kill covers it."""
    return replace(call, arguments={}, context={}, approval_token=None, peer=None, bearer=None)
