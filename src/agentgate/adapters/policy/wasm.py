"""The embedded policy engine: Rego that OPA compiled to WebAssembly, run in process on wasmtime.

Each decision is one crossing. The data is parsed once when a bundle is put in force and stays below the heap
pointer that is remembered then; a question is copied to that address and whatever the evaluation allocates lies
above, so the next evaluation writes over it: nothing to free, nothing carried over, and flat memory.

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

from agentgate.adapters.policy._builtins import HOST_BUILTINS, BuiltinFailed, Evaluation
from agentgate.adapters.policy._compile import ENTRYPOINTS
from agentgate.adapters.policy._rego import parse_value, print_value
from agentgate.adapters.policy._wasm_call import FastCalls, PublicCalls, Trapped, fast_calls_fit, first_line
from agentgate.core.decision import NoRuling, Ruling
from agentgate.core.errors import PolicyInvalid, ReasonCode
from agentgate.core.policy import PolicyBundle
from agentgate.core.strict_json import canonical
from agentgate.ports.policy import Rule

DEFAULT_FUEL: Final = 5_000_000
"""Some milliseconds. The shipped policy takes about 90,000 for a call."""
FUEL_PER_BYTE: Final = 250
"""Added for each byte of the question: reading it takes 40 to 190, and is no fault of the policy."""
DEFAULT_MEMORY_BYTES: Final = 64 * 1024 * 1024

_PAGE_BYTES: Final = 65_536
_LOAD_FUEL: Final = 50_000_000_000
_PREFIX: Final = b'{"input":'
_PROBE: Final = b"{}"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one evaluation may use."""

    fuel: int = DEFAULT_FUEL
    memory_bytes: int = DEFAULT_MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class _Setup:
    """What every instance of an engine is made with."""

    limits: Limits
    now_ns: Callable[[], int]
    calls: type[FastCalls] | type[PublicCalls]


@dataclass(frozen=True, slots=True)
class _Compiled:
    module: wasmtime.Module
    size: int
    """In bytes, which is more than what it puts into memory when it is instantiated."""


class WasmPolicyEngine:
    """A PolicyEngine. All of it, but compiling, happens on the thread of the event loop."""

    def __init__(
        self, *, limits: Limits | None = None, now_ns: Callable[[], int] = time.time_ns, fast: bool = True
    ) -> None:
        """`fast=False` keeps to wasmtime's public interface, which answers the same in five times the time."""
        self._setup = _Setup(limits or Limits(), now_ns, FastCalls if fast and fast_calls_fit() else PublicCalls)
        config = wasmtime.Config()
        config.consume_fuel = True
        self._engine = wasmtime.Engine(config)
        self._compiled: tuple[str, _Compiled] | None = None
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

    async def enforce(self, bundle: PolicyBundle) -> None:
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

    async def _module(self, wasm: bytes) -> _Compiled:
        """Compiled in another thread, for it takes a tenth of a second; kept, so that new data needs no compiling."""
        digest = hashlib.sha256(wasm).hexdigest()
        if self._compiled is None or self._compiled[0] != digest:
            try:
                module = await asyncio.to_thread(wasmtime.Module, self._engine, wasm)
            except wasmtime.WasmtimeError as error:
                raise PolicyInvalid(f"policy.wasm is not a WebAssembly module: {str(error)[:200]}") from error
            self._compiled = (digest, _Compiled(module, len(wasm)))
        return self._compiled[1]

    def _probed(self, module: _Compiled, data: bytes) -> _Instance:
        """A new instance that has answered an empty question. Raises PolicyInvalid."""
        try:
            instance = _Instance(self._engine, module, data, self._setup)
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
            instance = _Instance(self._engine, broken.module, broken.data, self._setup)
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


class _Instance:
    """A policy in memory, with its data parsed. Used by one thread, until the first `Trapped`.

    It must be closed: wasmtime keeps what the module can call in a global table until the store is freed, and that
    needs the store.
    """

    def __init__(
        self,
        engine: wasmtime.Engine,
        module: _Compiled,
        data: bytes,
        setup: _Setup,
    ) -> None:
        self._limits = setup.limits
        self._store = wasmtime.Store(engine)
        self._store.set_fuel(_LOAD_FUEL)
        self._host = _Host(setup.now_ns)
        try:
            exports = self._instantiate(engine, module)
            self._host.wire(self._store, exports, self._memory)
            self._entrypoints: dict[str, int] = self._describe(exports, "entrypoints")
            self._host.choose(self._describe(exports, "builtins"))
            self._data, self._heap = self._load(exports, data)
            evaluate = exports["opa_eval"]
            missing = [name for name in ENTRYPOINTS if name not in self._entrypoints]
            if missing:
                raise PolicyInvalid(f"policy.wasm has no entrypoint {', '.join(missing)}")
            self._calls = setup.calls(self._store, evaluate, self._memory)
            self._room = self._memory.data_len(self._store)
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            self.close()
            raise Trapped(first_line(error)) from None
        except KeyError as error:
            self.close()
            raise PolicyInvalid(f"policy.wasm does not export {error}: it was not made by OPA") from None
        except PolicyInvalid:
            self.close()
            raise

    def close(self) -> None:
        self._store.close()

    def eval(self, entrypoint: str, question: bytes) -> bytes:
        """The JSON text of the result set.

        Raises:
            Trapped: this instance must not be used again.
            BuiltinFailed: a host built-in could not answer. OPA's compiled code goes on with undefined then, which
                can turn a deny rule off; so the whole evaluation counts for nothing, as with OPA's
                strict-builtin-errors.
        """
        end = self._heap + len(question)
        if end > self._room:
            self._make_room(end)
        heap = (end + 7) & ~7
        host = self._host
        host.begin()
        try:
            fuel = self._limits.fuel + FUEL_PER_BYTE * len(question)
            answer = self._calls.eval(self._entrypoints[entrypoint], self._data, question, self._heap, heap, fuel)
        except Trapped as trapped:
            raise Trapped(host.aborted or str(trapped)) from None
        if host.aborted is not None:
            raise Trapped(host.aborted)
        if host.failed is not None:
            raise BuiltinFailed(host.failed)
        return answer

    @property
    def memory_bytes(self) -> int:
        return self._memory.data_len(self._store)

    def _instantiate(self, engine: wasmtime.Engine, module: _Compiled) -> Any:
        wanted = next((one.type for one in module.module.imports if one.name == "memory"), None)
        if not isinstance(wanted, wasmtime.MemoryType):
            raise PolicyInvalid("policy.wasm imports no memory: it was not made by OPA")
        # OPA asks for two pages, however much the texts of a policy take.
        least = wanted.limits.min + -(-module.size // _PAGE_BYTES)
        cap = max(self._limits.memory_bytes // _PAGE_BYTES, least)
        self._memory = wasmtime.Memory(self._store, wasmtime.MemoryType(wasmtime.Limits(least, cap)))
        linker = wasmtime.Linker(engine)
        linker.define(self._store, "env", "memory", self._memory)
        i32 = wasmtime.ValType.i32()
        linker.define_func("env", "opa_abort", wasmtime.FuncType([i32], []), self._host.abort)
        linker.define_func("env", "opa_println", wasmtime.FuncType([i32], []), lambda _: None)
        for arity in range(5):
            kind = wasmtime.FuncType([i32] * (arity + 2), [i32])
            linker.define_func("env", f"opa_builtin{arity}", kind, self._host.call)
        return linker.instantiate(self._store, module.module).exports(self._store)

    def _describe(self, exports: Any, name: str) -> dict[str, int]:
        address = exports["opa_json_dump"](self._store, exports[name](self._store))
        table: dict[str, int] = orjson.loads(_c_string(self._memory, self._store, address))
        return table

    def _load(self, exports: Any, data: bytes) -> tuple[int, int]:
        """Parse the data for good; answers its address and where the heap begins for every evaluation."""
        at = exports["opa_malloc"](self._store, len(data)) & 0xFFFF_FFFF
        self._memory.write(self._store, data, at)
        parsed = exports["opa_json_parse"](self._store, at, len(data)) & 0xFFFF_FFFF
        if not parsed:
            raise PolicyInvalid("the policy data cannot be loaded")
        return parsed, exports["opa_heap_ptr_get"](self._store) & 0xFFFF_FFFF

    def _make_room(self, end: int) -> None:
        pages = -(-(end - self._memory.data_len(self._store)) // _PAGE_BYTES)
        if pages > 0:
            try:
                self._memory.grow(self._store, pages)
            except wasmtime.WasmtimeError:
                raise Trapped(f"the question of {end - self._heap} bytes does not fit the memory cap") from None
        self._room = self._memory.data_len(self._store)


@dataclass(frozen=True, slots=True)
class _InForce:
    instance: _Instance
    module: _Compiled
    data: bytes
    revision: str


class _Host:
    """What the module can call. Never raises into it: wasmtime would keep the exception for a later call."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._evaluation = Evaluation(now_ns)
        self._names: dict[int, str] = {}
        self.aborted: str | None = None
        self.failed: str | None = None

    def wire(self, store: wasmtime.Store, exports: Any, memory: wasmtime.Memory) -> None:
        self._store = store
        self._memory = memory
        self._dump = exports["opa_value_dump"]
        self._malloc = exports["opa_malloc"]
        self._parse = exports["opa_value_parse"]

    def choose(self, wanted: dict[str, int]) -> None:
        unknown = sorted(set(wanted) - set(HOST_BUILTINS))
        if unknown:
            raise PolicyInvalid(
                f"the policy needs {', '.join(unknown)}, which the embedded engine does not offer; use an OPA server"
                f" (policy.kind: opa), or one of {', '.join(sorted(HOST_BUILTINS))}"
            )
        self._names = {number: name for name, number in wanted.items()}

    def begin(self) -> None:
        self.aborted = None
        self.failed = None
        self._evaluation = Evaluation(self._now_ns)

    def abort(self, address: int) -> None:
        message = _c_string(self._memory, self._store, address)
        self.aborted = f"aborted: {message.decode(errors='replace')[:200]}"
        self._stop()

    def call(self, number: int, _context: int, *addresses: int) -> int:
        """A built-in: its value's address, or 0 for undefined."""
        name = self._names.get(number, "")
        try:
            values = [parse_value(self._text_at(address)) for address in addresses]
            value = HOST_BUILTINS[name](self._evaluation, *values)
            return self._put(print_value(value).encode())
        except (BuiltinFailed, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self.failed = f"{name}: {error}"[:300]
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            self.aborted = f"{name}: {first_line(error)}"[:300]
            self._stop()
        return 0

    def _stop(self) -> None:
        """No fuel: the module traps at its next step."""
        self._store.set_fuel(0)

    def _text_at(self, address: int) -> str:
        dumped = self._dump(self._store, address)
        return _c_string(self._memory, self._store, dumped).decode()

    def _put(self, text: bytes) -> int:
        at = self._malloc(self._store, len(text)) & 0xFFFF_FFFF
        self._memory.write(self._store, text, at)
        address: int = self._parse(self._store, at, len(text))
        return address


def _c_string(memory: wasmtime.Memory, store: wasmtime.Store, address: int) -> bytes:
    """The bytes at `address` up to the NUL, read in growing steps: most strings are short, the memory is not."""
    start = address & 0xFFFF_FFFF
    step = 256
    found = b""
    while True:
        piece = bytes(memory.read(store, start + len(found), start + len(found) + step))
        if not piece:
            return found
        text, end, _ = piece.partition(b"\0")
        found += text
        if end:
            return found
        step *= 4
