"""One tool call as a value: who, which tool, with what, and the digest that stands for all of it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, NewType, Protocol

from agentgate.core.keyed import keyed_sha256
from agentgate.core.signature import SignatureKey
from agentgate.core.strict_json import canonical

TenantId = NewType("TenantId", str)
AgentId = NewType("AgentId", str)
"""The caller's own name, taken from its key or token and never from a body."""
SessionId = NewType("SessionId", str)
ToolName = NewType("ToolName", str)
TraceId = NewType("TraceId", str)
"""A UUIDv4 in text form: names one call in the answer, the log and the pack."""
MemberId = NewType("MemberId", str)
"""One worker process's random incarnation (DESIGN §4, members)."""
Digest = NewType("Digest", str)
"""Lower-case hex of a SHA-256."""

_TOOL: Final = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,255}")


def is_tool_name(name: str) -> bool:
    """ASCII letters, digits, `_ . -`, at most 128, and no `..`: so nothing callable is unkillable."""
    return _TOOL.fullmatch(name) is not None and ".." not in name


def is_id(name: str) -> bool:
    """The grammar of session, agent and tenant ids (DESIGN §6)."""
    return _ID.fullmatch(name) is not None


class Role(StrEnum):
    """What a principal may do. `admin` has every role."""

    AGENT = "agent"
    OPERATOR = "operator"
    APPROVER = "approver"
    AUDITOR = "auditor"
    ADMIN = "admin"
    OPA = "opa"


class Door(StrEnum):
    """The way a call came in. Doors differ in parsing and in how they say the answer, in nothing else."""

    REST = "rest"
    MCP = "mcp"
    ENVELOPE = "envelope"


class Access(StrEnum):
    """What a tool does to the world, as its declaration says."""

    READ = "read"
    WRITE = "write"


class PrincipalKind(StrEnum):
    AGENT = "agent"
    PERSON = "person"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who a door authenticated.

    `tenants_all` marks an operator of all tenants: only such a one may kill a tool, a server or everything.
    """

    kind: PrincipalKind
    name: AgentId
    tenant: TenantId
    roles: frozenset[Role]
    auth_method: str
    key_id: str | None = None
    """The key that it came with; the issuer of an access token; nothing of a certificate."""
    tenants_all: bool = False
    scopes: frozenset[str] = frozenset()
    """What an access token was issued for; policy sees them."""
    session: SessionId | None = None
    """The one session that an access token is good for, whatever its bearer asks for. None: any of the bearer's own."""
    tier: str = ""
    """The name of the limits that count for it, in `tiers` of the policy data; empty: those of `default`."""
    on_behalf_of: str | None = None
    """The user whom an agent acts for, as its token says (RFC 8693 §4.1, where the agent is the `act`or)."""
    id: str = field(init=False)
    """`agent:research-bot` or `person:alice`: what sessions, approvals and quorums are bound to."""
    for_policy: Mapping[str, Any] = field(init=False, repr=False, compare=False)
    """The `agent` of every question that policy is asked."""

    def __post_init__(self) -> None:
        roles = sorted(map(str, self.roles))
        about: dict[str, Any] = {"id": self.name, "kind": str(self.kind), "roles": roles, "tenant": self.tenant}
        if self.scopes:
            about["scopes"] = sorted(self.scopes)
        if self.tier:
            about["tier"] = self.tier
        if self.on_behalf_of is not None:
            about["on_behalf_of"] = self.on_behalf_of
        object.__setattr__(self, "id", f"{self.kind}:{self.name}")
        object.__setattr__(self, "for_policy", about)

    def has(self, role: Role) -> bool:
        return role in self.roles or Role.ADMIN in self.roles

    def sees(self, tenant: str) -> bool:
        return self.tenants_all or tenant == self.tenant

    def own_id(self, given: str) -> str:
        """What a kill or a hold is called that this person gives an id. Each tenant has ids of its own, so that nobody
        takes or finds out another's. No id that is given has a `~`."""
        return given if self.tenants_all else f"{self.tenant}~{given}"


def key_sha256(secret: str) -> str:
    """How a key is kept and looked up. Keys have 256 random bits, so a plain hash gives nothing away."""
    return hashlib.sha256(secret.encode("utf-8", errors="replace")).hexdigest()


@dataclass(frozen=True, slots=True)
class KnownKey:
    """A key by its SHA-256, and whom it stands for until it expires."""

    sha256: str
    """Empty where it is no key to send, but one to sign with."""
    principal: Principal
    expires: datetime | None = None
    disabled: bool = False
    signature: SignatureKey | None = None
    """What its holder's signatures are checked with; the principal's `key_id` is their `keyid`."""


ArgumentCheck = Callable[[Mapping[str, Any]], str | None]
"""A compiled JSON Schema: a sentence on the first misfit, or None."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One declared tool. Only declared tools can be called."""

    name: ToolName
    upstream: str
    access: Access
    input_schema: Mapping[str, Any]
    description: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the upstream kind needs (for `http`: method, path, headers, …)."""
    labels: tuple[str, ...] = ()
    """What the operator says of the data behind it; policy sees them."""
    timeout_s: float = 30.0
    check: ArgumentCheck = field(default=lambda _: None, compare=False)
    quarantine: str | None = field(default=None, compare=False)
    """Why nobody may call it for now: its server describes it otherwise than an operator accepted it."""
    definition_sha256: Digest = field(init=False)
    definition: Mapping[str, Any] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        definition: dict[str, Any] = {
            "name": self.name,
            "upstream": self.upstream,
            "access": self.access.value,
            "input_schema": dict(self.input_schema),
            "description": self.description,
            "options": dict(self.options),
        }
        if self.labels:
            definition["labels"] = list(self.labels)
        object.__setattr__(self, "definition", definition)
        object.__setattr__(self, "definition_sha256", Digest(hashlib.sha256(canonical(definition)).hexdigest()))


Clean = Callable[[bytes], bytes]
"""Takes out of canonical JSON what must not go back to a caller. Raises ValueError where that is not possible."""


class Withdrawable(Protocol):
    """The caller's side of a call that may be taken back. Whoever talks to it knows it as `ports.peer.Peer`."""

    @property
    def withdrawn(self) -> bool:
        """Whether the caller cancelled the call or closed its stream."""
        ...

    def guard(self, clean: Clean) -> None:
        """Before a call is sent: what its upstream says to the caller beside the answer goes through `clean`. One
        caller's side may be that of several calls at a time."""
        ...


@dataclass(frozen=True, slots=True)
class Call:
    """A parsed call. `digest` is what a decision, an approval and a grant are about.

    `arguments` is the one parsed value: what policy sees is what is approved and what is sent.
    """

    trace_id: TraceId
    door: Door
    caller: Principal
    session: SessionId
    tool_name: ToolName
    tool: Tool | None
    """None for a name that nobody declared: such a call is refused and recorded."""
    arguments: Mapping[str, Any]
    context: Mapping[str, Any]
    approval_token: str | None = None
    traceparent: str | None = None
    """The W3C trace context that came in, or None."""
    peer: Withdrawable | None = field(default=None, repr=False, compare=False)
    """Whom the upstream may talk back to while it runs, where the door's protocol has that."""
    idempotency_key: str | None = field(default=None, repr=False, compare=False)
    """The caller's own name for this call: it is run once, however often it is sent. Scoped to the principal."""
    deferred: bool = field(default=False, repr=False, compare=False)
    """The caller does not wait: where a person must approve, the gateway runs the call itself as soon as they have, and
    keeps its answer under its trace id."""
    carried_by: str | None = field(default=None, repr=False, compare=False)
    """The one approval that the gateway runs this deferred call for; no other one carries it."""
    edited_from: str | None = field(default=None, repr=False, compare=False)
    """Of a deferred call that an approver edited: the digest of what its caller sent."""
    bearer: str | None = field(default=None, repr=False, compare=False)
    """The access token that the caller came with, for nothing but an exchange at its issuer (RFC 8693): neither
    recorded, nor shown to policy, nor sent to an upstream."""
    digest_key: bytes = field(default=b"", repr=False, compare=False)
    """What is recorded of arguments and results are digests under this key of the deployment's: who reads the log, and
    not the key, cannot try what they may have been."""
    arguments_json: bytes = field(init=False, repr=False)
    context_json: bytes = field(init=False, repr=False)
    digest: Digest = field(init=False)

    def __post_init__(self) -> None:
        arguments_json = canonical(self.arguments)
        context_json = canonical(self.context)
        object.__setattr__(self, "arguments_json", arguments_json)
        object.__setattr__(self, "context_json", context_json)
        # RFC 8785 of the whole, of canonical parts: names in sorted order, whose grammar leaves nothing to escape
        tool_sha256 = self.tool.definition_sha256 if self.tool else ""
        form = b'{"agent":"%s","arguments":%s,"context":%s,"session":"%s","tenant":"%s","tool":"%s","tool_sha256":"%s"}'
        whole = form % (
            self.caller.id.encode(),
            arguments_json,
            context_json,
            self.session.encode(),
            self.caller.tenant.encode(),
            self.tool_name.encode(),
            tool_sha256.encode(),
        )
        object.__setattr__(self, "digest", Digest(keyed_sha256(self.digest_key, whole)))

    def under(self, trace_id: TraceId) -> Call:
        """The same call with another trace: `replace` would work out its canonical form and digest anew."""
        anew = copy(self)
        object.__setattr__(anew, "trace_id", trace_id)
        return anew

    @property
    def size(self) -> int:
        """Bytes of what its caller says."""
        return len(self.arguments_json) + len(self.context_json)

    @property
    def tenant(self) -> TenantId:
        return self.caller.tenant

    @property
    def agent(self) -> AgentId:
        return self.caller.name

    @property
    def idempotency_sha256(self) -> str | None:
        """What is recorded of the idempotency key: a digest that is the principal's own."""
        if self.idempotency_key is None:
            return None
        own = f"{self.caller.tenant}\0{self.caller.id}\0{self.idempotency_key}"
        if self.caller.on_behalf_of is not None:  # what was answered for one user is not for another
            own += f"\0{self.caller.on_behalf_of}"
        return hashlib.sha256(own.encode()).hexdigest()

    @property
    def answer_key(self) -> str | None:
        """What the answer is kept under; None where nobody will ask for it again."""
        if self.idempotency_key is not None:
            return self.idempotency_sha256
        return self.trace_id if self.deferred else None

    @property
    def server(self) -> str:
        """The upstream that the call would reach; empty for an unknown tool."""
        return self.tool.upstream if self.tool else ""
