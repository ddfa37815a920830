"""The walls of docs/architecture.md, checked against every file in src/.

A room may import the rooms listed for it, the third-party packages listed for it, and nothing else. The
pure rooms ask nobody for the time, a file or a number. Sizes and broad handlers are checked here too.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "agentgate"
TESTS = ROOT / "tests"

ANY = frozenset({"*"})
Node = TypeVar("Node", bound=ast.stmt | ast.expr)


class Room(NamedTuple):
    ours: frozenset[str]
    third_party: frozenset[str]


def room(ours: str = "", third_party: str = "") -> Room:
    return Room(frozenset(ours.split()), ANY if third_party == "*" else frozenset(third_party.split()))


ROOMS = {
    "core": room(third_party="rfc8785 orjson jiter cryptography"),
    "ports": room("core"),
    "pipeline": room("core ports"),
    "adapters": room("core ports", "*"),
    "edges": room(
        "core ports pipeline", "fastapi starlette sse_starlette mcp anyio httpx orjson prometheus_client pydantic"
    ),
    "settings": room("core", "pydantic pydantic_settings yaml"),
    "keyfile": room("core settings", "pydantic yaml"),
    "toolservers": room("core pipeline adapters settings"),
    "credentials": room("core ports pipeline adapters settings"),
    "logs": room("core ports adapters settings", "*"),
    "kinds": room("core ports pipeline adapters settings toolservers credentials", "*"),
    "notices": room("core ports pipeline adapters settings logs"),
    "identity": room("core ports pipeline adapters edges settings keyfile kinds", "cryptography"),
    "evidence": room("core ports pipeline adapters settings logs", "cryptography"),
    "opening": room("core ports pipeline adapters settings kinds logs credentials"),
    "health": room("core ports pipeline adapters kinds logs"),
    "gateway": room(
        "health core ports pipeline adapters edges settings identity evidence toolservers kinds notices opening"
    ),
    "doors": room("ports pipeline adapters edges kinds gateway"),
    "life": room("core pipeline adapters settings gateway"),
    "app": room("core ports pipeline adapters edges settings opening gateway life doors"),
    "whereabouts": room(),
    "offline": room("core pipeline adapters settings kinds evidence logs notices", "*"),
    "rulings": room("core ports pipeline adapters settings toolservers kinds"),
    "serving": room("settings keyfile supervising whereabouts reloading worker"),
    "supervising": room("settings"),
    "connection": room("core edges", "uvicorn"),
    "reloading": room("core kinds settings supervising worker", "uvicorn"),
    "worker": room("app connection settings supervising", "uvicorn"),
    "commands": room(
        "core settings keyfile credentials offline rulings whereabouts", "typer rich httpx mcp mcp_types anyio httpx2"
    ),
    "starting": room("serving commands", "typer"),
    "cli": room("starting core demo commands", "typer rich"),
    "demo": room("core settings", "httpx rich"),
    "__main__": room("starting cli"),
}

PURE = frozenset({"core", "ports", "pipeline"})

# Files, sockets, processes, clocks, dice, threads: what a pure room must be handed through a port.
NO_IO = frozenset(
    """
    builtins concurrent ctypes fcntl ftplib glob http importlib io logging mmap multiprocessing os pathlib pickle
    platform random resource secrets select selectors shelve shutil signal smtplib socket socketserver sqlite3 ssl
    subprocess sys tempfile threading time urllib uuid webbrowser zoneinfo
    """.split()  # noqa: SIM905 - a list of words reads as one
)
# The pipeline waits for its ports and cuts calls that run; core computes, and ports only name what is awaited.
NO_ASYNCIO = frozenset({"core", "ports"})
# The gate turns an unforeseen exception into a refusal: its traceback must reach somebody. The app says where to.
MAY_LOG = frozenset({"pipeline"})

IMPURE_CALLS = frozenset(
    """
    open print input eval exec compile __import__ breakpoint
    datetime.now datetime.utcnow datetime.today date.today
    datetime.datetime.now datetime.datetime.utcnow datetime.datetime.today datetime.date.today
    """.split()  # noqa: SIM905 - as above
)

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 40  # without its docstring

# Where a handler may catch everything. Each such line needs a comment with its reason as well.
BROAD_HANDLERS = {
    "pipeline/calls/gate.py": "whatever goes wrong in a check is a refusal, never an ALLOW",
    "pipeline/calls/run.py": "whatever an upstream's adapter or its answer leads to, the call has an outcome",
    "pipeline/credentials/sources.py": "whatever a source drives its adapter to, the call has an outcome",
    "core/redaction/redactor.py": "whatever a detector raises, what it did not read is not written down",
    "adapters/schema/jsonschema.py": "what is thrown where Rust panics is no Exception",
    "adapters/log/_checkpoints/followers.py": "a task that nobody awaits goes on, and what went wrong is told",
    "commands/answers.py": "what is raised in a thread is raised where it is waited for",
    "edges/wire.py": "the edges' last handler: nobody gets a traceback, nothing is answered as allowed",
}


class Module(NamedTuple):
    path: Path
    text: str
    tree: ast.Module

    @property
    def rel(self) -> str:
        return self.path.relative_to(SRC).as_posix()

    @property
    def parts(self) -> tuple[str, ...]:
        return self.path.relative_to(SRC).with_suffix("").parts

    @property
    def room(self) -> str:
        return self.parts[0]

    def has_comment(self, line: int) -> bool:
        """A `#` with words after it on that line; a bare `noqa` or `type: ignore` gives no reason."""
        _, hash_sign, comment = self.text.splitlines()[line - 1].partition("#")
        for part in comment.split("#") if hash_sign else []:
            words = part.strip()
            if words and not words.startswith(("noqa", "type: ignore", "pragma:")):
                return True
            # ruff's own form, a noqa and its code and then ` - why`, is a reason
            if " - " in words:
                return True
        return False


def parse(path: Path) -> Module:
    text = path.read_text(encoding="utf-8")
    return Module(path, text, ast.parse(text, filename=str(path)))


MODULES = [parse(p) for p in sorted(SRC.rglob("*.py")) if p != SRC / "__init__.py"]


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of all that is imported, at the top or inside a function, for types or for real."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module is not None
            # `from agentgate import edges` names a room, `from agentgate import __version__` does not
            if node.module == "agentgate":
                yield from ((node.lineno, f"agentgate.{a.name}") for a in node.names if a.name != "__version__")
            else:
                yield node.lineno, node.module


def breaches(module: Module) -> Iterator[str]:
    rules = ROOMS[module.room]
    for line, name in imports(module.tree):
        top, *rest = name.split(".")
        where = f"{module.rel}:{line}: {module.room} may not import {name}"
        if top == "agentgate":
            target = rest[0] if rest else ""
            if target != module.room and target not in rules.ours:
                yield where
            elif target == module.room == "adapters" and rest[1:2] not in ([], [module.parts[1]]):
                yield f"{where} (an adapter knows no other port's folder)"
        elif top in sys.stdlib_module_names:
            if top == "logging" and module.room in MAY_LOG:
                continue
            if module.room in PURE and top in NO_IO:
                yield f"{where} (no I/O, clock or dice here)"
            if module.room in NO_ASYNCIO and top == "asyncio":
                yield where
        elif rules.third_party is not ANY and top not in rules.third_party:
            yield where


def test_every_module_has_a_room() -> None:
    assert {m.room for m in MODULES} <= ROOMS.keys()


def test_modules_stay_in_their_rooms() -> None:
    assert not [breach for module in MODULES for breach in breaches(module)]


def places(
    nodes: type[Node] | tuple[type[Node], ...], rooms: frozenset[str] = frozenset(ROOMS)
) -> Iterator[tuple[str, Node]]:
    """Every node of that kind in those rooms, and where it is."""
    for module in MODULES:
        if module.room in rooms:
            for node in ast.walk(module.tree):
                if isinstance(node, nodes):
                    yield f"{module.rel}:{node.lineno}", node


def test_no_relative_imports() -> None:
    assert not [where for where, node in places(ast.ImportFrom) if node.level]


def test_commands_show_what_strangers_wrote_in_one_way() -> None:
    """`terminal.safe`: rich's own `escape` alone lets through what a terminal obeys."""
    found = {m.rel for m in MODULES if m.room == "commands" and "rich.markup" in {name for _, name in imports(m.tree)}}
    assert found == {"commands/terminal.py"}


def test_pure_rooms_ask_nobody_for_time_files_or_code() -> None:
    found = ((where, ast.unparse(call.func)) for where, call in places(ast.Call, PURE))
    assert not [f"{where}: {name}" for where, name in found if name in IMPURE_CALLS]


def test_core_is_not_async() -> None:
    kinds = (ast.AsyncFunctionDef, ast.Await, ast.AsyncFor, ast.AsyncWith)
    assert not [where for where, _ in places(kinds, frozenset({"core"}))]


def test_no_module_is_too_long() -> None:
    assert not [module.rel for module in MODULES if len(module.text.splitlines()) > MAX_MODULE_LINES]


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """From its name to its end, without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    is_told = ast.get_docstring(function, clean=False) is not None
    return lines - ((first.end_lineno or first.lineno) - first.lineno + 1) if is_told else lines


def test_no_function_is_too_long() -> None:
    found = ((where, node.name, lines_of(node)) for where, node in places((ast.FunctionDef, ast.AsyncFunctionDef)))
    assert not [f"{where}: {name} has {lines} lines" for where, name, lines in found if lines > MAX_FUNCTION_LINES]


def catches_everything(handler: ast.ExceptHandler) -> bool:
    """Clean-up that ends in a bare `raise` catches nothing; with a `return` on the way it may."""
    last = handler.body[-1]
    if isinstance(last, ast.Raise) and last.exc is None:
        swallows = ast.Return | ast.Continue | ast.Break
        return any(isinstance(n, swallows) for statement in handler.body for n in ast.walk(statement))
    if handler.type is None:
        return True
    caught = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(c).rpartition(".")[2] in {"Exception", "BaseException"} for c in caught)


def test_only_those_that_are_listed_catch_everything_and_say_why() -> None:
    for module in MODULES:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ExceptHandler) and catches_everything(node):
                where = f"{module.rel}:{node.lineno}"
                assert module.rel in BROAD_HANDLERS, f"{where}: name what you catch"
                assert module.has_comment(node.lineno), f"{where}: say why on this line"


def test_no_broad_handler_is_allowed_for_nothing() -> None:
    """An entry whose file is gone, or no longer catches everything, would let the next one in unseen."""
    by_rel = {m.rel: m for m in MODULES}
    for rel in BROAD_HANDLERS:
        handlers = [n for n in ast.walk(by_rel[rel].tree) if isinstance(n, ast.ExceptHandler)]
        assert any(map(catches_everything, handlers)), f"{rel} needs no entry in BROAD_HANDLERS"


def test_an_import_inside_a_function_gives_its_reason() -> None:
    found = {
        f"{module.rel}:{inner.lineno}"
        for module in MODULES
        for function in ast.walk(module.tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(function)
        if isinstance(inner, ast.Import | ast.ImportFrom) and not module.has_comment(inner.lineno)
    }
    assert not found


ADAPTERS = [
    m
    for m in MODULES
    if m.room == "adapters" and len(m.parts) == 3 and not m.parts[2].startswith("_")  # adapters/<port>/<kind>.py
]


@pytest.mark.parametrize("module", ADAPTERS, ids=lambda m: m.rel)
def test_every_adapter_proves_its_port_contract(module: Module) -> None:
    _, port, kind = module.parts
    test = TESTS / "adapters" / port / f"test_{kind}.py"
    assert test.is_file(), f"{module.rel} has no {test.relative_to(ROOT)}"
    bases = {
        ast.unparse(base)
        for node in ast.walk(ast.parse(test.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        for base in node.bases
    }
    assert any(b.endswith("Contract") for b in bases), f"{test.relative_to(ROOT)} subclasses no contract"


def is_door(module: Module) -> bool:
    """Whether it passes calls through the gate."""
    return any(isinstance(n, ast.Attribute) and n.attr == "pass_through" for n in ast.walk(module.tree))


DOORS = [m for m in MODULES if m.room == "edges" and is_door(m)]


def test_doors_are_recognised() -> None:
    assert "edges/tools.py" in {m.rel for m in DOORS}


@pytest.mark.parametrize("module", DOORS, ids=lambda m: m.rel)
def test_every_door_proves_that_a_kill_cuts_its_calls(module: Module) -> None:
    test = TESTS / "edges" / "doors" / f"test_{module.parts[-1]}.py"
    assert test.is_file(), f"{module.rel} has no {test.relative_to(ROOT)}"
    classes = [n for n in ast.walk(ast.parse(test.read_text(encoding="utf-8"))) if isinstance(n, ast.ClassDef)]
    assert any(ast.unparse(base) == "DoorContract" for n in classes for base in n.bases)


# The checker itself, on small made-up modules: a wall that no breach can trip is paint.


def made_up(rel: str, text: str) -> Module:
    return Module(SRC / rel, text, ast.parse(text))


@pytest.mark.parametrize(
    ("rel", "text"),
    [
        ("core/x.py", "import time"),
        ("core/x.py", "import asyncio"),
        ("core/x.py", "import httpx"),
        ("core/x.py", "from agentgate.pipeline import gate"),
        ("core/x.py", "from agentgate import settings"),
        ("core/x.py", "def f():\n    import os"),
        ("core/x.py", "import os.path"),
        ("ports.py", "import orjson"),
        ("ports.py", "import asyncio"),
        ("pipeline/x.py", "import orjson"),
        ("pipeline/x.py", "from agentgate.adapters.log import sqlite"),
        ("adapters/log/x.py", "from agentgate.adapters.policy import opa"),
        ("adapters/log/x.py", "from agentgate.pipeline import gate"),
        ("edges/x.py", "import agentgate.adapters.log.sqlite"),
        ("edges/x.py", "import redis"),
        ("settings.py", "from agentgate import app"),
        ("cli.py", "from agentgate.adapters.log import sqlite"),
        ("commands/remote.py", "from agentgate.pipeline import control"),
        ("demo.py", "from agentgate import app"),
    ],
)
def test_a_breach_is_seen(rel: str, text: str) -> None:
    assert list(breaches(made_up(rel, text)))


@pytest.mark.parametrize(
    ("rel", "text"),
    [
        (
            "core/x.py",
            "import hashlib, orjson\nfrom agentgate.core.call import Call\nfrom agentgate import __version__",
        ),
        ("pipeline/x.py", "import asyncio\nfrom agentgate.ports import Log"),
        ("adapters/log/x.py", "import sqlalchemy\nfrom agentgate.adapters.log import _rows"),
        ("edges/x.py", "from fastapi import FastAPI\nfrom agentgate.pipeline.calls.gate import Gate"),
        ("kinds.py", "import redis\nfrom agentgate.adapters.log import sqlite"),
    ],
)
def test_what_a_room_may_import_passes(rel: str, text: str) -> None:
    assert not list(breaches(made_up(rel, text)))


@pytest.mark.parametrize(
    ("body", "caught"),
    [
        ("except Exception:\n pass", True),
        ("except:\n pass", True),
        ("except (OSError, BaseException) as e:\n log(e)", True),
        ("except OSError:\n pass", False),
        ("except BaseException:\n clean_up()\n raise", False),
        ("except BaseException:\n if x:\n  return 1\n raise", True),
        ("except BaseException as e:\n raise Other from e", True),
    ],
)
def test_a_broad_handler_is_seen(body: str, caught: bool) -> None:
    found = [
        catches_everything(n)
        for n in ast.walk(ast.parse("def f():\n  try:\n    x()\n" + "\n".join("  " + b for b in body.splitlines())))
        if isinstance(n, ast.ExceptHandler)
    ]
    assert found == [caught]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("import x", False),
        ("import x  # noqa: PLC0415", False),
        ("import x  # noqa: PLC0415 - heavy, only for exports", True),
        ("import x  # heavy, only for exports", True),
        ("import x  # noqa: PLC0415  # heavy", True),
        ("except Exception:  # noqa: BLE001", False),
        ("import x  # type: ignore[import-untyped]", False),
    ],
)
def test_a_bare_noqa_is_no_reason(line: str, reason: bool) -> None:
    assert Module(SRC / "x.py", line, ast.Module([], [])).has_comment(1) is reason
