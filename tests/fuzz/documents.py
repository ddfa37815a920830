"""What operators write, and who can write where they do: configuration, keys, policies, tools, addresses."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from agentgate import toolservers
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.containment._url import parse_url
from agentgate.adapters.policy import _gotime, _http, _rego
from agentgate.adapters.policy.directory import _read_data
from agentgate.adapters.schema.jsonschema import JsonSchemas
from agentgate.adapters.upstreams import http, mcp
from agentgate.adapters.upstreams._http_inject import read_injection
from agentgate.adapters.upstreams._http_route import read_route
from agentgate.adapters.upstreams._mcp import settings as mcp_settings
from agentgate.core.errors import PolicyInvalid, UnsafeConfiguration
from agentgate.core.labels import read_labels
from agentgate.core.parsing import read_parse
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.core.tiers import read_rules
from agentgate.credentials import make_broker
from agentgate.identity import make_certificates
from agentgate.keyfile import _parse
from agentgate.kinds import make_tools, make_upstream
from agentgate.settings import load
from tests.fuzz.target import target, text_of

_LOADED = (http, mcp)
"""By the configuration, where it names them: not while somebody measures how long that takes."""


@cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    """In memory where there is room for that; gone with the process."""
    memory = Path("/dev/shm")
    place = memory if os.access(memory, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="agentgate-fuzz-", dir=place)


def _folder() -> Path:
    """For parsers that read a file."""
    return Path(_kept().name)


def _json(raw: bytes) -> Any:
    """As YAML gives it; an empty mapping where it is no JSON."""
    try:
        return parse(raw)
    except NotStrictJson:
        return {}


@target(
    "server: {port: 1, hosts: [a]}\nauth: {keys: [{id: k, sha256: " + "a" * 64 + ", agent: a}]}",
    "upstreams: {u: {kind: http, base_url: 'https://x/', inject: {kind: header, name: X-Key}}}\n"
    "tools: {t: {upstream: u, access: read, input_schema: {type: object}, method: GET, path: '/a/{b}'}}",
    "upstreams: {m: {kind: mcp, url: 'https://x/', tools: {a: {access: read, labels: [x]}}, trust: first_use}}",
    "credentials: {c: {kind: env, variable: X}}\nredaction: {mode: hash}\nretention: {days: 1}",
    "auth: {mtls: {header: Client-Cert, proxies: [10.0.0.0/8], map: [{cn: 'a*', agent: 'a*'}]}}",
    "server: {port: 2027-01-01T99:00:00Z}",
    "upstreams: {u: {kind: http, base_url: 'https://x/'}}\n"
    "tools: {t: {upstream: u, access: read, method: GET, path: /a, input_schema: {properties: {1: {}, ~: {}}}}}",
    "a: &a [1]\nb: *a\n? {x: y}\n: !!set {z}\nserver: 2026-01-01",
)
def configuration(raw: bytes) -> None:
    """Any file as agentgate.yaml, and what is made of it at a start."""
    path = _folder() / "agentgate.yaml"
    path.write_bytes(raw)
    try:
        config = load({"A_VARIABLE": "its-value"}, config=path, overrides={"data_dir": _folder() / "data"})
        make_certificates(config, SystemClock())
        broker = make_broker(config, SystemClock())
        kinds = {name: part.kind for name, part in config.upstreams.items() if part.kind != "demo"}  # it opens files
        upstreams = {name: make_upstream(name, config, broker) for name in kinds}
        toolservers.make_servers(config, list(config.tools))
        make_tools(config, upstreams)
    except UnsafeConfiguration as error:
        assert str(error)


@target(
    "- {id: k, sha256: " + "0" * 64 + ", agent: a, expires: 2027-01-01T00:00:00Z}",
    "[1]",
    "- 2027-02-30",
    "- [a]",
    "null",
)
def key_file(raw: bytes) -> None:
    try:
        keys = _parse(Path("keys.yaml"), raw)
    except UnsafeConfiguration as error:
        assert str(error)
        return
    assert all(key.known().principal.id for key in keys)


@target(
    json.dumps({"rate_limits": {"t": 5}, "costs": {"t": "0.002"}, "session_facts": True, "parse": {"t": {"a": "sql"}}}),
    json.dumps({"tiers": {"default": {"requests_per_minute": 5, "per_tool": {"t": -1}, "per_session": {"calls": 1}}}}),
    json.dumps(
        {"tiers": {"default": {"per_day": {"cost": "1.5", "alert_threshold": "80%"}, "per_action": {"bytes": 1}}}}
    ),
    json.dumps({"labels": {"tools": {"t": ["pii"]}, "servers": {"s": []}}, "result_labels": True, "packs": {}}),
)
def policy_data(raw: bytes) -> None:
    """Any bytes as a policy's data.json."""
    path = _folder() / "data.json"
    path.write_bytes(raw)
    readers: tuple[Callable[[Mapping[str, Any]], Any], ...] = (read_rules, read_labels, read_parse)
    try:
        data = _read_data(path)
    except PolicyInvalid:
        data = {}
    said = _json(raw)
    for known in (data, said if isinstance(said, dict) else {}):
        for read in readers:
            try:
                read(known)
            except PolicyInvalid as error:
                assert str(error)


@target(
    '{"a":[1,1.5e3,{1,"x"},set(),null]}',
    '{"a"',
    "[" * 50,
    "[" * 3_000 + "]" * 3_000,
    '"\\ud800"',
    "{1:2,3}",
    "2026-01-31T23:59:60.5Z",
)
def rego_values(raw: bytes) -> None:
    """Values as OPA's library prints them, and times as policies are given them."""
    text = text_of(raw)
    try:
        value = _rego.parse_value(text)
    except ValueError:
        value = None
    with contextlib.suppress(RecursionError):  # of values that nearly were too deep, and that no policy makes
        assert _rego.parse_value(_rego.print_value(value)) == value
    with contextlib.suppress(ValueError):
        _gotime.parse_rfc3339_ns(text)


@target(
    json.dumps(
        {"type": "object", "properties": {"a": {"type": "string", "pattern": "^(?=.*x)a+$"}}, "required": ["a"]}
    ),
    json.dumps({"$ref": "#/$defs/x", "$defs": {"x": {"$ref": "#/$defs/x"}}}),
    json.dumps({"$schema": "http://json-schema.org/draft-07/schema#", "format": "ipv4", "enum": [1, {}]}),
    json.dumps({"allOf": [{"not": {}}], "patternProperties": {"(a": {}}, "$ref": "https://x/"}),
)
def schema(raw: bytes) -> None:
    """Any `inputSchema` of a tool server."""
    said = _json(raw)
    if not isinstance(said, dict):
        return
    try:
        check = JsonSchemas().compile(said)
    except ValueError:
        return
    for arguments in ({}, {"a": "x"}, {"a": [1, None, {"b": "c"}]}):
        misfit = check(arguments)
        assert misfit is None or misfit


@target(
    json.dumps({"method": "POST", "path": "/a/{b}/c", "query": ["q"], "headers": {"X-A": "{h}"}, "result": "json"}),
    json.dumps({"method": "GET", "path": "/", "query": {"a": "b"}, "result": {"pointer": "/a/0"}, "timeout_ms": 5}),
    json.dumps({"kind": "header", "name": "X-Key", "prefix": "Token "}),
    json.dumps({"kind": "sigv4", "region": "r", "service": "s"}),
    json.dumps({"method": [], "body": {}, "path": 1}),
)
def http_tool(raw: bytes) -> None:
    """The options of a tool behind HTTP, and how its credential is sent."""
    said = _json(raw)
    if not isinstance(said, dict):
        return
    with contextlib.suppress(ValueError):
        read_route(said, taken_header="Authorization", taken_query="key")
    try:
        injection = read_injection(said)
    except ValueError:
        return
    value = injection.value("a secret")
    assert value is None or value.isprintable()


@target(
    json.dumps({"command": ["a", "b"], "env": {"A": "b"}, "labels": ["x"], "access": "read", "trust": "accepted"}),
    json.dumps(
        {"url": "https://x/", "inject": {"kind": "bearer"}, "tools": {"a": {"access": "write", "timeout_ms": 1}}}
    ),
    json.dumps({"url": "http://[::1]:x/", "access": [], "trust": [], "tools": {"a": {"access": {}, "labels": [[]]}}}),
    json.dumps({"url": "http://[", "inject": {"kind": []}, "env": {"": ""}}),
)
def mcp_server(raw: bytes) -> None:
    """The settings of a tool server, each as its reader gets it."""
    found = _json(raw)
    said: dict[str, Any] = found if isinstance(found, dict) else {}
    env, inject, tools = (
        one if isinstance(one := said.get(name), dict) else None for name in ("env", "inject", "tools")
    )
    for read in (
        lambda: mcp_settings.read_command(said.get("command"), said.get("url"), insecure=False),
        lambda: mcp_settings.read_env(env),
        lambda: mcp_settings.read_credential_place(inject, is_url=True),
        lambda: mcp_settings.read_credential_place(inject, is_url=False),
        lambda: mcp_settings.read_labels(said.get("labels")),
        lambda: mcp_settings.read_access(said.get("access")),
        lambda: mcp_settings.read_trust(said.get("trust")),
        lambda: mcp_settings.read_tools(tools),
    ):
        try:
            read()
        except ValueError as error:
            assert str(error)


@target(
    "redis://user:pass@host:1/2",
    "redis+sentinel://a:1,b/name/3?sentinel_username=x",
    "unix:///a?db=1",
    "redis://[::1",
    "redis://h:99999999999999/",
    "http://h:99999/",
)
def addresses_of_parts(raw: bytes) -> None:
    """The URLs of Redis and of OPA."""
    text = text_of(raw)
    try:
        parse_url(text)
    except UnsafeConfiguration as error:
        assert str(error)
    with contextlib.suppress(ValueError):
        _http.parse_url(text)
