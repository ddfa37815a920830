"""From a client's request to a `Call`, through the gate in a task of its own, and through the rounds of an approval.

A task of its own, because a kill cancels the task of its call, and the SDK cancels its handlers by scopes that must
not be mixed with that. Whichever comes first, the handler ends only when the call has ended and is recorded.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, TypeVar

import anyio
import orjson
from mcp.shared.exceptions import MCPError

from agentgate.core.call import Call, Door, Tool, ToolName
from agentgate.core.decision import Decision, refusal
from agentgate.core.errors import LogUnavailable, ReasonCode
from agentgate.core.strict_json import canonical
from agentgate.edges._mcp.parts import INVALID_PARAMS, OURS, Parts, is_of_mcp
from agentgate.edges._mcp.peer import ClientPeer
from agentgate.edges._mcp.states import BadState, Round, States
from agentgate.pipeline.calls.passage import Answer, PendingApproval
from agentgate.pipeline.records.record import new_trace_id
from agentgate.ports.ambient import beside
from agentgate.ports.peer import PeerUnable

_T = TypeVar("_T")

_APPROVAL: Final = OURS + "approval"
"""The gateway's own question among those of a result that wants input."""
_MOST_WAITS: Final = 6
"""Rounds in which a client only waits; the SDK's own gives up after ten."""
_CONSENT_WITHIN_S: Final = 45.0
"""For a client of the handshake era to say that its user opens the page. Most clients give up after 60 s."""
_LOOK_AGAIN_S: Final = 0.5
"""As for an answer of the approver's."""
_MOST_CARRIED: Final = 65_536
"""Bytes of answers that a state carries."""
_FIRST: Final = Round("")
"""What was before a request without a state. What a round is about is worked out where one is sealed or opened."""


@dataclass(slots=True)
class Target:
    """What a request wants to call. `refused` is why the door does not want that."""

    name: str
    tool: Tool | None
    arguments: Mapping[str, Any]
    refused: Decision | None = None

    def about(self, peer: ClientPeer) -> str:
        """The digest of what every round of one call has in common."""
        whole = {
            "arguments": self.arguments,
            "definition": self.tool.definition_sha256 if self.tool is not None else "",
            "session": peer.session,
            "tool": self.name,
        }
        return hashlib.sha256(canonical(whole)).hexdigest()


class Calls:
    """Passes what clients want through the gate."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._served: dict[asyncio.Task[Any], tuple[str | None, str]] = {}
        """What runs, with its session and id. In the modern era many share these: no session, and the first id."""
        self._ending: set[asyncio.Task[Any]] = set()
        self._states = States(parts.sealer, parts.clock, parts.entropy, ttl_s=parts.rules.state_ttl_s)

    async def apart(self, peer: ClientPeer, work: Coroutine[Any, Any, _T]) -> _T:
        """Do `work` in a task of its own. Cancelled, it is ended first, as withdrawn by its caller."""
        task = self.begin(peer, work)
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            await self.withdraw(peer, task)
            raise
        return task.result()

    def begin(self, peer: ClientPeer, work: Coroutine[Any, Any, _T]) -> asyncio.Task[_T]:
        """`work`, in a task of its own. Whoever begins it awaits it, or withdraws it."""
        task = asyncio.create_task(work)
        self._served[task] = (peer.session_key, str(peer.ctx.request_id))
        task.add_done_callback(self._served.pop)
        return task

    async def withdraw(self, peer: ClientPeer, task: asyncio.Task[Any]) -> None:
        """End what nobody waits for any more."""
        self.cancel(peer, task)
        with anyio.CancelScope(shield=True):
            await asyncio.wait({task})

    def cancel(self, peer: ClientPeer, task: asyncio.Task[Any]) -> None:
        """Have it end. Once: a second time would meet it while it records how it ended."""
        if task not in self._ending:
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            peer.withdrawn = not self._parts.is_closing()
            task.cancel()

    def is_idle(self) -> bool:
        return not self._served

    def serves(self, session_key: str, request_id: str) -> bool:
        """Whether a request of a session is served still, its client listening or not."""
        return (session_key, request_id) in self._served.values()

    async def once(self, peer: ClientPeer, target: Target) -> Answer:
        """One passage through the gate, without anything that follows from it."""
        return await self._parts.through(await self._made(peer, target), peer.refused or target.refused)

    async def asked(self, peer: ClientPeer, target: Target) -> Answer | dict[str, Any]:
        """The answer to a request of the client, or the result that wants its input first.

        Raises:
            MCPError: the request state is not one to take.
        """
        if peer.refused is not None:
            return await self.once(peer, target)
        params = peer.ctx.params or {}
        given = params.get("requestState")
        state = given if isinstance(given, str) else None
        try:
            before = await self._before(peer, target, state) if state is not None else _FIRST
        except BadState as error:
            return await self._turned_away(peer, target, error)
        answers = params.get("inputResponses")
        answers = dict(answers) if isinstance(answers, Mapping) else None
        consent = (answers or {}).pop(_APPROVAL, None)
        if before.approval is not None:
            answers = dict(before.answers) if before.answers is not None else None
        peer.extra = {
            key: value for key, value in (("inputResponses", answers), ("requestState", before.upstream_state)) if value
        }
        call, refused = await self._made(peer, target, answers), target.refused
        if before.approval is not None:
            if isinstance(consent, Mapping) and consent.get("action") != "accept":
                why = refusal(ReasonCode.APPROVAL_REQUIRED, "The user did not open the approval page")
                return await self._parts.through(call, why)
            await self._hold(call, before.approval)
            refused = refused or await self._unknown(peer)
            refused = refused or await self._parts.approvals.withdrawn(call, before.approval)
        answer = await self._parts.through(call, refused)
        if answer.approval is None:
            return self._carried(peer, target, answer)
        climbed = await self._climb(peer, target, before, answers, answer)
        if isinstance(climbed, Answer) and climbed.approval is not None and state is not None:
            self._states.give_back(peer.caller, state)  # "repeat exactly the same call" must not fail for its state
        return climbed

    async def _turned_away(self, peer: ClientPeer, target: Target, error: BadState) -> Answer:
        """Refused and recorded, whatever the gate thinks of the call."""
        why = refusal(ReasonCode.INVALID_REQUEST, f"Not taken: {error}", "request_state")
        answer = await self._parts.through(await self._made(peer, target), why)
        if answer.reason_code is not ReasonCode.INVALID_REQUEST:
            return answer
        raise MCPError(INVALID_PARAMS, str(error), {f"{OURS}traceId": answer.call.trace_id})

    def _carried(self, peer: ClientPeer, target: Target, answer: Answer) -> Answer:
        """An answer in which the upstream's own state, if it has one, is sealed in one of ours."""
        if not answer.success or b"requestState" not in (answer.result_json or b""):
            return answer
        value = orjson.loads(answer.result_json or b"null")
        is_question = isinstance(value, dict) and value.get("resultType") == "input_required" and peer.is_modern
        # the data of any other upstream is data, whatever it looks like
        if not is_question or target.tool is None or not is_of_mcp(target.tool):
            return answer
        given = value.get("requestState")
        if isinstance(given, str):
            value["requestState"] = self._states.seal(peer.caller, Round(target.about(peer), upstream_state=given))
        return replace(answer, result_json=orjson.dumps(value))

    # --- the ladder of an approval: by what the client declared, never by its name ---

    async def _climb(
        self, peer: ClientPeer, target: Target, before: Round, answers: dict[str, Any] | None, answer: Answer
    ) -> Answer | dict[str, Any]:
        pending = answer.approval
        if pending is None:
            return answer
        if peer.opens_urls():
            if peer.is_modern:
                wanted = self._wanted(peer, target, before, answers, pending)
                return {**wanted, "_meta": {f"{OURS}traceId": answer.call.trace_id}} if wanted is not None else answer
            if not await self._consents(peer, answer.call, pending):
                return answer
        if not await self._hold(answer.call, pending.id):
            return answer
        withdrawn = await self._parts.approvals.withdrawn(answer.call, pending.id)
        return self._carried(peer, target, await self.again(peer, answer.call, withdrawn))

    async def again(self, peer: ClientPeer, call: Call, refused: Decision | None = None) -> Answer:
        """The same call once more, with a trace of its own."""
        anew = replace(call, trace_id=new_trace_id(self._parts.entropy), peer=peer)
        return await self._parts.through(anew, await self._unknown(peer) or refused)

    async def _unknown(self, peer: ClientPeer) -> Decision | None:
        """The refusal of a caller whose key was disabled, or whose token ran out, while its call waited."""
        if await peer.guest.is_still_known():
            return None
        return refusal(ReasonCode.FORBIDDEN, "The caller's key or token is not good any more", "identity")

    def _wanted(
        self, peer: ClientPeer, target: Target, before: Round, answers: dict[str, Any] | None, pending: PendingApproval
    ) -> dict[str, Any] | None:
        """A result that has the client open the approval's page, or only come back; None when it has done so enough."""
        waited = before.number + 1 if before.approval == pending.id else 0
        too_much = answers is not None and len(orjson.dumps(answers)) > _MOST_CARRIED
        if too_much or waited > (_MOST_WAITS if self._parts.rules.hold_s else 0):
            return None
        state = Round(target.about(peer), pending.id, waited, before.upstream_state, answers)
        result: dict[str, Any] = {"resultType": "input_required", "requestState": self._states.seal(peer.caller, state)}
        if not waited:
            question = {"method": "elicitation/create", "params": self._question(peer, pending, with_id=False)}
            result["inputRequests"] = {_APPROVAL: question}
        return result

    async def _consents(self, peer: ClientPeer, call: Call, pending: PendingApproval) -> bool:
        """Whether the client's user opens the approval's page, or need not: the call was killed, or the process ends.
        It is no approval."""
        asking = asyncio.ensure_future(peer.ask("elicitation/create", self._question(peer, pending, with_id=True)))
        try:
            async with asyncio.timeout(_CONSENT_WITHIN_S):
                while not asking.done():
                    if self._parts.approvals.is_over(call):
                        return True
                    await asyncio.wait({asking}, timeout=_LOOK_AGAIN_S)
            return asking.result().get("action") == "accept"
        except (PeerUnable, TimeoutError):
            return False
        finally:
            asking.cancel()

    def _question(self, peer: ClientPeer, pending: PendingApproval, *, with_id: bool) -> dict[str, Any]:
        params = {
            "mode": "url",
            "message": "This call needs the approval of a person. Open its page?",
            "url": self.approval_url(peer, pending),
        }
        return {**params, "elicitationId": pending.id} if with_id else params

    def approval_url(self, peer: ClientPeer, pending: PendingApproval) -> str:
        return f"{(self._parts.rules.base_url or peer.guest.address).rstrip('/')}/approvals/{pending.id}"

    async def _hold(self, call: Call, approval_id: str) -> bool:
        """Whether the approval was answered while the call could wait for it."""
        hold_s = self._parts.rules.hold_s
        with contextlib.suppress(LogUnavailable):  # the gate will say so
            return bool(hold_s) and await self._parts.approvals.answered(call, approval_id, hold_s)
        return False

    async def _before(self, peer: ClientPeer, target: Target, state: str) -> Round:
        """Raises BadState."""
        about = await beside(self._parts.worker, peer.guest.size, partial(target.about, peer))
        return self._states.take(peer.caller, state, about)

    async def _made(self, peer: ClientPeer, target: Target, answers: Mapping[str, Any] | None = None) -> Call:
        return await beside(self._parts.worker, peer.guest.size, partial(self.call_of, peer, target, answers))

    def call_of(self, peer: ClientPeer, target: Target, answers: Mapping[str, Any] | None = None) -> Call:
        return Call(
            trace_id=new_trace_id(self._parts.entropy),
            door=Door.MCP,
            caller=peer.caller,
            session=peer.session,
            tool_name=ToolName(target.name),
            tool=target.tool,
            arguments=target.arguments,
            context=self._context(peer, answers),
            traceparent=peer.traceparent,
            peer=peer,
            bearer=peer.guest.bearer,
            idempotency_key=peer.idempotency_key,
            digest_key=self._parts.sealer.digest_key,
        )

    def _context(self, peer: ClientPeer, answers: Mapping[str, Any] | None) -> dict[str, Any]:
        """What a server gets beside the arguments, where policy and the log see it."""
        meta = {name: peer.meta[name] for name in self._parts.rules.meta if name in peer.meta}
        said = ({"input_responses": answers} if answers else {}) | ({"meta": meta} if meta else {})
        return {"mcp": said} if said else {}
