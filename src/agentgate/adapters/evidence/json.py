"""The pack as one JSON document: the signed body, and its HMAC in `integrity.signature`."""

from __future__ import annotations

from agentgate.core.evidence.pack import Pack


class JsonPack:
    """RFC 8785, as v0.2's readers know the keys."""

    media_type = "application/json"
    extension = "json"

    def write(self, pack: Pack) -> bytes:
        return pack.json
