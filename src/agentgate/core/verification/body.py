"""Checks of a pack's events: the shape of what they are in, each against its leaf and its body, all against each other.

None of them needs a key, and none convinces by itself: whoever made up a pack could have made it up consistently.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentgate.core.decision import Verdict
from agentgate.core.event import Kind, body_sha256
from agentgate.core.evidence.pack import CHECKPOINT, ENVELOPE, HMAC_ALGORITHM, PACK_VERSION, SECTIONS
from agentgate.core.evidence.scope import WIDER, Scope
from agentgate.core.merkle import leaf_hash
from agentgate.core.strict_json import NotStrictJson, canonical, parse
from agentgate.core.verification.findings import Fault, Finding, broken, holds, not_checked

_SEALS: Final = (HMAC_ALGORITHM, ENVELOPE, CHECKPOINT)
_OF_SCOPE: Final = ("tenant", "session", "agent", "since", "until")
_OF_EVENT: Final[Mapping[str, tuple[type, ...]]] = {
    "index": (int,),
    "number": (int,),
    "event_id": (str,),
    "leaf": (str,),
    "leaf_hash": (str,),
    "salt": (str, type(None)),
}


@dataclass(frozen=True, slots=True)
class Leaf:
    """One event of a pack: where it says it is, and its leaf as a value."""

    index: int
    number: int
    raw: bytes
    salt: bytes | None
    fields: Mapping[str, Any]

    @property
    def session(self) -> tuple[str, str]:
        return self.fields.get("tenant", ""), self.fields.get("session", "")


def shape(body: Any) -> Finding:
    """Whether this is a pack at all, in a version that is known here, so that other checks need not ask."""
    flaw = _misshapen(body)
    if flaw is not None:
        return broken("shape", Fault.MALFORMED, flaw)
    return holds("shape", f"{len(body['integrity']['events'])} events in {len(SECTIONS)} sections")


def _misshapen(body: Any) -> str | None:
    if not isinstance(body, dict) or set(body) != set(SECTIONS):
        return f"a pack has exactly the sections {', '.join(SECTIONS)}"
    metadata, integrity = body["metadata"], body["integrity"]
    if not isinstance(metadata, dict) or not _is_scope(metadata.get("scope")):
        return "metadata.scope is missing or malformed"
    if metadata.get("version") != PACK_VERSION:
        return f"a pack of version {str(metadata.get('version'))[:20]}, and this verifier knows {PACK_VERSION}"
    if not isinstance(integrity, dict) or not isinstance(integrity.get("events"), list):
        return "integrity.events is missing"
    if any(not _is_event(event) for event in integrity["events"]):
        return "an entry of integrity.events is malformed"
    signed_by = integrity.get("signed_by")
    if not isinstance(signed_by, list) or any(name not in _SEALS for name in signed_by):
        return "integrity.signed_by is missing, or names a signature that no pack has"
    checkpoint = integrity.get("checkpoint", {})
    if checkpoint is not None and not (isinstance(checkpoint, dict) and isinstance(checkpoint.get("note"), str)):
        return "integrity.checkpoint has no note"
    return None


def _is_scope(scope: Any) -> bool:
    if not isinstance(scope, dict) or "tenant" not in scope or not set(scope) <= set(_OF_SCOPE):
        return False
    return all(isinstance(value, str) for value in scope.values())


def _is_event(event: Any) -> bool:
    if not isinstance(event, dict) or set(event) != set(_OF_EVENT):
        return False
    return (
        all(type(event[name]) in kinds for name, kinds in _OF_EVENT.items())
        and min(event["index"], event["number"]) >= 0
    )


def leaves(body: Mapping[str, Any]) -> list[Leaf] | Finding:
    """Every event's leaf, if each has its hash and is the one that it is called."""
    found: list[Leaf] = []
    for event in body["integrity"]["events"]:
        raw, name = event["leaf"].encode(), event["event_id"]
        if leaf_hash(raw).hex() != event["leaf_hash"]:
            return broken("events", Fault.ALTERED, f"event {name} was altered: its leaf hash is another leaf's")
        try:
            found.append(_leaf(event, raw))
        except (NotStrictJson, KeyError, TypeError, ValueError):
            return broken("events", Fault.ALTERED, f"event {name} was altered: its leaf is none, or another event's")
    return found


def _leaf(event: Mapping[str, Any], raw: bytes) -> Leaf:
    """Raises one of several errors for what no gateway has written."""
    fields = parse(raw)
    names = (fields["at"], fields["body_sha256"], fields.get("tenant", ""), fields.get("session", ""))
    Kind(fields["kind"])
    if canonical(fields) != raw or fields["id"] != event["event_id"] or any(type(name) is not str for name in names):
        raise ValueError("not a leaf of this event")
    salt = bytes.fromhex(event["salt"]) if event["salt"] is not None else None
    if salt is not None and salt.hex() != event["salt"]:
        raise ValueError("not a salt")
    return Leaf(event["index"], event["number"], raw, salt, fields)


def events(body: Mapping[str, Any], found: Sequence[Leaf]) -> Finding:
    """Each event is there once, in the log's order, numbered without a gap within its session, and counted."""
    integrity = body["integrity"]
    scope = Scope(**body["metadata"]["scope"])
    flaw = _out_of_order(found) or _foreign(scope, found) or _gap(scope, found)
    if flaw is not None:
        return flaw
    count = integrity.get("event_count")
    if type(count) is int and count > len(found):
        return broken(
            "events", Fault.TRUNCATED, f"the pack was of {count} events, and the last {count - len(found)} are gone"
        )
    if count != len(found):
        return broken("events", Fault.INSERTED, f"there are {len(found)} events, and the pack says {count}")
    return holds("events", f"{count} leaves have their hashes, in the log's order, numbered without a gap")


def _out_of_order(found: Sequence[Leaf]) -> Finding | None:
    last = -1
    seen: set[str] = set()
    for leaf in found:
        name = leaf.fields["id"]
        if name in seen:
            return broken("events", Fault.INSERTED, f"event {name} is there twice: one of them was put in")
        seen.add(name)
        if leaf.index == last:
            return broken("events", Fault.INSERTED, f"event {name} has the index {last} of the one before it")
        if leaf.index < last:
            return broken("events", Fault.REORDERED, f"event {name} stands behind one with a larger index")
        last = leaf.index
    return None


def _foreign(scope: Scope, found: Sequence[Leaf]) -> Finding | None:
    """The first event that is of another tenant or session than the pack says it is of."""
    for leaf in found:
        tenant, session = leaf.session
        if leaf.fields["kind"] in WIDER:
            fits = tenant in ("", scope.tenant)
        else:
            fits = tenant == scope.tenant and scope.session in (None, session)
        if not fits:
            text = f"event {leaf.fields['id']} is of session {session} of {tenant}, and the pack is not"
            return broken("events", Fault.INSERTED, text)
    return None


def _gap(scope: Scope, found: Sequence[Leaf]) -> Finding | None:
    """The first event whose number does not follow its session's last one.

    A pack has a whole session, or of a time range a run of it; beyond that run it has the acts alone that concern it.
    """
    whole = _whole_sessions(scope, found)
    runs = _runs(found) if scope.since is not None or scope.until is not None else None
    last: dict[tuple[str, str], int] = {}
    numbers = {(leaf.session, leaf.number) for leaf in found}
    for leaf in found:
        session, number, name = leaf.session, leaf.number, leaf.fields["id"]
        if not session[1] and number == 0:
            continue
        expected = last.get(session, 0) + 1
        if number < expected:
            text = f"event {name} is number {number} of its session, and stands behind number {expected - 1}"
            return broken("events", Fault.REORDERED, text)
        last[session] = number
        if number == expected or session not in whole:
            continue
        if runs is not None and not runs.get(session, (0, 0))[0] < number <= runs.get(session, (0, 0))[1]:
            continue
        if (session, expected) in numbers:
            return broken("events", Fault.REORDERED, f"event {name} stands before number {expected} of its session")
        text = f"number {expected} of session {session[1]} was removed: event {name} is number {number}"
        return broken("events", Fault.REMOVED, text)
    return None


def _runs(found: Sequence[Leaf]) -> dict[tuple[str, str], tuple[int, int]]:
    """The first and the last number of each session, not counting acts that may be there from before or after."""
    runs: dict[tuple[str, str], tuple[int, int]] = {}
    for leaf in found:
        if leaf.fields["kind"] not in WIDER:
            first, _ = runs.get(leaf.session, (leaf.number, 0))
            runs[leaf.session] = first, leaf.number
    return runs


def _whole_sessions(scope: Scope, found: Sequence[Leaf]) -> set[tuple[str, str]]:
    """The sessions of which the pack should have everything: of an agent, those that it opened. In another's session
    it can only have been refused, and the pack has the attempts alone."""
    if scope.session is not None:
        return {(scope.tenant, scope.session)}
    if scope.agent is None:
        return {leaf.session for leaf in found if leaf.session[0] == scope.tenant}
    return {
        leaf.session
        for leaf in found
        if leaf.fields["kind"] == Kind.DECIDED
        and leaf.fields.get("principal") == scope.agent
        and (leaf.number == 1 or leaf.fields.get("decision") != Verdict.DENY)
    }


def bodies(found: Sequence[Leaf], files: Mapping[int, bytes]) -> Iterator[Finding]:
    """Each body that is there is the one that its leaf binds; each that is not was pruned, and an event says so."""
    flaws = False
    for index in sorted(set(files) - {leaf.index for leaf in found}):
        flaws = True
        yield broken("bodies", Fault.INSERTED, f"bodies/{index}.json is of no event in the pack")
    unexplained: list[int] = []
    pruned = _pruned(found)
    for leaf in found:
        raw = files.get(leaf.index)
        if leaf.salt is None and raw is None:
            if leaf.index > pruned.get(leaf.session, -1):
                unexplained.append(leaf.index)
        elif raw is None:
            flaws = True
            yield broken("bodies", Fault.REMOVED, f"the body of event {leaf.index} was taken out")
        elif leaf.salt is None or body_sha256(leaf.salt, raw) != leaf.fields["body_sha256"]:
            flaws = True
            yield broken("bodies", Fault.ALTERED, f"the body of event {leaf.index} is not the one that its leaf binds")
    if unexplained:
        text = f"{len(unexplained)} bodies are not there, and no prune in the pack says why, first that of event"
        yield not_checked("bodies", f"{text} {unexplained[0]}")
    elif not flaws:
        yield holds("bodies", f"{len(files)} bodies are the ones that their leaves bind")


def _pruned(found: Sequence[Leaf]) -> dict[tuple[str, str], int]:
    """Up to which index each session's bodies were given up, as the prunes in the pack say: none of what came later."""
    through: dict[tuple[str, str], int] = {}
    for leaf in found:
        told = leaf.fields.get("through")
        if leaf.fields["kind"] == Kind.PRUNED and type(told) is int:
            through[leaf.session] = max(min(told, leaf.index), through.get(leaf.session, -1))
    return through
