"""Secrets and personal data that the world agrees on are found wherever they stand; what only looks so is spared."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentgate.adapters.detectors._makers import PLUGINS, patterns
from agentgate.adapters.detectors.known import _FINDERS, KINDS, KnownData, compiled
from agentgate.core.redaction.redactor import Redactor
from agentgate.core.redaction.sensitive import Detector
from tests.contracts.detector import PIECES, DetectorContract
from tests.vectors.canaries import HARMLESS, SHAPED

KNOWN = KnownData()


class TestKnownData(DetectorContract):
    examples = tuple(SHAPED.values())

    @pytest.fixture
    def detector(self) -> Detector:
        return KNOWN


@pytest.mark.parametrize("name", SHAPED)
def test_each_is_of_its_class(name: str) -> None:
    found = list(KNOWN.find(SHAPED[name]))
    assert {span.kind for span in found} & {name.partition(" ")[0], "secret"}
    if name.partition(" ")[0] in KINDS:
        assert name.partition(" ")[0] in {span.kind for span in found}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_only_looks_like_it_stays_readable(name: str) -> None:
    text = HARMLESS[name]
    assert [text[span.start : span.end] for span in KNOWN.find(text)] == []
    assert Redactor(None, [KNOWN]).text(text) == text


ASSIGNED = [
    "password = 'CANARY'", "password='CANARY'", 'password="CANARY"', "password := CANARY", "password != 'CANARY'",
    "password <> 'CANARY'", "UPDATE t SET password = 'CANARY with blanks', x = 1", "WHERE password = 'it''s CANARY'",
    'password = "it\'s CANARY"', "WHERE token LIKE 'CANARY%'", "the password is CANARY", "PWD=CANARY",
    "api_key: CANARY", "{'secret': 'CANARY'}", '{"token":"a CANARY"}', '{\\"token\\": \\"a CANARY\\"}',
    '{\\\\\\"token\\\\\\": \\\\\\"a CANARY\\\\\\"}', "?token=CANARY&x=1", "Authorization: Bearer CANARY",
    "authorization: Basic CANARY==", "Authorization: token CANARY",
    "Authorization: AWS4-HMAC-SHA256 Credential=x, Signature=CANARY",
    "Authorization: Digest username=x, response=CANARY",
    "-H 'Authorization: Bearer CANARY'", "Cookie: a=b; session=CANARY; c=d", "Set-Cookie: sid=CANARY; Path=/",
    "  password             = \"CANARY\"", "password:\t\t\t\t\tCANARY", '"password"      : "CANARY"',
    "PASSWORD ?= CANARY",
    "password =\n        'CANARY'", "the password is: CANARY", "password ==== CANARY", "API Key: CANARY",
    "api.key = CANARY",
    "user[password]=CANARY", "password[]=CANARY", "form[password][first]=CANARY", "$cfg['password'] = 'CANARY';",
    "{'password': b'CANARY'}", "{'password': u'CANARY'}", "password = @\"CANARY\"", "SET PASSWORD = N'CANARY'",
    '{"password":"a\\"CANARY"}', "{'password': 'a\\'CANARY'}", '\\"password\\":\\"a\\\\\\"CANARY\\"',
    "password=[redacted]CANARY",
    "password: |\n  CANARY", "password: >-  # folded\n    CANARY\n\n    CANARY",
    f"password: |  # {'folded ' * 30}\n  CANARY", f'<input name="password" class="{"a b " * 30}" value="CANARY">',
    "- password: |2\r\n    CANARY\r\n    CANARY",
    "mysql --password CANARY", "x --db-token 'CANARY'", "-Password CANARY", "['x', '--password', 'CANARY']",
    "CREATE ROLE x PASSWORD 'CANARY'", "ALTER USER x IDENTIFIED BY 'CANARY'",
    "create user x identified with caching_sha2_password by 'CANARY'", "the password 'CANARY'",
    '{"name": "Authorization", "value": "Bearer CANARY"}', "- name: DB_PASSWORD\n  value: CANARY",
    "{'Key': 'password', 'Value': 'CANARY'}", "['name' => 'password', 'value' => 'CANARY']", "secret value := CANARY",
    '<input type="password" class="a b" value="CANARY">',
    '<wsse:Password Type="a#b">CANARY</wsse:Password>', "<password>CANARY</password>",
    'Authorization: Digest username="x", response="CANARY"', 'Authorization: OAuth realm="x", oauth_signature="CANARY"',
    "postgres://user:CANARY@db.internal/x", "https://CANARY@example.org/", "pa\u017f\u017fword = CANARY",
]  # fmt: skip


@pytest.mark.parametrize("text", ASSIGNED)
def test_assigned_secret_is_found_whole(text: str) -> None:
    redactor = Redactor(None, [KNOWN])
    assert "CANARY" not in redactor.text(text)
    assert "line after" in redactor.text(f"line before\n{text}\nline after")
    assert "CANARY" not in redactor.text(f"line before\n{text}\nline after")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("password: |\n  a\n  b\nuser: bob", "password: |\n  #\nuser: bob"),
        ("x:\n  password: >\n    a\n\n    b\n  user: bob", "x:\n  password: >\n    #\n  user: bob"),
        ('{"password":"a\\"b","user":"bob"}', '{"password":"#","user":"bob"}'),
        ("password = 'a' AND user = 'bob'", "password = '#' AND user = 'bob'"),
        ("mysql --password a --host b", "mysql --password # --host b"),
        ("user[password]=a&user[name]=b", "user[password]=#&user[name]=b"),
        ("- name: TOKEN\n  value: a\n- name: b\n  value: c", "- name: TOKEN\n  value: #\n- name: b\n  value: c"),
        ("['name' => 'password', 'value' => 'a']", "['name' => 'password', 'value' => '#']"),
        ('<input name="password" value="a" id="b">', '<input name="password" value="#" id="b">'),
        ("password=[redacted]", "password=#"),
        ("Authorization: Bearer [redacted]", "Authorization: Bearer #"),
    ],
)
def test_what_stands_beside_an_assigned_secret_stays(text: str, left: str) -> None:
    assert Redactor(None, [KNOWN]).text(text).replace("[redacted]", "#") == left


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("2026-11-22 4111111111111111", "2026-11-22 #"),
        ("4111111111111111 2026-11-22", "# 2026-11-22"),
        ("4711 4111111111111111 10", "4711 # 10"),
        ("2026-11-22 4111111111111111 10.00", "2026-11-22 # 10.00"),
        ("4111 1111 1111 1111 12 27", "# 12 27"),
        ("4111 1111 1111 1111 5555 5555 5555 4444", "# #"),
        ("2026-11-22 3782 822463 10005 12", "2026-11-22 # 12"),
        ("7 7 7 7 7 7 6304 0000 0000 0000 000 7 7 7 7 7 7", "7 7 7 7 7 7 # 7 7 7 7 7 7"),
        (
            "order 6f1c2d3e-aaaa-4bbb-8ccc-1234567890b1 4111 1111 1111 1111",
            "order 6f1c2d3e-aaaa-4bbb-8ccc-1234567890b1 #",
        ),
        ("4111111111111111 550e8400-e29b-41d4-a716-446655440000", "# 550e8400-e29b-41d4-a716-446655440000"),
        ("4111-1111-1111-1111 4d1d8cd98f00b204e9800998ecf8427e", "# 4d1d8cd98f00b204e9800998ecf8427e"),
        ("1 1111 4111 1111 1111 1112 1111 1111 1", "1 1111 4111 1111 1111 1112 1111 1111 1"),
    ],
)
def test_a_card_is_found_among_other_numbers_and_these_stay(text: str, left: str) -> None:
    assert Redactor(None, [KNOWN]).text(text).replace("[redacted]", "#") == left


def test_every_pattern_of_the_library_is_one_of_re2() -> None:
    assert len(patterns()) > len(PLUGINS) * 1.5
    for pattern in patterns():
        assert compiled(pattern).search("") is None


NEARLY_DISCORD = st.builds(
    "{}{}.{}.{}".format,
    st.sampled_from(["", "M", "N", "O", "Ma", "x", "-", " "]),
    st.text("aMN0_-", min_size=22, max_size=27),
    st.text("a0_-", min_size=5, max_size=7),
    st.text("a0_-", min_size=26, max_size=28),
)


@given(st.lists(NEARLY_DISCORD | PIECES | st.sampled_from(sorted(SHAPED.values())), max_size=3).map(" ".join))
@example("MTAxMjM0NTY3ODkwMTIzNDU2.CANARY.CANARYCANARYCANARYCANARYCAN")
def test_one_look_for_all_loses_nothing_that_each_alone_would_find(text: str) -> None:
    raw = text.encode("ascii", "replace")
    alone = [span for _, pattern, finder in _FINDERS for span in finder(compiled(pattern), raw)]
    assert sorted(KNOWN.find(text)) == sorted(alone)


def test_what_follows_an_account_number_is_not_part_of_it() -> None:
    text = "pay GB82 WEST 1234 5698 7654 32 from your savings"
    assert Redactor(None, [KNOWN]).text(text) == "pay [redacted] from your savings"


def test_past_two_hundred_what_looks_like_one_counts_as_one() -> None:
    no_number = "+999 111 111 1111 "
    assert list(KNOWN.find(no_number)) == []
    assert len(list(KNOWN.find(no_number * 300))) >= 100


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "secret"])
def test_class_can_be_left_readable(kind: str) -> None:
    without = KnownData(without=[kind])
    assert kind not in without.kinds
    for name, text in SHAPED.items():
        assert kind not in {span.kind for span in without.find(text)}, name
