"""docs/redaction.md says what redaction does, and what it does not."""

from __future__ import annotations

import base64
import codecs
import gzip
import html
import re
import subprocess
from pathlib import Path

import pytest

from agentgate.adapters.detectors._makers import PLUGINS
from agentgate.adapters.detectors.known import KINDS
from agentgate.core.redaction.marks import MARK, Marks, Mode
from agentgate.core.redaction.redactor import FAILED, FAILED_TEXT, Redactor
from agentgate.core.strict_json import canonical
from tests.fakes import REDACTOR

PAGE = (Path(__file__).parents[1] / "docs" / "redaction.md").read_text(encoding="utf-8")


def rows(heading: str) -> list[str]:
    part = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", part, re.MULTILINE)


def test_page_lists_every_class_and_mode() -> None:
    assert sorted(rows("What is found")) == sorted(KINDS)
    assert rows("What stands there instead") == [mode.value for mode in Mode]
    assert f"of {len(PLUGINS)} makers" in PAGE


def test_page_shows_marks_as_they_are() -> None:
    key = b"k" * 32
    shown = [Redactor(Marks(mode, key), REDACTOR.detectors).text("4111 1111 1111 1111") for mode in Mode]
    assert shown[0] == MARK
    for mark in shown:
        assert f"`{mark}`" in PAGE
    assert FAILED.decode() in PAGE
    assert FAILED_TEXT in PAGE


def test_hash_is_what_the_command_of_the_page_says() -> None:
    command = re.search(r"`(printf .*?)`:? ?\|?", PAGE.replace("\\|", "\N{VERTICAL LINE EXTENSION}"))
    assert command is not None
    script = command[1].replace("\N{VERTICAL LINE EXTENSION}", "|")
    variables = {"value": "4111111111111111", "key": "k" * 32, "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(["sh", "-c", script], env=variables, capture_output=True, text=True, check=True)
    mark = Marks(Mode.HASH, b"k" * 32).mark("card", "4111 1111 1111 1111")
    assert ran.stdout.split()[-1][:16] == mark[-17:-1]


CANARY = "canary@example.org"
MISSED = {
    "base85": base64.b85encode(CANARY.encode()).decode(),
    "base32": base64.b32encode(CANARY.encode()).decode(),
    "ROT13": codecs.encode("password=hunter2", "rot13"),
    "reversed texts": CANARY[::-1],
    "HTML entities": html.escape(CANARY).replace("@", "&#64;"),
    "compressed": base64.b64encode(gzip.compress(CANARY.encode(), mtime=0)).decode(),
    "passwords and names in prose": "ann's favourite is hunter2",
    "base64 of less than 10 bytes": base64.b64encode(b"a@b.co").decode(),
    "15-digit UATP": "135410014004955",
    "without separators": "123456789",
    "national formats": "044 668 18 00",
    "columns of a table": "| user | password |\n| ann | hunter2 |",
    "CSV": "user,password\nann,hunter2",
    "`->`": "password -> hunter2",
    "`Password (new): x`": "Password (new): hunter2",
    "lines below": "password:\n\n\n\n\nhunter2",
    "multipart form": 'Content-Disposition: form-data; name="password"\r\n\r\nhunter2\r\n--x',
    "`.netrc`": "machine example.org login ann password hunter2",
    "`curl -u user:x`": "curl -u ann:hunter2 https://example.org",
    "`-p x`": "mysql -p hunter2",
    "names with HTML entities": "&quot;password&quot;: &quot;hunter2&quot;",
    "accents": "p\u00e1ssword = hunter2",
    **{f"`{name}x`": f"{name}hunter2" for name in ("DB_PASSWORD_PROD=", "password1=", "passwords: ")},
    "`value` before `name`": "value: hunter2\nname: password",
    "three blanks": "--password   hunter2",
    "line break after `--password`": "x --password\n  hunter2",
}
MISSED_IN_PART = {
    "after a blank": "password: a hunter2",
    "`,`": "password=a,hunter2",
    "`;`": "password=a;hunter2",
    "`&`": "password=a&hunter2",
    "`Pwd={a;b}`": "Pwd={a;hunter2}",
    "lists and tags in YAML": "password:\n  - hunter2",
}
MISSED_MEMBERS = {
    '`["Authorization", "x"]`': ["Authorization", "hunter2"],
    "`value` beside `name` in capitals": {"NAME": "password", "VALUE": "hunter2"},
    "`cookie_domain`": {"name": "cookie_domain", "value": "hunter2"},
    **{f"`{name}`": {name: "hunter2"} for name in ("mypass", "my_token_x", "jwt", "sessionid", "sig", "pw", "pin")},
}


@pytest.mark.parametrize("what", MISSED)
def test_what_the_page_says_is_missed_is_missed(what: str) -> None:
    assert what in PAGE
    assert REDACTOR.text(MISSED[what]) == MISSED[what]


@pytest.mark.parametrize("what", MISSED_IN_PART)
def test_what_the_page_says_is_missed_in_part_is(what: str) -> None:
    assert what in PAGE
    assert "hunter2" in REDACTOR.text(MISSED_IN_PART[what])


@pytest.mark.parametrize("what", MISSED_MEMBERS)
def test_members_that_the_page_says_are_missed_are(what: str) -> None:
    assert what in PAGE
    raw = canonical({"x": MISSED_MEMBERS[what]})
    assert REDACTOR.json(raw) == raw


def test_what_is_cut_into_pieces_or_wrapped_four_times_is_missed() -> None:
    pieces = canonical({"a": "canary@exam", "b": "ple.org"})
    assert REDACTOR.json(pieces) == pieces
    wrapped = CANARY
    for _ in range(4):
        wrapped = base64.b64encode(wrapped.encode()).decode()
    assert REDACTOR.text(wrapped) == wrapped
