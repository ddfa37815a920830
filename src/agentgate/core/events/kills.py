"""Events of kills and members: what was stopped, who has heard it, and what is released again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentgate.core.containment import Kill, Scope
from agentgate.core.event import Event, Kind, Origin, make, rfc3339
from agentgate.core.members import Acknowledgement, Progress
from agentgate.core.strict_json import canonical_plain

_NOBODY_LEFT: Final = Progress((), (), ())
_MOST_NAMED: Final = 1_000
"""Members in each list of a receipt: three such lists fit into a leaf. Members that die stay in every later kill."""


def killed(origin: Origin, kill: Kill, *, auth: str) -> Event:
    """A kill. Its number is assigned by the append that makes it durable."""
    fields = {"auth": auth}
    if kill.expires_at is not None:
        fields["expires_at"] = rfc3339(kill.expires_at)
    return _of_kill(origin, Kind.KILLED, kill, kill.actor, fields, canonical_plain({"reason": kill.reason}))


def _of_kill(
    origin: Origin, kind: Kind, kill: Kill, actor: str, fields: Mapping[str, Any], body: bytes = b"{}"
) -> Event:
    """In the session that the kill is of, if it is of one."""
    session = kill.target if kill.scope is Scope.SESSION else ""
    about = {"kill_id": kill.id, "scope": kill.scope.value, "target": kill.target}
    return make(origin, kind, {**about, **fields}, tenant=kill.tenant, session=session, principal=actor, body=body)


def released(
    origin: Origin, kill: Kill, *, actor: str, auth: str, why: str, forced: bool, asked_by: Sequence[str] = ()
) -> Event:
    """The end of a kill, by an admin or by its own expiry (`why` is `release` or `expiry`).

    `asked_by` names all who asked for it, where more than one person is needed.
    """
    fields: dict[str, Any] = {"auth": auth, "why": why, "forced": forced}
    if asked_by:
        fields["asked_by"] = list(asked_by)
    return _of_kill(origin, Kind.RELEASED, kill, actor, fields)


def acked(origin: Origin, ack: Acknowledgement) -> Event:
    return make(
        origin,
        Kind.ACKED,
        {
            "position": ack.position,
            "cancelled": ack.cancelled,
            "finished": ack.finished,
            "unknown": ack.unknown,
            "took_us": round(ack.took_ms * 1000),
        },
    )


def drained(
    origin: Origin, kill: Kill, *, position: int, members: Sequence[str], progress: Progress = _NOBODY_LEFT
) -> Event:
    """A kill's receipt: who was there, and who of them did not acknowledge it.

    Of very many only the newest are named, and `counts` says how many there were: who, the log says itself.
    """
    lists = {"members": members, "excepted": progress.excepted, "attested": progress.attested}
    fields: dict[str, Any] = {name: list(found[-_MOST_NAMED:]) for name, found in lists.items()}
    fields |= {"position": position, "drained": progress.drained}
    if len(members) > _MOST_NAMED:
        fields["counts"] = {name: len(found) for name, found in lists.items()}
    return _of_kill(origin, Kind.DRAINED, kill, kill.actor, fields)


def gone(origin: Origin, member: str, *, why: str, actor: str = "", auth: str = "") -> Event:
    """`member` was not heard (`why` is `presumed`), or an admin attests that its host is destroyed (`attested`)."""
    fields = {"of": member, "why": why}
    if auth:
        fields["auth"] = auth
    return make(origin, Kind.GONE, fields, principal=actor)


def release_asked(origin: Origin, kill: Kill, *, actor: str, auth: str) -> Event:
    """One person's wish to release a kill, where more than one is needed (K6)."""
    return _of_kill(origin, Kind.RELEASE_ASKED, kill, actor, {"auth": auth})
