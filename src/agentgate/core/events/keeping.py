"""Events of the log itself: what was taken out of it, given up, held, and signed with which keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentgate.core.event import Event, Kind, Origin, make
from agentgate.core.retention import Hold
from agentgate.core.strict_json import canonical_plain

MAX_KEY_IDS: Final = 100
MAX_KEY_ID_CHARS: Final = 10_000
"""Of each way in which keys changed; their ids fit into a leaf, however long they are."""


def exported(origin: Origin, *, actor: str, tenant: str, form: str, what: Mapping[str, str]) -> Event:
    """Evidence was taken. `what` says of what: `of_session`, `of_agent`, `since`, `until`, where they apply."""
    return make(origin, Kind.EXPORTED, {"format": form, **what}, tenant=tenant, principal=actor)


def pruned(origin: Origin, *, actor: str, tenant: str, session: str, why: str, bodies: int, through: int) -> Event:
    """The bodies of a session's events up to index `through` are given up; their leaves and proofs stay.

    `why` is `retention` (its time was over) or `forced` (an admin shortened it); `bodies` counts what went. The event
    is in the session, so that the session's own pack says what is not there any more.
    """
    fields = {"why": why, "bodies": bodies, "through": through}
    return make(origin, Kind.PRUNED, fields, tenant=tenant, session=session, principal=actor)


def held(origin: Origin, hold: Hold, *, auth: str) -> Event:
    """A legal hold, and how who gave it was known."""
    fields = {"hold_id": hold.id, "of_session": hold.session, "auth": auth}
    body = canonical_plain({"reason": hold.reason})
    return make(origin, Kind.HELD, fields, tenant=hold.tenant, principal=hold.actor, body=body)


def unheld(origin: Origin, hold: Hold, *, actor: str, auth: str, reason: str = "") -> Event:
    """The end of a legal hold, by whom it was."""
    fields = {"hold_id": hold.id, "of_session": hold.session, "auth": auth}
    body = canonical_plain({"reason": reason}) if reason else b"{}"
    return make(origin, Kind.UNHELD, fields, tenant=hold.tenant, principal=actor, body=body)


def keyed(origin: Origin, *, use: str, algorithm: str, key_id: str, public: str) -> Event:
    """A signing key was taken into use: for `checkpoints` or for `envelopes`. `public` is its vkey or base64 SPKI."""
    return make(origin, Kind.KEYED, {"use": use, "algorithm": algorithm, "key_id": key_id, "public": public})


def keys_changed(origin: Origin, ids: Mapping[str, Sequence[str]], change: str) -> Event:
    """A running gateway took over a changed key file. `ids` are the keys that were `added`, `removed`, `disabled`,
    `enabled`, or `altered` otherwise; `counts` says how many, for not all may be named. `change` is the same for all
    processes that took over the same change of the same file: the first of them tells it."""
    fields: dict[str, Any] = {how: _some(found) for how, found in ids.items()}
    counts = {how: len(found) for how, found in ids.items()}
    return make(origin, Kind.KEYS_CHANGED, fields | {"counts": counts, "change": change})


def _some(ids: Sequence[str]) -> list[str]:
    """As many of the first as a leaf has room for."""
    room, some = MAX_KEY_ID_CHARS, list[str]()
    for one in ids[:MAX_KEY_IDS]:
        room -= len(one)
        if room < 0:
            break
        some.append(one)
    return some
