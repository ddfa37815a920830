"""What a signature must say of itself to count."""

from __future__ import annotations

from typing import Any

import pytest

from agentgate.core.errors import ReasonCode
from agentgate.core.signature import MAX_COVERED, NotSigned, SignatureKey, misses, objection

KEY = SignatureKey("ed25519", b"\x02" * 32)
COVERED = ["@method", "content-digest", "content-type"]
GOOD = {"created": 1000, "keyid": "k", "alg": "ed25519", "nonce": "n", "tag": "t", "expires": 2000}


def test_enough_is_covered() -> None:
    assert misses([*COVERED, "@target-uri"], has_query=True) is None
    assert misses([*COVERED, "@authority", "@path"], has_query=False) is None
    assert misses([*COVERED, "@authority", "@path", "@query", "x-a"], has_query=True) is None


TARGET = "@target-uri (or @authority and @path, and @query where there is one)"


@pytest.mark.parametrize(
    ("covered", "told"),
    [
        (["@target-uri"], "it does not cover @method, content-digest, content-type"),
        *[([name for name in (*COVERED, "@target-uri") if name != one], f"it does not cover {one}") for one in COVERED],
        *[
            ([*COVERED, *more], f"it does not cover {TARGET}")
            for more in ([], ["@authority"], ["@path"], ["@query"], ["@authority", "@query"], ["@authority", "@path"])
        ],
        *[
            ([*COVERED, "@target-uri", strange], "it covers a derived component that is not known here")
            for strange in ("@status", "@query-param", "@signature-params", "@")
        ],
        ([*COVERED, "@target-uri", *(f"x-{n}" for n in range(29))], f"it covers more than {MAX_COVERED} components"),
    ],
)
def test_what_is_left_open_is_named(covered: list[str], told: str) -> None:
    """Of a request with a query. The sender reads it."""
    assert misses(covered, has_query=True) == told


def test_as_much_as_anybody_needs_may_be_covered() -> None:
    assert misses([*COVERED, "@target-uri", *(f"x-{n}" for n in range(28))], has_query=False) is None


@pytest.mark.parametrize("now_s", [940.0, 1000.0, 1060.0])
def test_within_its_time(now_s: float) -> None:
    assert objection(GOOD, KEY, now_s, 60.0) is None
    assert objection({"created": 1000, "keyid": "k"}, KEY, now_s, 60.0) is None


@pytest.mark.parametrize(
    ("changed", "now_s", "told"),
    [
        ({}, 939.9, "it was made for a later time: 60 s are allowed"),
        ({}, 1060.1, "it was made too long ago: 60 s are allowed"),
        ({"expires": 1000}, 1000.0, "it has expired"),
        ({"expires": 999}, 1000.0, "it has expired"),
    ],
)
def test_outside_of_its_time(changed: dict[str, Any], now_s: float, told: str) -> None:
    assert objection(GOOD | changed, KEY, now_s, 60.0) == NotSigned(ReasonCode.SIGNATURE_EXPIRED, told)


TIMES = "`created` is needed; it and `expires` are whole Unix seconds"
TEXTS = "`nonce`, `tag` and `alg` are texts"


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        *[({"created": created}, TIMES) for created in ("1000", 1000.0, True, None)],
        *[({"expires": expires}, TIMES) for expires in (2000.0, None)],
        *[({"alg": other}, "`alg` is not what this key is for") for other in ("hmac-sha256", "ED25519")],
        *[(changed, TEXTS) for changed in ({"alg": None}, {"nonce": 1}, {"tag": b"t"})],
        ({"more": "x"}, "it has a parameter that is not known here"),
    ],
    ids=str,
)
def test_parameters_that_do_not_count(changed: dict[str, Any], told: str) -> None:
    assert objection(GOOD | changed, KEY, 1000.0, 60.0) == NotSigned(ReasonCode.SIGNATURE_INVALID, told)


@pytest.mark.parametrize("sign_bit", [0, 0x80])
@pytest.mark.parametrize(
    "material",
    [
        bytes(32),
        b"\1" + bytes(31),
        *[first + b"\xff" * 30 + b"\x7f" for first in (b"\xec", b"\xed", b"\xee")],
        bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    ],
    ids=bytes.hex,
)
def test_a_key_that_anybody_can_sign_with_is_none(material: bytes, sign_bit: int) -> None:
    """Points of small order: for some of them, one signature fits whatever is signed."""
    weak = material[:-1] + bytes([material[-1] | sign_bit])
    told = NotSigned(ReasonCode.SIGNATURE_INVALID, "its key is one that anybody can sign with")
    assert objection(GOOD, SignatureKey("ed25519", weak), 1000.0, 60.0) == told
    assert objection(GOOD | {"alg": "hmac-sha256"}, SignatureKey("hmac-sha256", weak), 1000.0, 60.0) is None
