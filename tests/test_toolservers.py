"""What the configuration says of MCP servers. Names that must not be are in tests/attacks/test_tool_pins.py."""

from __future__ import annotations

from typing import Any

import pytest

from agentgate.core.call import Access
from agentgate.core.errors import UnsafeConfiguration
from agentgate.credentials import make_broker
from agentgate.edges._mcp.parts import OPERATIONS
from agentgate.kinds import make_tools, make_upstream
from agentgate.pipeline.tools.serving import Served
from agentgate.settings import load
from agentgate.toolservers import make_servers, names
from tests.fakes import FakeClock

MCP: dict[str, Any] = {"kind": "mcp", "command": ["true"]}


def servers(**upstreams: dict[str, Any]) -> list[Served]:
    return make_servers(load({}, overrides={"upstreams": upstreams}), ())


def test_every_operation_of_the_door_is_there_and_checks_its_arguments() -> None:
    (files,) = servers(files=MCP | {"labels": ["internal"], "timeout_ms": 5000})
    made = {name.removeprefix("files__"): tool for name, tool in files.operations.items()}
    assert {tool.options["method"]: name for name, tool in made.items()} == OPERATIONS
    for tool in made.values():
        assert (tool.access, tool.labels, tool.timeout_s, tool.upstream) == (Access.READ, ("internal",), 5.0, "files")
    read = made["mcp.resources.read"]
    assert read.check({"uri": "file:///x"}) is None
    assert read.check({}) is not None
    assert read.check({"uri": "file:///x", "more": 1}) is not None
    assert read.check({"uri": "x" * 10_000}) is None
    for name in ("mcp.resources.subscribe", "mcp.resources.unsubscribe"):
        assert made[name].check({"uri": "x" * 2_048}) is None
        assert made[name].check({"uri": "x" * 2_049}) is not None, "it would be kept"
    assert made["mcp.prompts.get"].check({"name": "p", "arguments": {"a": "b"}}) is None


def test_a_transparent_server_has_no_prefix() -> None:
    (only,) = servers(files=MCP | {"transparent": True})
    assert (only.rules.prefix, "mcp.resources.list" in only.operations) == ("", True)


def test_what_is_said_of_single_tools_is_read() -> None:
    of_read = {"access": "read", "labels": ["pii"], "timeout_ms": 100}
    (files,) = servers(files=MCP | {"access": "write", "labels": ["internal"], "tools": {"read": of_read}})
    rules = files.rules
    assert (rules.access_of("read"), rules.access_of("write")) == (Access.READ, Access.WRITE)
    assert (rules.labels_of("read"), rules.labels_of("write")) == (("internal", "pii"), ("internal",))
    assert (rules.timeout_of("read"), rules.timeout_of("write")) == (0.1, 30.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"trust": "always"},
        {"access": "all"},
        {"labels": "pii"},
        {"tools": {"read": {"acess": "read"}}},
        {"tools": {"read": {"timeout_ms": 0}}},
        {"tools": {"read": {1: "a", "b": 2}}},
        {"tools": ["read"]},
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(UnsafeConfiguration, match=rf"upstreams.files: .*{next(iter(wrong))}"):
        servers(files=MCP | wrong)


def test_a_server_of_this_kind_is_made_and_brings_its_own_tools() -> None:
    config = load({}, overrides={"upstreams": {"files": MCP | {"connect_timeout_ms": 500, "access": "read"}}})
    assert names(config) == ("files",)
    assert make_tools(config, {}) == {}, "no demo tools beside it"
    assert make_upstream("files", config, make_broker(config, FakeClock())) is not None


@pytest.mark.parametrize("wrong", [{"comand": []}, {"url": "https://x.example"}, {"command": "true"}])
def test_what_cannot_be_a_server_stops_the_start(wrong: dict[str, Any]) -> None:
    config = load({}, overrides={"upstreams": {"files": MCP | wrong}})
    with pytest.raises(UnsafeConfiguration, match="upstreams.files: "):
        make_upstream("files", config, make_broker(config, FakeClock()))
