"""The caller's own name for a call, at any door: `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from agentgate.core.errors import ReasonCode
from agentgate.edges.problem import Problem

META: Final = "dev.agentgate/idempotency-key"
"""Where an MCP client says it, in `_meta` of `tools/call`."""
WHAT: Final = "an idempotency key is 1 to 255 visible ASCII characters"
_KEY: Final = re.compile(r"[!-~]{1,255}")
_QUOTED: Final = re.compile(r'"((?:[^"\\]|\\["\\])*)"')


def of_header(headers: Mapping[bytes, bytes]) -> str | None:
    """The key in a request's header, as a structured string (RFC 8941 §3.3.3) or plain: `"k-1"` and `k-1` are one key.

    Raises:
        Problem: 400 where it is none.
    """
    raw = headers.get(b"idempotency-key")
    if raw is None:
        return None
    text = raw.decode("latin-1").strip()
    quoted = _QUOTED.fullmatch(text)
    key = checked(re.sub(r"\\(.)", r"\1", quoted[1]) if quoted is not None else text)
    if key is None or (quoted is None and text.startswith('"')):
        raise Problem(400, ReasonCode.INVALID_REQUEST, f"Idempotency-Key: {WHAT}")
    return key


def checked(key: Any) -> str | None:
    return key if isinstance(key, str) and _KEY.fullmatch(key) is not None else None
