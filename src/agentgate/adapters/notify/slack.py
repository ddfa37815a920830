"""Messages for Slack's incoming webhooks, in Block Kit.

All that comes from a caller is `plain_text`, in which Slack reads no markup, escaped all the same; what hides in it or
turns it round is written out. Nobody approves in Slack: a message has a link to the gateway, where people say who they
are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from agentgate.adapters.notify._post import Post
from agentgate.core.notice import Notice
from agentgate.core.visible import visible
from agentgate.ports.notices import Failure

MAX_TEXT: Final = 3_000
MAX_FIELD: Final = 2_000
MAX_HEADER: Final = 150
MAX_BLOCKS: Final = 50
MAX_FIELDS: Final = 10
_ARGUMENTS: Final = 1_500
"""More of them nobody reads in a chat."""
_SHORT: Final = 300
_CUT: Final = " […]"

_TITLES: Final[Mapping[str, str]] = {
    "approval.requested": "Approval wanted",
    "approval.voted": "One more has said yes",
    "approval.approved": "Approved",
    "approval.denied": "Denied by a person",
    "approval.edited": "Edited; another approval is about the edited call",
    "approval.voided": "An approval is void",
    "approval.expired": "An approval was not answered in time",
    "approval.spent": "An approved call runs",
    "kill_switch.activated": "Killed",
    "kill_switch.released": "A kill has ended",
    "policy.denied": "A call was denied",
    "rate_limit.exceeded": "A rate limit is used up",
    "budget.alert": "A budget is almost spent",
    "budget.spent": "A budget is spent",
    "tool.quarantined": "A tool has changed and is in quarantine",
    "member.gone": "A gateway process is gone",
    "health.degraded": "A dependency does not answer",
    "health.recovered": "A dependency answers again",
    "ping": "AgentGate can write here",
}
_FIELDS: Final[Sequence[tuple[str, str]]] = (
    ("tool_name", "Tool"),
    ("subject_id", "Asked by"),
    ("on_behalf_of", "On behalf of"),
    ("level", "What"),
    ("target", "Target"),
    ("by", "By"),
    ("approved_by", "Approved by"),
    ("session_id", "Session"),
    ("tenant", "Tenant"),
    ("rule", "Rule"),
    ("votes", "Yes so far"),
    ("quorum", "People needed"),
    ("approvers", "Who may approve"),
    ("edited_by", "Edited by"),
    ("expires_at", "Until"),
    ("limit", "Limit"),
    ("why", "Why"),
    ("server", "Server"),
    ("member", "Process"),
    ("dependency", "Dependency"),
    ("details", "Details"),
)
"""What is shown of a payload, in this order; the first ten that are there."""


class SlackCourier:
    """Posts to one incoming webhook, whose URL is the secret."""

    kind = "slack"

    def __init__(self, post: Post) -> None:
        self._post = post

    @property
    def shown(self) -> str:
        return self._post.shown

    async def deliver(self, notice: Notice) -> Failure | None:
        return await self._post.send(orjson.dumps(message_of(notice)), {})

    async def aclose(self) -> None:
        await self._post.aclose()


def message_of(notice: Notice) -> dict[str, Any]:
    """The message. `text` is what a notification on a phone shows."""
    title = _TITLES.get(notice.kind, notice.kind)
    payload = notice.payload
    about = payload.get("tool_name") or payload.get("target") or payload.get("dependency") or payload.get("member")
    summary = f"{title}: {about}" if about else title
    blocks = [_header(title), *_fields(payload)]
    if payload.get("reason"):
        blocks.append(_section(f"Reason: {_shown(payload['reason'])}", _SHORT))
    blocks += _arguments(payload)
    if payload.get("changes"):
        blocks.append(_section("\n".join(_shown(change) for change in payload["changes"]), _ARGUMENTS))
    if notice.kind == "approval.requested" and "url" in payload:
        blocks.append(_button(payload["url"]))
    blocks.append({"type": "context", "elements": [_plain(f"{notice.kind} · {notice.at} · {notice.id}", MAX_FIELD)]})
    return {
        "text": _escaped(_shown(summary), _SHORT),
        "mrkdwn": False,
        "unfurl_links": False,
        "unfurl_media": False,
        "blocks": blocks[:MAX_BLOCKS],
    }


def _header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": _plain(text, MAX_HEADER)}


def _section(text: str, most: int) -> dict[str, Any]:
    return {"type": "section", "text": _plain(text, min(most, MAX_TEXT))}


def _fields(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    told = [(label, payload[name]) for name, label in _FIELDS if payload.get(name) not in (None, "", [])]
    texts = [_plain(f"{label}\n{_shown(_text(value))}", min(MAX_FIELD, _SHORT)) for label, value in told]
    return [{"type": "section", "fields": texts[:MAX_FIELDS]}] if texts else []


def _arguments(payload: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "arguments" in payload:
        shown = _shown(orjson.dumps(payload["arguments"]).decode())
        return [_section(f"Arguments: {shown}", _ARGUMENTS)]
    if "arguments_bytes" in payload:
        return [_section(f"Arguments: {payload['arguments_bytes']} bytes, too long for here", _SHORT)]
    return []


def _button(url: str) -> dict[str, Any]:
    text = _plain("Look at it and answer", 75)
    element = {"type": "button", "text": text, "url": url[:MAX_TEXT], "action_id": "open", "style": "primary"}
    return {"type": "actions", "elements": [element]}


def _shown(text: object) -> str:
    """What hides is written out. More than fits anyway is not looked at."""
    return visible(str(text)[: MAX_TEXT + 1])


def _text(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _plain(text: str, most: int) -> dict[str, Any]:
    return {"type": "plain_text", "text": _escaped(text, most), "emoji": False}


def _escaped(text: str, most: int) -> str:
    """At most so many characters, as Slack counts them: after `&`, `<` and `>` were escaped, none of them cut."""
    shown: list[str] = []
    left = most - len(_CUT)
    for char in text:
        piece = _ESCAPES.get(char, char)
        left -= len(piece.encode("utf-16-le")) // 2
        if left < 0:
            return "".join(shown) + _CUT
        shown.append(piece)
    return "".join(shown)


_ESCAPES: Final = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
