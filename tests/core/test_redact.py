"""Secrets and personal data are out before anything is written, and no text makes that slow (A33, A44-A46)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentgate.core.redact import MARK, redact, redact_json, redact_text, scrub
from agentgate.core.strict_json import canonical, parse
from tests.core.strategies import OBJECTS, TEXT

PEM = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nMIIEow{}\n-----END RSA PRIVATE KEY-----"

SHAPED = {
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJDQU5BUlkifQ.c2lnbmF0dXJl",
    "jwt without signature": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJDQU5BUlkifQ.",
    "aws": "AKIACANARY0123456789",
    "aws session": "ASIACANARY0123456789",
    "github": "ghp_CANARY0123456789abcdefghijklmnopqr",
    "github fine grained": "github_pat_CANARY0123456789_abcdefghij",
    "gitlab": "glpat-CANARY0123456789abcd",
    "openai": "sk-CANARY0123456789abcdef",
    "anthropic": "sk-ant-api03-CANARY0123456789",
    "slack": "xoxb-CANARY-0123456789",
    "google": "AIzaCANARY0123456789abcdefghijklmnopqrs",
    "own key": "agk_CANARY0123456789abcdef",
    "own approval": "apt_0123456789abcdef0123",
    "ssn": "123-45-6789",
    "email": "canary.person+tag@mail.example.org",
    "card": "4111111111111111",
    "card with blanks": "4111 1111 1111 1111",
    "card with dashes": "5500-0000-0000-0004",
    "amex": "378282246310005",
    "card and its date": "4111 1111 1111 1111 12",
    "pem": PEM.format("CANARY"),
    "ec pem": "-----BEGIN EC PRIVATE KEY-----MHcCANARY-----END EC PRIVATE KEY-----",
    "cut pem": "-----BEGIN PRIVATE KEY-----\nMIICANARY",
    "fullwidth card": "".join(chr(0xFF10 + int(digit)) for digit in "4111111111111111"),
    "arabic ssn": "".join(chr(0x660 + int(c)) if c.isdigit() else c for c in "123-45-6789"),
}
"""Recognised wherever they stand."""

SECRET_NAMES = [
    "password", "Password", "PASSWORD", "passwd", "passphrase", "passcode", "pwd", "user_password", "db.password",
    "userPassword", "secret", "client_secret", "clientSecret", "token", "access_token", "accessToken", "refresh-token",
    "api_key", "apiKey", "api-key", "apikey", "X-API-Key", "private_key", "privateKey", "access_key", "signing_key",
    "authorization", "Authorization", "Proxy-Authorization", "credential", "credentials", "cookie", "Set-Cookie",
    "session_key", "bearer", "ssn", "cvv", "cvc", "iban", "tokens", "secrets", "passwords", "aws_secret_access_key",
    "\u212aeys_token", "pa\u017f\u017fword",
]  # fmt: skip

PLACES: dict[str, Callable[[str], object]] = {
    "value": lambda text: {"note": text},
    "middle of a text": lambda text: {"note": f"please use {text} for this"},
    "list": lambda text: {"rows": [[1, {"x": [text]}]]},
    "key": lambda text: {text: 1},
    "sql literal": lambda text: {"query": f"INSERT INTO t VALUES ('{text}', 1)"},
    "nested json": lambda text: {"payload": orjson.dumps({"note": text}).decode()},
    "nested twice": lambda text: {"payload": orjson.dumps({"p": orjson.dumps({"n": text}).decode()}).decode()},
    "header": lambda text: {"headers": f"X-Thing: {text}\r\nAccept: */*"},
    "url": lambda text: {"url": f"https://example.org/x?note={text}&y=1"},
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", SHAPED)
def test_canary_of_each_kind_is_redacted_in_each_place(kind: str, place: str) -> None:
    canary = SHAPED[kind]
    raw = canonical(PLACES[place](canary))
    clean = redact_json(raw).decode()
    assert MARK in clean
    assert canary not in clean
    assert "CANARY" not in clean
    parse(clean.encode())


@pytest.mark.parametrize("name", SECRET_NAMES)
@pytest.mark.parametrize(
    "value", ["hunter2", "correct horse battery", ["hunter2"], {"x": "hunter2"}, 90210, "", "é" * 3], ids=repr
)
def test_member_with_a_secret_name_is_redacted_whatever_it_holds(name: str, value: object) -> None:
    assert parse(redact_json(canonical({"deep": [{name: value}]}))) == {"deep": [{name: MARK}]}


@pytest.mark.parametrize(
    "name", ["token_count", "author", "monkey", "key", "compass", "bypass", "keyboard", "passenger"]
)
def test_count_or_flag_is_not_a_secret(name: str) -> None:
    for value in (True, None, 1.5):
        raw = canonical({name: value})
        assert redact_json(raw) == raw


@pytest.mark.parametrize(
    "text",
    [
        "password = 'CANARY'",
        "password='CANARY'",
        'password="CANARY"',
        "password := CANARY",
        "password != 'CANARY'",
        "password <> 'CANARY'",
        "UPDATE t SET password = 'CANARY with blanks', x = 1",
        "WHERE password = 'it''s CANARY'",
        'password = "it\'s CANARY"',
        "WHERE token LIKE 'CANARY%'",
        "the password is CANARY",
        "PWD=CANARY",
        "api_key: CANARY",
        "{'secret': 'CANARY'}",
        '{"token":"a CANARY"}',
        '{\\"token\\": \\"a CANARY\\"}',
        '{\\\\\\"token\\\\\\": \\\\\\"a CANARY\\\\\\"}',
        "?token=CANARY&x=1",
        "Authorization: Bearer CANARY",
        "authorization: Basic CANARY==",
        "Authorization: token CANARY",
        "Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=CANARY",
        "Authorization: Digest username=x, response=CANARY",
        "-H 'Authorization: Bearer CANARY'",
        "Cookie: a=b; session=CANARY; c=d",
        "Set-Cookie: sid=CANARY; Path=/",
        "postgres://user:CANARY@db.internal/x",
        "https://CANARY@example.org/",
        "pa\u017f\u017fword = CANARY",
    ],
)
def test_assigned_secret_is_redacted_whole_in_a_text(text: str) -> None:
    for raw in (canonical({"query": text}), canonical({"log": f"line before\n{text}\nline after"})):
        clean = redact_json(raw).decode()
        assert "CANARY" not in clean
        parse(clean.encode())
    assert "line after" in redact_text(f"{text}\nline after")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT name FROM orders WHERE id = 7",
        "the passenger asked for a key lime pie",
        "2026-11-21T10:00:00.000000Z",
        "version 1.22.333-4444",
        "00000000-0000-4000-8000-000000000001",
        "1234567890123456789012345",
        "password",
        "user@localhost",
        "[redacted]",
    ],
)
def test_harmless_text_stays(text: str) -> None:
    assert redact_text(text) == text


@given(OBJECTS)
@example({"note": "nothing to see"})
def test_nothing_suspect_is_the_very_same_bytes(value: dict[str, Any]) -> None:
    raw = canonical(value)
    if redact(parse(raw)) == parse(raw):
        assert redact_json(raw) is raw


SUSPICIOUS = st.sampled_from(
    [
        *SHAPED.values(),
        *SECRET_NAMES,
        "=",
        ":",
        " ",
        "'",
        '"',
        "\\",
        "is",
        "like",
        "Bearer ",
        "@",
        "://",
        "-",
        ".",
        "\n",
    ]
)
FRAGMENTS = st.lists(SUSPICIOUS | TEXT | st.from_regex(r"[0-9 -]{1,20}"), max_size=6).map("".join)


@given(st.dictionaries(FRAGMENTS, FRAGMENTS | st.lists(FRAGMENTS, max_size=2) | st.integers(0, 2**53 - 1), max_size=3))
@example({"\u212aey": "x"})
@example({"n": 4111111111111111})
@example({"n": -4111111111111111})
def test_quick_look_never_misses_what_redaction_would_change(value: dict[str, Any]) -> None:
    raw = canonical(value)
    assert redact_json(raw) == canonical(redact(parse(raw)))


@given(FRAGMENTS)
def test_redacted_text_cannot_break_a_line_of_json(text: str) -> None:
    line = redact_json(canonical({"text": text + "\r\n\x1b[31m"}))
    assert not set(line) & set(range(0x20))
    assert line.count(b"\n") == 0


SIZE = 100_000
REPEATED = (
    "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "-----BEGIN A ", "-", "eyJ", "-eyJ", "eyJaaaaaaaa.aaaa", "ghp_",
    "-ghp_", "sk-", "-sk-", "xoxb-", "AKIA", "a", "p", "pass", "password", "password=", "password='",
    "password=\"'", "password is ", "pass'''' ", "api_", "token\\", "authorization: bearer ", "cookie:", "1", "1 ",
    "12 ", "123 ", "1234 ", "1-", "123-45-", "a.", "a@", "a@a.", "://", "://a:", "'", "\\", " ", "\n", "\u212a",
    "pa\u017f", "\uff11",
)  # fmt: skip
HOSTILE = {pattern: (pattern * SIZE)[:SIZE] for pattern in REPEATED} | {
    "a…@": "a" * SIZE + "@",
    "@a…": "@" + "a" * SIZE,
    "pass …": "pass" + " " * SIZE,
    "ghp_a…_": "ghp_" + "a" * SIZE + "_",
    "eyJa…": "eyJ" + "a" * SIZE,
    "BEGIN…": "-----BEGIN PRIVATE KEY-----" + "a" * SIZE,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_of_100_kb_is_read_in_50_ms(name: str) -> None:
    text = HOSTILE[name]
    best = math.inf
    for _ in range(5):
        before = time.process_time()
        redact_text(text)
        best = min(best, time.process_time() - before)
        if best < 0.05:
            return
    raise AssertionError(f"{best * 1000:.0f} ms")


# --- scrub ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["sup3r-secret", 'quo"te\\back', "päss-wörd", "tab\there", "{}[]", "a" * 500])
def test_injected_secret_is_scrubbed_from_an_answer(secret: str) -> None:
    raw = canonical({"echo": f"you sent {secret} to me", secret: [secret]})
    clean = scrub(raw, [secret])
    assert secret not in str(parse(clean))
    assert parse(clean)["echo"] == f"you sent {MARK} to me"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=20), OBJECTS)
def test_no_answer_says_a_secret_back(secret: str, value: dict[str, Any]) -> None:
    clean = scrub(canonical({"value": value, "echo": [secret, secret + secret]}), [secret])
    if secret not in MARK:
        assert secret.encode() not in clean.replace(MARK.encode(), b"\x00")


def test_secret_that_begins_with_another_is_scrubbed_whole() -> None:
    assert scrub(b"prefix-and-more", ["prefix", "prefix-and-more"]) == MARK.encode()


def test_short_secret_does_not_turn_answers_to_nonsense() -> None:
    assert scrub(b'{"a":"abc"}', ["a", "abc", ""]) == b'{"a":"abc"}'


def test_answer_without_a_secret_stays() -> None:
    assert scrub(b'{"a":1}', ["secret"]) == b'{"a":1}'
