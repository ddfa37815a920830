"""The credential kind `aws_sts`, against moto's server, and against answers that STS does not give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web

from agentgate.adapters.credentials.aws_sts import AwsSts
from agentgate.pipeline.credentials.broker import Broker
from agentgate.ports.credentials import Ask, CredentialRefused
from tests.contracts.credential_source import CredentialSourceContract, broker_of
from tests.fakes import a_call, principal

ENVIRON = {"KEY_ID": "AKIAIOSFODNN7EXAMPLE", "SECRET": "of-the-gateway", "EMPTY": ""}
ROLE = "arn:aws:iam::123456789012:role/tickets"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """The address of a moto server."""
    command = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    url = ""
    while not url and (line := process.stderr.readline()):
        _, found, rest = line.partition("Running on ")
        url = rest.strip() if found else ""
    assert url, "moto did not start"
    yield url
    process.terminate()
    process.wait(10)
    process.stderr.close()


def role(address: str, **more: Any) -> AwsSts:
    options = {
        "role_arn": ROLE,
        "region": "eu-west-1",
        "url": address,
        "access_key_id": {"env": "KEY_ID"},
        "secret_access_key": {"env": "SECRET"},
    }
    return AwsSts(options | more, ENVIRON)


class TestAwsSts(CredentialSourceContract):
    SECRET = None

    @pytest.fixture
    async def source(self, moto: str) -> AsyncIterator[Broker]:
        broker = broker_of({"known": role(moto), "empty": role(moto, secret_access_key={"env": "EMPTY"})})
        yield broker
        await broker.aclose()


async def test_all_three_of_the_keys_are_kept_out_of_answers(moto: str) -> None:
    issuer = role(moto)
    issued = await issuer.issue(Ask("a", "read", 60, a_call()))
    await issuer.aclose()
    assert set(issued.credential.values) == {"access_key_id", "secret_access_key", "session_token"}
    assert set(issued.credential.secrets) == set(issued.credential.values.values())
    assert issued.revocation is None, "STS takes nothing back"
    assert 800 < issued.expires_in_s <= 900, "the shortest that STS gives"


async def test_the_temporary_keys_are_those_of_the_role(moto: str) -> None:
    issuer = role(moto)
    issued = await issuer.issue(Ask("a", "read", None, a_call(session="s-7")))
    await issuer.aclose()
    import boto3  # heavy, and moto's

    keys = issued.credential.values
    client = boto3.client(
        "sts",
        region_name="eu-west-1",
        endpoint_url=moto,
        aws_access_key_id=keys["access_key_id"],
        aws_secret_access_key=keys["secret_access_key"],
        aws_session_token=keys["session_token"],
    )
    assert client.get_caller_identity()["Arn"] == "arn:aws:sts::123456789012:assumed-role/tickets/bot@s-7"


async def test_each_session_has_keys_of_its_own(moto: str) -> None:
    broker = broker_of({"a": role(moto)})
    given = set()
    for session in ("s-1", "s-2", "s-1"):
        credential = await broker.credential("a", scope="read", ttl_s=None, call=a_call(session=session))
        assert credential is not None
        given.add(credential.secret)
    assert len(given) == 2
    await broker.aclose()


class Sts:
    """Keeps what it is asked, and answers as it is told."""

    def __init__(self) -> None:
        self.forms: list[dict[str, str]] = []
        self.headers: list[dict[str, str]] = []
        self.status, self.body = 200, b""

    async def answer(self, request: web.Request) -> web.Response:
        self.forms.append({name: value for name, (value, *_) in parse_qs(await request.text()).items()})
        self.headers.append(dict(request.headers))
        return web.Response(status=self.status, body=self.body, content_type="text/xml")


def assumed(expiration: str = "2999-01-01T00:00:00Z", secret: str = "s3cret-value", before: str = "") -> bytes:
    return (
        f"{before}<AssumeRoleResponse xmlns='https://sts.amazonaws.com/doc/2011-06-15/'><AssumeRoleResult><Credentials>"
        f"<AccessKeyId>ASIAEXAMPLE</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>"
        f"<SessionToken>tok-en</SessionToken><Expiration>{expiration}</Expiration></Credentials></AssumeRoleResult>"
        "</AssumeRoleResponse>"
    ).encode()


@pytest.fixture
async def sts() -> AsyncIterator[tuple[Sts, str]]:
    one = Sts()
    one.body = assumed()
    app = web.Application()
    app.router.add_post("/", one.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield one, f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def test_the_session_policy_is_that_of_the_decisions_scope(sts: tuple[Sts, str]) -> None:
    server, url = sts
    issuer = role(url, policies={"read": POLICY}, external_id="x-1", tags=True)
    await issuer.issue(Ask("a", "read", 1800, a_call(session="s:7", caller=principal("deploy bot!", tenant="t-1"))))
    with pytest.raises(CredentialRefused, match="nothing is configured for the scope 'write'"):
        await issuer.issue(Ask("a", "write", 1800, a_call()))
    await issuer.aclose()
    (form,) = server.forms
    assert json.loads(form.pop("Policy")) == POLICY
    assert form == {
        "Action": "AssumeRole",
        "Version": "2011-06-15",
        "RoleArn": ROLE,
        "RoleSessionName": "deploy-bot-@s-7",
        "DurationSeconds": "1800",
        "ExternalId": "x-1",
        "Tags.member.1.Key": "agentgate:agent",
        "Tags.member.1.Value": "deploy bot_",
        "Tags.member.2.Key": "agentgate:session",
        "Tags.member.2.Value": "s:7",
        "Tags.member.3.Key": "agentgate:tenant",
        "Tags.member.3.Value": "t-1",
    }
    assert server.headers[0]["Authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/")
    assert "of-the-gateway" not in str(server.headers)


@pytest.mark.parametrize(("ttl_s", "asked"), [(60, "900"), (1000, "1000"), (None, "3600"), (86_400, "3600")])
async def test_the_lifetime_is_policys_as_far_as_sts_has_it(
    sts: tuple[Sts, str], ttl_s: int | None, asked: str
) -> None:
    server, url = sts
    issuer = role(url)
    await issuer.issue(Ask("a", "read", ttl_s, a_call()))
    await issuer.aclose()
    assert server.forms[0]["DurationSeconds"] == asked


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (
            403,
            b"<E><Error><Code>AccessDenied</Code><Message>s3cret-value</Message></Error></E>",
            r"403 \(AccessDenied\)$",
        ),
        (400, b"<E><Error><Code>s3cret-value no code</Code></Error></E>", r"400$"),
        (500, b"s3cret-value", "no XML"),
        (200, b"{}", "no XML"),
        (200, assumed(secret=""), "all three"),
        (200, assumed(expiration="tomorrow"), "when the keys expire"),
        (200, assumed(before="<!DOCTYPE a [<!ENTITY b 'c'>]>"), "declarations"),
        (200, assumed(before="<!DOCTYPE a [<!ENTITY b 'c'>]>").decode().encode("utf-16"), "no XML"),
        (200, b"<a>" * 100_000, "answered"),
    ],
)
async def test_an_answer_that_is_none_is_refused_and_not_quoted(
    sts: tuple[Sts, str], status: int, body: bytes, why: str
) -> None:
    server, url = sts
    server.status, server.body = status, body
    issuer = role(url)
    with pytest.raises(CredentialRefused, match=why) as refused:
        await issuer.issue(Ask("a", "read", None, a_call()))
    assert "s3cret" not in str(refused.value)
    await issuer.aclose()


async def test_keys_that_have_expired_are_not_given(sts: tuple[Sts, str]) -> None:
    server, url = sts
    server.body = assumed(expiration="2001-01-01T00:00:00Z")
    broker = broker_of({"a": role(url)})
    assert await broker.credential("a", scope="read", ttl_s=None, call=a_call()) is None
    await broker.aclose()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"policies": {"read": "{}"}}, "policies.read"),
        ({"policies": {}}, "policies"),
        ({"policy": {"Version": "2012-10-17"}}, "policy must be"),
        ({"duration_s": 60}, "at least 900"),
        ({"url": "http://sts.example.org"}, "https"),
        ({"secret_access_key": "x"}, "no secret stands in a configuration"),
        ({"tags": "yes"}, "tags"),
    ],
)
def test_a_wrong_setting_is_named(change: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        role("https://sts.example.org", **change)
