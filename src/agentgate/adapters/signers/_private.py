"""Private keys as files that only their owner can read, or as text out of the environment, and who signs with one."""

from __future__ import annotations

import base64
import binascii
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from agentgate.core.errors import UnsafeConfiguration

_OTHERS = 0o077


class PrivateKeySigner(ABC):
    """A signer with one private key, of whatever kind."""

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The key in `path` (PEM, PKCS #8, not encrypted).

        Raises:
            UnsafeConfiguration: it cannot be read, others can read it, or it is not such a key.
        """
        try:
            pem = _read_private(path)
        except OSError as error:
            raise UnsafeConfiguration(f"the signing key {path} cannot be read: {error.strerror}") from error
        return cls._of(_parsed(pem, str(path)), str(path))

    @classmethod
    def from_text(cls, text: str, name: str) -> Self:
        """The key in the value of variable `name`: PEM, or base64 of it for places that keep no line ends.

        Raises:
            UnsafeConfiguration: it is not such a key. The text never quotes it.
        """
        pem = text.encode()
        if b"-----" not in pem:
            try:
                pem = base64.b64decode("".join(text.split()), validate=True)
            except (binascii.Error, ValueError):
                raise UnsafeConfiguration(f"{name} is neither a key in PEM nor base64 of one") from None
        return cls._of(_parsed(pem, name), name)

    @classmethod
    def from_file_or_new(cls, path: Path) -> Self:
        """The key in `path`; at the first start a new one, which is whole and private from its first moment on. Where
        several processes start at once, they get the same one.

        Raises:
            UnsafeConfiguration: as `from_file`, or it cannot be written.
        """
        if not path.exists():
            try:
                _write_new(path, cls._new().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            except OSError as error:
                raise UnsafeConfiguration(f"a signing key cannot be written to {path}: {error.strerror}") from error
        return cls.from_file(path)

    @classmethod
    @abstractmethod
    def _of(cls, key: PrivateKeyTypes, name: str) -> Self:
        """Raises UnsafeConfiguration when the key that `name` has is of another kind."""

    @staticmethod
    @abstractmethod
    def _new() -> Ed25519PrivateKey | EllipticCurvePrivateKey: ...


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
