"""Credential kind `aws_sts`: temporary keys of an AWS role (STS AssumeRole), narrowed by a session policy."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlencode, urlsplit
from xml.etree import ElementTree as ET

from awscrt.auth import AwsCredentialsProvider, AwsSigningConfig, aws_sign_request
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest

from agentgate.adapters.credentials._client import Client
from agentgate.adapters.credentials._options import Options, scoped
from agentgate.core.call import Call
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Serves
from agentgate.ports.upstreams import Credential

_LEAST_S: Final = 900
"""STS gives nothing shorter. For a shorter `credential_ttl` the rest of the time is not used by us."""
_NOT_NAME: Final = re.compile(r"[^A-Za-z0-9+=,.@-]")
_NOT_TAG: Final = re.compile(r"[^A-Za-z0-9 +=.:/@_-]")
_CODE: Final = re.compile(r"[A-Za-z]{1,64}")


class AwsSts:
    """Implements `Issuer`. The session is named after agent and session, and may bear them as tags. What STS has given
    cannot be taken back; it is only used no more.

    `values` are `access_key_id`, `secret_access_key`, `session_token`; the most secret one is the second.
    """

    serves = Serves.SESSION

    def __init__(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """`role_arn`, `region`, `access_key_id` and `secret_access_key` (each `{env | file}`), and where wanted
        `session_token`, `external_id`, `duration_s` (3600), `policy` or `policies` (session policies by
        `allowed_scope`), `tags` (false), `url`, `ca_file`.

        Raises:
            ValueError: with a sentence.
        """
        read = Options(options, environ)
        self._role = read.text("role_arn")
        self._region = read.text("region")
        self._url = read.maybe_url("url") or f"https://sts.{self._region}.amazonaws.com"
        self._key = read.secret("access_key_id"), read.secret("secret_access_key")
        self._token = read.maybe_secret("session_token")
        self._external_id = read.maybe_text("external_id")
        self._duration_s = int(read.seconds("duration_s", 3600.0, most=43_200.0))
        plain, by_scope = read.value("policy"), read.value("policies")
        self._policy = _policy("policy", plain) if plain is not None else None
        if by_scope is not None and (not isinstance(by_scope, Mapping) or not by_scope):
            raise ValueError("policies must be session policies by the allowed_scope of a decision")
        named = {str(scope): _policy(f"policies.{scope}", one) for scope, one in (by_scope or {}).items()}
        self._policies = named or None
        self._tags = read.flag("tags")
        self._client = Client(read.maybe_text("ca_file"))
        read.end()
        if self._duration_s < _LEAST_S:
            raise ValueError(f"duration_s must be at least {_LEAST_S}: STS gives nothing shorter")

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        duration_s = min(max(ask.ttl_s or self._duration_s, _LEAST_S), self._duration_s)
        form = {
            "Action": "AssumeRole",
            "Version": "2011-06-15",
            "RoleArn": self._role,
            "RoleSessionName": _session_name(ask.call),
            "DurationSeconds": str(duration_s),
        }
        policy = scoped(self._policies, self._policy, ask.scope)
        if policy is not None:
            form["Policy"] = policy
        if self._external_id is not None:
            form["ExternalId"] = self._external_id
        if self._tags and ask.call is not None:
            form |= _tags(ask.call)
        body = urlencode(form).encode()
        status, raw = await self._client.send("POST", f"{self._url}/", headers=self._signed(body), body=body)
        return _read(ask.alias, status, raw)

    async def revoke(self, issued: Issued) -> None:
        raise CredentialRefused("what STS has given cannot be taken back")

    async def aclose(self) -> None:
        await self._client.aclose()

    def _signed(self, body: bytes) -> dict[str, str]:
        """The request's headers with a SigV4 signature."""
        key_id, secret = (part.read() for part in self._key)
        token = self._token.read() if self._token is not None else None
        provider = AwsCredentialsProvider.new_static(key_id, secret, token)
        wanted = [("Host", urlsplit(self._url).netloc), ("Content-Type", "application/x-www-form-urlencoded")]
        request = HttpRequest("POST", "/", HttpHeaders(wanted), io.BytesIO(body))
        config = AwsSigningConfig(credentials_provider=provider, region=self._region, service="sts")
        try:
            return dict(aws_sign_request(request, config).result(1).headers)
        except (AwsCrtError, TimeoutError) as error:
            raise CredentialRefused(f"the request to STS could not be signed ({type(error).__name__})") from None


def _policy(name: str, said: Any) -> str:
    if isinstance(said, Mapping) and "Statement" in said:
        return json.dumps(said, separators=(",", ":"), default=str)
    raise ValueError(f"{name} must be an IAM policy, with Version and Statement")


def _session_name(call: Call | None) -> str:
    """STS takes 2 to 64 of a few characters; CloudTrail shows it."""
    if call is None:
        return "agentgate"
    return _NOT_NAME.sub("-", f"{call.agent[:31]}@{call.session[:32]}")[:64].ljust(2, "-")


def _tags(call: Call) -> dict[str, str]:
    told = {"agentgate:agent": call.agent, "agentgate:session": call.session, "agentgate:tenant": call.tenant}
    form = {}
    for number, (name, value) in enumerate(told.items(), 1):
        form[f"Tags.member.{number}.Key"] = name
        form[f"Tags.member.{number}.Value"] = _NOT_TAG.sub("_", value)[:256]
    return form


def _read(alias: str, status: int, raw: bytes) -> Issued:
    """Raises CredentialRefused."""
    try:
        text = raw.decode()  # as text: in UTF-16, or in what a document calls its encoding, a declaration could hide
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise CredentialRefused("its source answered XML with declarations of its own")
        found = {part.tag.rpartition("}")[2]: part.text or "" for part in ET.fromstring(text).iter()}  # noqa: S314 - as above
    except (ET.ParseError, UnicodeDecodeError):
        raise CredentialRefused(f"its source answered {status}, and no XML") from None
    if status != 200:
        code = found.get("Code", "")
        said = f" ({code})" if _CODE.fullmatch(code) else ""
        raise CredentialRefused(f"its source answered {status}{said}")
    values = {
        "access_key_id": found.get("AccessKeyId", ""),
        "secret_access_key": found.get("SecretAccessKey", ""),
        "session_token": found.get("SessionToken", ""),
    }
    if not all(values.values()):
        raise CredentialRefused("its source answered without all three of the temporary keys")
    try:
        ends = datetime.fromisoformat(found.get("Expiration", ""))
    except ValueError:
        raise CredentialRefused("its source does not say when the keys expire") from None
    left_s = (ends.replace(tzinfo=ends.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return Issued(Credential(alias, values["secret_access_key"], values), left_s)
