"""Ed25519 keys in PEM files that only their owner can read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from agentgate.core.errors import UnsafeConfiguration

_OTHERS = 0o077


class Ed25519Signer:
    """`ports.Signer` with one private key."""

    algorithm = "ed25519"

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = key.public_key().public_bytes_raw()
        """The 32 raw bytes that verifiers need."""
        self.key_id = hashlib.sha256(self.public_key).hexdigest()[:8]

    def sign(self, message: bytes) -> bytes:
        return self._key.sign(message)

    @classmethod
    def from_file(cls, path: Path) -> Ed25519Signer:
        """The key in `path` (PEM, PKCS #8, not encrypted).

        Raises:
            UnsafeConfiguration: missing, readable by others, or not such a key.
        """
        try:
            raw = _read_private(path)
            key = load_pem_private_key(raw, password=None)
        except OSError as error:
            raise UnsafeConfiguration(f"the signing key {path} cannot be read: {error.strerror}") from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UnsafeConfiguration(f"{path} is not an unencrypted PEM private key; name another file") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise UnsafeConfiguration(f"{path} is not an Ed25519 key; checkpoints are signed with Ed25519")
        return cls(key)

    @classmethod
    def from_file_or_new(cls, path: Path) -> Ed25519Signer:
        """The key in `path`; at the first start a new one, which is whole and private from its first moment on.

        Raises:
            UnsafeConfiguration: as `from_file`, or it cannot be written.
        """
        if not path.exists():
            try:
                _write_new(path)
            except OSError as error:
                raise UnsafeConfiguration(f"a signing key cannot be written to {path}: {error.strerror}") from error
        return cls.from_file(path)


def _read_private(path: Path) -> bytes:
    """The bytes of a file that nobody else may read: checked on what was opened, not on its name."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_mode & _OTHERS:
            raise UnsafeConfiguration(f"others can read the signing key {path}; run: chmod 600 {path}")
        return file.read(65_536)


def _write_new(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
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
