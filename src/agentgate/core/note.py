"""C2SP `signed-note` (Ed25519), `tlog-checkpoint` and `tlog-cosignature`: the formats in which the log signs its state,
and witnesses say that they have seen it.

A note is text, an empty line, and signature lines `— name base64(key hash ‖ signature)`. Its keys travel as
`name+hex(key hash)+base64(0x01 ‖ public key)`. Parsing is strict: one state has one form, so that two readers
cannot understand the same bytes differently. Sources: c2sp.org/signed-note, c2sp.org/tlog-checkpoint,
c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from agentgate.core import base64_text

ED25519: Final = b"\x01"
"""The algorithm of a key that signs notes."""
COSIGNATURE_V1: Final = b"\x04"
"""The algorithm of a key that signs notes with the time at which it did: a witness's."""
_PUBLIC_KEY_BYTES: Final = 32
_KEY_HASH_BYTES: Final = 4
_TIME_BYTES: Final = 8
_MAX_NOTE_BYTES: Final = 1_000_000
_MAX_SIGNATURES: Final = 100
_DASH: Final = "\N{EM DASH} "
_SIZE: Final = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)


class NoteInvalid(ValueError):
    """The bytes are not a note, or no key that we trust has signed them."""


@dataclass(frozen=True, slots=True)
class NoteKey:
    """An Ed25519 public key, the name it signs under, and in which of the two ways it signs."""

    name: str
    public: bytes
    algorithm: bytes = ED25519

    def __post_init__(self) -> None:
        if not _is_name(self.name):
            raise NoteInvalid(f"a key name has neither spaces nor a plus sign: {self.name!r}")
        if len(self.public) != _PUBLIC_KEY_BYTES:
            raise NoteInvalid(f"an Ed25519 public key has 32 bytes, not {len(self.public)}")

    @property
    def hash(self) -> bytes:
        """Tells keys of one name apart: SHA-256(name ‖ newline ‖ algorithm ‖ key), four bytes of it."""
        told = self.name.encode() + b"\n" + self.algorithm + self.public
        return hashlib.sha256(told).digest()[:_KEY_HASH_BYTES]

    @property
    def text(self) -> str:
        """The form in which keys are handed to verifiers (a *vkey*)."""
        return f"{self.name}+{self.hash.hex()}+{base64_text.encoded(self.algorithm + self.public)}"

    def verifies(self, message: bytes, signature: bytes) -> bool:
        if self.algorithm == COSIGNATURE_V1:
            if not 0 <= _time(signature) < 1 << 63:
                return False
            message, signature = _timed(message, _time(signature)), signature[_TIME_BYTES:]
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, message)
        except InvalidSignature:
            return False
        return True


def parse_key(text: str) -> NoteKey:
    """A log's key from its vkey form. Raises NoteInvalid."""
    return _parse_key(text, ED25519, "an Ed25519 key")


def parse_witness_key(text: str) -> NoteKey:
    """A witness's key from its vkey form. Raises NoteInvalid."""
    return _parse_key(text, COSIGNATURE_V1, "a witness's key for cosignature/v1")


def _parse_key(text: str, algorithm: bytes, kind: str) -> NoteKey:
    name, _, rest = text.partition("+")
    hashed, _, encoded = rest.partition("+")
    raw = base64_text.decoded(encoded, NoteInvalid)
    if not raw.startswith(algorithm):
        raise NoteInvalid(f"a verifier key has the form name+hash+base64 and is {kind}")
    key = NoteKey(name, raw[1:], algorithm)
    if key.hash.hex() != hashed:
        raise NoteInvalid("the verifier key's hash is another key's")
    return key


@dataclass(frozen=True, slots=True)
class SignedNote:
    """A note whose signatures by known keys hold. `signed_by` names these keys."""

    text: str
    signed_by: tuple[NoteKey, ...]


def sign(text: str, key: NoteKey, signer: Callable[[bytes], bytes]) -> bytes:
    """A note of `text`, signed. `signer` makes the raw Ed25519 signature that `key` verifies.

    Raises:
        NoteInvalid: the text does not end with a newline or has control characters.
    """
    if not _is_text(text):
        raise NoteInvalid("a note's text ends with a newline and has no control characters")
    signature = base64_text.encoded(key.hash + signer(text.encode()))
    return f"{text}\n{_DASH}{key.name} {signature}\n".encode()


def open_note(note: bytes, keys: Sequence[NoteKey]) -> SignedNote:
    """The text of a note that at least one of `keys` has signed.

    Raises:
        NoteInvalid: malformed, unsigned by all of `keys`, or with a false signature by one of them.
    """
    text, lines = _split(note)
    trusted = {(key.name, key.hash): key for key in keys}
    signed_by: list[NoteKey] = []
    for name, key_hash, signature in map(_signature, lines):
        key = trusted.get((name, key_hash))
        if key is None or key in signed_by:
            continue
        if not key.verifies(text.encode(), signature):
            raise NoteInvalid(f"the signature of {name} does not hold")
        signed_by.append(key)
    if not signed_by:
        raise NoteInvalid("no known key has signed this note")
    return SignedNote(text, tuple(signed_by))


@dataclass(frozen=True, slots=True)
class Cosignature:
    """That a witness had seen a note at a time, in Unix seconds. `line` is its signature line, without the newline."""

    key: NoteKey
    at: int
    line: str


def cosignatures(note: bytes, keys: Sequence[NoteKey]) -> list[Cosignature]:
    """The cosignatures of a note by witnesses' `keys`, in its order.

    Raises:
        NoteInvalid: malformed, or with a false signature by one of `keys`.
    """
    text, lines = _split(note)
    trusted = {(key.name, key.hash): key for key in keys if key.algorithm == COSIGNATURE_V1}
    found: list[Cosignature] = []
    for line in lines:
        name, key_hash, signature = _signature(line)
        key = trusted.get((name, key_hash))
        if key is None:
            continue
        if not key.verifies(text.encode(), signature):
            raise NoteInvalid(f"the cosignature of {name} does not hold")
        found.append(Cosignature(key, _time(signature), line))
    return found


def cosign(text: str, key: NoteKey, signer: Callable[[bytes], bytes], at: int) -> str:
    """A witness's signature line for a note's text, with its newline: that it was seen at Unix time `at`."""
    signature = key.hash + at.to_bytes(_TIME_BYTES, "big") + signer(_timed(text.encode(), at))
    return f"{_DASH}{key.name} {base64_text.encoded(signature)}\n"


def _timed(message: bytes, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n".encode() + message


def _time(signature: bytes) -> int:
    """-1 where there is none."""
    return int.from_bytes(signature[:_TIME_BYTES], "big") if len(signature) >= _TIME_BYTES else -1


def _split(note: bytes) -> tuple[str, list[str]]:
    """The text of a note and its signature lines."""
    if len(note) > _MAX_NOTE_BYTES:
        raise NoteInvalid("a note has at most a million bytes")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise NoteInvalid("a note is UTF-8") from None
    text, blank, signatures = whole.rpartition("\n\n")
    if not _is_text(whole) or not blank or not signatures:
        raise NoteInvalid("a note is text, an empty line and signatures, without control characters")
    lines = signatures.removesuffix("\n").split("\n")
    if len(lines) > _MAX_SIGNATURES:
        raise NoteInvalid("a note has at most a hundred signatures")
    return text + "\n", lines


def _signature(line: str) -> tuple[str, bytes, bytes]:
    """Name, key hash and signature of one line."""
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not _is_name(name):
        raise NoteInvalid("a signature line is a dash, a name and base64")
    raw = base64_text.decoded(encoded, NoteInvalid)
    if len(raw) <= _KEY_HASH_BYTES:
        raise NoteInvalid("a signature line without a signature")
    return name, raw[:_KEY_HASH_BYTES], raw[_KEY_HASH_BYTES:]


def _is_text(text: str) -> bool:
    return text.endswith("\n") and not any(char < " " and char != "\n" for char in text)


def _is_name(name: str) -> bool:
    return bool(name) and "+" not in name and not any(char.isspace() or "\ud800" <= char <= "\udfff" for char in name)


# --- checkpoints ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's state: how many leaves it has, and the root over them."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        lines = (self.origin, str(self.size), base64_text.encoded(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def parse_checkpoint(text: str) -> Checkpoint:
    """A checkpoint from a note's text. Raises NoteInvalid."""
    origin, *rest = text.removesuffix("\n").split("\n")
    if not text.endswith("\n") or not origin or len(rest) < 2 or not all(rest):
        raise NoteInvalid("a checkpoint has an origin, a size and a root, and no empty line")
    size, root, *extensions = rest
    if _SIZE.fullmatch(size) is None:
        raise NoteInvalid("a checkpoint's size is a decimal number without leading zeros")
    raw = base64_text.decoded(root, NoteInvalid)
    if len(raw) != hashlib.sha256().digest_size:
        raise NoteInvalid("a checkpoint's root has 32 bytes")
    return Checkpoint(origin, int(size), raw, tuple(extensions))


def checkpoint_of(note: bytes) -> Checkpoint:
    """What a note says that its reader does not have to believe: nobody's signature is checked. Raises NoteInvalid."""
    return parse_checkpoint(_split(note)[0])


def signers_of(note: bytes) -> frozenset[tuple[str, bytes]]:
    """Name and key hash of each signature line: who claims to have signed, held against no key. Raises NoteInvalid."""
    return frozenset((name, key_hash) for name, key_hash, _ in map(_signature, _split(note)[1]))


def open_checkpoint(note: bytes, keys: Sequence[NoteKey], origin: str) -> Checkpoint:
    """The checkpoint in a signed note. Raises NoteInvalid, also when it is another log's."""
    found = parse_checkpoint(open_note(note, keys).text)
    if found.origin != origin:
        raise NoteInvalid(f"the checkpoint is of {found.origin!r}, not of {origin!r}")
    return found
