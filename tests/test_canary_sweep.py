"""The search for secrets finds them in every form that it says it finds."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
import sqlite3
import string
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest

from agentgate.adapters.evidence.pdf import PdfPack
from tests.canary_sweep import Canary, Sweep, rows
from tests.evidence_samples import hostile, pack_of

SECRET = 'Q7w/x9+Lk2&mZ4"p8<Vt3 b6Rn1=Yd5'
CARD = "5305912270418836"
NOISE = "".join(random.Random(3).choices(string.ascii_letters + string.digits + '+/=\n {}"', k=20_000))


def std(raw: bytes) -> bytes:
    return base64.b64encode(raw)


def zipped(raw: bytes) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("pack/deep.json", raw)
    return whole.getvalue()


def page(raw: bytes) -> bytes:
    """A pack whose texts say it."""
    return PdfPack().write(pack_of(hostile([raw.decode()])))


FORMS: dict[str, Callable[[bytes], bytes]] = {
    "raw": lambda raw: raw,
    "json": lambda raw: json.dumps({"a": raw.decode()}).encode(),
    "json in json": lambda raw: json.dumps({"a": json.dumps([json.dumps(raw.decode())])}).encode(),
    "escapes": lambda raw: b'{"a":"' + b"".join(b"\\u%04x" % byte for byte in raw) + b'"}',
    "hex": lambda raw: raw.hex().encode(),
    "HEX": lambda raw: raw.hex().upper().encode(),
    "url": lambda raw: b"/x?k=" + quote(raw, safe="").encode(),
    "url in lower case": lambda raw: b"".join(b"%%%02x" % byte for byte in raw),
    "URL in upper case": lambda raw: b"".join(b"%%%02X" % byte for byte in raw),
    "url in url": lambda raw: quote(quote(raw, safe=""), safe="").encode(),
    "base64 +0": std,
    "base64 +1": lambda raw: std(b"x" + raw + b"yz"),
    "base64 +2": lambda raw: std(b"xx" + raw + b"y"),
    "base64url": lambda raw: base64.urlsafe_b64encode(b"\xfb\xff" + raw).rstrip(b"="),
    "base64 in lines": lambda raw: base64.encodebytes(b"x" * 50 + raw + b"y" * 50),
    "base64 of base64": lambda raw: std(std(raw)),
    "base64 of json": lambda raw: std(json.dumps([raw.decode()]).encode()),
    "base64 of gzip": lambda raw: std(gzip.compress(raw)),
    "hex of url": lambda raw: quote(raw, safe="").encode().hex().encode(),
    "UTF-16 LE": lambda raw: raw.decode().encode("utf-16-le"),
    "UTF-16 BE": lambda raw: raw.decode().encode("utf-16-be"),
    "gzip": lambda raw: b"before" + gzip.compress(raw) + b"after",
    "zlib": lambda raw: b"before" + zlib.compress(raw) + b"after",
    "two members": lambda raw: zlib.compress(b"nothing" * 9) + b"?" + zlib.compress(raw),
    "a member without its end": lambda raw: zlib.compress(raw + NOISE.encode())[:-2000],
    "zip": zipped,
    "zip in zip": lambda raw: zipped(zipped(raw)),
    "a PDF": page,
    "html": lambda raw: b"<p>" + b"".join(b"&#%d;" % byte for byte in raw) + b"</p>",
    "cut by tags": lambda raw: b"<p>" + b"</b>".join(raw[at : at + 1] for at in range(16)) + b"</p>"
    if raw.isdigit()
    else b"<p>" + raw[:9] + b"</b>" + raw[9:] + b"</p>",
    "two fields": lambda raw: json.dumps({"a": raw[:13].decode(), "n": 1, "b": {"c": raw[13:].decode()}}).encode(),
    "many fields": lambda raw: json.dumps([chr(byte) for byte in raw]).encode(),
    "names": lambda raw: json.dumps({raw[:7].decode(): raw[7:].decode()}).encode(),
    "json lines": lambda raw: b"\n".join(json.dumps({"d": chr(byte)}).encode() for byte in raw),
    "events": lambda raw: b"".join(b"event: x\ndata: " + json.dumps([chr(byte)]).encode() + b"\n\n" for byte in raw),
    "lines": lambda raw: b"\n  ".join(raw[at : at + 5] for at in range(0, len(raw), 5)),
}  # fmt: skip


@pytest.mark.parametrize("secret", [SECRET, CARD], ids=["text", "digits"])
@pytest.mark.parametrize("form", FORMS)
def test_a_planted_canary_is_found(form: str, secret: str) -> None:
    planted = FORMS[form](secret.encode())
    around = (NOISE[:9000] + "\n").encode()
    is_document = form in ("zip", "zip in zip", "a PDF") or planted[:1] in (b"{", b"[")
    sweep = Sweep([Canary("planted", secret), Canary("absent", "ZZtop-88.kq")])
    assert sweep.look("here", planted if is_document else around + planted + b"\n" + around) == ["planted"]


@pytest.mark.parametrize("cut", range(1, len(SECRET)))
def test_a_canary_that_is_cut_once_or_twice_is_found_whatever_stands_between(cut: int) -> None:
    other = min(cut + 9, len(SECRET))
    torn = f"{SECRET[:cut]}\x00\x01 page 7 {SECRET[cut:other]} … {SECRET[other:]}"
    sweep = Sweep([Canary("planted", SECRET)])
    for said in (torn.encode(), torn.encode().hex().encode(), std(torn.encode())):
        assert sweep.look("here", said) == ["planted"]


def test_a_value_over_several_pages_of_a_database_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA page_size = 512")
        database.execute("CREATE TABLE t (a, b BLOB)")
        noise = random.Random(1).randbytes(700)
        database.execute("INSERT INTO t VALUES (1, ?)", (zlib.compress(noise + SECRET.encode() + noise),))
    database.close()
    sweep = Sweep([Canary("planted", SECRET)])
    assert [name for value in rows(path) for name in sweep.look("rows", value)] == ["planted"]


def test_what_looks_alike_is_not_found() -> None:
    sweep = Sweep([Canary("planted", SECRET), Canary("card", CARD)])
    assert sweep.look("noise", NOISE + SECRET[:6] + NOISE + CARD[:-1] + "0") == []


def test_a_canary_may_be_where_it_is_allowed_and_nowhere_else() -> None:
    sweep = Sweep([Canary("planted", SECRET, ("given:*",)), Canary("other", "not-looked-at-anywhere", ("given:*",))])
    sweep.look("given:environment", SECRET)
    assert (sweep.leaks(), sweep.unused()) == ([], ["other"])
    sweep.look("log", f"x{SECRET.encode().hex()}")
    assert sweep.leaks() == ["planted at log (hex)"]


def test_a_canary_that_is_only_where_it_may_not_be_counts_as_unused() -> None:
    sweep = Sweep([Canary("planted", SECRET, ("given:*",))])
    sweep.look("log", SECRET)
    assert sweep.unused() == ["planted"]


def test_of_a_known_form_only_its_own_part_is_looked_for() -> None:
    sweep = Sweep(
        [Canary("token", "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.sIgNaTuReOfThIsToKeN42", core="sIgNaTuReOfThIsToKeN42")]
    )
    assert sweep.look("another token", "eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.x") == []
    assert sweep.look("this token", "Bearer eyJhbGciOiJFUzI1NiJ9.c2VjcmV0.sIgNaTuReOfThIsToKeN42") == ["token"]


def test_two_canaries_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(AssertionError, match="has it too"):
        Sweep([Canary("one", SECRET), Canary("two", SECRET)])


def test_a_thousand_patterns_are_searched_for_and_not_given_up() -> None:
    """RE2 gives up where its memory is not enough, and then finds nothing."""
    rng = random.Random(11)
    secrets = ["".join(rng.choices(string.ascii_letters + string.digits + "-_/+", k=40)) for _ in range(100)]
    sweep = Sweep([Canary(f"c{number}", secret) for number, secret in enumerate(secrets)])
    haystack = rng.randbytes(500_000)
    assert sweep.look("noise", haystack) == []
    for number in (0, 50, 99):
        assert sweep.look("planted", haystack + secrets[number].encode().hex().encode()) == [f"c{number}"]
