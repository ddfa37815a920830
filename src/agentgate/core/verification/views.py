"""Whether a pack's sections follow from its events, from which they are made again here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from agentgate.core.event import Record
from agentgate.core.evidence.pack import SECTIONS, About, build, proves
from agentgate.core.evidence.scope import Scope
from agentgate.core.strict_json import canonical
from agentgate.core.verification.body import Leaf
from agentgate.core.verification.findings import Fault, Finding, broken, holds

_REBUILT: Final = ("event_count", "hash", "hash_algorithm", "events", "checkpoint")
"""What of `integrity` follows from the events."""
_OF_SEALS: Final = (
    "signed_by", "signature_algorithm", "key_id", "envelope_key_id", "signed_at", "proves", "signature"
)  # fmt: skip
"""What of `integrity` is about the signatures."""


def views(body: Mapping[str, Any], found: Sequence[Leaf], files: Mapping[int, bytes] | None) -> Finding:
    """Every section is what the events yield, rebuilt here: from their bodies, or where there are none, as in a JSON
    pack, from the texts that the sections quote."""
    try:
        texts = _texts(body) if files is None else None
        records = [_record(leaf, texts, files or {}) for leaf in found]
        metadata, checkpoint = body["metadata"], body["integrity"]["checkpoint"]
        about = About(Scope(**metadata["scope"]), metadata["generated_at"], metadata["generator"])
        rebuilt = build(about, records, checkpoint["note"].encode() if checkpoint is not None else None)
        flaw = _unlike(rebuilt, body)  # which may have sums that JSON has no numbers for
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        text = f"the sections cannot be rebuilt from the events: {type(error).__name__}"
        return broken("views", Fault.CHANGED_VIEW, text)
    if flaw is not None:
        return broken("views", Fault.CHANGED_VIEW, f"{flaw} does not follow from the events")
    return holds("views", "every section follows from the events")


def _unlike(rebuilt: Mapping[str, Any], body: Mapping[str, Any]) -> str | None:
    """The first part of a pack that says something else than it should."""
    for name in SECTIONS[:-1]:
        if canonical(rebuilt[name]) != canonical(body[name]):
            return f"section {name}"
    told = body["integrity"]
    for name in _REBUILT:
        if canonical(rebuilt["integrity"][name]) != canonical(told.get(name)):
            return f"integrity.{name}"
    if canonical(proves(told)) != canonical(told.get("proves", [])):
        return "integrity.proves"
    others = set(told) - {*_REBUILT, *_OF_SEALS}
    return f"integrity.{min(others)}" if others else None


def _record(leaf: Leaf, texts: Mapping[str, Any] | None, files: Mapping[int, bytes]) -> Record:
    quoted = None if texts is None else canonical(texts.get(leaf.fields["id"]))
    raw = files.get(leaf.index) if texts is None else quoted
    return Record(leaf.index, leaf.number, -1, leaf.fields, leaf.raw, leaf.salt, raw)


def _texts(body: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for entry in body["timeline"]:
        found[entry["event_id"]] = {"reason": entry["reason"]}
        if "outcome_event_id" in entry:
            found[entry["outcome_event_id"]] = {"error": entry["error"]}
    for act in (*body["summary"]["kills"], *body["summary"]["holds"]):
        found[act["event_id"]] = {"reason": act["reason"]}
    for act in body["summary"]["approvals"]:
        found[act["event_id"]] = {name: act[name] for name in ("reason", "arguments") if name in act}
    return found
