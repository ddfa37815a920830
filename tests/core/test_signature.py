"""What a signature must say of itself to count."""

from __future__ import annotations

from typing import Any

import pytest

from agentgate.core.errors import ReasonCode
from agentgate.core.signature import MAX_COVERED, SignatureKey, misses, objection

KEY = SignatureKey("ed25519", b"\x02" * 32)
COVERED = ["@method", "content-digest", "content-type"]
GOOD = {"created": 1000, "keyid": "k", "alg": "ed25519", "nonce": "n", "tag": "t", "expires": 2000}


def test_enough_is_covered() -> None:
    assert misses([*COVERED, "@target-uri"], has_query=True) is None
    assert misses([*COVERED, "@authority", "@path"], has_query=False) is None
    assert misses([*COVERED, "@authority", "@path", "@query", "x-a"], has_query=True) is None


@pytest.mark.parametrize("left_out", [*COVERED, "@target-uri"])
def test_what_is_left_out_is_named(left_out: str) -> None:
    found = misses([name for name in (*COVERED, "@target-uri") if name != left_out], has_query=False)
    assert found is not None
    assert left_out in found


def test_more_than_anybody_needs_is_refused() -> None:
    fields = [f"x-{number}" for number in range(MAX_COVERED)]
    assert misses([*COVERED, "@target-uri", *fields[:-4]], has_query=False) is None
    assert misses([*COVERED, "@target-uri", *fields], has_query=False) is not None


@pytest.mark.parametrize("strange", ["@status", "@query-param", "@signature-params", "@"])
def test_what_no_request_has_is_refused(strange: str) -> None:
    assert misses([*COVERED, "@target-uri", strange], has_query=False) is not None


@pytest.mark.parametrize("now_s", [940.0, 1000.0, 1060.0])
def test_within_its_time(now_s: float) -> None:
    assert objection(GOOD, KEY, now_s, 60.0) is None
    assert objection({"created": 1000, "keyid": "k"}, KEY, now_s, 60.0) is None


@pytest.mark.parametrize(
    ("changed", "now_s"), [({}, 939.9), ({}, 1060.1), ({"expires": 1000}, 1000.0), ({"expires": 999}, 1000.0)]
)
def test_outside_of_its_time(changed: dict[str, Any], now_s: float) -> None:
    found = objection(GOOD | changed, KEY, now_s, 60.0)
    assert found is not None
    assert found.reason is ReasonCode.SIGNATURE_EXPIRED


@pytest.mark.parametrize(
    "changed",
    [
        {"created": "1000"},
        {"created": 1000.0},
        {"created": True},
        {"created": None},
        {"expires": 2000.0},
        {"expires": None},
        {"alg": "hmac-sha256"},
        {"alg": "ED25519"},
        {"alg": None},
        {"nonce": 1},
        {"tag": b"t"},
        {"more": "x"},
    ],
    ids=str,
)
def test_parameters_that_do_not_count(changed: dict[str, Any]) -> None:
    found = objection(GOOD | changed, KEY, 1000.0, 60.0)
    assert found is not None
    assert found.reason is ReasonCode.SIGNATURE_INVALID


@pytest.mark.parametrize("sign_bit", [0, 0x80])
@pytest.mark.parametrize("material", [bytes(32), b"\1" + bytes(31), b"\xee" + b"\xff" * 30 + b"\x7f"])
def test_a_key_that_anybody_can_sign_with_is_none(material: bytes, sign_bit: int) -> None:
    """Points of small order: for some of them, one signature fits whatever is signed."""
    weak = material[:-1] + bytes([material[-1] | sign_bit])
    found = objection(GOOD, SignatureKey("ed25519", weak), 1000.0, 60.0)
    assert found is not None
    assert found.reason is ReasonCode.SIGNATURE_INVALID
    assert objection(GOOD | {"alg": "hmac-sha256"}, SignatureKey("hmac-sha256", weak), 1000.0, 60.0) is None
