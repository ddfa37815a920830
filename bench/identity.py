"""What it costs to know who calls: a keyless gateway, and those that look up a key, a token or a certificate.

The hot path is measured by itself too, in one process: a ratio of throughputs cannot show a microsecond.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from agentgate import settings
from agentgate.adapters.ambient.system import SystemClock
from agentgate.adapters.meters.prometheus import PrometheusMeter
from agentgate.core.call import key_sha256
from agentgate.edges.caller import Callers, Keyring
from agentgate.identity import make_certificates, make_tokens
from bench import services
from bench.subject import Subject, interleave
from tests.token_issuer import public_jwk, sign

CONNECTIONS = 32
MOST = 0.10
"""The issue's: key lookup and cached verification may cost so much of a keyless gateway."""
KEY = "agk_a-key-of-the-benchmark-and-of-no-value"
ISSUER = "https://login.example.org"
AUDIENCE = "https://gate.example.org/mcp"
AGENT = "spiffe://example.org/agent/bench"
CALLS = 20_000

Shown = tuple[str, str]
"""A header's name and its value."""


def measure(*, rounds: int, seconds: float) -> list[str]:
    """The section's lines."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentgate-bench-")))
        kinds = _kinds(directory)
        alone = {name: asyncio.run(_alone(auth, shown)) for name, (auth, shown) in kinds.items()}
        subjects = []
        for number, (name, (auth, shown)) in enumerate(kinds.items()):
            config = directory / f"{name}.yaml"  # JSON is YAML
            config.write_text(json.dumps({"auth": auth}), encoding="utf-8")
            server = services.gateway(directory, name, 18_040 + number, AGENTGATE_CONFIG=str(config))
            subjects.append(Subject(name, "", [stack.enter_context(server)], script_arguments=shown or ()))
        interleave(subjects, (CONNECTIONS,), rounds=rounds, seconds=seconds)
    none = subjects[0]
    lines = [
        f"{rounds} interleaved rounds of {seconds:g} s at {CONNECTIONS} connections; ratios are medians of each",
        f"round's own ratio to `none`. `alone` is the processor time of the look-up itself, of {CALLS:,} in one",
        f"process, and its share what it adds to a keyless call. To reach: at most {MOST:.0%}.",
        "",
        "| known by | calls/s | × none | CPU of the gateway for a call, µs | × none | alone, µs | of a call |",
        "|---|---|---|---|---|---|---|",
    ]
    missed = []
    for subject in subjects:
        slower, dearer = subject.ratio(none, CONNECTIONS, "rate"), subject.ratio(none, CONNECTIONS, "cpu_us")
        share = (alone[subject.name] - alone[none.name]) / none.median(CONNECTIONS, "cpu_us")
        lines.append(
            f"| {subject.name} | {subject.median(CONNECTIONS, 'rate'):,.0f} | {slower:.2f} "
            f"| {subject.median(CONNECTIONS, 'cpu_us'):.0f} | {dearer:.2f} | {alone[subject.name]:.1f} | {share:.1%} |"
        )
        if any(round_["bad"] for round_ in subject.rounds[CONNECTIONS]):
            raise SystemExit(f"bench: {subject.name} was refused")
        if share > MOST:
            missed.append(f"**Missed**: `{subject.name}` costs {share:.0%} more processor time than keyless.")
    return [*lines, *(["", *missed] if missed else [])]


def _kinds(directory: Path) -> dict[str, tuple[dict[str, Any], Shown | None]]:
    """Settings of `auth`, and what the caller shows."""
    token_key, jwks = ec.generate_private_key(ec.SECP256R1()), directory / "jwks.json"
    jwks.write_text(json.dumps({"keys": [public_jwk(token_key, "bench")]}), encoding="utf-8")
    oauth = {"issuer": ISSUER, "audience": AUDIENCE, "jwks_file": str(jwks)}
    other = {"issuer": f"{ISSUER}/other", "audience": AUDIENCE, "jwks_file": str(jwks)}
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "client_id": "bench", "sub": "bench", "iat": now, "exp": now + 86_400}
    token = sign(token_key, "ES256", {"typ": "at+jwt", "alg": "ES256", "kid": "bench"}, claims)
    bearer = ("Authorization", f"Bearer {token}")
    entry = {"uri": "spiffe://example.org/agent/*", "agent": "*"}
    mtls = {"header": "Client-Cert", "proxies": ["127.0.0.0/8"], "map": [entry]}
    keys = [{"id": f"k-{n}", "sha256": key_sha256(f"{KEY}-{n}"), "agent": f"bot-{n}"} for n in range(1000)]
    return {
        "none": ({}, None),
        "key": ({"keys": keys}, ("X-API-Key", f"{KEY}-7")),
        "token": ({"oauth": oauth}, bearer),
        "token of two issuers": ({"oauth": [oauth, other]}, bearer),
        "certificate": ({"mtls": mtls}, ("Client-Cert", _client_cert())),
    }


def _client_cert() -> str:
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(AGENT)])
    made = (
        x509.CertificateBuilder(x509.Name([]), x509.Name([]), key.public_key(), 7, now, now + timedelta(days=1))
        .add_extension(names, critical=True)
        .sign(key, hashes.SHA256())
    )
    return f":{base64.b64encode(made.public_bytes(Encoding.DER)).decode()}:"


async def _alone(auth: Mapping[str, Any], shown: Shown | None) -> float:
    """Microseconds of processor time that the doors' look-up takes, as a median of ten runs."""
    config = settings.load({}, overrides={"auth": auth})
    clock = SystemClock()
    keyring = Keyring([key.known() for key in config.auth.keys], admin_key="bench-admin", now=clock.now)
    tokens = make_tokens(config, clock, PrometheusMeter({}))
    callers = Callers(keyring, tokens, make_certificates(config, clock))
    headers = {shown[0].lower().encode(): shown[1].encode()} if shown is not None else {}
    runs = []
    for _ in range(10):
        began = time.thread_time()
        for _ in range(CALLS // 10):
            await callers.caller(headers, "127.0.0.1")
        runs.append((time.thread_time() - began) / (CALLS // 10) * 1e6)
    if tokens is not None:
        await tokens.verifier.aclose()
    return statistics.median(runs)
