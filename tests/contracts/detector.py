"""What every detector promises. Subclass, and give the `detector` and some `examples`."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.core.redaction.sensitive import Detector

SIZE = 100_000
PIECES = st.sampled_from(
    ["canary@example.org", "4111 1111 1111 1111", "123-45-6789", "password = x", "://a:b@", "+41 44 668 18 00", "sk-"]
) | st.text(st.sampled_from(" -.@:/=\"'\\1234567890abcdefABCDEF\n"), max_size=12)
UNCHECKED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors])


class DetectorContract:
    examples: Iterable[str] = ()
    """Texts in which it finds something."""

    @pytest.fixture
    def detector(self) -> Detector:
        raise NotImplementedError

    def test_classes_are_words(self, detector: Detector) -> None:
        assert detector.kinds
        assert all(re.fullmatch(r"[a-z][a-z0-9_]{0,31}", kind) for kind in detector.kinds)

    def test_it_finds_its_examples_and_says_where_they_are(self, detector: Detector) -> None:
        for text in self.examples:
            for whole in (text, f"before {text} after", f"zürich \U0001f600 {text}\n"):
                found = list(detector.find(whole))
                assert found, whole
                assert all(0 <= span.start < span.end <= len(whole) for span in found)
                assert {span.kind for span in found} <= set(detector.kinds)
                stripped = "".join(c for n, c in enumerate(whole) if not any(s.start <= n < s.end for s in found))
                assert text not in stripped

    @UNCHECKED
    @given(text=st.lists(PIECES, max_size=4).map("".join))
    def test_it_says_the_same_twice_and_nothing_of_shorter_texts(self, detector: Detector, text: str) -> None:
        found = list(detector.find(text))
        assert found == list(detector.find(text))
        assert not found or len(text) >= detector.shortest

    @UNCHECKED
    @given(parts=st.lists(st.lists(PIECES, max_size=4).map("".join), min_size=1, max_size=3))
    def test_if_it_is_local_it_finds_something_where_a_part_has_something(
        self, detector: Detector, parts: list[str]
    ) -> None:
        if detector.is_local and any(any(detector.find(part)) for part in parts):
            assert any(detector.find("\n".join(parts)))
            assert any(detector.find("".join(f'"{part}",' for part in parts)))

    @pytest.mark.parametrize("piece", [
        "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "eyJ", "-eyJ", "eyJaaaaaaaa.aaaa", "ghp_", "sk-", "-sk-", "xoxb-",
        "AKIA", "a", "p", "pass", "password", "password=", "password='", "password=\"'", "password is ", "pass'''' ",
        "password ", "password\t", "password[a]", "password: |\n ", "password=\"\\\"", "password a='b' ",
        "password,value ", "password: | # ", "pwd:|#\t", "pwd a=\\ pwd=x ", "a='pwd=x pwd' ",
        "--password ", "--", "-a", "identified by ", "identified with ", "[redacted]", "password=[redacted]",
        "api_", "token\\", "authorization: bearer ", "cookie:", "1", "1 ", "12 ", "123 ", "1234 ", "1-", "123-45-",
        "4111 1111 1111 1111 ", "a.", "a@", "a@a.", "a@a.aa ", "://", "://a:", "://a:b@", "'", "\\", " ", "\n", "GB82",
        "GB82 WEST ", "GB82 WEST 1234 5698 7654 32 ", "+41", "+41 44 668 18 00 ", "(415) 555-2671 ", "+", "EMP-",
        "\u212a", "pa\u017f", "\uff11", "aws key '", "//x/:_authToken=", "AccountKey=", "ibm_api_key=",
    ])  # fmt: skip
    def test_hostile_text_of_100_kb_is_read_in_50_ms(self, detector: Detector, piece: str) -> None:
        text = (piece * SIZE)[:SIZE]
        best = math.inf
        for _ in range(5):
            before = time.process_time()
            for _span in detector.find(text):
                pass
            best = min(best, time.process_time() - before)
            if best < 0.05:
                return
        raise AssertionError(f"{best * 1000:.0f} ms")
