"""VERIFY.md does what it says: each command in it, pasted into a shell in the unpacked zip, with stock tools alone."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.evidence.bundle import Bundle
from agentgate.adapters.signers.hmac import HmacSigner
from agentgate.core.dsse import PublicKey
from agentgate.core.evidence.pack import Pack
from agentgate.core.note import NoteKey, sign
from agentgate.ports.evidence import Enclosures
from tests.core.events import a_session
from tests.outside import tools
from tests.outside.tools import flipped
from tests.packs import ENVELOPE_SECRET, EnvelopeSecret, Maker, ZipPack, a_secret, enveloped

RECORDS = a_session(2)
FIRST = RECORDS[0].index
SIGNING_KEY = "a-signing-key-for-tests-3f8c-0123456789ab"
STOCK = ("bash", "cat", "openssl", "sha256sum")
_PART = re.compile(r"^## (\d)\..*?^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_IMPORT = re.compile(r"^import (.*)$", re.MULTILINE)
ENVELOPE, LOG, HMAC = "1", "2", "3"


@dataclass
class View:
    """A view that needs no layout."""

    extension: str
    media_type: str = "text/plain"

    def write(self, pack: Pack) -> bytes:
        return f"{len(pack.raw)} bytes as {self.extension}\n".encode()


def a_pack(secret: EnvelopeSecret) -> ZipPack:
    """As the gateway's own bundler puts it together; log, proofs and envelope are this side's."""
    maker = Maker(RECORDS, envelope_secret=secret, hmac_key=SIGNING_KEY.encode())
    files = maker.make().files

    def numbered(folder: str) -> dict[int, bytes]:
        found = {name: content for name, content in files.items() if name.startswith(f"{folder}/")}
        return {int(re.sub(r"\D", "", name.split("/")[1].split(".")[0])): content for name, content in found.items()}

    enclosures = Enclosures(files["checkpoint"], numbered("leaves"), numbered("bodies"), numbered("proofs"), {})
    keys = {name: content for name, content in files.items() if name.startswith("keys/")}
    bundle = Bundle([View("html"), View("pdf")], keys, HmacSigner(maker.hmac_key))
    return ZipPack(enveloped(bundle.files(maker.body(), enclosures), secret), maker.hmac_key)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with nothing on it but what VERIFY.md says one needs, and a python3 into which nothing was installed."""
    folder = tmp_path_factory.mktemp("stock")
    tools.openssl()
    for name in STOCK:
        found = shutil.which(name)
        assert found is not None, name
        (folder / name).symlink_to(found)
    (folder / "python3").symlink_to(Path(sys.executable).resolve())
    return str(folder)


@pytest.fixture(params=[ENVELOPE_SECRET, a_secret(5)], ids=["ecdsa", "ed25519"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    found = tmp_path / "pack"
    with zipfile.ZipFile(BytesIO(a_pack(request.param).zip())) as opened:
        opened.extractall(found)
    return found


def parts(folder: Path) -> dict[str, str]:
    return dict(_PART.findall((folder / "VERIFY.md").read_text(encoding="utf-8")))


def paste(commands: str, folder: Path, stock: str, *, key: str = SIGNING_KEY, **more: str) -> tuple[int, str]:
    """As a person does: into a shell that has read no start-up files. `more` is what his environment has besides."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    env |= {"PATH": stock, "AGENTGATE_SIGNING_KEY": key, "HOME": str(folder.parent), "PYTHONNOUSERSITE": "1", **more}
    return tools.run([Path(stock, "bash"), "--noprofile", "--norc", "-c", commands], cwd=folder, env=env)


def test_every_part_of_it_holds_for_a_good_pack(folder: Path, stock: str) -> None:
    found = parts(folder)
    assert set(found) == {ENVELOPE, LOG, HMAC}
    for number, commands in found.items():
        status, said = paste(commands, folder, stock)
        assert status == 0, (number, said)
        assert said.rstrip().endswith("OK"), (number, said)


def test_the_fingerprint_to_compare_is_the_keys(folder: Path, stock: str) -> None:
    text = (folder / "VERIFY.md").read_text(encoding="utf-8")
    block = text.partition("```sh\n")[2].partition("```")[0]
    status, said = paste(block, folder, stock)
    assert status == 0
    shown, vkey = said.split("\n")[:2]
    assert shown.split(" ")[0] == PublicKey.from_pem((folder / "keys/envelope.pub.pem").read_bytes()).key_id
    assert shown.split(" ")[0] not in text, "the page itself vouches for no key"
    assert vkey == (folder / "keys/log.vkey").read_text(encoding="utf-8").strip()


def forged(folder: Path) -> tuple[NoteKey, str]:
    """The same events under a checkpoint that somebody else signed in the log's name: his key, and the log's own."""
    ours = (folder / "keys/log.vkey").read_text(encoding="utf-8").strip()
    thief, note = a_secret(99), (folder / "checkpoint").read_bytes()
    key = NoteKey(ours.partition("+")[0], thief.public_key().public_bytes_raw())
    theirs = sign(note.decode().rpartition("\n\n")[0] + "\n", key, thief.sign)
    for path in [folder / "checkpoint", *(folder / "proofs").iterdir()]:
        path.write_bytes(path.read_bytes().replace(note, theirs))
    (folder / "keys/log.vkey").write_text(f"{key.text}\n", encoding="utf-8")
    return key, ours


def test_a_key_is_shown_as_it_is_and_is_all_that_is_believed(folder: Path, stock: str) -> None:
    key, ours = forged(folder)
    assert paste(parts(folder)[LOG], folder, stock)[0] == 0, "whose key it is shows in the block before"
    drawn = f"{key.text}\rAAA\x1b[2K\r{ours}\n"  # a terminal shows the last of it alone
    (folder / "keys/log.vkey").write_bytes(drawn.encode())
    block = (folder / "VERIFY.md").read_text(encoding="utf-8").partition("```sh\n")[2].partition("```")[0]
    status, said = paste(block, folder, stock)
    assert (status, key.text in said, "\x1b" in said, "\r" in said) == (0, True, False, False)
    status, said = paste(parts(folder)[LOG], folder, stock)
    assert status != 0, said


@pytest.mark.parametrize(
    "line",
    ["{0.name}+00000000+{1}", "{0.name}+{2}+{1}", "{0.text}AAAA", "{0.name}+{0.hash}+{1}"],
    ids=["no key's hash", "another key's hash", "a longer key", "no hash"],
)
def test_a_line_that_is_no_vkey_is_no_key(folder: Path, stock: str, line: str) -> None:
    key, ours = forged(folder)
    said_key, their_hash = key.text.rpartition("+")[2], ours.split("+")[1]
    (folder / "keys/log.vkey").write_text(line.format(key, said_key, their_hash), encoding="utf-8")
    assert paste(parts(folder)[LOG], folder, stock)[0] != 0


def test_what_a_good_pack_left_beside_it_vouches_for_no_other(folder: Path, stock: str) -> None:
    assert paste(parts(folder)[LOG], folder, stock)[0] == 0
    forged(folder)
    (folder / "keys/log.vkey").write_text("no key", encoding="utf-8")
    status, said = paste(parts(folder)[LOG], folder, stock)
    assert status != 0, said


def test_no_line_below_the_signed_ones_passes_for_one_of_them(folder: Path, stock: str) -> None:
    """The log's own words and signature, whose lines end otherwise, and then a tree of one leaf that nobody signed."""
    leaf = b'{"forged":true}'
    signed, _, lines = (folder / "checkpoint").read_bytes().rpartition(b"\n\n")
    tree = b"1\n" + base64.b64encode(hashlib.sha256(b"\0" + leaf).digest()) + b"\n"
    note = signed.replace(b"\n", b"\r") + b"\r\r" + lines + tree
    (folder / "checkpoint").write_bytes(note)
    for name in ("leaves", "bodies", "proofs"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
    (folder / "leaves/0.json").write_bytes(leaf)
    (folder / "proofs/0.tlog-proof").write_bytes(b"c2sp.org/tlog-proof@v1\nindex 0\n\n" + note)
    relist(lambda events: events.__setitem__(slice(None), [{"index": 0, "leaf": leaf.decode(), "salt": None}]))(folder)
    status, said = paste(parts(folder)[LOG], folder, stock)
    assert status != 0, said


def test_no_byte_of_a_body_passes_for_salt(folder: Path, stock: str) -> None:
    path = folder / f"bodies/{FIRST}.json"
    salt, body = bytes.fromhex(event_of(folder)["salt"]), path.read_bytes()
    path.write_bytes(body[1:])
    relist(lambda events: events[0].update(salt=(salt + body[:1]).hex()))(folder)
    assert event_of(folder)["index"] == FIRST
    assert paste(parts(folder)[LOG], folder, stock)[0] != 0


def event_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "pack.json").read_bytes())["integrity"]["events"][0]
    return found


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def put(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(b"{}")


def steal(folder: Path) -> None:
    """The same pack, signed by somebody else, whose key is not the one in the folder."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    forged = enveloped(files, a_secret(99))
    (folder / "pack.dsse.json").write_bytes(forged["pack.dsse.json"])


def relist(change: Callable[[list[dict[str, Any]]], object]) -> Callable[[Path], None]:
    """What changes the list of events in the body."""

    def damage(folder: Path) -> None:
        body = json.loads((folder / "pack.json").read_bytes())
        change(body["integrity"]["events"])
        (folder / "pack.json").write_text(json.dumps(body), encoding="utf-8")

    return damage


def misnumber(folder: Path) -> None:
    """The first event once more, at an index so far behind the log's end that its proof leads to the root, too."""
    index = FIRST + 64_000
    for path in [found for name in ("leaves", "bodies", "proofs") for found in (folder / name).glob(f"{FIRST}.*")]:
        content = path.read_bytes().replace(b"\nindex %d\n" % FIRST, b"\nindex %d\n" % index)
        path.with_name(f"{index}{path.suffix}").write_bytes(content)
    relist(lambda events: events.append(events[0] | {"index": index}))(folder)


def rename(folder: Path) -> None:
    """The checkpoint as if the same key had signed it for a log with another name."""
    note, told = (folder / "checkpoint").read_bytes(), (folder / "keys/log.vkey").read_text(encoding="utf-8")
    name, key = told.split("+")[0], base64.b64decode(told.split("+", 2)[2])
    text, _, line = note.rpartition(b"\n\n")
    theirs, made = NoteKey(f"{name}/2", key[1:]), base64.b64decode(line.split(b" ")[2])[4:]
    signed = b"\xe2\x80\x94 %b %b\n" % (theirs.name.encode(), base64.b64encode(theirs.hash + made))
    for path in [folder / "checkpoint", *(folder / "proofs").iterdir()]:
        path.write_bytes(path.read_bytes().replace(note, text + b"\n\n" + signed))
    (folder / "keys/log.vkey").write_text(f"{theirs.text}\n", encoding="utf-8")


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a body, to the envelope": (ENVELOPE, flipped(f"bodies/{FIRST}.json")),
    "a page, to the envelope": (ENVELOPE, flipped("pack.html")),
    "a file put in": (ENVELOPE, put("leaves/1.json")),
    "a file put in, hidden": (ENVELOPE, put(".evil")),
    "a file taken out": (ENVELOPE, remove("pack.pdf")),
    "another signer": (ENVELOPE, steal),
    "the Sigstore bundle": (ENVELOPE, flipped("pack.sigstore.json", -6)),
    "the Sigstore bundle gone": (ENVELOPE, remove("pack.sigstore.json")),
    "a time stamp put in": (ENVELOPE, put("pack.dsse.tsr")),
    "a leaf, to the log": (LOG, flipped(f"leaves/{FIRST}.json")),
    "a leaf gone, to the log": (LOG, remove(f"leaves/{FIRST}.json")),
    "a body, to the log": (LOG, flipped(f"bodies/{FIRST}.json")),
    "a proof": (LOG, flipped(f"proofs/{FIRST}.tlog-proof", 60)),
    "a proof gone": (LOG, remove(f"proofs/{FIRST}.tlog-proof")),
    "an event that the log does not have": (LOG, misnumber),
    "an event twice": (LOG, relist(lambda events: events.append(events[-1]))),
    "an event that is not listed": (LOG, relist(lambda events: events.pop())),
    "no event listed": (LOG, relist(list.clear)),
    "a body of no event": (LOG, put("bodies/1.json")),
    "the size": (LOG, flipped("checkpoint", 19)),
    "the log's signature": (LOG, flipped("checkpoint", -6)),
    "another log of the same key": (LOG, rename),
    "the log's key": (LOG, flipped("keys/log.vkey", -8)),
    "a page, to the HMAC": (HMAC, flipped("pack.html")),
    "the body, to the HMAC": (HMAC, flipped("pack.json")),
    "an HMAC": (HMAC, flipped("pack.pdf.hmac")),
    "an HMAC gone": (HMAC, remove("pack.html.hmac")),
}


@pytest.mark.parametrize(("part", "damage"), DAMAGE.values(), ids=DAMAGE.keys())
def test_each_part_of_it_notices_the_damage_that_is_its_to_notice(
    folder: Path, stock: str, part: str, damage: Callable[[Path], object]
) -> None:
    damage(folder)
    status, said = paste(parts(folder)[part], folder, stock)
    assert status != 0, said
    assert not said.rstrip().endswith("OK"), said


def test_a_time_stamp_that_is_signed_for_must_be_there(tmp_path: Path, stock: str) -> None:
    files = dict(a_pack(ENVELOPE_SECRET).files)
    stamped = enveloped({**files, "pack.dsse.tsr": b"a stamp"}, ENVELOPE_SECRET)
    with zipfile.ZipFile(BytesIO(ZipPack(stamped).zip())) as opened:
        opened.extractall(tmp_path / "pack")
    commands = parts(tmp_path / "pack")[ENVELOPE]
    assert paste(commands, tmp_path / "pack", stock)[0] == 0
    remove("pack.dsse.tsr")(tmp_path / "pack")
    status, said = paste(commands, tmp_path / "pack", stock)
    assert (status, "time stamp" in said) == (1, True)


def test_its_hmac_part_needs_the_key(folder: Path, stock: str) -> None:
    for key in ("", "another-key-of-thirty-two-bytes!!"):
        assert paste(parts(folder)[HMAC], folder, stock, key=key)[0] != 0


def test_no_module_in_the_folder_is_run(folder: Path, stock: str) -> None:
    """A forger's zip may have what the commands import."""
    found = parts(folder)
    names = {name for line in _IMPORT.findall("".join(found.values())) for name in line.split(", ")}
    assert {"base64", "hashlib", "hmac", "json", "os", "pathlib"} <= names
    for name in names:
        (folder / f"{name}.py").write_text("open('../ran', 'a').write(__name__)\n", encoding="utf-8")
    ended = {number: paste(commands, folder, stock, PYTHONPATH=".")[0] for number, commands in found.items()}
    assert not (folder.parent / "ran").exists()
    assert ended == {ENVELOPE: 1, LOG: 0, HMAC: 0}, "who else signed them is for the envelope to say"


@pytest.mark.parametrize(
    ("part", "damage"), [DAMAGE["a leaf, to the log"], DAMAGE["a page, to the HMAC"]], ids=[LOG, HMAC]
)
def test_no_check_is_left_out_where_python_leaves_asserts_out(
    folder: Path, stock: str, part: str, damage: Callable[[Path], object]
) -> None:
    damage(folder)
    assert paste(parts(folder)[part], folder, stock, PYTHONOPTIMIZE="1")[0] != 0
