"""Unsafe configurations: each start ends before anything listens, and names what to change."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import yaml

from agentgate import keyfile
from agentgate.app import running
from agentgate.commands.terminal import Status
from agentgate.core.errors import UnsafeConfiguration
from agentgate.settings import DEFAULT_SECRETS, Key, load
from tests.gateway import run_cli

SECRET = "0123456789abcdefghijklmnopqrstuvwxyz"
KEY = {"id": "k", "sha256": "ab" * 32, "agent": "bot"}
ISSUER = {"issuer": "https://id.example.org", "audience": "https://gate.example.org/mcp"}
TOOL = {"access": "read", "input_schema": {"type": "object"}, "method": "GET", "path": "/"}


class Unsafe(NamedTuple):
    """A configuration, and what its refusal names."""

    config: dict[str, Any]
    told: str
    env: Mapping[str, str] = MappingProxyType({})


def _upstream(**about: Any) -> dict[str, Any]:
    return {
        "upstreams": {"crm": {"kind": "http", "base_url": "https://crm.example.org", **about}},
        "tools": {"crm.read": {"upstream": "crm", **TOOL}},
    }


UNSAFE = {
    "a default secret": Unsafe({}, "AGENTGATE_ADMIN_API_KEY", {"AGENTGATE_ADMIN_API_KEY": min(DEFAULT_SECRETS)}),
    "a short signing key": Unsafe({}, "AGENTGATE_SIGNING_KEY", {"AGENTGATE_SIGNING_KEY": SECRET[:31]}),
    "one secret twice": Unsafe(
        {}, "AGENTGATE_APPROVAL_TOKEN", {"AGENTGATE_ADMIN_API_KEY": SECRET, "AGENTGATE_APPROVAL_TOKEN": SECRET}
    ),
    "public without an agent key": Unsafe({"server": {"host": "0.0.0.0"}}, "agentgate keys create"),
    "an address of others' without an agent key": Unsafe(
        {"server": {"base_url": "https://gate.example.org"}}, "server.base_url names gate.example.org"
    ),
    "a name of others' without an agent key": Unsafe(
        {"server": {"base_url": "http://127.0.0.1:8000", "hosts": ["gate.lan"]}}, "server.hosts names gate.lan"
    ),
    "a key that everybody knows": Unsafe(
        {"auth": {"keys": [{**KEY, "sha256": hashlib.sha256(min(DEFAULT_SECRETS).encode()).hexdigest()}]}}, "key k"
    ),
    "a key to sign with that anybody has": Unsafe(
        {"auth": {"keys": [{"id": "k", "agent": "bot", "signature": {"ed25519": "A" * 43 + "="}}]}}, "signature.ed25519"
    ),
    "every address a proxy": Unsafe(
        {"auth": {"mtls": {"header": "Client-Cert", "proxies": ["0.0.0.0/0"], "map": [{"cn": "x", "agent": "x"}]}}},
        "auth.mtls.proxies",
    ),
    "tokens that are signed with a shared secret": Unsafe(
        {"auth": {"oauth": {**ISSUER, "algorithms": ["HS256"]}}}, "algorithms"
    ),
    "an issuer over plain http": Unsafe({"auth": {"oauth": {**ISSUER, "issuer": "http://id.example.org"}}}, "issuer"),
    "people by a claim that agents' tokens have": Unsafe(
        {"auth": {"oauth": {**ISSUER, "claims": {"person": "email"}}}}, "people_clients"
    ),
    "workers without a shared log": Unsafe({"server": {"workers": 2}}, "log.url"),
    "workers without shared kill flags": Unsafe(
        {"server": {"workers": 2}, "log": {"url": "postgresql://nobody"}}, "containment.url"
    ),
    "bodies kept for less than the law wants": Unsafe({"retention": {"days": 30}}, "retention.days"),
    "hashes that anybody can try": Unsafe({"redaction": {"mode": "hash"}}, "redaction.key"),
    "a credential that travels readable": Unsafe(
        {
            **_upstream(base_url="http://crm.example.org", insecure=True, credential="crm"),
            "credentials": {"crm": {"kind": "env", "name": "CRM_TOKEN"}},
        },
        "upstreams.crm",
    ),
    "plain http to a stranger": Unsafe(_upstream(base_url="http://crm.example.org"), "upstreams.crm"),
    "a secret in the Host header": Unsafe(_upstream(inject={"kind": "header", "name": "Host"}), "inject.name"),
    "a secret that frames the message": Unsafe(
        _upstream(inject={"kind": "header", "name": "Transfer-Encoding"}), "inject.name"
    ),
    "a tool that nobody can kill": Unsafe({"tools": {"a/b": {"upstream": "crm", **TOOL}}}, "tool name"),
    "a misspelt setting": Unsafe({"auth": {"key": []}}, "auth.key"),
    "a misspelt kind, of an upstream without tools": Unsafe(
        {"upstreams": {"files": {"kind": "mpc", "command": ["/bin/false"]}}}, "upstreams.files: there is no kind 'mpc'"
    ),
    "a misspelt member, of an upstream without tools": Unsafe(
        {"upstreams": {"crm": {"kind": "http", "base_ulr": "https://crm.example.org"}}}, "base_ulr"
    ),
    "a log in no file": Unsafe({"log": {"url": "sqlite:///"}}, "log.url: "),
    "a log in no file, by v0.2's variable": Unsafe({}, "log.url: ", {"AGENTGATE_TRACE_DB": "/"}),
    "notices over plain http": Unsafe(
        {"webhooks": [{"url": "http://hook.example.org/", "secret": SECRET}]}, "webhooks[0]"
    ),
    "notices of nobody": Unsafe({"webhooks": [{"url": "https://hook.example.org/"}]}, "webhooks[0].secret"),
    "a policy engine without its address": Unsafe({"policy": {"kind": "opa"}}, "AGENTGATE_OPA_URL"),
}


async def refusal(unsafe: Unsafe, folder: Path) -> str:
    """What a start says of it."""
    config = folder / "agentgate.yaml"
    config.write_text(yaml.safe_dump(unsafe.config), encoding="utf-8")
    with pytest.raises(UnsafeConfiguration) as caught:
        async with running(load(unsafe.env, config=config, overrides={"data_dir": folder / "data"})):
            raise AssertionError("it runs")
    return str(caught.value)


@pytest.mark.parametrize("case", UNSAFE)
async def test_it_is_refused_at_start_by_name(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_TOKEN", SECRET)
    said = await refusal(UNSAFE[case], tmp_path)
    assert UNSAFE[case].told in said
    assert SECRET not in said


@pytest.mark.parametrize(
    "case", ["a default secret", "public without an agent key", "an address of others' without an agent key"]
)
def test_a_refused_start_is_one_sentence_and_listens_nowhere(case: str, tmp_path: Path) -> None:
    config = tmp_path / "agentgate.yaml"
    config.write_text(yaml.safe_dump(UNSAFE[case].config), encoding="utf-8")
    flags = ["--config", str(config), "--data-dir", str(tmp_path / "data"), "--port", "0"]
    ended = run_cli("serve", *flags, env=UNSAFE[case].env)
    assert (ended.returncode, ended.stdout) == (Status.START, "")
    assert UNSAFE[case].told in ended.stderr.strip().splitlines()[-1]
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("keys", [[], [KEY]], ids=["no key", "a key"])
async def test_names_of_this_machine_need_no_key_and_others_need_one(keys: list[Any], tmp_path: Path) -> None:
    server = {"base_url": "https://[::1]:8000", "hosts": ["LOCALHOST", "localhost:8000", "127.0.0.2"]}
    theirs = {"base_url": "https://gate.example.org", "hosts": ["gate.lan"]} if keys else server
    overrides = {"data_dir": tmp_path / "data", "server": theirs, "auth": {"keys": keys}}
    async with running(load({}, overrides=overrides)) as gateway:
        assert gateway.callers.takes_local is not bool(keys)


def test_a_variable_that_nothing_reads_is_said_at_start(tmp_path: Path) -> None:
    variables = {"AGENTGATE_TLS_CERT": SECRET, "AGENTGATE_HOST": "0.0.0.0"}
    ended = run_cli("serve", "--data-dir", str(tmp_path), "--port", "0", env=variables)
    assert ended.returncode == Status.START, "without an agent key"
    assert "WARNING agentgate: AGENTGATE_TLS_CERT is set, and nothing reads it" in ended.stderr
    assert SECRET not in ended.stderr


async def test_a_key_file_that_others_can_read_is_refused_at_start(tmp_path: Path) -> None:
    keys = tmp_path / "data" / "keys.yaml"
    keyfile.add_key(keys, Key(id="k", sha256="ab" * 32, agent="bot"))
    keys.chmod(0o644)
    assert "chmod 600" in await refusal(Unsafe({}, ""), tmp_path)
