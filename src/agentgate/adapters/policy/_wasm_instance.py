"""A compiled policy in memory: what a question goes through, and what the module can call.

The data is parsed once and stays below the heap pointer that is remembered then; a question is copied to that address
and whatever the evaluation allocates lies above, so the next evaluation writes over it: nothing to free, nothing
carried over, and flat memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson
import wasmtime

from agentgate.adapters.policy._builtins import HOST_BUILTINS, BuiltinFailed
from agentgate.adapters.policy._compile import ENTRYPOINTS
from agentgate.adapters.policy._rego import Number, parse_value, print_value
from agentgate.adapters.policy._wasm_call import FastCalls, PublicCalls, Trapped, first_line
from agentgate.core.errors import PolicyInvalid

_FUEL_PER_BYTE: Final = 250
"""Added for each byte of the question: reading it takes 40 to 190, and is no fault of the policy."""
_PAGE_BYTES: Final = 65_536
_CLOCK: Final = "time.now_ns"
_OFFERED: Final = frozenset({*HOST_BUILTINS, _CLOCK})
_LOAD_FUEL: Final = 50_000_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What one evaluation may use."""

    fuel: int = 5_000_000
    """Some milliseconds. The shipped policy takes about 90,000 for a call."""
    memory_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class Setup:
    """What every instance of an engine is made with."""

    engine: wasmtime.Engine
    limits: Limits
    now_ns: Callable[[], int]
    calls: type[FastCalls] | type[PublicCalls]


@dataclass(frozen=True, slots=True)
class Compiled:
    module: wasmtime.Module
    size: int
    """In bytes, which is more than what it puts into memory when it is instantiated."""


class Instance:
    """A policy in memory, with its data parsed. Used by one thread, until the first `Trapped`.

    It must be closed: wasmtime keeps what the module can call in a global table until the store is freed, and that
    needs the store.
    """

    def __init__(self, module: Compiled, data: bytes, setup: Setup) -> None:
        """Raises Trapped, PolicyInvalid."""
        self._limits = setup.limits
        self._store = wasmtime.Store(setup.engine)
        self._store.set_fuel(_LOAD_FUEL)
        self._host = _Host(setup.now_ns)
        try:
            exports = self._instantiate(setup.engine, module)
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
            fuel = self._limits.fuel + _FUEL_PER_BYTE * len(question)
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

    def _instantiate(self, engine: wasmtime.Engine, module: Compiled) -> Any:
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


class _Host:
    """What the module can call. Never raises into it: wasmtime would keep the exception for a later call."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._now: Number | None = None
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
        unknown = sorted(set(wanted) - _OFFERED)
        if unknown:
            raise PolicyInvalid(
                f"the policy needs {', '.join(unknown)}, which the embedded engine does not offer; use an OPA server"
                f" (policy.kind: opa), or one of {', '.join(sorted(_OFFERED))}"
            )
        self._names = {number: name for name, number in wanted.items()}

    def begin(self) -> None:
        self.aborted = None
        self.failed = None
        self._now = None

    def abort(self, address: int) -> None:
        message = _c_string(self._memory, self._store, address)
        self.aborted = f"aborted: {message.decode(errors='replace')[:200]}"
        self._stop()

    def call(self, number: int, _context: int, *addresses: int) -> int:
        """A built-in: its value's address, or 0 for undefined."""
        name = self._names.get(number, "")
        try:
            values = [parse_value(self._text_at(address)) for address in addresses]
            value = self._time_now_ns() if name == _CLOCK else HOST_BUILTINS[name](*values)
            return self._put(print_value(value).encode())
        except (BuiltinFailed, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self.failed = f"{name}: {error}"[:300]
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            self.aborted = f"{name}: {first_line(error)}"[:300]
            self._stop()
        return 0

    def _time_now_ns(self) -> Number:
        """One value throughout an evaluation, as in OPA."""
        if self._now is None:
            self._now = Number(str(self._now_ns()))
        return self._now

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
