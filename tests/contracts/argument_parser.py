"""What every parser of arguments promises. Subclass, and give the `parser`, its `kinds` and an `example` of each."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentgate.core.strict_json import canonical
from agentgate.ports.policy import ArgumentParser

UNCHECKED = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


class ArgumentParserContract:
    examples: Mapping[str, str] = {}
    """A text of each kind that is understood."""

    @pytest.fixture
    def parser(self) -> ArgumentParser:
        raise NotImplementedError

    def test_it_understands_its_examples(self, parser: ArgumentParser) -> None:
        parser.prepare(self.examples)
        for kind, text in self.examples.items():
            reading = parser.parse(kind, text)
            assert "error" not in reading, reading
            assert reading["kind"] == kind.partition(":")[0]

    @pytest.mark.parametrize("kind", ["", "html", "sql", "sql:tsql", "sql:", "shell:zsh", "path:unix", "URL"])
    def test_only_what_is_offered_can_be_asked_for(self, parser: ArgumentParser, kind: str) -> None:
        with pytest.raises(ValueError, match="none of"):
            parser.prepare([kind])

    def test_a_kind_that_nobody_prepared_is_an_error(self, parser: ArgumentParser) -> None:
        assert "error" in parser.parse("no such kind", "x")

    @UNCHECKED
    @given(text=st.text(max_size=200))
    def test_no_text_makes_it_raise_or_say_what_is_not_json(self, parser: ArgumentParser, text: str) -> None:
        parser.prepare(self.examples)
        for kind in self.examples:
            canonical(dict(parser.parse(kind, text)))

    def test_what_is_too_large_is_an_error(self, parser: ArgumentParser) -> None:
        parser.prepare(self.examples)
        for kind in self.examples:
            assert "error" in parser.parse(kind, "a" * 100_000), kind
