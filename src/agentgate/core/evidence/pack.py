"""The evidence pack's body: built from records alone, and signed over its canonical bytes.

What is signed is the RFC 8785 form of the whole body without `integrity.signature`; nothing in a pack is outside
of it.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentgate.core import base64_text
from agentgate.core.event import Kind, Record
from agentgate.core.evidence import sections
from agentgate.core.evidence.anomalies import anomalies
from agentgate.core.evidence.scope import Scope
from agentgate.core.merkle import leaf_hash
from agentgate.core.note import checkpoint_of
from agentgate.core.strict_json import canonical

PACK_VERSION: Final = "1.2.0"
SECTIONS: Final = ("metadata", "summary", "timeline", "policy_analysis", "write_action_log", "anomalies", "integrity")
HMAC_ALGORITHM: Final = "hmac-sha256"
ENVELOPE: Final = "dsse"
CHECKPOINT: Final = "checkpoint"


@dataclass(frozen=True, slots=True)
class About:
    """What a pack is of, and when and by what it was made."""

    scope: Scope
    generated_at: str
    generator: str


@dataclass(frozen=True, slots=True)
class Pack:
    """A body that is ready to be written down in any form."""

    body: Mapping[str, Any]
    """Without `integrity.signature`."""
    raw: bytes
    """RFC 8785 of `body`: what is signed, and the zip's pack.json."""
    signature: str | None
    """HMAC-SHA256 over `raw` in hexadecimals; None where no key is set."""

    @property
    def json(self) -> bytes:
        """The pack as one JSON document, its signature in it."""
        return canonical({**self.body, "integrity": {**self.body["integrity"], "signature": self.signature}})


def build(about: About, records: Sequence[Record], checkpoint: bytes | None = None) -> dict[str, Any]:
    """The unsigned body. `records` are the scope's own and the wider ones that concern it, in log order;
    `checkpoint` is the log's signed one."""
    calls = sections.timeline(records)
    return {
        "metadata": _metadata(about, records),
        "summary": sections.summary(records, calls),
        "timeline": calls,
        "policy_analysis": sections.policy_analysis(calls),
        "write_action_log": sections.write_action_log(calls),
        "anomalies": anomalies(calls),
        "integrity": _integrity(records, checkpoint),
    }


def _metadata(about: About, records: Sequence[Record]) -> dict[str, Any]:
    decided = [r.fields for r in records if r.kind is Kind.DECIDED]
    agents = sorted({fields["principal"] for fields in decided})
    times = [r.fields["at"] for r in records]
    scope = about.scope
    return {
        "version": PACK_VERSION,
        "generated_at": about.generated_at,
        "generator": about.generator,
        "scope": scope.told,
        "tenant": scope.tenant,
        "session_id": scope.session,
        "sessions": sorted({fields["session"] for fields in decided if "session" in fields}),
        "agent_id": agents[0] if len(agents) == 1 else ("multiple" if agents else None),
        "agents": agents,
        "user_id": None,
        "time_range": {"start": min(times, default=None), "end": max(times, default=None)},
    }


def _integrity(records: Sequence[Record], checkpoint: bytes | None) -> dict[str, Any]:
    """Every event with its leaf, so that the body can be held against the log leaf by leaf."""
    events = [
        {
            "index": record.index,
            "number": record.session_number,
            "event_id": record.fields["id"],
            "leaf": record.leaf.decode(),
            "leaf_hash": leaf_hash(record.leaf).hex(),
            "salt": record.salt.hex() if record.salt is not None else None,
        }
        for record in records
    ]
    return {
        "event_count": len(records),
        # in order: it covers every field of every event, not just their names
        "hash": hashlib.sha256(b"".join(bytes.fromhex(event["leaf_hash"]) for event in events)).hexdigest(),
        "hash_algorithm": "sha256",
        "events": events,
        "checkpoint": _checkpoint(checkpoint),
        "signed_by": [],
    }


def _checkpoint(note: bytes | None) -> dict[str, Any] | None:
    if note is None:
        return None
    found = checkpoint_of(note)
    root = base64_text.encoded(found.root)
    return {"origin": found.origin, "size": found.size, "root": root, "note": note.decode()}


@dataclass(frozen=True, slots=True)
class Seals:
    """Which signatures a pack is to have. Envelope and proofs are files beside the body: a zip alone has them."""

    hmac_key: bytes | None
    envelope_key_id: str | None = None
    proofs: bool = False


def key_id(key: bytes) -> str:
    """Names an HMAC key without telling it."""
    return hashlib.sha256(b"agentgate evidence key\n" + key).hexdigest()[:16]


def signed_bytes(body: Mapping[str, Any]) -> bytes:
    """RFC 8785 of the body without `integrity.signature` (DESIGN §5)."""
    integrity = {name: value for name, value in body["integrity"].items() if name != "signature"}
    return canonical({**body, "integrity": integrity})


def seal(body: Mapping[str, Any], seals: Seals, *, signed_at: str) -> Pack:
    """The body as it is signed. `signed_by`, in the signed part, says which signatures must be there, and `proves`
    in plain words what each of them shows and to whom."""
    wanted = {
        HMAC_ALGORITHM: seals.hmac_key is not None,
        ENVELOPE: seals.envelope_key_id is not None,
        CHECKPOINT: seals.proofs,
    }
    integrity = {**body["integrity"], "signed_by": [name for name, is_there in wanted.items() if is_there]}
    if seals.hmac_key is not None:
        integrity |= {"signature_algorithm": HMAC_ALGORITHM, "key_id": key_id(seals.hmac_key)}
    if seals.envelope_key_id is not None:
        integrity["envelope_key_id"] = seals.envelope_key_id
    integrity |= {"signed_at": signed_at, "proves": proves(integrity)}
    body = {**body, "integrity": integrity}
    raw = canonical(body)
    signature = hmac.new(seals.hmac_key, raw, hashlib.sha256).hexdigest() if seals.hmac_key is not None else None
    return Pack(body, raw, signature)


def proves(integrity: Mapping[str, Any]) -> list[dict[str, str]]:
    """What is proven, by what, and whom it convinces: no more than that."""
    count = integrity["event_count"]
    signed_by = integrity["signed_by"]
    found = []
    if CHECKPOINT in signed_by and count:
        each = "The one event is" if count == 1 else f"Each of the {count:,} events is"
        size = integrity["checkpoint"]["size"]
        found.append(
            {
                "claim": f"{each} in the log of {size} events that the checkpoint signs, "
                "unaltered and at the index that is given.",
                "by": "one RFC 6962 inclusion proof for each event, and the log's Ed25519 signature on the checkpoint",
                "convinces": "whoever knows the log's public key; that the log was not forked, whoever also holds an "
                "earlier or a witnessed checkpoint",
            }
        )
    if ENVELOPE in signed_by:
        found.append(
            {
                "claim": "This gateway made every file of this pack, and none was changed, added or taken out since.",
                "by": "a DSSE envelope over an in-toto statement that lists all files",
                "convinces": "whoever knows the gateway's public envelope key",
            }
        )
    if HMAC_ALGORITHM in signed_by:
        found.append(
            {
                "claim": "The body is as it was when it was made by somebody who holds the key.",
                "by": "HMAC-SHA256 over the body",
                "convinces": "holders of that key alone: each of them could also have made it",
            }
        )
    return found
