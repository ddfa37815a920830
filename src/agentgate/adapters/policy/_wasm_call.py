"""One crossing into WebAssembly, without the cost of the public binding.

wasmtime-py's `Func.__call__` looks up types and boxes values: 90 µs for an evaluation that takes 10. The same C
function can be called directly. Its ctypes description is not public, so this module trusts it only where it is
exactly what was tested (`fast_calls_fit`), and else everything goes through the public call.

The library is taken through `PyDLL`, which keeps the GIL: an evaluation is shorter than what it takes to get the
GIL back from a busy log thread.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.metadata import version
from typing import Any, Final

import wasmtime
from wasmtime import _bindings, _ffi

TESTED_WITH: Final = "50.0.1"
_RAW_VALUE_BYTES: Final = 16


class Trapped(Exception):
    """The module stopped: out of fuel, out of bounds, aborted. Its instance must not be used again."""


@cache
def fast_calls_fit() -> bool:
    """Whether the private C description is the one that `FastCalls` was written for."""
    call = getattr(_bindings, "_wasmtime_func_call_unchecked", None)
    return (
        version("wasmtime") == TESTED_WITH
        and call is not None
        and len(call.argtypes) == 5
        and ctypes.sizeof(_bindings.wasmtime_val_raw_t) == _RAW_VALUE_BYTES
        and hasattr(wasmtime.Store, "_context")
        and hasattr(_ffi.dll, "_name")
    )


class PublicCalls:
    """`opa_eval` through wasmtime's public interface: slow, and always there."""

    def __init__(self, store: wasmtime.Store, evaluate: wasmtime.Func, memory: wasmtime.Memory) -> None:
        self._store = store
        self._evaluate = evaluate
        self._memory = memory

    def eval(self, entrypoint: int, data: int, question: bytes, at: int, heap: int, fuel: int) -> bytes:
        """The C string that opa_eval answers.

        Raises:
            Trapped
        """
        try:
            self._store.set_fuel(fuel)
            self._memory.write(self._store, question, at)
            answer = self._evaluate(self._store, 0, entrypoint, data, at, len(question), heap, 0) & 0xFFFF_FFFF
        except (wasmtime.Trap, wasmtime.WasmtimeError) as error:
            raise Trapped(first_line(error)) from None
        content = bytes(self._memory.read(self._store, answer))
        text, end, _ = content.partition(b"\0")
        if not end:
            raise Trapped("an answer without an end")
        return text


class FastCalls:
    """`opa_eval` in three plain C calls. Same promise as `PublicCalls`."""

    def __init__(self, store: wasmtime.Store, evaluate: wasmtime.Func, memory: wasmtime.Memory) -> None:
        library = ctypes.PyDLL(_ffi.dll._name)
        self._call = library.wasmtime_func_call_unchecked
        self._call.restype = ctypes.c_void_p
        self._set_fuel = library.wasmtime_context_set_fuel
        self._set_fuel.argtypes = [ctypes.c_void_p, ctypes.c_uint64]
        self._set_fuel.restype = ctypes.c_void_p
        self._memory_data = library.wasmtime_memory_data
        self._memory_data.restype = ctypes.c_void_p
        self._memory_size = library.wasmtime_memory_data_size
        self._memory_size.restype = ctypes.c_size_t
        self._length_of = ctypes.PyDLL(None).strnlen
        self._length_of.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._length_of.restype = ctypes.c_size_t
        self._keep = (store, evaluate, memory)  # the C side holds addresses into these
        self._context: Any = store._context()
        self._function = ctypes.byref(evaluate._func)
        self._memory_at = ctypes.byref(memory._memory)
        self._values = (_bindings.wasmtime_val_raw_t * 8)()
        self._trap: Any = ctypes.POINTER(_bindings.wasm_trap_t)()
        self._trap_at = ctypes.byref(self._trap)

    def eval(self, entrypoint: int, data: int, question: bytes, at: int, heap: int, fuel: int) -> bytes:
        """The C string that opa_eval answers; the caller made room for `question` at `at`.

        Raises:
            Trapped
        """
        self._set_fuel(self._context, fuel)
        length = len(question)
        ctypes.memmove(self._memory_data(self._context, self._memory_at) + at, question, length)
        values = self._values
        values[0].i64 = 0
        values[1].i64 = entrypoint
        values[2].i64 = data
        values[3].i64 = at
        values[4].i64 = length
        values[5].i64 = heap
        values[6].i64 = 0
        error = self._call(self._context, self._function, values, 8, self._trap_at)
        if error or self._trap:
            raise Trapped(self._take_failure(error))
        answer = values[0].i32 & 0xFFFF_FFFF
        base = self._memory_data(self._context, self._memory_at)
        room = self._memory_size(self._context, self._memory_at) - answer
        if room <= 0:
            raise Trapped("an answer outside of the memory")
        size = self._length_of(base + answer, room)
        if size == room:
            raise Trapped("an answer without an end")
        return ctypes.string_at(base + answer, size)

    def _take_failure(self, error: int | None) -> str:
        """The text of what went wrong; whoever takes it must free it, which these objects do."""
        if error:
            pointer = ctypes.cast(error, ctypes.POINTER(_bindings.wasmtime_error_t))
            return first_line(wasmtime.WasmtimeError._from_ptr(pointer))
        trap = wasmtime.Trap._from_ptr(self._trap)
        self._trap = ctypes.POINTER(_bindings.wasm_trap_t)()
        self._trap_at = ctypes.byref(self._trap)
        return first_line(trap)


def first_line(error: Exception) -> str:
    """wasmtime's own cause, without its backtrace."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith(("wasm trap", "0: wasm trap", "Caused by"))]
    return (causes[-1] if causes else lines[0] if lines else "no message")[:200]
