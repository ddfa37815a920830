"""A request signed for AWS (Signature Version 4), by AWS's own library."""

from __future__ import annotations

import io
from collections.abc import Mapping

from awscrt.auth import AwsCredentialsProvider, AwsSignedBodyHeaderType, AwsSigningConfig, aws_sign_request
from awscrt.exceptions import AwsCrtError
from awscrt.http import HttpHeaders, HttpRequest
from yarl import URL

from agentgate.adapters.upstreams._http_inject import Injection
from agentgate.ports.upstreams import Credential


def signed(
    method: str, url: URL, headers: Mapping[str, str], body: bytes | None, credential: Credential, how: Injection
) -> dict[str, str] | None:
    """The headers of the request with its signature: the session's token is among them, the keys are not. None when the
    credential has no keys of AWS, or nothing can be signed with them."""
    key_id, secret = (credential.values.get(name) for name in ("access_key_id", "secret_access_key"))
    if not key_id or not secret:
        return None
    provider = AwsCredentialsProvider.new_static(key_id, secret, credential.values.get("session_token"))
    is_s3 = how.service == "s3"
    config = AwsSigningConfig(
        credentials_provider=provider,
        region=how.region,
        service=how.service,
        # S3 takes a path as it is, and wants the body's digest in a header of its own
        use_double_uri_encode=not is_s3,
        should_normalize_uri_path=not is_s3,
        signed_body_header_type=(
            AwsSignedBodyHeaderType.X_AMZ_CONTENT_SHA_256 if is_s3 else AwsSignedBodyHeaderType.NONE
        ),
    )
    host = url.raw_host if url.is_default_port() else f"{url.raw_host}:{url.port}"
    wanted = HttpHeaders([("Host", host or ""), *headers.items()])
    request = HttpRequest(method, url.raw_path_qs, wanted, io.BytesIO(body) if body is not None else None)
    try:
        return dict(aws_sign_request(request, config).result(1).headers)
    except (AwsCrtError, TimeoutError):
        return None
