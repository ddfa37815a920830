"""The envelope's words for each kind of answer, and the keys that envelopes are signed with."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from agentgate.core.approval import ApprovalId
from agentgate.core.call import Call, Door, KnownKey, SessionId, TenantId, ToolName, TraceId, key_sha256
from agentgate.core.decision import Decision, Verdict, refusal
from agentgate.core.errors import OUTAGE, ReasonCode, UnsafeConfiguration
from agentgate.core.event import Outcome
from agentgate.core.signature import SignatureKey
from agentgate.edges.caller import Callers, Keyring
from agentgate.edges.envelope import say
from agentgate.edges.problem import Problem
from agentgate.identity import known_keys
from agentgate.keyfile import add_key, key_file, read_keys
from agentgate.pipeline.calls.passage import Answer, PendingApproval
from agentgate.settings import Auth, Key, refuse_unsafe_keys
from tests.fakes import TOOL, FakeClock, principal

CALL = Call(
    TraceId("0b7c1a52-6c1f-4d55-9d2e-2f6f2d0c9a11"),
    Door.ENVELOPE,
    principal(),
    SessionId("s-1"),
    ToolName("db_query"),
    TOOL,
    {},
    {},
)
ALLOWED = refusal(ReasonCode.POLICY_ALLOW, "")._replace(verdict=Verdict.ALLOW)
PENDING = PendingApproval(ApprovalId("apr-1"), "pending", "2026-11-21T15:00:00Z", "t")
PUBLIC = base64.b64encode(bytes(range(32))).decode()


def told(answer: Answer) -> tuple[int, dict[str, str], dict[str, Any]]:
    status, headers, body = say(answer)
    return status, {name.decode(): value.decode() for name, value in headers}, json.loads(body)


def refused(reason: ReasonCode, **more: Any) -> Answer:
    decision: Decision = refusal(reason, "no")
    return Answer(CALL, decision, reason, "Policy denied: no", **more)


def test_an_answer_is_the_seeds_with_our_reason() -> None:
    answer = Answer(CALL, ALLOWED, ReasonCode.OK, result_json=b'{"n":1}', outcome=Outcome.OK)
    status, headers, body = told(answer)
    assert (status, headers) == (200, {"content-type": "application/json"})
    assert body == {"success": True, "result": {"n": 1}, "audit_id": CALL.trace_id, "reason_code": "ok"}
    _, headers, again = told(replace(answer, is_replayed=True))
    assert (headers["idempotency-replayed"], again) == ("true", body)


def test_what_waits_is_named() -> None:
    _, _, body = told(refused(ReasonCode.APPROVAL_REQUIRED, approval=PENDING))
    assert list(body) == ["success", "status", "error", "audit_id", "reason_code", "approval_id", "approval"]
    assert (body["status"], body["approval_id"], body["error"]) == (
        "pending_approval",
        "apr-1",
        "Human approval required",
    )


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (refused(ReasonCode.POLICY_DENY), "denied"),
        (refused(ReasonCode.RATE_LIMITED, retry_after_s=7), "denied"),
        (Answer(CALL, ALLOWED, ReasonCode.UPSTREAM_ERROR, "it broke", outcome=Outcome.ERROR), "failed"),
        (Answer(CALL, ALLOWED, ReasonCode.KILLED, "STOPPED", outcome=Outcome.CANCELLED), "failed"),
    ],
)
def test_a_refusal_is_told_from_a_failure(answer: Answer, word: str) -> None:
    status, headers, body = told(answer)
    assert (status, body["success"], body["status"], body["error"]) == (200, False, word, answer.error)
    assert headers.get("retry-after") == (str(answer.retry_after_s) if answer.retry_after_s else None)


@pytest.mark.parametrize("reason", sorted(OUTAGE))
def test_an_outage_is_a_problem_to_come_back_from(reason: ReasonCode) -> None:
    status, headers, body = told(refused(reason))
    assert (status, body["status"], headers["content-type"]) == (503, 503, "application/problem+json")
    assert (headers["retry-after"], body["success"], body["reason_code"]) == ("1", False, reason)
    assert body["audit_id"] == CALL.trace_id


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (ReasonCode.IDEMPOTENCY_MISMATCH, 422),
        (ReasonCode.IDEMPOTENCY_IN_PROGRESS, 409),
        (ReasonCode.IDEMPOTENCY_FORGOTTEN, 409),
        (ReasonCode.TOO_MANY_REFUSALS, 429),
        (ReasonCode.FORBIDDEN, 403),
    ],
)
def test_what_is_wrong_with_the_envelope_is_a_problem(reason: ReasonCode, status: int) -> None:
    said, _, body = told(refused(reason))
    assert (said, body["status"], body["reason_code"]) == (status, status, reason)


def test_arguments_that_were_edited_are_told() -> None:
    edited = replace(PENDING, state="spent", arguments={"n": 2})
    _, _, body = told(Answer(CALL, ALLOWED, ReasonCode.OK, result_json=b"1", outcome=Outcome.OK, edited=edited))
    assert (body["result"], body["approval"]["edited"], body["approval"]["arguments"]) == (1, True, {"n": 2})


# --- keys to sign with ---

CLOCK = FakeClock()
SIGNER = replace(principal(), auth_method="signature", key_id="k-sign")


def signing(**more: Any) -> KnownKey:
    return replace(KnownKey("", SIGNER, signature=SignatureKey("ed25519", bytes(32))), **more)


def ring(*keys: KnownKey) -> Keyring:
    return Keyring(keys, admin_key="agk_admin-key-of-the-test", now=CLOCK.now)


def test_a_signing_key_is_found_by_its_id_and_sent_by_nobody() -> None:
    keyring = ring(signing())
    assert keyring.signing("k-sign") == signing()
    assert keyring.has_signing_keys
    assert keyring.has_agent_keys
    for secret in ("", "k-sign"):
        assert keyring.principal(secret) is None


@pytest.mark.parametrize("more", [{"disabled": True}, {"expires": CLOCK.now()}], ids=["disabled", "expired"])
def test_one_that_is_over_counts_no_more_but_opens_nothing_either(more: dict[str, Any]) -> None:
    keyring = ring(signing(**more))
    callers = Callers(keyring)
    assert keyring.signing("k-sign") is None
    assert not callers.still_knows(SIGNER), "what was approved for it is not made"
    keyring.replace(())
    assert keyring.has_signing_keys
    assert not callers.takes_local


def test_its_agent_is_known_for_as_long_as_it_counts() -> None:
    callers = Callers(ring(signing(expires=CLOCK.now() + timedelta(seconds=1))))
    assert callers.still_knows(SIGNER)
    assert not callers.still_knows(replace(SIGNER, tenant=TenantId("other")))


async def test_a_key_beside_a_signature_must_be_the_same_agents() -> None:
    callers = Callers(ring(signing(), KnownKey(key_sha256("agk_own"), principal())))
    await callers.agree(SIGNER, {}, None)
    await callers.agree(SIGNER, {b"x-api-key": b"agk_own"}, None)
    with pytest.raises(Problem) as wrong:
        await callers.agree(SIGNER, {b"x-api-key": b"agk_wrong"}, None)
    assert (wrong.value.status, wrong.value.reason) == (401, ReasonCode.INVALID_KEY)
    with pytest.raises(Problem) as admins:
        await callers.agree(SIGNER, {b"x-api-key": b"agk_admin-key-of-the-test"}, None)
    assert (admins.value.status, admins.value.reason) == (403, ReasonCode.FORBIDDEN)


def _key(**more: Any) -> Key:
    return Key.model_validate({"id": "k-1", "agent": "bot", **more})


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"sha256": "0" * 64, "signature": {"ed25519": PUBLIC}},
        {"signature": {}},
        {"signature": {"ed25519": PUBLIC, "hmac": {"env": "A"}}},
        {"signature": {"hmac": "written down"}},
        {"signature": {"ed25519": PUBLIC}, "roles": ["agent", "approver"]},
        {"signature": {"ed25519": PUBLIC}, "agent": None, "person": "ada"},
    ],
    ids=str,
)
def test_keys_that_are_not_taken(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _key(**wrong)


@pytest.mark.parametrize(
    "material", ["", "AAAA", "no base64!", PUBLIC + "AAAA", {"file": "/nowhere.pem"}, "A" * 43 + "="]
)
def test_a_public_key_that_is_none_does_not_start(material: Any) -> None:
    """The last is 32 zeros: a point of small order, for which anybody makes signatures."""
    with pytest.raises(UnsafeConfiguration, match="the key k-1: signature.ed25519"):
        known_keys([_key(signature={"ed25519": material})])


def test_a_public_key_of_another_kind_does_not_start(tmp_path: Path) -> None:
    pem = tmp_path / "p256.pem"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    pem.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(UnsafeConfiguration, match="no Ed25519 public key"):
        known_keys([_key(signature={"ed25519": {"file": str(pem)}})])


@pytest.mark.parametrize("secret", ["", "short", "a" * 64])
def test_a_secret_that_can_be_guessed_does_not_start(tmp_path: Path, secret: str) -> None:
    path = tmp_path / "secret"
    path.touch(0o600)
    path.write_text(secret)
    with pytest.raises(UnsafeConfiguration, match="too easy to guess"):
        known_keys([_key(signature={"hmac": {"file": str(path)}})])


def test_two_keys_are_not_one() -> None:
    keys = tuple(
        Key.model_validate({"id": key_id, "agent": "bot", "signature": {"ed25519": PUBLIC}}) for key_id in ("a", "b")
    )
    with pytest.raises(UnsafeConfiguration, match="the same key"):
        refuse_unsafe_keys(Auth(keys=keys))


def test_the_key_file_has_none(tmp_path: Path) -> None:
    path = key_file(tmp_path)
    add_key(path, _key(signature={"ed25519": PUBLIC}))
    with pytest.raises(UnsafeConfiguration, match="belong into the configuration"):
        read_keys(path)
