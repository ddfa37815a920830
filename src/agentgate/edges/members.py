"""Control routes of containment: the members that carry out calls and kills, and the calls in flight in them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from agentgate.edges.desks import Admin, EmptyBody, Operator, TheDesks, unless_refused
from agentgate.edges.schemas import answers
from agentgate.pipeline.containment.members import Member

router = APIRouter(tags=["containment"])


@router.get(
    "/members", responses={200: answers("All of them", "Members"), 503: {"description": "The log cannot be read"}}
)
async def list_members(desks: TheDesks, _viewer: Operator) -> dict[str, Any]:
    """The processes that carry out calls and kills and have not left, the eldest first; how long each was not heard."""
    return {"members": [_member_view(member) for member in await desks.membership.members()]}


@router.post(
    "/members/{member}/gone",
    responses={
        200: answers("Attested", "Member"),
        404: {"description": "No such member, or it has left"},
        409: {"description": "It was heard a moment ago: it is alive"},
        503: {"description": "The log cannot be written: nothing was attested"},
    },
)
async def attest_gone(desks: TheDesks, actor: Admin, member: str, body: EmptyBody | None = None) -> dict[str, Any]:
    """Attest that a member's host is destroyed: kills no longer wait for it, and say so. Needs an admin of all tenants.

    What still ran there would run on unseen, so attest only what you know.
    """
    return _member_view(unless_refused(await desks.membership.attest(actor, member)))


def _member_view(member: Member) -> dict[str, Any]:
    return {
        "member": member.id,
        "presence": member.presence.value,
        "silent_s": round(member.silent_s, 3),
        "is_me": member.is_me,
    }


@router.get(
    "/calls",
    responses={
        200: answers("Those that the viewer may see", "CallsInFlight"),
        503: {"description": "The kill store, which knows all members' calls, is silent"},
    },
)
async def list_calls(desks: TheDesks, viewer: Operator) -> dict[str, Any]:
    """Calls in flight in any member, between admission and their end, the oldest first. For display: not evidence."""
    return {"calls": [asdict(call) for call in await desks.containment.in_flight(viewer)]}
