"""The credential kind `vault`, against the documented API (tests/vault_server.py)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from agentgate.adapters.credentials.vault import Vault
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.credentials import Ask, CredentialRefused
from tests.contracts.credential_source import CredentialSourceContract, broker_of
from tests.fakes import FakeClock, a_call
from tests.pipeline.conftest import until
from tests.vault_server import VaultServer


@pytest.fixture
async def vault() -> AsyncIterator[VaultServer]:
    async with VaultServer() as vault:
        vault.kv2["app/known"] = {"value": "s3cret-value", "user": "dbadmin", "port": 5432}
        vault.kv2["app/empty"] = {"value": ""}
        yield vault


def environ(vault: VaultServer) -> dict[str, str]:
    return {"TOKEN": vault.root_token, "SECRET_ID": vault.secret_id}


def issuer(vault: VaultServer, *, login: str = "approle", **more: Any) -> Vault:
    auth: dict[str, dict[str, Any]] = {
        "token": {"method": "token", "token": {"env": "TOKEN"}},
        "approle": {"method": "approle", "role_id": vault.role_id, "secret_id": {"env": "SECRET_ID"}},
    }
    return Vault({"url": vault.url, "auth": auth[login], **more}, environ(vault))


class TestVaultKv2(CredentialSourceContract):
    @pytest.fixture
    async def source(self, vault: VaultServer) -> AsyncIterator[Broker]:
        broker = broker_of({name: issuer(vault, path=f"app/{name}") for name in ("known", "empty")})
        yield broker
        await broker.aclose()


class TestVaultDynamic(CredentialSourceContract):
    SECRET = None

    @pytest.fixture
    async def source(self, vault: VaultServer) -> AsyncIterator[Broker]:
        paths = {"known": "database/creds/readonly", "empty": "database/creds/none"}
        broker = broker_of({name: issuer(vault, engine="dynamic", path=path) for name, path in paths.items()})
        yield broker
        await broker.aclose()


async def test_every_text_of_a_secret_is_kept_out_of_answers(vault: VaultServer) -> None:
    one = issuer(vault, path="app/known")
    issued = await one.issue(Ask("a"))
    assert issued.credential.secrets == ("s3cret-value", "dbadmin")
    assert issued.revocation is None
    await one.aclose()


async def test_kv1_is_read_where_it_is(vault: VaultServer) -> None:
    vault.kv1["app"] = {"token": "of-the-first-engine"}
    one = issuer(vault, login="token", engine="kv1", mount="kv", path="app", field="token", cache_s=5)
    issued = await one.issue(Ask("a"))
    assert (issued.credential.secret, issued.expires_in_s) == ("of-the-first-engine", 5)
    assert vault.paths == ["kv/app"], "no login with a token that was given"
    await one.aclose()


async def test_a_service_account_logs_in(vault: VaultServer, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(vault.jwt)
    auth = {"method": "kubernetes", "role": "gateway", "jwt_file": str(token)}
    one = Vault({"url": vault.url, "auth": auth, "path": "app/known", "namespace": "team"}, {})
    assert (await one.issue(Ask("a"))).credential.secret == "s3cret-value"
    await one.aclose()


async def test_one_login_serves_many_secrets_and_a_token_that_is_refused_is_replaced(vault: VaultServer) -> None:
    one = issuer(vault, path="app/known")
    for _ in range(3):
        await one.issue(Ask("a"))
    assert vault.paths.count("auth/approle/login") == 1
    vault.tokens.clear()
    assert (await one.issue(Ask("a"))).credential.secret == "s3cret-value"
    assert vault.paths.count("auth/approle/login") == 2
    await one.aclose()


async def test_a_kill_revokes_the_lease(vault: VaultServer) -> None:
    broker = broker_of({"db": issuer(vault, engine="dynamic", path="database/creds/readonly")})
    call = a_call(session="s-1")
    credential = await broker.credential("db", scope="read", ttl_s=300, call=call)
    assert credential is not None
    assert list(vault.leases.values()) == [credential.values["username"]]
    broker.drop(lambda one: one.session == "s-1")
    await until(lambda: not vault.leases)
    await broker.aclose()


async def test_a_kill_is_heard_by_vault_when_it_comes_back(vault: VaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentgate.pipeline.credentials.sources._RETRY_S", (0.01,))
    broker = broker_of({"db": issuer(vault, engine="dynamic", path="database/creds/readonly")})
    await broker.credential("db", scope="read", ttl_s=300, call=a_call())
    vault.is_sealed = True
    broker.drop(lambda _: True)
    await until(lambda: vault.paths.count("sys/leases/revoke") >= 2)
    assert vault.leases
    vault.is_sealed = False
    await until(lambda: not vault.leases)
    await broker.aclose()


async def test_a_lease_is_renewed_while_it_is_used_and_revoked_at_the_end(vault: VaultServer) -> None:
    clock = FakeClock()
    broker = broker_of({"db": issuer(vault, engine="dynamic", path="database/creds/readonly")}, clock=clock)
    first = await broker.credential("db", scope="read", ttl_s=None, call=a_call())
    clock.move(3590)
    second = await broker.credential("db", scope="read", ttl_s=None, call=a_call())
    assert first is not None
    assert second is not None
    assert first.secret == second.secret
    assert vault.paths[-1] == "sys/leases/renew"
    await broker.aclose()
    assert not vault.leases


async def test_a_lease_that_cannot_be_renewed_is_followed_by_another() -> None:
    async with VaultServer(renewable=False) as vault:
        clock = FakeClock()
        broker = broker_of({"db": issuer(vault, engine="dynamic", path="database/creds/readonly")}, clock=clock)
        first = await broker.credential("db", scope="read", ttl_s=None, call=a_call())
        clock.move(3590)
        second = await broker.credential("db", scope="read", ttl_s=None, call=a_call())
        assert first is not None
        assert second is not None
        assert first.secret != second.secret
        await broker.aclose()
        assert not vault.leases, "neither is left behind"


async def test_a_lease_is_used_no_longer_than_the_token_that_it_ends_with() -> None:
    async with VaultServer(token_s=60) as vault:
        one = issuer(vault, engine="dynamic", path="database/creds/readonly")
        issued = await one.issue(Ask("a"))
        assert issued.expires_in_s <= 60
        await one.aclose()


async def test_the_scope_of_the_decision_picks_the_path_and_one_without_a_path_is_refused(vault: VaultServer) -> None:
    paths = {"read": "database/creds/readonly", "write": "database/creds/writer"}
    one = issuer(vault, engine="dynamic", paths=paths)
    issued = await one.issue(Ask("a", "write"))
    assert issued.credential.values["username"].startswith("v-approle-writer-")
    for scope in ("admin", None):
        with pytest.raises(CredentialRefused, match="scope"):
            await one.issue(Ask("a", scope))
    await one.aclose()


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        ("secret/data/app/known", web.Response(body=b"<html>")),
        ("secret/data/app/known", web.Response(body=b'{"data":{"data":{"value":1}}}')),
        ("secret/data/app/known", web.Response(body=b'{"data":null}')),
        ("secret/data/app/known", web.Response(body=b'{"data":{"data":{"value":"a","value":"b"}}}')),
        ("secret/data/app/known", web.Response(body=b"x" * 300_000)),
        ("secret/data/app/known", web.Response(status=302, headers={"Location": "/v1/secret/data/app/other"})),
        ("auth/approle/login", web.Response(body=b'{"auth":{"client_token":"","lease_duration":60}}')),
        ("auth/approle/login", web.Response(body=b'{"auth":{"client_token":"hvs.x","lease_duration":-1}}')),
        ("auth/approle/login", web.Response(status=500, body=b"s3cret-value")),
    ],
)
async def test_a_source_that_lies_is_a_refusal_that_quotes_nothing(
    vault: VaultServer, path: str, answer: web.Response
) -> None:
    vault.kv2["app/other"] = {"value": "s3cret-of-others"}
    vault.answers[path] = answer
    one = issuer(vault, path="app/known")
    with pytest.raises(CredentialRefused) as refused:
        await one.issue(Ask("a"))
    assert "s3cret" not in str(refused.value)
    await one.aclose()


@pytest.mark.parametrize(
    "more", [{}, {"lease_id": "", "lease_duration": 60}, {"lease_id": "l", "lease_duration": None}]
)
async def test_a_dynamic_secret_without_a_lease_is_not_taken(vault: VaultServer, more: dict[str, Any]) -> None:
    vault.answers["database/creds/readonly"] = web.json_response({"data": {"password": "s3cret-value"}, **more})
    one = issuer(vault, engine="dynamic", path="database/creds/readonly")
    with pytest.raises(CredentialRefused, match="leased nothing"):
        await one.issue(Ask("a"))
    await one.aclose()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"url": "http://vault.example.org:8200"}, "https"),
        ({"url": "https://a..b:8200"}, "https"),
        ({"url": "https://user:pw@vault.example.org"}, "user"),
        ({"auth": {"method": "token", "token": "hvs.in-the-configuration"}}, "no secret stands in a configuration"),
        ({"auth": {"method": "userpass"}}, "one of token, approle, kubernetes"),
        ({"auth": None}, "auth must be"),
        ({"engine": "kv3"}, "engine must be"),
        ({"path": 3}, "path must be"),
        ({"pathh": "x"}, "no option pathh"),
        ({"cache_s": 0}, "cache_s"),
        ({"ca_file": "/nowhere.pem"}, "ca_file"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], why: str) -> None:
    options = {"url": "https://vault.example.org", "auth": {"method": "token", "token": {"env": "T"}}, "path": "a"}
    with pytest.raises(ValueError, match=why):
        Vault(options | change, {})
