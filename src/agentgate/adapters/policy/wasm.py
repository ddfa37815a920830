"""The embedded policy engine: Rego that OPA compiled to WebAssembly, run in process on wasmtime.

Each decision is one crossing (`_wasm_instance.py`).

An evaluation that traps, aborts or runs out of fuel may leave anything behind. Its instance is thrown away, a new
one is made, and that call is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import orjson
import wasmtime

from agentgate.adapters.policy._builtins import BuiltinFailed
from agentgate.adapters.policy._compile import ENTRYPOINTS
from agentgate.adapters.policy._wasm_call import FastCalls, PublicCalls, Trapped, fast_calls_fit
from agentgate.adapters.policy._wasm_instance import Compiled, Instance, Limits, Setup
from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.errors import PolicyInvalid, ReasonCode
from agentgate.core.policy import PolicyBundle
from agentgate.core.strict_json import canonical
from agentgate.ports.policy import Rule

_PREFIX: Final = b'{"input":'
_PROBE: Final = b"{}"


@dataclass(frozen=True, slots=True)
class _InForce:
    instance: Instance
    module: Compiled
    data: bytes
    revision: str


class WasmPolicyEngine:
    """A PolicyEngine. All of it, but compiling, happens on the thread of the event loop."""

    def __init__(
        self, *, limits: Limits | None = None, now_ns: Callable[[], int] = time.time_ns, fast: bool = True
    ) -> None:
        """`fast=False` keeps to wasmtime's public interface, which answers the same in five times the time."""
        config = wasmtime.Config()
        config.consume_fuel = True
        calls = FastCalls if fast and fast_calls_fit() else PublicCalls
        self._setup = Setup(wasmtime.Engine(config), limits or Limits(), now_ns, calls)
        self._compiled: tuple[str, Compiled] | None = None
        self._in_force: _InForce | None = None
        self._enforcing = asyncio.Lock()

    async def query(self, rule: Rule, question: bytes) -> Ruling | NoRuling:
        in_force = self._in_force
        if in_force is None:
            return NoRuling(ReasonCode.POLICY_UNAVAILABLE, "no policy is in force")
        asked = _input_of(question)
        if asked is None:
            return NoRuling(ReasonCode.POLICY_ERROR, 'the question is not of the form {"input": …}')
        try:
            answer = in_force.instance.eval(f"agentgate/{rule}", asked)
        except Trapped as trapped:
            self._replace(in_force)
            return NoRuling(ReasonCode.POLICY_ERROR, str(trapped))
        except BuiltinFailed as failed:
            return NoRuling(ReasonCode.POLICY_ERROR, str(failed))
        return _read_answer(answer, in_force.revision)

    published_revision = ""
    """There is no other worker to share it with."""

    async def enforce(self, bundle: PolicyBundle, *, instead_of: str | None = None) -> None:
        async with self._enforcing:
            if bundle.wasm is None:
                raise PolicyInvalid(
                    "the Rego was changed and is not compiled: put opa on PATH or in AGENTGATE_OPA_BIN, or commit the"
                    " policy.wasm that `make policy` writes; the old revision stays in force"
                )
            module = await self._module(bundle.wasm)
            data = canonical(dict(bundle.data))
            instance = self._probed(module, data)
            self._swap(_InForce(instance, module, data, bundle.revision))

    async def revision(self) -> str | None:
        return self._in_force.revision if self._in_force else None

    @property
    def memory_bytes(self) -> int:
        """What the policy's memory takes now; it grows to what the largest question needed, and no further."""
        return self._in_force.instance.memory_bytes if self._in_force else 0

    async def aclose(self) -> None:
        self._swap(None)

    async def _module(self, wasm: bytes) -> Compiled:
        """Compiled in another thread, for it takes a tenth of a second; kept, so that new data needs no compiling."""
        digest = hashlib.sha256(wasm).hexdigest()
        if self._compiled is None or self._compiled[0] != digest:
            try:
                module = await asyncio.to_thread(wasmtime.Module, self._setup.engine, wasm)
            except wasmtime.WasmtimeError as error:
                raise PolicyInvalid(f"policy.wasm is not a WebAssembly module: {str(error)[:200]}") from error
            self._compiled = (digest, Compiled(module, len(wasm)))
        return self._compiled[1]

    def _probed(self, module: Compiled, data: bytes) -> Instance:
        """A new instance that has answered an empty question. Raises PolicyInvalid."""
        try:
            instance = Instance(module, data, self._setup)
        except Trapped as trapped:
            raise PolicyInvalid(f"the compiled policy does not load: {trapped}") from trapped
        try:
            for entrypoint in ENTRYPOINTS:
                # An empty question may be too little for a built-in: that call would be refused, as it should be.
                with suppress(BuiltinFailed):
                    instance.eval(entrypoint, _PROBE)
        except Trapped as trapped:
            instance.close()
            raise PolicyInvalid(f"the compiled policy does not run: {trapped}") from trapped
        return instance

    def _replace(self, broken: _InForce) -> None:
        """A new instance of the same policy. If even that fails, nothing is in force and everything is refused."""
        try:
            instance = Instance(broken.module, broken.data, self._setup)
        except (Trapped, PolicyInvalid):
            self._swap(None)
            return
        self._swap(_InForce(instance, broken.module, broken.data, broken.revision))

    def _swap(self, new: _InForce | None) -> None:
        """Nothing is evaluating: evaluations do not await, and this is the thread they run on."""
        old, self._in_force = self._in_force, new
        if old is not None:
            old.instance.close()


def _input_of(question: bytes) -> bytes | None:
    """The bytes of the input in `{"input": …}`; None for anything else.

    They are parsed to be sure that they are JSON: to the module, bytes that are not would be no input at all.
    """
    if not (question.startswith(_PREFIX) and question.endswith(b"}")):
        return None
    inner = question[len(_PREFIX) : -1]
    try:
        orjson.loads(inner)
    except orjson.JSONDecodeError:
        return None
    return inner


def _read_answer(answer: bytes, revision: str) -> Ruling | NoRuling:
    """The module answers `[{"result": value}]`, or `[]` when the rule is undefined."""
    try:
        results: Any = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        return NoRuling(ReasonCode.POLICY_MALFORMED, f"the answer is not JSON: {error}")
    match results:
        case []:
            return NoRuling(ReasonCode.POLICY_UNDEFINED, "the rule is undefined for this question")
        case [{"result": value}]:
            return Ruling(value, revision)
        case _:
            return NoRuling(ReasonCode.POLICY_MALFORMED, "the answer is not one result")
