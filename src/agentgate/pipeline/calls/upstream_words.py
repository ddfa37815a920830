"""What an upstream said: held to strict JSON, and cleaned of what nobody may be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from agentgate.core import strict_json
from agentgate.core.call import Call, Clean
from agentgate.core.errors import ReasonCode
from agentgate.core.redaction.redactor import FAILED, Redactor
from agentgate.core.redaction.scrub import scrub
from agentgate.pipeline.policy.asking import Questions
from agentgate.ports.notices import Meter
from agentgate.ports.upstreams import Delivered, Undelivered


@dataclass(slots=True, unsafe_hash=True)  # one for each call: frozen takes a microsecond more
class Cleaner:
    """`Clean` for one call: of its credential always, of secrets and personal data where its decision wants that. Those
    of calls that take out the same are the same."""

    secrets: tuple[str, ...]
    redacts: bool
    redactor: Redactor
    meter: Meter

    def __call__(self, raw: bytes) -> bytes:
        raw = scrub(raw, self.secrets)
        if self.redacts and raw is not FAILED:
            raw = self.redactor.json(raw)
        if raw is FAILED:
            self.meter.count("redaction_failed")
            raise ValueError("what the upstream said could not be redacted")
        return raw


class Heard(NamedTuple):
    """An answer as it may be told, the kinds of data in it, and its upstream's status."""

    result: bytes
    labels: tuple[str, ...]
    status: int | None


class Failed(NamedTuple):
    """A failure, what may be told of it, and the kinds of data in that."""

    sent: Undelivered
    text: str
    fault: bytes | None
    labels: tuple[str, ...]


def size(sent: Delivered | Undelivered) -> int:
    """About how many bytes it has."""
    return strict_json.length(sent.value if isinstance(sent, Delivered) else [sent.detail, sent.fault])


def heard(call: Call, sent: Delivered | Undelivered, clean: Clean, questions: Questions) -> Heard | Failed:
    """What may be told of an upstream's answer to `call`."""
    if isinstance(sent, Delivered):
        sent = strict(sent)
    if isinstance(sent, Undelivered):
        return _failed(call, sent, clean, questions)
    words = strict_json.canonical(sent.value)
    try:
        result = clean(words)
    except ValueError:
        text = "the answer could not be redacted"
        return _failed(call, Undelivered(ReasonCode.REDACTION_FAILED, text, status=sent.status), clean, questions)
    return Heard(result, questions.labels(call, words), sent.status)


def _failed(call: Call, sent: Undelivered, clean: Clean, questions: Questions) -> Failed:
    labels = questions.labels(call, said(sent)) if sent.reached else ()
    return Failed(sent, cleaned(sent, clean), fault(sent, clean), labels)


def strict(sent: Delivered) -> Delivered | Undelivered:
    """An answer that has a canonical form; what has none cannot be recorded or released."""
    try:
        strict_json.check(sent.value)
    except strict_json.NotStrictJson as error:
        return Undelivered(ReasonCode.UPSTREAM_ERROR, f"the answer is not strict JSON: {error}", status=sent.status)
    return sent


def said(sent: Undelivered) -> bytes:
    """All that an upstream has said in failing, as JSON; where it has no such form, something that cannot be read."""
    try:
        words = {"detail": _detail(sent), "fault": sent.fault}
        strict_json.check(words)
        return strict_json.canonical(words)
    except ValueError:
        return b""


def cleaned(sent: Undelivered, clean: Clean) -> str:
    """What it said of why, as it may be passed on."""
    try:
        text: str = strict_json.parse(clean(strict_json.canonical({"text": _detail(sent)})))["text"]
    except ValueError:
        text = ""
    return text or "its words could not be redacted"


def fault(sent: Undelivered, clean: Clean) -> bytes | None:
    """An upstream's error object as it may be passed on; None where it has no canonical form."""
    if sent.fault is None:
        return None
    try:
        strict_json.check(sent.fault)
        return clean(strict_json.canonical(sent.fault))
    except ValueError:
        return None


def _detail(sent: Undelivered) -> str:
    """As text that has a UTF-8 form."""
    return sent.detail.encode(errors="replace").decode()
