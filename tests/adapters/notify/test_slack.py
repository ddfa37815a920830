from __future__ import annotations

from typing import Any

import pytest

from agentgate.adapters.notify._post import Post
from agentgate.adapters.notify.slack import (
    MAX_BLOCKS,
    MAX_FIELD,
    MAX_FIELDS,
    MAX_HEADER,
    MAX_TEXT,
    SlackCourier,
    message_of,
)
from agentgate.core.notice import NOTICES, Notice
from agentgate.ports.notices import Courier
from tests.contracts.courier import NOTICE, CourierContract
from tests.receiver import Receiver

URL = "https://gate.example.org/approvals/apr-1"
ASKED = {
    "approval_id": "apr-1",
    "session_id": "s-1",
    "subject_id": "agent:deploy-bot",
    "tool_name": "db_insert",
    "rule": "write_requires_approval",
    "reason": "Write operation requires approval",
    "arguments": {"table": "products", "data": {"name": "Gadget"}},
    "expires_at": "2026-11-21T00:15:00.000000Z",
    "quorum": 2,
    "approvers": ["person:ada", "person:bob"],
    "url": URL,
}


class TestSlack(CourierContract):
    def make(self, url: str, *, allow_private: bool = True) -> Courier:
        return SlackCourier(Post(url, allow_private=allow_private))


def message(kind: str = "approval.requested", **payload: Any) -> dict[str, Any]:
    return message_of(Notice("id-1", kind, NOTICE.at, payload or ASKED))


def texts(value: Any) -> list[dict[str, Any]]:
    """Every text object in a message."""
    if isinstance(value, dict):
        inner = [found for part in value.values() for found in texts(part)]
        return [value, *inner] if value.get("type") in ("plain_text", "mrkdwn") else inner
    return [found for part in value for found in texts(part)] if isinstance(value, list) else []


def test_a_question_says_who_asks_for_what_until_when_and_has_a_link() -> None:
    said = message()
    words = "\n".join(text["text"] for text in texts(said["blocks"]))
    for wanted in ("deploy-bot", "db_insert", "write_requires_approval", "00:15:00", "person:bob", '"Gadget"', "2"):
        assert wanted in words
    (actions,) = [block for block in said["blocks"] if block["type"] == "actions"]
    assert [element["url"] for element in actions["elements"]] == [URL]
    assert {element["type"] for element in actions["elements"]} == {"button"}
    assert "value" not in actions["elements"][0], "nothing is answered in Slack"


def test_a_kill_is_short() -> None:
    said = message("kill_switch.activated", level="session", target="s-1", reason="loops", by="person:ada")
    assert len(said["blocks"]) <= 4
    assert said["text"] == "Killed: s-1"


HOSTILE = "<!channel> <@U123|ada> <https://evil.example|look> *bold* _i_ ~s~ `c` &lt;b&gt; :skull: \u202ered\u200b\x00"


@pytest.mark.parametrize("field", ["tool_name", "subject_id", "session_id", "reason", "rule", "arguments", "target"])
def test_what_a_caller_writes_is_text_and_nothing_else(field: str) -> None:
    said = message(**{**ASKED, field: {"x": HOSTILE} if field == "arguments" else HOSTILE})
    found = texts(said["blocks"])
    assert {text["type"] for text in found} == {"plain_text"}
    assert not any(text["emoji"] for text in found)
    assert said["mrkdwn"] is False
    for text in (*(text["text"] for text in found), said["text"]):
        assert not {"<", ">", "\u202e", "\u200b", "\x00"} & set(text)
        assert "&lt;b" not in text.replace("&amp;lt;b", "")
    if field != "target":
        assert "[U+202E]" in str(said["blocks"])
        assert "&lt;!channel&gt;" in str(said["blocks"])


@pytest.mark.parametrize("kind", NOTICES)
def test_slacks_limits_are_kept(kind: str) -> None:
    long = "<&>🔥" * 20_000
    payload: dict[str, Any] = dict.fromkeys(
        (*ASKED, "target", "level", "by", "why", "server", "member", "dependency", "details"), long
    )
    payload |= {"arguments": {"a": long}, "changes": [long] * 20, "approvers": [long] * 100, "url": URL}
    said = message(kind, **payload)
    assert len(said["blocks"]) <= MAX_BLOCKS == 50
    assert len(said["text"]) <= MAX_TEXT
    for block in said["blocks"]:
        for field in block.get("fields", ()):
            assert len(field["text"].encode("utf-16-le")) // 2 <= MAX_FIELD == 2_000
        assert len(block.get("fields", ())) <= MAX_FIELDS == 10
        if block["type"] == "header":
            assert len(block["text"]["text"]) <= MAX_HEADER == 150
        for element in block.get("elements", ()):
            assert len(element.get("url", "")) <= MAX_TEXT == 3_000
    for text in texts(said["blocks"]):
        assert 1 <= len(text["text"].encode("utf-16-le")) // 2 <= MAX_TEXT
        assert not text["text"].removesuffix(" […]").endswith(("&", "&a", "&am", "&amp", "&l", "&lt", "&g", "&gt"))


async def test_the_message_is_what_is_posted(receiver: Receiver) -> None:
    courier = SlackCourier(Post(receiver.url, allow_private=True))
    assert await courier.deliver(Notice("id-1", "approval.requested", NOTICE.at, ASKED)) is None
    assert receiver.got[0].value == message()
    await courier.aclose()
