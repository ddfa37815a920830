"""Credential kind `encrypted_file`: many secrets in one file, each sealed with ChaCha20-Poly1305 under its alias."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from agentgate.adapters.credentials._options import Options, read_private
from agentgate.core.strict_json import NotStrictJson, parse
from agentgate.ports.credentials import Ask, CredentialRefused, Issued, Serves
from agentgate.ports.upstreams import Credential

_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_VERSION: Final = 1


class EncryptedFileCredentials:
    """Implements `Issuer`. The alias is authenticated with the secret: who can write the file cannot pass one off as
    another's. The key is 32 random bytes in base64, and stands elsewhere."""

    serves = Serves.ALL

    def __init__(self, options: Mapping[str, Any], environ: Mapping[str, str]) -> None:
        """`{path: FILE, key: {env: NAME} | {file: PATH}}`.

        Raises:
            ValueError: with a sentence.
        """
        read = Options(options, environ)
        self._path = Path(read.text("path"))
        self._key = read.secret("key")
        read.end()

    async def issue(self, ask: Ask, before: Issued | None = None) -> Issued:
        return Issued(Credential(ask.alias, await asyncio.to_thread(self._unsealed, ask.alias)))

    async def revoke(self, issued: Issued) -> None:
        raise CredentialRefused("what stands in a file cannot be taken back")

    async def aclose(self) -> None:
        """Nothing is open."""

    def _unsealed(self, alias: str) -> str:
        sealed = self._read().get(alias)
        if sealed is None:
            raise CredentialRefused(f"{self._path} has none; run: agentgate credentials set {alias}")
        try:
            raw = base64.b64decode(sealed, validate=True)
            return self._cipher().decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _about(alias)).decode()
        except (InvalidTag, ValueError):
            raise CredentialRefused(f"{self._path} was not sealed with this key, or was changed") from None

    def _read(self) -> dict[str, str]:
        try:
            whole = parse(read_private(self._path).encode())
        except NotStrictJson:
            raise CredentialRefused(f"{self._path} is no file of credentials") from None
        sealed = whole.get("sealed") if isinstance(whole, dict) and whole.get("version") == _VERSION else None
        if not isinstance(sealed, dict) or not all(isinstance(one, str) for one in sealed.values()):
            raise CredentialRefused(f"{self._path} is no file of credentials of version {_VERSION}")
        return sealed

    def _cipher(self) -> ChaCha20Poly1305:
        try:
            key = base64.b64decode(self._key.read(), validate=True)
        except ValueError:
            key = b""
        if len(key) != _KEY_BYTES:
            raise CredentialRefused("its key is not 32 bytes in base64")
        return ChaCha20Poly1305(key)

    def put(self, alias: str, secret: str) -> None:
        """Write a secret, and make file and key file where there are none. The old file stays until the new one is
        whole.

        Raises:
            CredentialRefused, OSError
        """
        if self._key.path is not None and not self._key.path.exists():
            _write(self._key.path, base64.b64encode(ChaCha20Poly1305.generate_key()) + b"\n")
        sealed = self._read() if self._path.exists() else {}
        nonce = secrets.token_bytes(_NONCE_BYTES)
        text = nonce + self._cipher().encrypt(nonce, secret.encode(), _about(alias))
        sealed[alias] = base64.b64encode(text).decode()
        whole = {"version": _VERSION, "sealed": dict(sorted(sealed.items()))}
        new = self._path.with_name(f"{self._path.name}.{secrets.token_hex(4)}")
        _write(new, json.dumps(whole, indent=1).encode() + b"\n")
        new.replace(self._path)


def _about(alias: str) -> bytes:
    return f"agentgate credential {alias}".encode()


def _write(path: Path, content: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
