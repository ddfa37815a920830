"""What policy is, and what it is asked: a bundle's files and data with the revision that is the digest of both."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentgate.core.call import Call, Tool
from agentgate.core.strict_json import canonical, canonical_plain

ROOTS: Final = (
    "agentgate",
    "read_only_tools",
    "write_tools",
    "all_known_tools",
    "rate_limits",
    "roles",
    "tiers",
    "costs",
    "session_facts",
    "services",
    "packs",
    "parse",
    "labels",
    "result_labels",
    "tools",
)
"""What a bundle of ours owns in OPA's document tree (the `.manifest`'s `roots`)."""


@dataclass(frozen=True, slots=True)
class PolicyBundle:
    """What the policy directory says, with the registry merged into its data as `tools`.

    `modules` maps a file name to Rego source (tests left out); `wasm` is the compiled form of exactly these
    modules, or None where no compiler was found and the committed one is of another source.
    """

    modules: Mapping[str, bytes]
    data: Mapping[str, Any]
    wasm: bytes | None
    label: str = ""
    """A name for the audit (v0.2's POLICY_VERSION); part of the revision when set."""

    @property
    def source_sha256(self) -> str:
        """Digest of the Rego alone: what a compiled form must name to belong to it."""
        return source_sha256(self.modules)

    @property
    def revision(self) -> str:
        """`sha256:` and 16 hex digits over the content; the same content is the same revision everywhere."""
        whole = hashlib.sha256(self.source_sha256.encode() + canonical(dict(self.data)))
        digest = f"sha256:{whole.hexdigest()[:16]}"
        return f"{self.label}+{digest}" if self.label else digest


def source_sha256(modules: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(b"%d %s %d " % (len(name.encode()), name.encode(), len(modules[name])))
        digest.update(modules[name])
    return digest.hexdigest()


def policy_question(
    call: Call,
    *,
    has_approval_token: bool,
    now: str,
    labels: Sequence[str] | None = None,
    past: Mapping[str, Any] | None = None,
    parsed: Mapping[str, Any] | None = None,
) -> bytes:
    """The `{"input": …}` document that policy decides on (DESIGN §6), as JSON bytes.

    `now` is RFC 3339 in UTC; `labels` are the tool's and its server's (None: those of its declaration); `past` is what
    the session did before; `parsed` is what parsers say of arguments. The approval token itself is never in it: engines
    log their inputs.
    """
    tool = call.tool
    about: dict[str, Any] = {
        "agent": call.caller.for_policy,
        "door": str(call.door),
        "has_approval_token": has_approval_token,
        "session": {"id": call.session} if past is None else {"id": call.session, **past},
        "session_id": call.session,
        "time": now,
        "tool": _for_policy(tool, tool.labels if labels is None else labels) if tool else {},
        "tool_name": call.tool_name,
    }
    if parsed is not None:
        about["parsed"] = parsed
    rest = canonical_plain(about)
    return b'{"input":{"arguments":%s,"context":%s,%s}' % (call.arguments_json, call.context_json, rest[1:])


def _for_policy(tool: Tool, labels: Sequence[str]) -> dict[str, Any]:
    about: dict[str, Any] = {"access": str(tool.access), "name": tool.name, "upstream": tool.upstream}
    if labels:
        about["labels"] = list(labels)
    return about
