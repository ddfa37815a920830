"""The SDK's inner names that a relay relies on: what fails here, an update of the SDK has changed."""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
from pathlib import Path

from mcp.client import _probe
from mcp.client.session import ClientSession
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher, _Pending

from agentgate.adapters.upstreams._mcp.trouble import Mark
from agentgate.adapters.upstreams._mcp.wire import Wire

UPSTREAMS = Path(inspect.getfile(Wire)).parents[1]


def test_the_sdks_session_has_what_is_replaced_and_what_is_used() -> None:
    for name in ("_on_request", "_on_notify", "_build_capabilities", "send_discover"):
        ours, theirs = getattr(Wire, name), getattr(ClientSession, name)
        assert list(inspect.signature(ours).parameters) == list(inspect.signature(theirs).parameters)
    source = inspect.getsource(ClientSession)
    assert "self._dispatcher.run, self._on_request, self._on_notify" in source
    assert "self._stamp(data, opts)" in source
    assert inspect.iscoroutinefunction(_probe.negotiate_auto)


def test_a_request_takes_an_id_and_leaves_cancelling_to_us() -> None:
    source = inspect.getsource(JSONRPCDispatcher.send_raw_request) + inspect.getsource(JSONRPCDispatcher)
    assert 'opts.get("request_id")' in source
    assert "plan.cancel_on_abandon" in source
    assert list(inspect.signature(JSONRPCDispatcher.run).parameters)[:4] == [
        "self",
        "on_request",
        "on_notify",
        "on_notify_intercept",
    ]


def test_what_came_by_another_way_can_be_given_to_the_dispatcher() -> None:
    assert list(inspect.signature(JSONRPCDispatcher._dispatch).parameters) == [
        "self",
        "item",
        "on_request",
        "on_notify",
        "sender_ctx",
    ]
    assert [field.name for field in dataclasses.fields(_Pending)][:3] == ["send", "receive", "on_progress"]
    source = inspect.getsource(JSONRPCDispatcher)
    assert "self._pending.get(coerce_request_id(token))" in source
    assert "await self._dispatch_request(msg, metadata, on_request, sender_ctx)" in source
    assert "self._spawn(self._handle_request, req, dctx, scope, on_request, sender_ctx=sender_ctx)" in source
    assert "assert self._tg is not None" in source


def test_inner_names_of_the_sdk_are_used_in_one_module_only() -> None:
    modules = [UPSTREAMS / "mcp.py", *(UPSTREAMS / "_mcp").glob("*.py")]
    assert len(modules) > 8
    for path in modules:
        if path.name == "wire.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mcp"):
                assert not any(part.startswith("_") for part in (node.module or "").split(".")), path.name
                assert not any(alias.name.startswith("_") for alias in node.names), path.name
            if isinstance(node, ast.Attribute):
                inner = ("_dispatcher", "_stamp", "_task_group", "_negotiated_version", "_dispatch", "_pending", "_tg")
                assert node.attr not in inner, path.name


def test_nothing_that_every_start_loads_imports_the_sdk() -> None:
    async def loaded() -> bytes:
        import sys

        code = "import sys, agentgate.kinds; print('mcp' in sys.modules)"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    assert asyncio.run(loaded()).strip() == b"False"


def test_a_mark_is_heard_by_who_made_it() -> None:
    mark = Mark()
    assert mark.heard(f"Failed to parse JSON response: {mark.say('too_large')}") == "too_large"
    assert mark.heard(Mark().say("too_large")) is None
