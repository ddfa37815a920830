"""What a client carries from one round of a call to the next (`requestState`): sealed, so it can only be given back.

A state is bound to who made the call and to what exactly was called; it expires, and is taken once. It proves nothing
but that: the call passes the whole gate again in every round.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import orjson

from agentgate.core.call import Principal
from agentgate.ports.ambient import Clock, Entropy
from agentgate.ports.keys import Sealer

_PREFIX: Final = "agw1."
_NONCE_BYTES: Final = 16
_MOST_REMEMBERED: Final = 100_000


class BadState(Exception):
    """A state that is not taken; the text says why."""


@dataclass(frozen=True, slots=True)
class Round:
    """What was asked of the client in the round before."""

    about: str
    """The digest of what was called."""
    approval: str | None = None
    """The approval that the client was asked to get; None where it was the upstream that asked."""
    number: int = 0
    """How often it was asked to wait for that."""
    upstream_state: str | None = None
    answers: Mapping[str, Any] | None = None
    """Answers to the upstream that had come when the gateway itself had to ask."""


class States:
    """Seals and opens states. Remembers those that were taken, for as long as they are valid."""

    def __init__(self, sealer: Sealer, clock: Clock, entropy: Entropy, *, ttl_s: float) -> None:
        self._sealer = sealer
        self._clock = clock
        self._entropy = entropy
        self._ttl_s = ttl_s
        self._taken: dict[str, float] = {}
        """Nonce to when it expires, the oldest first."""

    def seal(self, caller: Principal, before: Round) -> str:
        envelope = {
            "round": asdict(before),
            "nonce": self._entropy.token(_NONCE_BYTES).hex(),
            "expires": self._clock.now().timestamp() + self._ttl_s,
        }
        sealed = self._sealer.seal(orjson.dumps(envelope), _whose(caller))
        return _PREFIX + base64.urlsafe_b64encode(sealed).decode()

    def take(self, caller: Principal, text: str, about: str) -> Round:
        """The round that `text` was made for, which is thereby over.

        Raises:
            BadState: not ours, another's, of another call, expired, or taken before.
        """
        envelope = self._open(caller, text)
        nonce, expires = envelope["nonce"], envelope["expires"]
        now = self._clock.now().timestamp()
        if now >= expires:
            raise BadState("the request state has expired")
        before = Round(**envelope["round"])
        if before.about != about:
            raise BadState("the request state belongs to another call")
        self._forget(now)
        if nonce in self._taken:
            raise BadState("the request state was used before")
        self._taken[nonce] = expires
        return before

    def _open(self, caller: Principal, text: str) -> dict[str, Any]:
        plain = None
        if text.startswith(_PREFIX):
            try:
                sealed = base64.b64decode(text.removeprefix(_PREFIX), altchars=b"-_", validate=True)
            except ValueError:
                sealed = b""
            plain = self._sealer.unseal(sealed, _whose(caller))
        if plain is None:
            raise BadState("the request state is not one that this caller was given")
        envelope: dict[str, Any] = orjson.loads(plain)
        return envelope

    def give_back(self, caller: Principal, text: str) -> None:
        """Nothing came of it: it may be taken again."""
        self._taken.pop(self._open(caller, text)["nonce"], None)

    def _forget(self, now: float) -> None:
        while self._taken:
            oldest = next(iter(self._taken))
            if self._taken[oldest] > now and len(self._taken) < _MOST_REMEMBERED:
                return
            del self._taken[oldest]


def _whose(caller: Principal) -> bytes:
    user = f"\0{caller.on_behalf_of}" if caller.on_behalf_of is not None else ""
    return f"mcp request state of {caller.tenant}/{caller.id}{user}".encode()
