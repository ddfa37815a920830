"""`agentgate verify`: checks an evidence pack offline, with the keys that its reader brings along.

Every check says what it found, and of what is broken, which kind of damage it is. Two things vouch for a whole pack:
the envelope for whoever knows the gateway's public key, and the HMAC for whoever holds its key. The log's checkpoint
and the proofs show that each event in the pack is in the log, even if those keys were stolen, but not that none was
left out. Without a key a pack can only be found consistent with itself, and a forger can make it so, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from agentgate.core.archive import ENVELOPE_FILES
from agentgate.core.dsse import (
    PAYLOAD_TYPE,
    Envelope,
    EnvelopeInvalid,
    PublicKey,
    parse_bundle,
    parse_envelope,
    parse_statement,
)
from agentgate.core.evidence.pack import ENVELOPE, signed_bytes
from agentgate.core.strict_json import NotStrictJson, canonical, parse
from agentgate.core.verification import body as verify_body
from agentgate.core.verification.findings import Fault, Finding, Report, Standing, broken, first, holds, not_checked
from agentgate.core.verification.proofs import of_log
from agentgate.core.verification.seals import Trust, history_finding, hmac_finding, open_checkpoint
from agentgate.core.verification.unpack import SIGNATURE, numbered, unpack
from agentgate.core.verification.views import views


def verify(raw: bytes, trust: Trust, earlier: bytes | None = None) -> Report:
    """Check a pack: a zip, or one JSON document. `earlier` is a checkpoint of the log that the reader has kept."""
    return Report(tuple(findings(raw, trust, earlier)))


def findings(raw: bytes, trust: Trust, earlier: bytes | None = None) -> Iterator[Finding]:
    """The same one by one, cheap checks first."""
    if raw.startswith(SIGNATURE):
        return _of_zip(raw, trust, earlier)
    return _of_json(raw, trust, earlier)


def is_view(raw: bytes) -> bool:
    """Whether this is a pack as HTML or PDF."""
    return raw.startswith(b"%PDF-") or raw[:15].lower() == b"<!doctype html>"


def verify_view(raw: bytes, signature: bytes | None, trust: Trust, earlier: bytes | None = None) -> Report:
    """Check an HTML or PDF pack by the HMAC that came with it: in a header, or as a file beside it. Only a zip shows
    more to who has other keys, and whether the log continues an earlier checkpoint."""
    text = (
        signature.decode("ascii", errors="replace").strip().removeprefix("sha256=") if signature is not None else None
    )
    found = hmac_finding("signature", raw, text, {"signed_by": []}, trust)
    if found.fault is Fault.WRONG_KEY:  # a view does not name its key
        found = broken("signature", Fault.CHANGED_VIEW, "the HMAC does not fit: altered, or made with another key")
    rest = []
    if trust.envelope_keys:
        rest.append(not_checked("envelope", "a page has none: the zip does"))
    if trust.log_keys:
        rest.append(not_checked("log", "a page shows nothing of the log: the zip does"))
    if earlier is not None:
        rest.append(history_finding(earlier, None, None, trust.log_keys))
    return Report((found, *rest))


def _of_json(raw: bytes, trust: Trust, earlier: bytes | None) -> Iterator[Finding]:
    """Only the HMAC covers a JSON document: envelope and proofs are files of a zip."""
    try:
        body = parse(raw)
        is_canonical = canonical(body) == raw
    except NotStrictJson as error:
        yield broken("shape", Fault.MALFORMED, f"not strict JSON: {error}")
        return
    if not is_canonical:
        yield broken("shape", Fault.MALFORMED, "not in canonical form (RFC 8785): it was changed, or written anew")
    yield (shape := verify_body.shape(body))
    if shape.standing is Standing.BROKEN:
        return
    integrity = body["integrity"]
    signature = integrity.get("signature")
    yield hmac_finding("signature", signed_bytes(body), signature, integrity, trust)
    if ENVELOPE in integrity["signed_by"]:
        yield broken("envelope", Fault.STRIPPED, "the body is of a zip, whose envelope and proofs are not here")
    elif trust.envelope_keys:
        yield not_checked("envelope", "a JSON pack has none: the zip does")
    yield from _of_body(body, None)
    told = integrity["checkpoint"]
    note = told["note"].encode() if told is not None else None
    if note is not None and trust.log_keys:
        found = open_checkpoint(note, trust.log_keys)
        text = "its signature holds; that the events are in that log, only a zip can show"
        yield found if isinstance(found, Finding) else not_checked("checkpoint", text)
    if earlier is not None:
        yield history_finding(earlier, note, None, trust.log_keys)


def _of_body(body: Mapping[str, Any], bodies: Mapping[int, bytes] | None) -> Iterator[Finding]:
    """Events, bodies and views, as far as one check leaves something for the next."""
    leaves = verify_body.leaves(body)
    if isinstance(leaves, Finding):
        yield leaves
        return
    yield verify_body.events(body, leaves)
    if bodies is not None:
        yield from first(verify_body.bodies(leaves, bodies))
    yield views(body, leaves, bodies)


_VIEWS: Final = ("pack.html", "pack.pdf")


def _of_zip(raw: bytes, trust: Trust, earlier: bytes | None) -> Iterator[Finding]:
    opened = unpack(raw)
    files = opened.files
    if opened.flaw is not None:
        yield broken("container", Fault.MALFORMED, opened.flaw)
    else:
        yield holds("container", f"{len(files)} files, and not a byte besides")
    try:
        body = parse(files.get("pack.json", b""))
        is_canonical = canonical(body) == files["pack.json"]
    except (NotStrictJson, KeyError) as error:
        yield broken("shape", Fault.MALFORMED, f"no pack.json in strict JSON: {error}")
        return
    yield (shape := verify_body.shape(body))
    if shape.standing is Standing.BROKEN:
        return
    if not is_canonical or "signature" in body["integrity"]:
        yield broken("shape", Fault.MALFORMED, "pack.json is not what is signed: the canonical body without signature")
    yield from _of_envelope(files, body["integrity"], trust.envelope_keys)
    yield from of_log(files, body["integrity"], trust.log_keys, earlier)
    for name in ("pack.json", *(view for view in _VIEWS if view in files)):
        yield _of_hmac(name, files, body["integrity"], trust)
    yield from _of_body(body, numbered(files, "bodies/", ".json"))
    if "pack.dsse.tsr" in files:
        text = "a time stamp is there; check it with: openssl ts -verify (VERIFY.md says how)"
        yield not_checked("time", text)


def _of_hmac(name: str, files: Mapping[str, bytes], integrity: Mapping[str, Any], trust: Trust) -> Finding:
    raw = files.get(f"{name}.hmac")
    text = raw.decode("ascii", errors="replace") if raw is not None else None
    if text is not None and not text.endswith("\n"):
        return broken(name, Fault.CHANGED, f"{name}.hmac is not 64 hexadecimals and a newline")
    found = hmac_finding(name, files[name], text.removesuffix("\n") if text is not None else None, integrity, trust)
    if found.fault is Fault.CHANGED and name in _VIEWS:
        return broken(name, Fault.CHANGED_VIEW, found.detail)
    return found


def _of_envelope(
    files: Mapping[str, bytes], integrity: Mapping[str, Any], keys: Sequence[PublicKey]
) -> Iterator[Finding]:
    raw = files.get("pack.dsse.json")
    if raw is None or ENVELOPE not in integrity["signed_by"]:
        # every zip has one: without, a JSON pack could be made a zip together with the pages of another pack
        yield broken("envelope", Fault.STRIPPED, "there is no envelope over all files, or the body does not name it")
    if raw is None:
        return
    try:
        envelope = parse_envelope(raw)
        statement = parse_statement(envelope.payload)
    except EnvelopeInvalid as error:
        yield broken("envelope", Fault.CHANGED, f"pack.dsse.json: {error}")
        return
    listed = first(_unlike(files, statement.digests)) + list(_unstamped(files, statement.predicate))
    yield from listed
    if not listed:
        yield holds(
            "files", f"{len(statement.digests)} files have the digests that the envelope lists, and no more are there"
        )
    yield _signed(envelope, integrity, keys, files.get("keys/envelope.pub.pem"))
    yield _bundled(envelope, files.get("pack.sigstore.json"))


def _unlike(files: Mapping[str, bytes], digests: Mapping[str, str]) -> Iterator[Finding]:
    """Each file that is not as the envelope lists it, or is not there, or is not listed."""
    for name in sorted({*files, *digests} - set(ENVELOPE_FILES)):
        if name not in files:
            yield broken("files", _fault_of(name, Fault.REMOVED, Fault.MISSING), f"{name} was taken out")
        elif name not in digests:
            yield broken(
                "files", _fault_of(name, Fault.INSERTED, Fault.CHANGED), f"{name} was put in: nothing lists it"
            )
        elif hashlib.sha256(files[name]).hexdigest() != digests[name]:
            fault = Fault.CHANGED_VIEW if name in _VIEWS else _fault_of(name, Fault.ALTERED, Fault.CHANGED)
            yield broken("files", fault, f"{name} is not the file that was signed")


def _unstamped(files: Mapping[str, bytes], predicate: Mapping[str, Any]) -> Iterator[Finding]:
    """The time stamp is made of the envelope's signature, so that no digest covers it: the statement says if it is."""
    if (is_there := "pack.dsse.tsr" in files) != (predicate.get("timestamp") is True):
        fault, what = (Fault.INSERTED, "put in") if is_there else (Fault.STRIPPED, "taken out")
        yield broken("files", fault, f"pack.dsse.tsr was {what}: the envelope says otherwise")
    if predicate.get("pack_id") != hashlib.sha256(files["pack.json"]).hexdigest():
        yield broken("files", Fault.CHANGED, "the envelope is of another pack.json")


def _fault_of(name: str, event: Fault, other: Fault) -> Fault:
    """What happened to a file is what happened to the event that it is of."""
    return event if name.startswith(("leaves/", "bodies/", "proofs/")) else other


def _signed(envelope: Envelope, integrity: Mapping[str, Any], keys: Sequence[PublicKey], pem: bytes | None) -> Finding:
    if envelope.payload_type != PAYLOAD_TYPE:
        return broken("envelope", Fault.CHANGED, f"a payload of type {envelope.payload_type[:60]}, not {PAYLOAD_TYPE}")
    if len(envelope.signatures) != 1 or envelope.signatures[0].key_id != integrity.get("envelope_key_id"):
        return broken("envelope", Fault.CHANGED, "the envelope has not the one signature that the body names")
    named = envelope.signatures[0].key_id
    try:
        own = PublicKey.from_pem(pem) if pem is not None else None
    except EnvelopeInvalid as error:
        return broken("envelope", Fault.CHANGED, f"keys/envelope.pub.pem: {error}")
    if own is None or own.key_id != named:
        return broken("envelope", Fault.CHANGED, "keys/envelope.pub.pem is not the key that the envelope names")
    if envelope.signed_by(keys) is not None:
        text = "signed with a key that you trust, and with it every file that is listed"
        return holds("envelope", text, convinces=True)
    if envelope.signed_by([own]) is None:
        return broken("envelope", Fault.CHANGED, "the envelope's signature does not hold: it was altered after signing")
    if keys:
        return broken("envelope", Fault.WRONG_KEY, f"signed with another key than yours: {named}")
    return not_checked(
        "envelope", f"it holds under the pack's own key: compare its SHA-256, {named}, with whom you trust"
    )


def _bundled(envelope: Envelope, raw: bytes | None) -> Finding:
    if raw is None:
        return broken("sigstore", Fault.STRIPPED, "there is no pack.sigstore.json")
    try:
        is_same = parse_bundle(raw) == envelope
    except EnvelopeInvalid as error:
        return broken("sigstore", Fault.CHANGED, f"pack.sigstore.json: {error}")
    if not is_same:
        return broken("sigstore", Fault.CHANGED, "pack.sigstore.json holds another envelope than pack.dsse.json")
    return holds("sigstore", "the bundle holds the same envelope")
