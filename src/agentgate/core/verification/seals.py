"""The signatures of a pack, each against the keys that its reader brings along."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentgate.core import note as signed_note
from agentgate.core.dsse import EnvelopeInvalid, PublicKey
from agentgate.core.evidence.pack import HMAC_ALGORITHM, key_id
from agentgate.core.merkle import continues
from agentgate.core.note import Checkpoint, NoteInvalid, NoteKey
from agentgate.core.tiles import TileInvalid, parse_consistency_body
from agentgate.core.verification.findings import Fault, Finding, Standing, broken, holds, not_checked


class NoKey(ValueError):
    """The bytes are no key that packs are verified with."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The keys that a reader brings along, older ones too: one that fits is enough."""

    hmac_keys: tuple[bytes, ...] = ()
    envelope_keys: tuple[PublicKey, ...] = ()
    log_keys: tuple[NoteKey, ...] = ()

    def __or__(self, other: Trust) -> Trust:
        return Trust(
            self.hmac_keys + other.hmac_keys, self.envelope_keys + other.envelope_keys, self.log_keys + other.log_keys
        )


def read_trust(raw: bytes) -> Trust:
    """The public key in a file: PEM of an envelope key, or a log's vkey. Raises NoKey."""
    try:
        if raw.lstrip().startswith(b"-----BEGIN PUBLIC KEY-----"):  # not somewhere in a larger file, say a pack
            return Trust(envelope_keys=(PublicKey.from_pem(raw),))
        return Trust(log_keys=(signed_note.parse_key(raw.decode().strip()),))
    except (EnvelopeInvalid, NoteInvalid, UnicodeDecodeError) as error:
        text = "neither a public key in PEM form nor a log's verifier key (name+hash+base64)"
        raise NoKey(f"{text}: {error}") from None


def hmac_finding(check: str, signed: bytes, signature: Any, integrity: Mapping[str, Any], trust: Trust) -> Finding:
    """The HMAC-SHA256 over `signed`: `integrity` says whether there must be one, and of which key."""
    keys = trust.hmac_keys
    if not isinstance(signature, str):
        if HMAC_ALGORITHM in integrity["signed_by"] or keys:
            return broken(check, Fault.STRIPPED, "there is no HMAC: the signature was stripped")
        return not_checked(check, "the pack has no HMAC")
    if not keys:
        return not_checked(check, "no HMAC key given: it would show that holders of that key made the pack")
    if any(_is_hmac(key, signed, signature) for key in keys):
        return holds(check, "HMAC-SHA256 over all of it; it convinces whoever holds the key", convinces=True)
    named = integrity.get("key_id")
    if any(key_id(key) == named for key in keys):
        return broken(check, Fault.CHANGED, "the HMAC does not fit: it was altered after signing")
    return broken(check, Fault.WRONG_KEY, f"the HMAC does not fit: it was made with another key ({str(named)[:16]})")


def _is_hmac(key: bytes, signed: bytes, signature: str) -> bool:
    wanted = hmac.new(key, signed, hashlib.sha256).hexdigest()
    return hmac.compare_digest(wanted.encode(), signature.encode(errors="replace"))


def open_checkpoint(note: bytes, keys: Sequence[NoteKey]) -> Checkpoint | Finding:
    """A checkpoint that one of `keys` has signed for its own log. Without keys: as it says itself."""
    try:
        told = signed_note.checkpoint_of(note)
    except NoteInvalid as error:
        return broken("checkpoint", Fault.CHANGED, f"not a checkpoint: {error}")
    if not keys:
        return told
    own = [key for key in keys if key.name == told.origin]
    if not own:
        names = ", ".join(sorted({key.name for key in keys}))
        return broken("checkpoint", Fault.WRONG_KEY, f"the checkpoint is of {told.origin}, and the key of {names}")
    try:
        return signed_note.open_checkpoint(note, own, told.origin)
    except NoteInvalid as error:
        fault = Fault.CHANGED if _claims(note, own) else Fault.WRONG_KEY
        return broken("checkpoint", fault, f"the checkpoint does not hold: {error}")


def _claims(note: bytes, keys: Sequence[NoteKey]) -> bool:
    """Whether a note names one of `keys` as its signer, or has no telling who."""
    try:
        signers = signed_note.signers_of(note)
    except NoteInvalid:
        return True
    return any((key.name, key.hash) in signers for key in keys)


def history_finding(earlier: bytes, note: bytes | None, proof: bytes | None, keys: Sequence[NoteKey]) -> Finding:
    """Whether the pack's checkpoint (`note`) continues one that its reader has kept. `proof` is consistency/<size>."""
    if note is None:
        return broken("history", Fault.MISSING, "the pack has no checkpoint to compare the earlier one with")
    old, new = open_checkpoint(earlier, keys), open_checkpoint(note, keys)
    if isinstance(old, Finding):
        return broken("history", old.fault or Fault.MALFORMED, f"the earlier checkpoint: {old.detail}")
    if isinstance(new, Finding):
        return broken("history", new.fault or Fault.MALFORMED, new.detail)
    found = _compared(old, new) or _continued(old, new, note, proof)
    if found.standing is Standing.HOLDS and not keys:
        return not_checked("history", f"{found.detail}, as they say: no key of the log was given to check them with")
    return found


def _compared(old: Checkpoint, new: Checkpoint) -> Finding | None:
    """What the two say without a proof; None where the new one is longer."""
    if old.origin != new.origin:
        text = f"the earlier checkpoint is of {old.origin}, and the pack's of {new.origin}"
        return broken("history", Fault.OTHER_LOG, text)
    if old.size > new.size:
        text = f"the log had {old.size} events and has {new.size} here: an older pack, or a log that was set back"
        return broken("history", Fault.ROLLED_BACK, text)
    if old.size < new.size:
        return None
    if old.root != new.root:
        return broken("history", Fault.FORKED, f"one log, two contents of {old.size} events")
    return holds("history", f"the same log of {old.size} events")


def _continued(old: Checkpoint, new: Checkpoint, note: bytes, proof: bytes | None) -> Finding:
    if proof is None:
        text = f"no consistency/{old.size} in the pack: export it again, as zip and with checkpoint_size={old.size}"
        return broken("history", Fault.MISSING, text)
    try:
        told = parse_consistency_body(proof)
    except TileInvalid as error:
        return broken("history", Fault.CHANGED, f"consistency/{old.size} is no proof: {error}")
    if told.old != old.size or told.checkpoint != note:
        return broken("history", Fault.CHANGED, f"consistency/{old.size} is of another size or another checkpoint")
    if not continues(old.root, old.size, new.root, new.size, told.hashes):
        text = f"the log of {new.size} events does not continue the one of {old.size}: it was forked"
        return broken("history", Fault.FORKED, text)
    return holds("history", f"the log of {new.size} events continues the earlier one of {old.size}")
