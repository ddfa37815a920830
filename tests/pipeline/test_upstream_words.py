"""What is passed on of what an upstream said in failing, and what is not because it has no form that can be kept."""

from __future__ import annotations

from typing import Any

import pytest

from agentgate.core.errors import ReasonCode
from agentgate.core.strict_json import parse
from agentgate.pipeline.calls import upstream_words
from agentgate.ports.upstreams import Undelivered
from tests.fakes import REDACTOR


def failed(detail: str = "it broke", fault: Any = None) -> Undelivered:
    return Undelivered(ReasonCode.UPSTREAM_ERROR, detail, fault=fault)


def test_all_that_was_said_is_read_as_one_document() -> None:
    assert parse(upstream_words.said(failed("no \ud800", {"code": 7}))) == {"detail": "no ?", "fault": {"code": 7}}
    assert parse(upstream_words.said(failed())) == {"detail": "it broke", "fault": None}


@pytest.mark.parametrize("fault", [{"n": float("nan")}, {"n": 2**60}, {"t": "\ud800"}, {"b": b"x"}], ids=repr)
def test_what_has_no_strict_form_is_not_passed_on(fault: Any) -> None:
    assert upstream_words.said(failed(fault=fault)) == b""
    assert upstream_words.fault(failed(fault=fault), REDACTOR.json) is None


def test_what_is_passed_on_is_cleaned() -> None:
    assert upstream_words.cleaned(failed("ask canary@example.org"), REDACTOR.json) == "ask [redacted]"
    told = upstream_words.fault(failed(fault={"by": "canary@example.org"}), REDACTOR.json)
    assert told == b'{"by":"[redacted]"}'
    assert upstream_words.fault(failed(), REDACTOR.json) is None


@pytest.mark.parametrize("clean", [lambda _: b"{", lambda _: b'{"text":""}'])
def test_words_that_cannot_be_cleaned_are_not_passed_on(clean: Any) -> None:
    assert upstream_words.cleaned(failed(), clean) == "its words could not be redacted"
