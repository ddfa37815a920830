"""The OPA binary as a compiler and checker of policies. Where there is none, policies cannot be compiled here."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from agentgate.adapters.policy._bundle import files_of
from agentgate.core.errors import PolicyInvalid
from agentgate.core.policy import PolicyBundle

ENTRYPOINTS: Final = ("agentgate/decision", "agentgate/tools")
_MAX_MESSAGE_CHARS: Final = 4000


def find_opa(environ: Mapping[str, str]) -> Path | None:
    """The opa binary: $AGENTGATE_OPA_BIN, else the one on PATH, else the one that `make setup` put in the cache."""
    named = environ.get("AGENTGATE_OPA_BIN")
    if named:
        return Path(named)
    found = shutil.which("opa", path=environ.get("PATH", os.defpath))
    if found:
        return Path(found)
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    cached = Path(environ.get("AGENTGATE_CACHE") or f"{base}/agentgate") / "bin" / "opa"
    return cached if os.access(cached, os.X_OK) else None


class OpaCompiler:
    """Runs `opa build` in a temporary folder, with a deadline."""

    def __init__(self, binary: Path, *, deadline_s: float = 30.0) -> None:
        self._binary = binary
        self._deadline_s = deadline_s

    async def compile(self, bundle: PolicyBundle) -> bytes:
        """The wasm form of the bundle's modules.

        The data goes along, so that what would not load as a bundle does not compile either.

        Raises:
            PolicyInvalid: with OPA's own message, or saying that OPA could not be run.
        """
        try:
            return await self._built(bundle)
        except (OSError, EOFError, tarfile.TarError, zlib.error) as error:  # a full disk, or half a file that it left
            raise PolicyInvalid(f"the policy cannot be compiled here: {error}") from error

    async def _built(self, bundle: PolicyBundle) -> bytes:
        with tempfile.TemporaryDirectory(prefix="agentgate-policy-") as folder:
            root = Path(folder)
            source = root / "bundle"
            await asyncio.to_thread(_write, source, files_of(bundle))
            wanted = [flag for entrypoint in ENTRYPOINTS for flag in ("-e", entrypoint)]
            built = root / "built.tar.gz"
            await self._run(source, "build", "-t", "wasm", *wanted, "-o", str(built), "-b", ".")
            try:
                archive = await asyncio.to_thread(built.read_bytes)
            except FileNotFoundError:
                raise PolicyInvalid("the policy compiler wrote no bundle") from None
            return _member(archive, "policy.wasm")

    async def version(self) -> str:
        """The compiler's version, `1.21.1`."""
        said = await self._run(Path.cwd(), "version")
        return said.split("Version: ", 1)[-1].split("\n", 1)[0].strip()

    async def _run(self, cwd: Path, *arguments: str) -> str:
        try:
            process = await asyncio.create_subprocess_exec(
                self._binary,
                *arguments,
                cwd=cwd,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as error:
            raise PolicyInvalid(f"the policy compiler {self._binary} cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(self._deadline_s):
                output, _ = await process.communicate()
        except TimeoutError:
            raise PolicyInvalid(f"the policy compiler was not done within {self._deadline_s:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = output.decode(errors="replace").strip()
        if process.returncode != 0:
            raise PolicyInvalid(text.removeprefix("error: ")[:_MAX_MESSAGE_CHARS])
        return text


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for entry in tar:
            if entry.name.lstrip("/") == name:
                content = tar.extractfile(entry)
                if content is not None:
                    return content.read()
    raise PolicyInvalid(f"the policy compiler wrote no {name}")
