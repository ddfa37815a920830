"""Takes secrets and personal data out of what is written down, and injected credentials out of what is sent back.

Redaction happens before an event exists, so nothing has to be found and removed later. Every pattern is
bounded: none can be made to run long by the text that it reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final

from agentgate.core.strict_json import canonical, parse

MARK: Final = "[redacted]"

_NAMES: Final = (
    r"pass(?:word|wd|phrase|code)?|pwd|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|signing[_-]?key"
    r"|client[_-]?secret|authorization|credentials?|cookie|session[_-]?key|bearer|ssn|cvv|cvc|iban"
)
_SECRET_NAME: Final = re.compile(rf"(?:^|[_.\-\s])(?:{_NAMES})s?$|^(?:{_NAMES})", re.IGNORECASE)

_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_ASSIGNED: Final = re.compile(
    rf"(?P<name>(?:{_NAMES})[\"'`\\\s]{{0,4}}(?:=|:|\bis\b|\blike\b)[\"'`\\\s]{{0,4}}(?:bearer\s|basic\s)?)"
    r"(?P<value>[^\s\"'`\\,;&}\])]{1,2048})",
    re.IGNORECASE,
)
"""`password = 'x'`, `"token": "x"` inside a string, `Authorization: Bearer x`."""

_SHAPES: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]{0,8192}?(?:-----END [A-Z ]{0,30}PRIVATE KEY-----|$)"
    r"|\beyJ[A-Za-z0-9_-]{8,4096}\.[A-Za-z0-9_-]{4,8192}\.[A-Za-z0-9_-]{0,2048}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"
    r"|\bgh[pousr]_[A-Za-z0-9]{20,255}\b|\bgithub_pat_[A-Za-z0-9_]{20,255}\b|\bglpat-[A-Za-z0-9_-]{16,255}"
    r"|\bsk-[A-Za-z0-9_-]{16,255}\b|\bxox[abeoprs]-[A-Za-z0-9-]{8,255}\b|\bAIza[A-Za-z0-9_-]{30,60}\b"
    r"|\bagk_[A-Za-z0-9_-]{16,255}\b"
    r"|\b\d{3}-\d{2}-\d{4}\b"
    r"|[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){1,4}"
)
_CARD: Final = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")

_SUSPECT: Final = re.compile(
    rb"pass|pwd|secret|token|key|auth|cred|cookie|bearer|ssn|cvv|cvc|iban|BEGIN|eyJ|A[KS]IA|gh[pousr]_|_pat|glpat"
    rb"|sk-|xox|AIza|agk_|@|\d-\d|\d[\d -]{11}",
    re.IGNORECASE,
)
"""A quick look that must see whatever the patterns above see; most calls stop here (a property test holds it)."""


def redact_json(raw: bytes) -> bytes:
    """Canonical JSON with its secrets replaced; the very same bytes when there is nothing suspect."""
    if _SUSPECT.search(raw) is None:
        return raw
    return canonical(redact(parse(raw)))


def redact(value: Any) -> Any:
    """`value` with secret members and secret-looking text replaced. Member names stay; names are not secrets."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {
            redact_text(name): MARK if _is_secret_name(name) and _holds_text(item) else redact(item)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [redact(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and _looks_like_card(str(value)):
        return MARK
    return value


def redact_text(text: str) -> str:
    text = _SHAPES.sub(MARK, text)
    text = _ASSIGNED.sub(lambda found: found["name"] + MARK, text)
    return _CARD.sub(lambda found: MARK if _looks_like_card(found[0]) else found[0], text)


def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(_CAMEL.sub("_", name)) is not None


def _holds_text(value: Any) -> bool:
    """A boolean or a number under `token_count`-like names is not a secret; text and trees may be."""
    return isinstance(value, str | list | dict) or (isinstance(value, int) and not isinstance(value, bool))


def _looks_like_card(text: str) -> bool:
    """Luhn's check over 13 to 19 digits."""
    digits = [int(char) for char in text if char.isdigit()]
    if not 13 <= len(digits) <= 19:
        return False
    doubled = (sum(divmod(digit * 2, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def scrub(raw: bytes, secrets: Iterable[str]) -> bytes:
    """Answer bytes without injected credentials: no tool can be made to say them back (promise 4)."""
    for secret in secrets:
        if len(secret) < 4:  # shorter ones would turn the answer to nonsense and are refused at start
            continue
        for form in {secret.encode(), canonical(secret)[1:-1]}:
            raw = raw.replace(form, MARK.encode())
    return raw
