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
    rf"(?P<name>(?=[pstacbi])(?:{_NAMES})[\"'`\\\s]{{0,4}}+(?:[:=!<>]{{1,3}}+|\bis\b|\blike\b)\s{{0,4}}+)"
    r"(?:(?P<open>\\{0,3}+(?P<quote>[\"'`]))(?:(?P=quote){2}|(?!(?P=quote))[\s\S]){1,65536}+"
    r"|(?!\[redacted\])(?:(?:bearer|basic|token)\s{1,4}+)?[^\s\"'`\\,;&}\])]{1,65536}+)",
    re.IGNORECASE,
)
"""`password = 'x'`, `"token": "x"` inside a string, `Authorization: Bearer x`; a quoted value up to its end."""

_HEADER: Final = re.compile(
    r"(?P<name>(?=[ac])(?:authorization|cookie)[\"'`\\\s]{0,4}+:\s{0,4}+(?P<open>\\{0,3}+[\"'`]?+))[^\r\n\"'`\\]{1,65536}+",
    re.IGNORECASE,
)
"""Headers whose value has blanks and semicolons in it: up to the end of the line or of the quoted text."""

_KEYS: Final = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:[^-]|-(?!----)){0,65536}+(?:-----END [A-Z ]{0,30}PRIVATE KEY-----)?"
    r"|eyJ(?<![A-Za-z0-9_-]eyJ)[A-Za-z0-9_-]{8,65536}+\.[A-Za-z0-9_-]{4,65536}+\.[A-Za-z0-9_-]{0,65536}+"
    r"|A[KS]IA(?<!\wA.IA)[A-Z0-9]{16}\b"
    r"|gh[pousr]_(?<!\wgh._)[A-Za-z0-9]{20,255}+|github_pat_[A-Za-z0-9_]{20,255}+|glpat-[A-Za-z0-9_-]{16,255}+"
    r"|sk-(?<!\wsk-)[A-Za-z0-9_-]{16,255}+|xox[abeoprs]-[A-Za-z0-9-]{8,255}+|AIza[A-Za-z0-9_-]{30,60}+"
    r"|agk_[A-Za-z0-9_-]{16,255}+|apt_(?<!\wapt_)[0-9a-f]{16,255}+"
)
"""Keys and tokens by their makers' prefixes, our own too. Each branch starts with a letter of its own and every
quantifier is possessive, so that no text makes the engine look twice."""

_SSN: Final = re.compile(r"\b\d{3}-\d{2}-\d{4}\b")
_AT: Final = re.compile(
    r"(?<=://)[^\s/@]{1,512}+@"
    r"|(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,256}+@[A-Za-z0-9-]{1,63}+(?:\.[A-Za-z0-9-]{1,63}+){1,8}"
)
"""`user:password@` in a URL, and e-mail addresses."""

_CARD: Final = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_SEPARATOR: Final = re.compile(r"[ -]")
_MAX_GROUPS: Final = 5

_SUSPECT_WORDS: Final = tuple(
    b"pass pwd secret token key auth cred cookie bearer ssn cvv cvc iban begin eyj akia asia ghp_ gho_ ghu_ ghs_ ghr_"
    b" _pat glpat sk- xox aiza agk_ apt_ @".split()
)
_SUSPECT_DIGITS: Final = re.compile(rb"\d-\d|\d[\d -]{11}")
"""A quick look that must see whatever the patterns above see; most calls stop here (a property test holds it)."""


_clean: set[str] = set()
"""Texts that were found to hold nothing; never one that did."""


def redact_json(raw: bytes) -> bytes:
    """Canonical JSON with its secrets replaced; the very same bytes when there is nothing suspect."""
    if not _is_suspect(raw):
        return raw
    value = parse(raw)
    clean = redact(value)
    return raw if clean == value else canonical(clean)


def _is_suspect(raw: bytes) -> bool:
    if len(raw) < 7:  # `{}` and the like: too short to hold one
        return False
    if not raw.isascii():
        return True
    lower = raw.lower()
    for word in _SUSPECT_WORDS:  # a loop: `any` over a generator costs three times as much
        if word in lower:
            return True
    return _SUSPECT_DIGITS.search(raw) is not None


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
    """`text` with its secrets replaced. Clean short ones are remembered: policy gives the same few reasons."""
    if text in _clean:
        return text
    redacted = _redact_text(text)
    if redacted == text and len(text) <= 256 and len(_clean) < 1024:
        _clean.add(text)
    return redacted


def _redact_text(text: str) -> str:
    text = _SSN.sub(MARK, _KEYS.sub(MARK, text))
    if "@" in text:
        text = _AT.sub(MARK, text)
    text = _HEADER.sub(lambda found: found["name"] + MARK, text)
    text = _ASSIGNED.sub(lambda found: found["name"] + (found["open"] or "") + MARK, text)
    return _CARD.sub(lambda found: MARK if _holds_card(found[0]) else found[0], text)


def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(_CAMEL.sub("_", name)) is not None


def _holds_text(value: Any) -> bool:
    """A boolean or a number under `token_count`-like names is not a secret; text and trees may be."""
    return isinstance(value, str | list | dict) or (isinstance(value, int) and not isinstance(value, bool))


def _holds_card(text: str) -> bool:
    """Whether a run of digits is a card number, or one with up to two groups before or after it (a date, a code)."""
    if _looks_like_card(text):
        return True
    groups = _SEPARATOR.split(text)
    if len(groups) > _MAX_GROUPS:
        return False
    return any(_looks_like_card("".join(part)) for part in (groups[:-1], groups[:-2], groups[1:], groups[2:]))


def _looks_like_card(text: str) -> bool:
    """Luhn's check over 13 to 19 digits."""
    digits = text.replace(" ", "").replace("-", "")
    if not 13 <= len(digits) <= 19:
        return False
    return (sum(map(int, digits[-1::-2])) + sum([_DOUBLED[int(digit)] for digit in digits[-2::-2]])) % 10 == 0


def scrub(raw: bytes, secrets: Iterable[str]) -> bytes:
    """Answer bytes without injected credentials: no tool can be made to say them back (promise 4)."""
    for secret in sorted(secrets, key=len, reverse=True):  # one may begin with another
        if len(secret) < 4:  # shorter ones would turn the answer to nonsense and are refused at start
            continue
        for form in {secret.encode(), canonical(secret)[1:-1]}:
            raw = raw.replace(form, MARK.encode())
    return raw
