"""Base64 as signed texts hold it: one spelling for the same bytes."""

from __future__ import annotations

import base64
import binascii


def encoded(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def decoded(text: str, invalid: type[ValueError]) -> bytes:
    """The bytes of standard base64 in its canonical spelling. Raises `invalid`."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("not base64") from None
    if encoded(raw) != text:
        raise invalid("base64 with stray bits")
    return raw
