"""The integrity page: what is proven, by what, to whom; and as plainly what is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from agentgate.adapters.evidence._parts.listing import MAX_CALLS, Listing, first
from agentgate.adapters.evidence._parts.words import count, moment
from agentgate.core.evidence.pack import CHECKPOINT, ENVELOPE, HMAC_ALGORITHM, Pack
from agentgate.core.visible import visible


@dataclass(frozen=True, slots=True)
class Signature:
    """One kind of protection, there or not."""

    name: str
    is_there: bool
    key_id: str
    text: str


@dataclass(frozen=True, slots=True)
class Claim:
    claim: str
    by: str
    convinces: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    origin: str
    size: int
    root: str
    note: tuple[str, ...]
    """The signed note, line by line."""


@dataclass(frozen=True, slots=True)
class Leaf:
    number: int
    index: int
    event_id: str
    leaf_hash: str


@dataclass(frozen=True, slots=True)
class Step:
    what: str
    command: str


@dataclass(frozen=True, slots=True)
class Integrity:
    """What is proven, by what, to whom, and what is not."""

    is_signed: bool
    headline: str
    """For large type."""
    explanation: str
    signatures: tuple[Signature, ...]
    proves: tuple[Claim, ...]
    limits: tuple[str, ...]
    checkpoint: Checkpoint | None
    pack_id: str
    hmac: str
    """The HMAC-SHA256 of the signed bytes in hex, or empty."""
    signed_at: str
    events_hash: str
    event_count: int
    leaves: Listing[Leaf]
    steps: tuple[Step, ...]


def pack_id(pack: Pack) -> str:
    """What names a pack: SHA-256 of the bytes that are signed."""
    return hashlib.sha256(pack.raw).hexdigest()


def integrity(pack: Pack) -> Integrity:
    told: Mapping[str, Any] = pack.body["integrity"]
    signed_by = frozenset(told["signed_by"])
    found = _checkpoint(told["checkpoint"])
    headline, explanation = _headline(signed_by)
    return Integrity(
        is_signed=bool(signed_by),
        headline=headline,
        explanation=explanation,
        signatures=_signatures(told, signed_by, found),
        proves=tuple(Claim(visible(c["claim"]), visible(c["by"]), visible(c["convinces"])) for c in told["proves"]),
        limits=_limits(pack, signed_by, found),
        checkpoint=found,
        pack_id=pack_id(pack),
        hmac=pack.signature or "",
        signed_at=moment(told["signed_at"]) if signed_by else "",
        events_hash=told["hash"],
        event_count=told["event_count"],
        leaves=first(told["events"], _leaf, MAX_CALLS),
        steps=_steps(signed_by),
    )


def _headline(signed_by: frozenset[str]) -> tuple[str, str]:
    if not signed_by:
        return (
            "This pack is not signed.",
            "Anybody could have written it, and any part could have been changed or left out: a report, no evidence.",
        )
    if signed_by == {HMAC_ALGORITHM}:
        return (
            "Signed with a shared key: it convinces only those who hold that key.",
            (
                "To anybody else this is a report. For a proof that outsiders can check, take the pack as a zip from a "
                "gateway with an envelope key."
            ),
        )
    if ENVELOPE in signed_by:
        return (
            "Signed: whoever knows the gateway's public key can check it.",
            (
                "The signatures are files of the zip beside this page. A page cannot prove itself: check it as is "
                "described below before you rely on it."
            ),
        )
    return (
        "Every event is tied to the log's signed checkpoint.",
        (
            "The proofs are files of the zip beside this page. They cover the events; the page itself is covered by "
            "its HMAC only, where there is one."
        ),
    )


def _signatures(told: Mapping[str, Any], signed_by: frozenset[str], found: Checkpoint | None) -> tuple[Signature, ...]:
    size = found.size if found else 0
    texts = {
        HMAC_ALGORITHM: (
            "HMAC-SHA256 over the body",
            told.get("key_id"),
            "Convinces holders of the key alone. Each of them could also have made it.",
            "No HMAC key was set.",
        ),
        ENVELOPE: (
            "DSSE envelope over every file of the zip",
            told.get("envelope_key_id"),
            "Convinces whoever knows the gateway's public envelope key.",
            "Not in this form: only the zip of a gateway with an envelope key has one.",
        ),
        CHECKPOINT: (
            "Inclusion proofs under the log's checkpoint",
            found.origin if found else None,
            (
                f"One RFC 6962 proof for each event under a checkpoint of {count(size, 'event')}. Convinces whoever "
                "knows the log's public key."
            ),
            "Not in this form: the proofs are files of the zip.",
        ),
    }
    return tuple(
        Signature(
            name,
            key in signed_by,
            visible(key_id) if key_id and key in signed_by else "",
            yes if key in signed_by else no,
        )
        for key, (name, key_id, yes, no) in texts.items()
    )


def _limits(pack: Pack, signed_by: frozenset[str], found: Checkpoint | None) -> tuple[str, ...]:
    """What a reader might take for proven and is not."""
    limits = []
    if not signed_by:
        limits.append("Anything at all: nothing in this pack is signed.")
    if signed_by == {HMAC_ALGORITHM}:
        limits.append(
            "Who made it, to anybody without the HMAC key; and which of the key's holders made it, to anybody."
        )
    if signed_by & {ENVELOPE, CHECKPOINT}:
        limits.append(
            "Whose the public keys are: hold those of the zip against what the operator gave you another way."
        )
    if CHECKPOINT not in signed_by:
        limits.append("That the events stand in the log as they stand here: the proofs are not part of this form.")
    limits += [
        (
            "When it happened: all times are the gateway's own clock. Only a time stamp of an outside authority "
            "(pack.dsse.tsr in the zip) shows that the pack existed at a time."
        ),
        (
            "What happened between two checkpoints: what no checkpoint covers yet, the operator could still change "
            "unnoticed."
        ),
        (
            "That everybody is shown the same log: that takes an earlier checkpoint which somebody else kept, or the "
            "cosignatures of witnesses."
        ),
        _completeness(pack.body["metadata"]["scope"]),
        "That nothing went round the gateway: a call that was made past it is in no log.",
        "What tools did: an answer shows that a tool answered. Of arguments and results the log keeps keyed hashes.",
        "That policy, approvals and kills were right: only that they are recorded as they were given.",
    ]
    if "until" in pack.body["metadata"]["scope"]:
        limits.append("What came of it after the time asked for: a later release, answer or end is not in this pack.")
    if any(entry["reason"] is None for entry in pack.body["timeline"]):
        limits.append("The wording of reasons that were pruned: their hashes stay, the texts are gone.")
    return tuple(limits)


def _completeness(scope: Mapping[str, str]) -> str:
    if "session" in scope and "since" not in scope and "until" not in scope:
        return "That the session did not go on. Up to the last one here, its own events are numbered without a gap."
    return (
        "That none was left out: proofs show that what is here is in the log, not that the log has no more of it. "
        "To check that, read the log itself."
    )


def _checkpoint(told: Mapping[str, Any] | None) -> Checkpoint | None:
    if told is None:
        return None
    lines = tuple(visible(line) for line in told["note"].removesuffix("\n").split("\n"))
    return Checkpoint(visible(told["origin"]), told["size"], visible(told["root"]), lines)


def _leaf(event: Mapping[str, Any]) -> Leaf:
    return Leaf(event["number"], event["index"], visible(event["event_id"]), event["leaf_hash"])


_ID: Final = Step("The pack id, SHA-256 of the signed body, which is the zip's pack.json:", "sha256sum pack.json")
_ALL: Final = Step("Everything at once, offline; it names what does not hold:", "agentgate verify evidence.zip")
_HMAC: Final = Step(
    "The HMAC of the body, for holders of the key:", 'openssl dgst -sha256 -hmac "$AGENTGATE_SIGNING_KEY" pack.json'
)
_VIEWS: Final = Step(
    "The HMAC of this view; it must equal the one in the .hmac file beside it:",
    'openssl dgst -sha256 -hmac "$AGENTGATE_SIGNING_KEY" pack.html pack.pdf',
)
_ENVELOPE: Final = Step(
    "The envelope and the proofs with stock tools (openssl, cosign, Go's sumdb): paste the commands of VERIFY.md, "
    "which is in the zip:",
    "unzip -p evidence.zip VERIFY.md",
)


_ALONE: Final = Step(
    "This view, offline, for holders of the key; its HMAC came with it, in a header or in a .hmac file beside it:",
    'agentgate verify FILE --key "$AGENTGATE_SIGNING_KEY"',
)
_OTHERWISE: Final = Step(
    "Who has no key asks for the pack as a zip, which has an id of its own, and checks that:",
    "agentgate verify evidence.zip",
)


def _steps(signed_by: frozenset[str]) -> tuple[Step, ...]:
    if ENVELOPE not in signed_by:  # a view by itself, with no files beside it
        return (_ALONE, _OTHERWISE) if HMAC_ALGORITHM in signed_by else (_OTHERWISE,)
    steps = [_ID, _ALL]
    if HMAC_ALGORITHM in signed_by:
        steps += [_HMAC, _VIEWS]
    if signed_by & {ENVELOPE, CHECKPOINT}:
        steps.append(_ENVELOPE)
    return tuple(steps)
