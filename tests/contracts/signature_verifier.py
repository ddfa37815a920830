"""What everything promises that checks signed requests (ports.SignatureVerifier)."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

import http_sf
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from agentgate.core.errors import ReasonCode
from agentgate.core.signature import NotSigned, SignatureKey
from agentgate.ports.identity import SignatureVerifier, SignedRequest
from tests.signing import COVERED, Envelope

NOW = 1_800_000_000
URL = "http://gate.example/api/tools/call"
ALL = ("@method", "@target-uri", "@authority", "@path", "content-digest", "content-type", "x-anything")

_often = settings(
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.function_scoped_fixture], max_examples=150
)


def request_of(envelope: Envelope) -> SignedRequest:
    fields = [("host", urlsplit(envelope.url).netloc), *envelope.headers().items()]
    return SignedRequest(envelope.method, envelope.url, fields, envelope.body)


class SignatureVerifierContract:
    """Subclasses give fixtures: `verifier`, whose clock says `NOW` and whose window is 60 s; `key`, and `signed`, an
    envelope that the holder of `key` (its id is `k-1`) signs, made at `NOW`."""

    def test_a_good_signature_names_its_key(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope
    ) -> None:
        assert verifier.signer(request_of(signed), {"k-1": key}.get) == "k-1"

    def test_an_unknown_key_and_another_ones_are_refused(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope
    ) -> None:
        other = replace(key, material=bytes(31) + b"\x01")
        for there in (None, other):
            found = verifier.signer(request_of(signed), {"k-1": there}.get)
            assert isinstance(found, NotSigned)
            assert found.reason is ReasonCode.SIGNATURE_INVALID

    @pytest.mark.parametrize("seconds", [-60, -1, 0, 1, 60])
    def test_inside_of_the_window(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope, seconds: int
    ) -> None:
        signed.parameters["created"] = NOW + seconds
        assert verifier.signer(request_of(signed), {"k-1": key}.get) == "k-1"

    @pytest.mark.parametrize(
        "times",
        [{"created": NOW - 61}, {"created": NOW + 61}, {"created": 0}, {"expires": NOW}, {"expires": NOW - 9}],
        ids=str,
    )
    def test_outside_of_it(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope, times: dict[str, int]
    ) -> None:
        signed.parameters |= times
        found = verifier.signer(request_of(signed), {"k-1": key}.get)
        assert isinstance(found, NotSigned)
        assert found.reason is ReasonCode.SIGNATURE_EXPIRED

    @_often
    @given(data=st.data(), components=st.permutations(ALL))
    def test_any_change_of_what_is_covered_breaks_it(
        self,
        verifier: SignatureVerifier,
        key: SignatureKey,
        signed: Envelope,
        data: st.DataObject,
        components: list[str],
    ) -> None:
        made = replace(signed, components=tuple(components), fields={"x-anything": "some, value"})
        good = request_of(made)
        assert verifier.signer(good, {"k-1": key}.get) == "k-1"
        changed = data.draw(st.sampled_from(["method", "url", "body", "field"]))
        text = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)
        if changed == "method":
            other = replace(good, method=data.draw(st.sampled_from(["PUT", "GET", "post", "POST "])))
        elif changed == "url":
            other = replace(good, url=_changed(good.url, data, "abz/.:?%@"))
        elif changed == "body":
            other = replace(good, body=data.draw(st.binary(max_size=60).filter(lambda body: body != good.body)))
        else:
            at = data.draw(st.sampled_from(range(1, len(good.fields))))  # Host is covered as @authority
            name, value = good.fields[at]
            said = data.draw(text.filter(lambda said: said != value))
            other = replace(good, fields=[*good.fields[:at], (name, said), *good.fields[at + 1 :]])
        assume(other != good)
        assert isinstance(verifier.signer(other, {"k-1": key}.get), NotSigned)

    @pytest.mark.parametrize("user", ["@", "ada@", "ada:secret@"])
    def test_an_address_that_names_a_user_is_refused(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope, user: str
    ) -> None:
        good = request_of(signed)
        other = replace(good, url=good.url.replace("://", f"://{user}"))
        assert isinstance(verifier.signer(other, {"k-1": key}.get), NotSigned)

    @_often
    @given(data=st.data())
    def test_nothing_that_the_signature_says_can_be_changed(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope, data: st.DataObject
    ) -> None:
        good = request_of(signed)
        fields = dict(good.fields)
        name = data.draw(st.sampled_from(["signature", "signature-input"]))
        said = _changed(fields[name], data, 'AaZz09+/=:;"() @-')
        assume(said.strip() != fields[name])
        found = verifier.signer(replace(good, fields=[*(fields | {name: said}).items()]), {"k-1": key}.get)
        assert isinstance(found, NotSigned) or _means_the_same(said, fields[name])

    @_often
    @given(
        values=st.fixed_dictionaries(
            {name: st.text(max_size=60) for name in ("signature", "signature-input", "content-digest")}
        )
    )
    def test_anything_else_is_refused(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope, values: dict[str, str]
    ) -> None:
        good = request_of(signed)
        other = replace(good, fields=[*(dict(good.fields) | values).items()])
        assert isinstance(verifier.signer(other, {"k-1": key}.get), NotSigned)

    def test_what_is_told_of_a_refusal_holds_nothing_of_the_request(
        self, verifier: SignatureVerifier, key: SignatureKey, signed: Envelope
    ) -> None:
        for made in (
            replace(signed, key_id="secret-name"),
            replace(signed, components=(*COVERED, "secret-name")),
            replace(signed, parameters={"secret-name": "x"} | signed.parameters),
            replace(signed, label="secret-name", components=("@method",)),
        ):
            made.fields = {"secret-name": "v"}
            request = request_of(made)
            lacking = [field for field in request.fields if field[0] != "secret-name"]
            found = verifier.signer(replace(request, fields=lacking), {"k-1": key}.get)
            assert isinstance(found, NotSigned)
            assert "secret-name" not in found.detail


def _changed(text: str, data: st.DataObject, alphabet: str) -> str:
    at = data.draw(st.integers(0, len(text) - 1))
    sign = data.draw(st.sampled_from(["", *alphabet]))
    return text[:at] + sign + text[at + data.draw(st.integers(0, 1)) :]


def _means_the_same(said: str, was: str) -> bool:
    """Whether both are the same to a reader of structured fields: spaces, zeros before a number, unused bits of base64.
    RFC 9421 §2.3 signs what such a reader would write."""
    return bool(http_sf.parse(said.encode(), tltype="dictionary") == http_sf.parse(was.encode(), tltype="dictionary"))
