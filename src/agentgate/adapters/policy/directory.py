"""Policies from a directory: Rego modules, data.json, and the compiled form that belongs to them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from agentgate.adapters.policy._compile import OpaCompiler
from agentgate.core.errors import PolicyInvalid
from agentgate.core.policy import ROOTS, PolicyBundle
from agentgate.core.strict_json import NotStrictJson, parse

COMPILED: Final = "policy.wasm"
COMPILED_OF: Final = "policy.wasm.json"
"""Says which source COMPILED was made of: {source_sha256, opa_version, entrypoints}."""

_DATA_ROOTS: Final = frozenset(ROOTS) - {"agentgate", "tools"}
"""What data.json may define: the package's own name is the Rego's, `tools` is the registry's."""


class PolicyDirectory:
    """A PolicySource.

    Reads every `*.rego` below `path` but `*_test.rego`, and `data.json`, and adds `tools` to the data as
    `{name: {name, access, upstream, labels?}}`, as the mapping has them at that moment. The committed policy.wasm
    is used while it is of this very source; otherwise `compiler` makes a new one, and without a compiler the bundle
    has none.
    """

    def __init__(self, path: Path, tools: Mapping[str, Mapping[str, Any]], *, compiler: OpaCompiler | None) -> None:
        self._path = path
        self._tools = tools
        self._compiler = compiler
        self._last_compiled: tuple[str, bytes] | None = None

    async def read(self) -> PolicyBundle:
        """Raises PolicyInvalid."""
        found = await asyncio.to_thread(_load, self._path)
        tools = {name: dict(tool) for name, tool in self._tools.items()}
        bundle = PolicyBundle(found.modules, {**found.data, "tools": tools}, None)
        return replace(bundle, wasm=await self._compiled(bundle, found))

    async def _compiled(self, bundle: PolicyBundle, found: _Found) -> bytes | None:
        source = bundle.source_sha256
        if found.compiled_of == source:
            return found.compiled
        if self._last_compiled is not None and self._last_compiled[0] == source:
            return self._last_compiled[1]
        if self._compiler is None:
            return None
        wasm = await self._compiler.compile(bundle)
        self._last_compiled = (source, wasm)
        return wasm


@dataclass(frozen=True, slots=True)
class _Found:
    modules: dict[str, bytes]
    data: dict[str, Any]
    compiled: bytes | None
    compiled_of: str | None


def _load(folder: Path) -> _Found:
    try:
        modules = {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*.rego"))
            if not path.name.endswith("_test.rego")
        }
        if not modules:
            raise PolicyInvalid(f"no *.rego file in {folder}")
        data = _read_data(folder / "data.json")
        compiled, compiled_of = _read_compiled(folder)
    except OSError as error:
        raise PolicyInvalid(f"the policy directory cannot be read: {error}") from error
    try:
        "".join(modules).encode()
    except UnicodeEncodeError:  # the revision is a digest of the names, too
        raise PolicyInvalid(f"the name of a *.rego file in {folder} is not UTF-8") from None
    return _Found(modules, data, compiled, compiled_of)


def _read_data(path: Path) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    try:
        data = parse(raw)
    except NotStrictJson as error:
        raise PolicyInvalid(f"data.json: {error}") from None
    if not isinstance(data, dict):
        raise PolicyInvalid("data.json: not an object")
    foreign = sorted(set(data) - _DATA_ROOTS)
    if foreign:
        allowed = ", ".join(sorted(_DATA_ROOTS))
        raise PolicyInvalid(f"data.json: {', '.join(foreign)[:200]} cannot be defined there, only {allowed}")
    return data


def _read_compiled(folder: Path) -> tuple[bytes | None, str | None]:
    """The committed compiled policy and the digest of its source; a broken pair is as good as none."""
    try:
        about = parse((folder / COMPILED_OF).read_bytes())
        wasm = (folder / COMPILED).read_bytes()
    except (FileNotFoundError, NotStrictJson):
        return None, None
    source = about.get("source_sha256") if isinstance(about, dict) else None
    return wasm, source if isinstance(source, str) else None
