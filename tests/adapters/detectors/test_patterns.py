"""An operator's own patterns: found like everything else, and refused at start if they could be slow."""

from __future__ import annotations

import pytest

from agentgate.adapters.detectors.known import KINDS
from agentgate.adapters.detectors.patterns import OwnPatterns
from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.redaction.marks import Marks, Mode
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.redaction.sensitive import Detector
from agentgate.core.strict_json import canonical
from agentgate.kinds import make_redactor
from agentgate.settings import Settings
from tests.contracts.detector import DetectorContract


class TestOwnPatterns(DetectorContract):
    examples = ("EMP-123456", "case 2026/0815")

    @pytest.fixture
    def detector(self) -> Detector:
        return OwnPatterns({"badge": r"EMP-\d{6}", "case_number": r"case \d{4}/\d+"})


class TestPatternsBoundToTheEnds(DetectorContract):
    @pytest.fixture
    def detector(self) -> Detector:
        return OwnPatterns({"code": r"^[A-Z]\d+$"})


@pytest.mark.parametrize(
    ("pattern", "is_local"),
    [(r"a\d", True), (r"^a", False), (r"a$", False), (r"\Aa", False), (r"[^a]b", True), (r"\bx", True)],
)
def test_pattern_bound_to_the_ends_of_a_text_is_tried_on_each(pattern: str, is_local: bool) -> None:
    assert OwnPatterns({"x": pattern}).is_local is is_local


def test_short_text_that_is_one_is_found_among_others() -> None:
    redactor = Redactor(Marks(Mode.TOKENIZE, b"k" * 32), [OwnPatterns({"code": r"^[A-Z]\d$"})])
    clean = redactor.json(canonical({"a": ["A1", "xA1", "B2", "A1"]}))
    marks = clean.decode().split('"')[3::2]
    assert marks[0] == marks[3]
    assert marks[0].startswith("[code-")
    assert marks[1] == "xA1"
    assert marks[2] not in ("B2", marks[0])


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        ({"slow": r"(a+)+\1"}, "slow"),
        ({"ahead": r"(?=a)b"}, "ahead"),
        ({"open": r"(a"}, "open"),
        ({"huge": r"(a{1000}){1000}"}, "huge"),
        ({"all": r"x*"}, "all matches the empty text"),
        ({"Bad Name": r"x"}, "Bad Name"),
        *(({kind: r"x"}, kind) for kind in KINDS),
        ({f"n{n}": "x" for n in range(65)}, "at most 64"),
        ({f"n{n}": rf"(?i:\pL\PN){{400}}{n}" for n in range(2)}, "together they are too large"),
    ],
)
def test_pattern_that_cannot_be_had_stops_the_start_and_is_named(patterns: dict[str, str], said: str) -> None:
    settings = Settings.model_validate({"redaction": {"patterns": patterns}})
    with pytest.raises(UnsafeConfiguration, match=f"redaction.patterns: .*{said}"):
        make_redactor(settings)


def test_configured_redactor_finds_what_is_configured() -> None:
    settings = Settings.model_validate(
        {"redaction": {"patterns": {"badge": r"EMP-\d{6}"}, "without": ["email"], "mode": "hash", "secret": "s" * 32}}
    )
    redactor = make_redactor(settings)
    assert redactor.text("ann@example.org is EMP-123456").startswith("ann@example.org is [badge:hmac:")
