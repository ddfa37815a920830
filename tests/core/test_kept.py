"""A call that is kept for its approval is the same call when it is made."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.call import Principal, Role, SessionId, TraceId
from agentgate.core.kept import NotKept, pack, unpack
from agentgate.core.strict_json import canonical, parse
from tests.core.strategies import OBJECTS
from tests.fakes import TOOL, a_call, principal

TRACE = TraceId("00000000-0000-4000-8000-999999999999")
KEY = b"of the deployment"
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
WHOLE: Principal = replace(
    principal("bot", Role.AGENT, Role.APPROVER, tenant="t"),
    tenants_all=True,
    scopes=frozenset({"b", "a"}),
    session=SessionId("s-of-its-key"),
    tier="gold",
    on_behalf_of="alice",
)


@given(OBJECTS, OBJECTS, st.text(min_size=1, max_size=20) | st.none())
def test_a_kept_call_is_the_call(arguments: dict[str, Any], context: dict[str, Any], key: str | None) -> None:
    sent = a_call(arguments=arguments, caller=WHOLE)
    call = replace(sent, context=context, idempotency_key=key, traceparent=TRACEPARENT, digest_key=KEY)
    again = unpack(pack(call), TOOL, TRACE, KEY)
    assert again == replace(call, trace_id=TRACE)
    assert (again.digest, again.caller, again.idempotency_key) == (call.digest, WHOLE, key)


def test_of_an_edited_call_what_its_caller_sent_is_kept_beside_it() -> None:
    sent, edited = (replace(a_call(arguments={"n": n}, caller=WHOLE), digest_key=KEY) for n in (1, 2))
    assert parse(pack(edited, sent))["original"] == {"arguments": {"n": 1}, "context": {}}
    assert "original" not in parse(pack(sent))
    assert unpack(pack(edited, sent), TOOL, TRACE, KEY) == replace(edited, trace_id=TRACE)


def test_no_token_of_the_caller_is_kept() -> None:
    call = replace(a_call(caller=WHOLE, approval_token="apt_secret"), bearer="a-bearer-token")
    assert b"apt_secret" not in pack(call)
    assert b"a-bearer-token" not in pack(call)


def test_with_another_tool_definition_it_is_another_call() -> None:
    call = replace(a_call(), digest_key=KEY)
    assert unpack(pack(call), TOOL, TRACE, KEY).digest == call.digest
    assert unpack(pack(call), replace(TOOL, description="changed"), TRACE, KEY).digest != call.digest
    assert unpack(pack(call), None, TRACE, KEY).digest != call.digest


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"null",
        b"[]",
        b'{"arguments":{},"context":{}}',
        *(canonical({k: v for k, v in parse(pack(a_call())).items() if k != name}) for name in ("caller", "session")),
        canonical(parse(pack(a_call())) | {"door": "cellar"}),
        canonical(parse(pack(a_call())) | {"caller": parse(pack(a_call()))["caller"] | {"roles": ["emperor"]}}),
    ],
)
def test_what_is_no_whole_call_is_none(plain: bytes) -> None:
    with pytest.raises(NotKept, match="^not a whole call$"):
        unpack(plain, TOOL, TRACE, KEY)
