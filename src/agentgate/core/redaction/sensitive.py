"""What is secret by its name, where personal data may hide, and what a detector is.

Texts are read by detectors (`adapters/detectors`), which may use libraries. What needs none is here: member names,
numbers that are cards, and one way to write what only looks different.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Iterable
from itertools import accumulate
from typing import Any, Final, NamedTuple, Protocol


class Span(NamedTuple):
    """A place in a text, and the class of data that was found there."""

    start: int
    end: int
    kind: str


class Detector(Protocol):
    """Finds one or more classes of data in texts. The same every time, and in time linear in the text."""

    kinds: tuple[str, ...]
    """The classes that it can find: lower-case words."""
    shortest: int
    """No shorter text holds any."""
    is_local: bool
    """Whether a text in which it finds something makes it find something in every text that has that one in it, between
    quotes or line breaks: then one look at a whole document may spare its strings."""

    def find(self, text: str) -> Iterable[Span]:
        """Where it is, in any order; places may overlap."""
        ...


SECRET: Final = "secret"  # noqa: S105 - the name of a class
EMAIL: Final = "email"
CARD: Final = "card"
SSN: Final = "ssn"
IBAN: Final = "iban"
PHONE: Final = "phone"

SENSITIVE_NAMES: Final = (
    r"pass(?:word|wd|phrase|code|key)?|pwd|secret|token|(?:api|access|private|signing|account|session)[_. -]?key"
    r"|authorization|credentials?|cookie|bearer|ssn|cvv|cvc|iban"
)
"""As a pattern, for readers of texts like `password = x`."""
SENSITIVE_OPTIONS: Final = (
    rf"--?(?:(?:[\w.-]*[_.-])?(?:{SENSITIVE_NAMES})|[\w.-]*(?:password|passwd|passphrase|secret|token))"
)
"""Those of commands, whose value comes next."""
_NAME_WORDS: Final = (
    "pass", "pwd", "secret", "token", "key", "auth", "cred", "cookie", "bearer", "ssn", "cv", "iban", "value"
)  # fmt: skip
"""One is in every secret name, or beside it."""
_ENDS: Final = (
    rf"(?:^|[\W_])(?:{SENSITIVE_NAMES})s?[\W_]*$"
    # glued to the word before: not the short ones, as in `compass`
    r"|(?:password|passwd|passphrase|passcode|pwd|secret|token|(?:api|access|private)key|credential|cookie)s?[\W_]*$"
    r"|(?:db|user|admin|root|login|sql|smtp|ftp|ssh|key|store)pass[\W_]*$"
)
_SECRET_NAME: Final = re.compile(
    rf"{_ENDS}|^[\W_]*+(?!secretar[iy]|tokeni[sz]|pass(?:age|ed|es|enger|ing|ion|ive))(?:{SENSITIVE_NAMES})", re.ASCII
)
"""In small letters, which is three times as fast as in any."""
_SECRET_LABEL: Final = re.compile(
    rf"{_ENDS}|^[\W_]*(?:{SENSITIVE_NAMES})s?[\W_]*"
    r"(?:v?\d{1,4}|num|number|value|used|prod|live|staging|dev|test|new|old)[\W_]*$",
    re.ASCII,
)
"""Of names that are values themselves: what else begins so is about something else: `cookie_domain`, `Passat`."""
_SECRET_WITHIN: Final = re.compile(r"passw(?:or)?d|passphrase|secret(?!ar[iy])")
_ABOUT: Final = re.compile(
    r"(?:^|[\W_])(?:at|on|by|date|time|age|days|ttl|expir(?:y|es|ed|ation)|chang(?:e|es|ed)|reset|updated|rotat(?:ed|ion)"
    r"|sent|policy|rules?|strength|length|size|limit|count|attempts|required|enabled|manager|subject|name|type|url|uri|link|email)"
    r"[\W_]*$",
    re.ASCII,
)
"""`last_password_change` holds none."""
_COUNTS: Final = re.compile(
    r"[^\W_][\W_]tokens(?:[\W_]|$)|(?:^|[\W_])(?:num[\W_]\w{0,32}[^\W_s]s|max|min|total|counts?|length|len|limit|size|used|ttl"
    r"|expir(?:y|es|ed)|age|at|days|attempts|failures|found|hits)(?:[\W_]|$)",
    re.IGNORECASE | re.ASCII,
)
"""`num_tokens` does, `ssn_num` and `num_pass` do not."""
_NAMING: Final = ("name", "key", "Name", "Key")
_VALUES: Final = ("value", "Value")
_OPTION: Final = re.compile(rf"(?!--(?:no|skip|ask)-){SENSITIVE_OPTIONS}", re.IGNORECASE | re.ASCII)
_LONGEST_OPTION: Final = 512
_SAID: Final = re.compile(r"[^\"\n\\]{2,512}+")
_NAME_WORD: Final = re.compile("|".join(_NAME_WORDS[:-1]), re.IGNORECASE)
_OPTIONS: Final = re.compile(r"(?:^|[\"\n])(--[^\"\n\\]{1,512}+)")
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_MEMBER: Final = re.compile(r"\"([^\"]{1,512}+)(?=\"\s{0,64}+:)")


def is_secret_name(name: str) -> bool:
    """Whether what a member of this name holds is a secret: `userPassword`, `X-API-Key`, `pаsswоrd` with Cyrillic."""
    return _is_secret(name, _SECRET_NAME)


def _is_secret(name: str, pattern: re.Pattern[str]) -> bool:
    if not is_plain(name):
        name = folded(name)
    words, name = _CAMEL.sub("_", name).lower(), name.lower()
    if pattern.search(words) is not None or (words != name and pattern.search(name) is not None):
        return True
    return _SECRET_WITHIN.search(name) is not None and _ABOUT.search(words) is None


def is_secret_option(text: str) -> bool:
    """Whether what follows is a secret: `--password`."""
    if not text.startswith("--"):
        return False
    plain = text if is_plain(text) else folded(text)
    return len(plain) <= _LONGEST_OPTION and _OPTION.fullmatch(plain) is not None


def named_values(members: dict[str, Any]) -> tuple[str, ...]:
    """The members whose name is what another one says: `{"name": "DB_PASSWORD", "value": ...}`."""
    held = [name for name in _VALUES if name in members]
    said = [name for name in map(members.get, _NAMING) if isinstance(name, str)] if held else []
    said = [name for name in said if _is_secret(name, _SECRET_LABEL)]
    return tuple([one for one in held if any(may_be_secret(name, members[one]) for name in said)])


def may_be_secret(name: str, value: object) -> bool:
    """Whether a value under a secret name is one: text and trees are, and numbers that count nothing."""
    if isinstance(value, int):
        return not isinstance(value, bool) and not _counts(name)
    return isinstance(value, str | list | dict)


def _counts(name: str) -> bool:
    """`max_tokens`, `token_count`, `password_length`."""
    return _COUNTS.search(_CAMEL.sub("_", name)) is not None


def holds_secret_name(text: str) -> bool:
    """Whether a text that is JSON, or has JSON in it at any depth, has a member with a secret name, or may have a
    secret that is named by what is beside it."""
    names = {*_MEMBER.findall(text)}
    lower = "\n".join(names).lower()
    for word in _NAME_WORDS:  # a loop: `any` over a generator costs three times as much
        if word in lower:
            if any(is_secret_name(name.rstrip("\\")) for name in names) or ("value" in lower and _names(text)):
                return True
            break
    return "--" in text and any(map(is_secret_option, _OPTIONS.findall(text)))


def _names(text: str) -> bool:
    """Whether anything in a text is a secret name."""
    return any(is_secret_name(said) for said in {*_SAID.findall(text)} if _NAME_WORD.search(said))


_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_SEPARATORS: Final = str.maketrans("", "", " +-")
_ISSUED: Final = ("3", "4", "5", "6", "22", "23", "24", "25", "26", "27")
"""What card numbers begin with: a time in milliseconds does not."""
_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_ZEROS: Final = b"0" * 13
_LONG_NUMBER: Final = re.compile("[0-9]{13,19}")


def is_card(text: str) -> bool:
    """Luhn's check over 13 to 19 digits, with or without blanks, dashes and plus signs between them."""
    digits = text.translate(_SEPARATORS)
    if not 13 <= len(digits) <= 19 or not digits.startswith(_ISSUED):
        return False
    return (sum(map(int, digits[-1::-2])) + sum([_DOUBLED[int(digit)] for digit in digits[-2::-2]])) % 10 == 0


def holds_card_number(text: str) -> bool:
    """Whether a JSON text may have a number in it that is a card's."""
    zeros = text.encode("ascii", "replace").translate(_ZEROS)  # a byte for each character, so that places are the same
    at = zeros.find(_LONG_ZEROS)
    while at >= 0:
        number = _LONG_NUMBER.match(text, at)
        if number is None or is_card(number[0]):  # None never is: the digits are the same
            return True
        at = zeros.find(_LONG_ZEROS, number.end())
    return False


def is_card_number(number: float) -> bool:
    """Whether a JSON number is a card's."""
    return abs(number) >= 10**12 and number == int(number) and is_card(str(abs(int(number))))


def plain_value(kind: str, value: str) -> str:
    """A value without what differs between two ways to write it, so that both get the same mark."""
    if kind == EMAIL:
        return value.lower()
    if kind in (CARD, SSN, IBAN, PHONE):
        return "".join(filter(str.isalnum, value)).upper()
    return value


_LOOKALIKES: Final = dict(
    zip(
        # Cyrillic, small and capital
        "\u0430\u0432\u0435\u043a\u043c\u043d\u043e\u0440\u0441\u0442\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d"
        "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0408\u0405"
        # Greek, small and capital
        "\u03b1\u03b5\u03b9\u03ba\u03bd\u03bf\u03c1\u03c4\u03c5\u03c7"
        "\u0391\u0392\u0395\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7\u0396"
        # dotless i, script g, small capital I; dashes; quotes; a blank of Braille
        "\u0131\u0261\u026a\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\u2018\u2019\u201c\u201d\u2800",
        "abekmhopctyxijshdqwABEKMHOPCTYXIJSaeikvoptuxABEHIKMNOPTYXZigI---------''\"\" ",
        strict=True,
    )
)
_LETTERS: Final = frozenset(_LOOKALIKES)
_CONTROLS: Final = "\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f"
"""Of ASCII's those that are no line break and no tab."""
_CONTROL: Final = re.compile(f"[{_CONTROLS}]")
_INVISIBLE: Final = re.compile(
    f"[{_CONTROLS}\x80-\x84\x86-\x9f"
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
_FOREIGN: Final = re.compile(r"([^\t\n\r -~]+)")
_DIGIT: Final = re.compile(r"[^\D0-9]")


def is_plain(text: str) -> bool:
    """Whether its reader sees it as it is."""
    return text.isascii() and _CONTROL.search(text) is None


def folded(text: str) -> str:
    """`text` as its reader sees it, in ASCII where that is possible: full-width forms, other digits, letters that look
    like Latin ones, and characters that nobody sees."""
    parts = _FOREIGN.split(text)
    runs = parts[1::2]
    plain = _fold(runs)
    if plain == runs:
        return text
    parts[1::2] = plain
    return "".join(parts)


class Folded:
    """A folded text that knows where each of its places was."""

    def __init__(self, text: str) -> None:
        parts = _FOREIGN.split(text)
        self._before = [*accumulate(map(len, parts), initial=0)]
        """Where each part began: every other one is foreign."""
        parts[1::2] = _fold(parts[1::2])
        self._after = [*accumulate(map(len, parts), initial=0)]
        self.text = "".join(parts)

    def original(self, span: Span) -> Span:
        """Where a span was; what was folded together is taken as a whole."""
        return Span(self._place(span.start, at_end=False), self._place(span.end, at_end=True), span.kind)

    def _place(self, at: int, *, at_end: bool) -> int:
        number = bisect.bisect_right(self._after, at - at_end, hi=len(self._after) - 1) - 1
        if number % 2:
            return self._before[number + at_end]
        return self._before[number] + at - self._after[number]


def _fold(runs: list[str]) -> list[str]:
    """Runs of foreign characters, each folded by itself, all in one go: nothing composes with a line break."""
    if not runs:
        return []
    plain = unicodedata.normalize("NFKC", _INVISIBLE.sub("", "\n".join(runs)))
    for character in _LETTERS.intersection(plain):
        plain = plain.replace(character, _LOOKALIKES[character])
    for character in set(_DIGIT.findall(plain)):
        plain = plain.replace(character, str(unicodedata.decimal(character)))
    return plain.split("\n")
