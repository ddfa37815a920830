"""Signed notes and checkpoints, against the vectors in Go's `golang.org/x/mod/sumdb/note` and against Go itself."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agentgate.core.merkle import EMPTY_ROOT
from agentgate.core.note import (
    COSIGNATURE_V1,
    Checkpoint,
    NoteInvalid,
    NoteKey,
    cosign,
    cosignatures,
    open_checkpoint,
    open_note,
    parse_checkpoint,
    parse_key,
    parse_witness_key,
    sign,
)

# The example of Go's package documentation.
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
NOTE = (
    TEXT
    + "\n— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
).encode()

PETER = parse_key(VKEY)
PETERS = Ed25519PrivateKey.from_private_bytes(base64.b64decode(SKEY.split("+", 4)[4])[1:])
ENOCHS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ENOCH = NoteKey("EnochRoot", ENOCHS.public_key().public_bytes_raw())


def test_the_vector_of_gos_package_opens() -> None:
    opened = open_note(NOTE, [PETER])
    assert opened.text == TEXT
    assert opened.signed_by == (PETER,)


def test_signing_gives_the_bytes_of_gos_package() -> None:
    assert sign(TEXT, PETER, PETERS.sign) == NOTE


def test_a_key_has_one_text() -> None:
    assert PETER.text == VKEY
    assert PETER.name == "PeterNeumann"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "PeterNeumann",
        "PeterNeumann+c74f20a3",
        VKEY.replace("c74f20a3", "c74f20a4"),
        VKEY.replace("PeterNeumann", "Peter Neumann"),
        VKEY.replace("PeterNeumann", ""),
        VKEY + "=",
        VKEY[:-4],
        VKEY.replace("+ARpc", "+Ahpc"),  # of another algorithm, with the hash of this one
        VKEY.replace("PeterNeumann", "EnochRoot"),
    ],
)
def test_a_malformed_key_is_refused(vkey: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_key(vkey)


@given(at=st.integers(0, len(NOTE) - 1), bit=st.integers(0, 7))
def test_any_changed_bit_of_a_note_is_noticed(at: int, bit: int) -> None:
    changed = bytearray(NOTE)
    changed[at] ^= 1 << bit
    with pytest.raises(NoteInvalid):
        open_note(bytes(changed), [PETER])


LINE = NOTE.decode().removeprefix(TEXT + "\n")


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"\n\n",
        TEXT.encode(),
        TEXT.encode() + b"\n",
        NOTE[:-1],
        NOTE + b"\n",
        NOTE.replace(b"\n\n", b"\n"),
        NOTE.replace("—".encode(), b"-"),
        NOTE.replace(b"PeterNeumann ", b"PeterNeumann  "),
        NOTE.replace(b"nAM=", b"nAN="),  # the same signature in another spelling
        NOTE.replace(b"nAM=", b"nAM"),
        b"\xff" + NOTE,
        NOTE.replace(b"\n\n", b"\r\n\r\n"),
        (TEXT + "\n— PeterNeumann x08gow==\n").encode(),
        (TEXT + "\n" + LINE * 101).encode(),
    ],
)
def test_a_malformed_note_is_refused(note: bytes) -> None:
    with pytest.raises(NoteInvalid):
        open_note(note, [PETER])


def test_a_note_that_nobody_known_signed_is_refused() -> None:
    with pytest.raises(NoteInvalid, match="no known key"):
        open_note(NOTE, [ENOCH])
    with pytest.raises(NoteInvalid, match="no known key"):
        open_note(NOTE, [])


def test_unknown_signatures_beside_a_known_one_are_ignored() -> None:
    both = NOTE + sign(TEXT, ENOCH, ENOCHS.sign).decode().removeprefix(TEXT + "\n").encode()
    assert open_note(both, [PETER]).signed_by == (PETER,)
    assert open_note(both, [ENOCH]).signed_by == (ENOCH,)
    assert open_note(both, [PETER, ENOCH]).signed_by == (PETER, ENOCH)


def test_one_false_signature_of_a_known_key_spoils_the_note() -> None:
    forged = NOTE + sign(TEXT, ENOCH, PETERS.sign).decode().removeprefix(TEXT + "\n").encode()
    with pytest.raises(NoteInvalid, match="does not hold"):
        open_note(forged, [PETER, ENOCH])


def test_text_may_have_empty_lines() -> None:
    text = "a\n\n— b c\n\nd\n"
    assert open_note(sign(text, PETER, PETERS.sign), [PETER]).text == text


@pytest.mark.parametrize("text", ["", "no newline", "bell\a\n", "tab\t\n"])
def test_text_that_is_none_is_not_signed(text: str) -> None:
    with pytest.raises(NoteInvalid):
        sign(text, PETER, PETERS.sign)


# --- checkpoints ---

CHECKPOINT = Checkpoint(
    "go.sum database tree", 923748, base64.b64decode("nND/nri/U0xuHUrYSy0HtMeal2vzD9V4k/BO79C+QeI=")
)


def test_the_example_of_the_checkpoint_format() -> None:
    text = "go.sum database tree\n923748\nnND/nri/U0xuHUrYSy0HtMeal2vzD9V4k/BO79C+QeI=\n"
    assert CHECKPOINT.text == text
    assert parse_checkpoint(text) == CHECKPOINT


@given(
    origin=st.text(st.characters(min_codepoint=33, blacklist_categories=("Cs", "Cc", "Z")), min_size=1, max_size=40),
    size=st.integers(0, 2**62),
    root=st.binary(min_size=32, max_size=32),
    extensions=st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1), max_size=3),
)
def test_a_checkpoint_round_trips(origin: str, size: int, root: bytes, extensions: list[str]) -> None:
    checkpoint = Checkpoint(origin, size, root, tuple(extensions))
    assert parse_checkpoint(checkpoint.text) == checkpoint


ROOT = base64.b64encode(EMPTY_ROOT).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "origin\n",
        "origin\n1\n",
        f"origin\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"origin\n01\n{ROOT}\n",
        f"origin\n-1\n{ROOT}\n",
        f"origin\n+1\n{ROOT}\n",
        f"origin\n1_0\n{ROOT}\n",
        f"origin\n١\n{ROOT}\n",
        f"origin\n99999999999999999999\n{ROOT}\n",
        f"origin\n1\n{ROOT[:-4]}\n",
        f"origin\n1\n{ROOT[:-1]}\n",
        f"origin\n1\n{ROOT}\n\n",
        f"origin\n1\n{ROOT}\n\nextension\n",
    ],
)
def test_a_malformed_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(NoteInvalid):
        parse_checkpoint(text)


def test_a_checkpoint_of_another_log_is_refused() -> None:
    note = sign(CHECKPOINT.text, PETER, PETERS.sign)
    assert open_checkpoint(note, [PETER], CHECKPOINT.origin) == CHECKPOINT
    with pytest.raises(NoteInvalid, match="another|not of"):
        open_checkpoint(note, [PETER], "agentgate.local/log/0")


# --- Go's own verifier ---

GO_PROGRAM = """
package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func main() {
	message, _ := io.ReadAll(os.Stdin)
	verifier, err := note.NewVerifier(os.Args[1])
	if err != nil {
		panic(err)
	}
	opened, err := note.Open(message, note.VerifierList(verifier))
	if err != nil {
		fmt.Println("REFUSED", err)
		os.Exit(1)
	}
	if _, err := tlog.ParseTree([]byte(opened.Text)); err != nil && len(os.Args) > 2 {
		fmt.Println("NOT A TREE", err)
		os.Exit(1)
	}
	fmt.Print(opened.Text)
}
"""


def _go() -> str:
    go = shutil.which("go")
    if go is None:
        pytest.skip("no Go: its note verifier cannot be asked")
    return go


@pytest.fixture(scope="module")
def go_verifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program around the copy of x/mod that every Go toolchain carries: nothing is fetched."""
    go = _go()
    said = subprocess.run([go, "env", "GOROOT", "GOVERSION"], check=True, capture_output=True, text=True).stdout
    goroot, version = said.split()
    language = ".".join(version.removeprefix("go").split(".")[:2])
    vendored = Path(goroot) / "src/cmd/vendor/golang.org/x/mod/sumdb"
    if not (vendored / "note").is_dir():
        pytest.skip("this Go toolchain carries no golang.org/x/mod/sumdb")
    module = tmp_path_factory.mktemp("go")
    for name in ("note", "tlog"):
        shutil.copytree(vendored / name, module / "sumdb" / name)
    (module / "sumdb" / "go.mod").write_text(f"module golang.org/x/mod/sumdb\n\ngo {language}\n")
    (module / "go.mod").write_text(
        f"module verifier\n\ngo {language}\n\nrequire golang.org/x/mod/sumdb v0.0.0\n\n"
        "replace golang.org/x/mod/sumdb => ./sumdb\n"
    )
    (module / "main.go").write_text(GO_PROGRAM)
    built = subprocess.run(
        [go, "build", "-o", "verifier", "."],
        cwd=module,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "GOWORK": "off"},
    )
    assert built.returncode == 0, built.stderr
    return module / "verifier"


def test_go_opens_our_checkpoints_and_refuses_altered_ones(go_verifier: Path) -> None:
    checkpoint = Checkpoint("go.sum database tree", 7, EMPTY_ROOT)
    note = sign(checkpoint.text, ENOCH, ENOCHS.sign)
    opened = subprocess.run([go_verifier, ENOCH.text, "tree"], input=note, capture_output=True, check=False)
    assert (opened.returncode, opened.stdout.decode()) == (0, checkpoint.text)
    altered = note.replace(b"\n7\n", b"\n8\n")
    assert subprocess.run([go_verifier, ENOCH.text], input=altered, capture_output=True, check=False).returncode == 1


# --- cosignatures -----------------------------------------------------------------------------------------

WITNESSES = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
WITNESS = NoteKey("witness.example/w1", WITNESSES.public_key().public_bytes_raw(), COSIGNATURE_V1)
NOTED = sign(TEXT, ENOCH, ENOCHS.sign)


def cosigned(at: int = 1_679_315_147) -> bytes:
    return NOTED + cosign(TEXT, WITNESS, WITNESSES.sign, at).encode()


def test_a_cosignature_is_over_its_time_and_the_text() -> None:
    """The message of c2sp.org/tlog-cosignature, made by hand."""
    message = b"cosignature/v1\ntime 1679315147\n" + TEXT.encode()
    raw = WITNESS.hash + (1_679_315_147).to_bytes(8, "big") + WITNESSES.sign(message)
    line = f"— witness.example/w1 {base64.b64encode(raw).decode()}"
    assert cosigned() == NOTED + f"{line}\n".encode()
    (found,) = cosignatures(cosigned(), [WITNESS])
    assert (found.key, found.at, found.line) == (WITNESS, 1_679_315_147, line)


def test_a_cosigned_note_is_still_the_logs() -> None:
    assert open_note(cosigned(), [ENOCH]).signed_by == (ENOCH,)
    assert open_note(cosigned(), [ENOCH, WITNESS]).signed_by == (ENOCH, WITNESS)


def test_a_witness_is_told_from_a_log_with_the_same_key() -> None:
    as_log = NoteKey(WITNESS.name, WITNESS.public)
    assert as_log.hash != WITNESS.hash
    assert parse_witness_key(WITNESS.text) == WITNESS
    assert parse_key(as_log.text) == as_log
    for text, parse in ((WITNESS.text, parse_key), (as_log.text, parse_witness_key)):
        with pytest.raises(NoteInvalid):
            parse(text)
    assert cosignatures(cosigned(), [as_log]) == []
    with pytest.raises(NoteInvalid, match="no known key"):
        open_note(NOTED, [WITNESS])


def test_a_cosignature_of_nobody_we_trust_is_passed_over() -> None:
    other = NoteKey("witness.example/w2", WITNESS.public, COSIGNATURE_V1)
    assert cosignatures(cosigned(), [other]) == []


@given(st.integers(0, 71), st.integers(0, 7))
def test_no_bit_of_a_cosignature_may_change(byte: int, bit: int) -> None:
    """Neither of its time nor of its signature."""
    raw = bytearray(
        (1_679_315_147).to_bytes(8, "big") + WITNESSES.sign(b"cosignature/v1\ntime 1679315147\n" + TEXT.encode())
    )
    assert WITNESS.verifies(TEXT.encode(), bytes(raw))
    raw[byte] ^= 1 << bit
    assert not WITNESS.verifies(TEXT.encode(), bytes(raw))


@pytest.mark.parametrize(("at", "holds"), [(0, True), (2**63 - 1, True), (2**63, False), (2**64 - 1, False)])
def test_a_cosignature_is_of_a_time_that_others_can_count(at: int, holds: bool) -> None:
    """Also where it is signed as it should be: readers with 63 bits would take it for another time."""
    signature = WITNESSES.sign(b"cosignature/v1\ntime %d\n" % at + TEXT.encode())
    assert WITNESS.verifies(TEXT.encode(), at.to_bytes(8, "big") + signature) is holds


@pytest.mark.parametrize("raw", [b"", b"1234567", b"12345678", bytes(71), bytes(73), b"\xff" * 72])
def test_what_is_no_cosignature_holds_for_nothing(raw: bytes) -> None:
    assert not WITNESS.verifies(TEXT.encode(), raw)


def test_a_false_cosignature_of_a_trusted_witness_is_refused() -> None:
    line = cosign("another text\n", WITNESS, WITNESSES.sign, 1)
    with pytest.raises(NoteInvalid, match="does not hold"):
        cosignatures(NOTED + line.encode(), [WITNESS])
