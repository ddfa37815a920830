"""The JSON form: the signed body, with its signature where v0.2's readers look for it."""

from __future__ import annotations

import hashlib
import hmac
import json

from agentgate.adapters.evidence.json import JsonPack
from agentgate.core.strict_json import canonical
from tests.contracts.pack_writer import PackWriterContract
from tests.evidence_samples import KEY, sample


class TestJsonPack(PackWriterContract):
    writer = JsonPack()

    def text_of(self, written: bytes) -> str:
        return written.decode()


def test_without_its_signature_it_is_what_was_signed() -> None:
    body = json.loads(JsonPack().write(sample("rich")))
    signature = body["integrity"].pop("signature")
    assert canonical(body) == sample("rich").raw
    assert signature == hmac.new(KEY, sample("rich").raw, hashlib.sha256).hexdigest()


def test_an_unsigned_pack_says_so() -> None:
    body = json.loads(JsonPack().write(sample("unsigned")))
    assert body["integrity"]["signature"] is None
    assert body["integrity"]["signed_by"] == []
