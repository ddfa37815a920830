"""Private keys as files that only their owner can read, or as text out of the environment."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentgate.core.errors import UnsafeConfiguration

_OTHERS = 0o077


def from_file(path: Path) -> PrivateKeyTypes:
    """The key in `path` (PEM, PKCS #8, not encrypted).

    Raises:
        UnsafeConfiguration: it cannot be read, others can read it, or it is not a key.
    """
    try:
        pem = _read_private(path)
    except OSError as error:
        raise UnsafeConfiguration(f"the signing key {path} cannot be read: {error.strerror}") from error
    return _parsed(pem, str(path))


def from_text(text: str, name: str) -> PrivateKeyTypes:
    """The key in the value of variable `name`: PEM, or base64 of it for places that keep no line ends.

    Raises:
        UnsafeConfiguration: it is not a key. The text never quotes it.
    """
    pem = text.encode()
    if b"-----" not in pem:
        try:
            pem = base64.b64decode("".join(text.split()), validate=True)
        except (binascii.Error, ValueError):
            raise UnsafeConfiguration(f"{name} is neither a key in PEM nor base64 of one") from None
    return _parsed(pem, name)


def write_new(path: Path, key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
    """Keep `key` in `path`, whole and private from its first moment on; a key that is there already stays.

    Raises:
        UnsafeConfiguration: it cannot be written.
    """
    try:
        _write_new(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    except OSError as error:
        raise UnsafeConfiguration(f"a signing key cannot be written to {path}: {error.strerror}") from error


def _parsed(pem: bytes, name: str) -> PrivateKeyTypes:
    try:
        return load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UnsafeConfiguration(f"{name} is not an unencrypted private key in PEM") from error


def _read_private(path: Path) -> bytes:
    """The bytes of a file that nobody else may read: checked on what was opened, not on its name."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise UnsafeConfiguration(f"others can read the signing key {path}; run: chmod 600 {path}")
        return file.read(65_536)


def _write_new(path: Path, pem: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}.new")
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(half, path)  # fails if another process was first: then its key is the key
    except FileExistsError:
        pass
    finally:
        half.unlink()
