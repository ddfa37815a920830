"""A call as an approval keeps it, sealed: enough to show it, to edit it, and to make it in its caller's place."""

from __future__ import annotations

from typing import Any

from agentgate.core.call import (
    AgentId,
    Call,
    Door,
    Principal,
    PrincipalKind,
    Role,
    SessionId,
    TenantId,
    Tool,
    ToolName,
    TraceId,
)
from agentgate.core.strict_json import canonical, reread


class NotKept(ValueError):
    """What was sealed is not a whole call: older versions kept only its arguments and context."""


def pack(call: Call, original: Call | None = None) -> bytes:
    """`call` as canonical JSON. `original` is what its caller sent, where an approver has edited that."""
    caller = call.caller
    value: dict[str, Any] = {
        "arguments": call.arguments,
        "context": call.context,
        "session": call.session,
        "tool": call.tool_name,
        "door": call.door.value,
        "idempotency_key": call.idempotency_key,
        "traceparent": call.traceparent,
        "caller": {
            "kind": caller.kind.value,
            "name": caller.name,
            "tenant": caller.tenant,
            "roles": sorted(role.value for role in caller.roles),
            "auth_method": caller.auth_method,
            "key_id": caller.key_id,
            "tenants_all": caller.tenants_all,
            "scopes": sorted(caller.scopes),
            "session": caller.session,
            "tier": caller.tier,
            "on_behalf_of": caller.on_behalf_of,
        },
    }
    if original is not None:
        value["original"] = {"arguments": original.arguments, "context": original.context}
    return canonical(value)


def unpack(plain: bytes, tool: Tool | None, trace_id: TraceId, digest_key: bytes) -> Call:
    """The call again, of the tool as it is now: whoever makes it compares its digest with the approval's.

    Raises:
        NotKept
    """
    try:
        value = reread(plain)
        caller = value["caller"]
        return Call(
            trace_id=trace_id,
            door=Door(value["door"]),
            caller=Principal(
                kind=PrincipalKind(caller["kind"]),
                name=AgentId(caller["name"]),
                tenant=TenantId(caller["tenant"]),
                roles=frozenset(map(Role, caller["roles"])),
                auth_method=caller["auth_method"],
                key_id=caller["key_id"],
                tenants_all=caller["tenants_all"],
                scopes=frozenset(caller["scopes"]),
                session=caller["session"],
                tier=caller["tier"],
                on_behalf_of=caller["on_behalf_of"],
            ),
            session=SessionId(value["session"]),
            tool_name=ToolName(value["tool"]),
            tool=tool,
            arguments=value["arguments"],
            context=value["context"],
            idempotency_key=value["idempotency_key"],
            traceparent=value["traceparent"],
            digest_key=digest_key,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise NotKept("not a whole call") from error
