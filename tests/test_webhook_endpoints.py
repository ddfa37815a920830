"""Endpoints as they are configured: what must not start, and under which names their places are kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentgate.core.errors import UnsafeConfiguration
from agentgate.core.notice import NOTICES
from agentgate.notices import make_subscriptions
from agentgate.pipeline.notices.endpoint import Subscription
from agentgate.settings import Settings
from tests.fakes import FakeClock

URL = "https://hooks.example.org/agentgate"
SECRET = "a-webhook-secret-of-the-test"


def endpoints(*parts: dict[str, Any], **old: Any) -> list[Subscription]:
    config = Settings.model_validate({"webhooks": parts, "webhook": old})
    return make_subscriptions(config, FakeClock())


def refusal(*parts: dict[str, Any], **old: Any) -> str:
    with pytest.raises(UnsafeConfiguration) as caught:
        endpoints(*parts, **old)
    return str(caught.value)


def part(**more: Any) -> dict[str, Any]:
    return {"url": URL, "secret": SECRET, **more}


def test_nothing_configured_is_nobody() -> None:
    assert endpoints() == []


def test_v02s_endpoint_stands_beside_the_others_and_hears_everything() -> None:
    old, new = endpoints(part(name="soc", events=["approval.*"]), url=URL, secret=SECRET)
    assert (old.name, old.events, new.name, new.events) == ("webhook", ("*",), "soc", ("approval.*",))


def test_without_a_name_the_url_says_which_place_in_the_log_is_its_own() -> None:
    (one,), (same,), (other,) = (
        endpoints(part()),
        endpoints(part(events=["policy.*", "*"])),
        endpoints(part(url=URL + "2")),
    )
    assert one.name == same.name != other.name
    assert "hooks.example" not in one.name


def test_a_url_that_is_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLACK", "https://hooks.slack.com/services/T0/B0/canary")
    (one,) = endpoints({"kind": "slack", "url": {"env": "SLACK"}})
    assert (one.courier.kind, one.courier.shown) == ("slack", "https://hooks.slack.com")
    assert "canary" not in repr(one)


@pytest.mark.parametrize(
    ("parts", "sentence"),
    [
        ([part(), part(secret=SECRET + "2")], "another endpoint"),
        ([part(), part(url=URL + "2")], "give each its own secret"),
        ([part(secret="approved")], "easy to guess"),
        ([part(secret="aaaaaaaaaaaaaaaaaaaaaaaa")], "easy to guess"),
        ([part(secret=None)], "secret is missing"),
        ([part(secret="whsec_no base64 at all")], "base64"),
        ([part(url="http://hooks.example.org/")], "https://"),
        ([part(events=["kill_switch.activated", "aproval.*"])], "aproval.*"),
        ([part(url={"env": "NOT_SET_ANYWHERE"})], "NOT_SET_ANYWHERE"),
        ([part(url={"file": "/nowhere/at/all"})], "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_told_is_a_sentence_before_the_start(parts: list[dict[str, Any]], sentence: str) -> None:
    said = refusal(*parts)
    assert sentence in said
    assert said.startswith("webhooks[")
    assert SECRET not in said


PAGE = (Path(__file__).parents[1] / "docs" / "webhooks.md").read_text(encoding="utf-8")


def test_the_pages_example_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOC_WEBHOOK_SECRET", f"whsec_{'QUJDREVG' * 4}")
    monkeypatch.setenv("SLACK_WEBHOOK_URL", "https://hooks.slack.com/services/T0/B0/x")
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    soc, approvers = make_subscriptions(Settings.model_validate(yaml.safe_load(example)), FakeClock())
    assert (soc.name, approvers.events) == ("soc", ("approval.*", "kill_switch.*"))


def test_the_page_lists_every_notice() -> None:
    cells = re.findall(r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \|", PAGE, re.MULTILINE)
    named = {name for cell in cells for name in re.findall(r"`([a-z_]+\.[a-z]+)`", cell)}
    assert named == set(NOTICES)
