"""What a mutated function asks at each call: which of its mutants is on in this process.

In the place of mutmut's own `trampoline`, which asks the environment, and of which a forked process would know nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

MutantDict = dict[str, Any]

on = ("", "")
"""The module, and the name that the mutant has in it."""
called: set[str] | None = None
"""Where calls of mutated functions are noted, by module and name."""


def wrap(mutants: MutantDict, is_classmethod: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        module = function.__module__

        @functools.wraps(function)
        def ask(*args: Any, **kwargs: Any) -> Any:
            original = mutants["_mutmut_orig"]
            if called is not None:
                called.add(f"{module}.{of(original.__name__)}")
            chosen = mutants.get(on[1], original) if on[0] == module else original
            if is_classmethod:
                return getattr(args[0], chosen.__name__)(*args[1:], **kwargs)
            return chosen(*args, **kwargs)

        return ask

    return around


def of(mutant: str) -> str:
    """The function that a mutant is of."""
    return mutant.rpartition("__mutmut_")[0]
