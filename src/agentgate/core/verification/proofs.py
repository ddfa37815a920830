"""The log's part of a zip: the signed checkpoint, and for each event the proof that the log has it where it says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agentgate.core.evidence.pack import CHECKPOINT
from agentgate.core.merkle import includes, leaf_hash
from agentgate.core.note import Checkpoint, NoteInvalid, NoteKey, parse_key
from agentgate.core.tiles import TileInvalid, parse_tlog_proof
from agentgate.core.verification.findings import Fault, Finding, broken, first, holds, not_checked
from agentgate.core.verification.seals import history_finding, open_checkpoint
from agentgate.core.verification.unpack import numbered

_MAX_SEARCHES: Final = 5
"""How many events that are not where they should be are looked for elsewhere, which costs a proof for each event."""


def of_log(
    files: Mapping[str, bytes], integrity: Mapping[str, Any], keys: Sequence[NoteKey], earlier: bytes | None
) -> Iterator[Finding]:
    """The checkpoint, one proof for each event, and the log's history."""
    note = files.get("checkpoint")
    told = integrity["checkpoint"]
    if note is None or CHECKPOINT not in integrity["signed_by"]:
        yield broken("checkpoint", Fault.STRIPPED, "there is no checkpoint with proofs, or the body does not name it")
    if note is None:
        return
    if told is None or told["note"].encode() != note:
        yield broken("checkpoint", Fault.CHANGED, "the checkpoint is not the one that the body names")
    own = _own_key(files.get("keys/log.vkey"))
    if isinstance(own, Finding):
        yield own
        return
    checkpoint = _checkpoint(note, keys, own)
    if isinstance(checkpoint, Finding):
        yield checkpoint
        return
    flaws = first(_unproven(files, integrity["events"], checkpoint, note))
    yield from flaws
    text = f"{len(integrity['events'])} events are in the log of {checkpoint.size} that {checkpoint.origin} signed"
    if keys and not flaws:
        yield holds("log", f"{text}, with a key that you trust")
    elif not flaws:
        yield not_checked("log", f"{text} with the pack's own key: compare it with whom you trust: {own.text}")
    if earlier is not None:
        yield history_finding(earlier, note, _consistency(files, earlier), keys or (own,))


def _own_key(raw: bytes | None) -> NoteKey | Finding:
    """The log key that the pack brings along."""
    try:
        return parse_key((raw or b"").decode().removesuffix("\n"))
    except (NoteInvalid, UnicodeDecodeError):
        return broken("checkpoint", Fault.CHANGED, "keys/log.vkey is not a verifier key of a log")


def _checkpoint(note: bytes, keys: Sequence[NoteKey], own: NoteKey) -> Checkpoint | Finding:
    """The checkpoint, if a trusted key has signed it, or without one the pack's own."""
    found = open_checkpoint(note, keys or (own,))
    if keys and isinstance(found, Finding) and not isinstance(open_checkpoint(note, (own,)), Finding):
        return broken("checkpoint", Fault.WRONG_KEY, f"signed with another key than yours: {own.text}")
    return found


def _consistency(files: Mapping[str, bytes], earlier: bytes) -> bytes | None:
    told = open_checkpoint(earlier, ())
    return files.get(f"consistency/{told.size}") if isinstance(told, Checkpoint) else None


def _unproven(
    files: Mapping[str, bytes], events: Sequence[Mapping[str, Any]], checkpoint: Checkpoint, note: bytes
) -> Iterator[Finding]:
    """Each event whose leaf is not a file of its own, or not proven to be where it says in the log."""
    leaves, proofs = numbered(files, "leaves/", ".json"), numbered(files, "proofs/", ".tlog-proof")
    places = {event["index"] for event in events}
    tries = _MAX_SEARCHES
    for index in sorted((set(leaves) | set(proofs)) - places):
        yield broken("log", Fault.INSERTED, f"event {index} has a leaf or a proof, and the body does not have it")
    for event in events:
        index, leaf = event["index"], event["leaf"].encode()
        if leaves.get(index) != leaf:
            fault = Fault.REMOVED if index not in leaves else Fault.ALTERED
            yield broken("log", fault, f"leaves/{index}.json is not there or not the leaf that the body has")
        elif index not in proofs:
            yield broken("log", Fault.STRIPPED, f"event {index} has no proof")
        elif (flaw := _flaw(index, leaf, proofs[index], checkpoint, note)) is not None:
            tries -= 1
            found = _misplaced(index, leaf, proofs, checkpoint, note) if tries >= 0 else None
            yield found or broken("log", Fault.ALTERED, flaw)


def _flaw(index: int, leaf: bytes, raw: bytes, checkpoint: Checkpoint, note: bytes) -> str | None:
    try:
        proof = parse_tlog_proof(raw)
    except TileInvalid as error:
        return f"proofs/{index}.tlog-proof: {error}"
    if proof.index != index or proof.checkpoint != note or proof.extra is not None:
        return f"proofs/{index}.tlog-proof is of another event or another checkpoint"
    if not includes(checkpoint.root, checkpoint.size, index, leaf_hash(leaf), proof.hashes):
        return f"event {index} is not the one that the log has there"
    return None


def _misplaced(
    index: int, leaf: bytes, proofs: Mapping[int, bytes], checkpoint: Checkpoint, note: bytes
) -> Finding | None:
    """Whether the log has this leaf at the place of another event of the pack."""
    for other, proof in proofs.items():
        if other != index and _flaw(other, leaf, proof, checkpoint, note) is None:
            return broken("log", Fault.REORDERED, f"event {index} is event {other} of the log")
    return None
