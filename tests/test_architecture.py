"""The pictures of docs/architecture.md, checked against the code: the rooms against every import, the steps of a call
and of a kill against what the source calls, in that order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

import pytest

from tests.test_walls import ADAPTERS, MODULES, ROOT, Module, imports

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def picture(title: str) -> str:
    """The drawing under a heading of the page."""
    section = PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    found = re.findall(r"```mermaid\n(.*?)```", section, re.DOTALL)
    assert len(found) == 1, f"one picture under {title}"
    return str(found[0])


# --- the rooms --------------------------------------------------------------------------------------------------


def floors() -> dict[str, frozenset[str]]:
    """What the picture calls a floor, and the rooms that are on it: the one of its name where it names none."""
    found = re.findall(r'^\s+(\w+)\["<b>\w+</b>(?:<br/>([^"]+))?"\]$', picture("Rooms"), re.MULTILINE)
    return {name: frozenset(re.findall(r"\w+", rooms.replace("<br/>", " ") or name)) for name, rooms in found}


def arrows() -> set[tuple[str, str]]:
    return set(re.findall(r"^\s+(\w+) --> (\w+)$", picture("Rooms"), re.MULTILINE))


def floor_of(room: str) -> str:
    [floor] = [name for name, rooms in floors().items() if room in rooms]
    return floor


@cache
def real_imports() -> set[tuple[str, str]]:
    """From floor to floor, of every module, inside functions too."""
    found = set()
    for module in MODULES:
        for _, name in imports(module.tree):
            top, _, rest = name.partition(".")
            if top == "agentgate" and rest:
                found.add((floor_of(module.room), floor_of(rest.partition(".")[0])))
    return {(one, other) for one, other in found if one != other}


def below(floor: str) -> set[str]:
    """All that one comes to by going along the arrows."""
    next_ones = {to for of, to in arrows() if of == floor}
    return next_ones.union(*(below(one) for one in next_ones))


def test_every_room_is_in_the_picture_once_and_no_other() -> None:
    drawn = [room for rooms in floors().values() for room in rooms]
    assert sorted(drawn) == sorted({module.room for module in MODULES})


def test_every_arrow_between_rooms_is_an_import() -> None:
    assert arrows() - real_imports() == set()


def test_every_import_between_rooms_goes_along_the_arrows() -> None:
    assert {(one, other) for one, other in real_imports() if other not in below(one)} == set()


def test_no_arrow_leads_back() -> None:
    assert [floor for floor in floors() if floor in below(floor)] == []


def test_the_table_of_adapters_has_every_folder_and_kind_and_its_port() -> None:
    rows = re.findall(r"^\| `adapters/(\w+)` \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    kinds = {folder: set(re.findall(r"`(\w+)`", kinds)) for folder, _, kinds in rows}
    there: dict[str, set[str]] = {}
    for module in ADAPTERS:
        there.setdefault(module.parts[1], set()).add(module.parts[2])
    assert kinds == there
    for _, ports, _ in rows:
        for name in re.findall(r"`(\w+\.\w+)`", ports):
            assert f"ports.{name}" in classes(), name


# --- the steps --------------------------------------------------------------------------------------------------

Function = ast.FunctionDef | ast.AsyncFunctionDef
WALKED = ("core", "ports", "pipeline", "edges")
DEEPEST = 12


@dataclass
class Class:
    """A class of ours: its methods, and of which classes its attributes are, as far as that is written down."""

    module: str
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)


def dotted(module: Module) -> str:
    return ".".join(module.parts)


@cache
def modules() -> dict[str, Module]:
    return {dotted(module): module for module in MODULES if module.room in WALKED}


@cache
def names_in(module: str) -> dict[str, str]:
    """What a module's own and imported names stand for, as dotted names below agentgate."""
    tree = modules()[module].tree
    found = {
        alias.asname or alias.name: f"{node.module.removeprefix('agentgate.')}.{alias.name}"
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agentgate.") and node.module
        for alias in node.names
    }
    return found | {
        node.name: f"{module}.{node.name}" for node in tree.body if isinstance(node, ast.ClassDef | Function)
    }


@cache
def functions() -> dict[str, tuple[str, Function]]:
    """Module-level functions by dotted name, with their module."""
    return {
        f"{name}.{node.name}": (name, node)
        for name, module in modules().items()
        for node in module.tree.body
        if isinstance(node, Function)
    }


@cache
def classes() -> dict[str, Class]:
    found = {}
    for name, module in modules().items():
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                found[f"{name}.{node.name}"] = _read(name, node)
    return found


def _read(module: str, node: ast.ClassDef) -> Class:
    one = Class(module, {part.name: part for part in node.body if isinstance(part, Function)})
    known = names_in(module)

    def note(attribute: str, annotation: ast.expr | None) -> None:
        if isinstance(annotation, ast.Name) and annotation.id in known:
            one.attributes[attribute] = known[annotation.id]

    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            note(part.target.id, part.annotation)
    if (init := one.methods.get("__init__")) is not None:
        typed = {arg.arg: arg.annotation for arg in [*init.args.args, *init.args.kwonlyargs]}
        for statement in init.body:
            match statement:
                case ast.Assign([ast.Attribute(ast.Name("self"), attribute)], ast.Name(source)) if source in typed:
                    note(attribute, typed[source])
                case ast.Assign([ast.Attribute(ast.Name("self"), attribute)], ast.Call(ast.Name() as made)):
                    note(attribute, made)
    return one


def calls(module: str, owner: str | None, function: Function, deep: int = 0) -> Iterator[str]:
    """Dotted names of ours that `function` calls, in the order of the source, each followed by what it calls itself."""
    if deep > DEEPEST:
        return
    for node in _in_order(function):
        name = _meant(module, owner, function, node.func)
        if name is None:
            continue
        yield name
        if name.startswith("core."):  # pure: it calls nobody that a picture could be about
            continue
        if name in functions():
            yield from calls(*_with_owner(functions()[name]), deep + 1)
        elif (cls := classes().get(name.rpartition(".")[0])) is not None:
            yield from calls(cls.module, name.rpartition(".")[0], cls.methods[name.rpartition(".")[2]], deep + 1)


def _with_owner(of: tuple[str, Function]) -> tuple[str, None, Function]:
    return of[0], None, of[1]


def _in_order(node: ast.AST) -> Iterator[ast.Call]:
    """Calls within `node` as they come about: arguments before what they are given to."""
    for child in ast.iter_child_nodes(node):
        yield from _in_order(child)
    if isinstance(node, ast.Call):
        yield node


def _meant(module: str, owner: str | None, function: Function, called: ast.expr) -> str | None:
    known = names_in(module)

    def of(cls: str, method: str) -> str | None:
        return f"{cls}.{method}" if cls in classes() and method in classes()[cls].methods else only().get(method)

    match called:
        case ast.Name(name):
            return known.get(name) if known.get(name) in functions() else None
        case ast.Attribute(ast.Name("self"), name) if owner is not None:
            return f"{owner}.{name}" if name in classes()[owner].methods else None
        case ast.Attribute(ast.Attribute(ast.Name("self"), attribute), name) if owner is not None:
            return of(classes()[owner].attributes.get(attribute, ""), name)
        case ast.Attribute(ast.Name(parameter), name):
            return of(known.get(_annotation(function, parameter), ""), name)
        case ast.Attribute(_, name):
            return only().get(name)
    return None


def _annotation(function: Function, parameter: str) -> str:
    of = {one.arg: one.annotation for one in [*function.args.args, *function.args.kwonlyargs]}.get(parameter)
    return of.id if isinstance(of, ast.Name) else ""


@cache
def only() -> dict[str, str]:
    """Methods whose name only one class of ours has, by it."""
    found: dict[str, list[str]] = {}
    for name, one in classes().items():
        for method in one.methods:
            found.setdefault(method, []).append(f"{name}.{method}")
    return {method: places[0] for method, places in found.items() if len(places) == 1}


@dataclass
class Strand:
    """What one function calls, and how far the picture has come in it."""

    trace: list[str]
    at: int = 0

    def go_to(self, wanted: set[str]) -> bool:
        for index in range(self.at, len(self.trace)):
            if self.trace[index] in wanted:
                self.at = index + 1
                return True
        return False


def meanings(participant: str, name: str) -> set[str]:
    """A participant is a class or a module; in a module, a function or a method of any class."""
    if participant in classes():
        return {f"{participant}.{name}"} if name in classes()[participant].methods else set()
    found = {f"{participant}.{name}"} & functions().keys()
    return found | {
        f"{of}.{name}" for of, one in classes().items() if one.module == participant and name in one.methods
    }


def begun(name: str) -> Strand:
    """The strand that begins in the function of this dotted name."""
    if name in functions():
        return Strand(list(calls(*_with_owner(functions()[name]))))
    owner, _, method = name.rpartition(".")
    return Strand(list(calls(classes()[owner].module, owner, classes()[owner].methods[method])))


def misdrawn(drawing: str) -> list[str]:
    """The lines of a picture that the source does not bear out.

    A solid arrow is a call, made by what a dashed arrow before it began, perhaps through helpers that are not drawn.
    """
    labels = re.findall(r"^\s+participant (\w+) as (\S+)$", drawing, re.MULTILINE)
    participants = {name: label.replace("<br/>", ".") for name, label in labels}
    wrong, strands = [], []
    for line, dashes, to, name in re.findall(r"^(\s+\w+(--?)>>(\w+): (\w+)\(\).*)$", drawing, re.MULTILINE):
        wanted = meanings(participants[to], name)
        if not wanted:
            wrong.append(line)
        elif dashes == "--":
            strands.insert(0, begun(min(wanted)))
        elif not any(strand.go_to(wanted) for strand in strands):
            wrong.append(line)
    return wrong


@pytest.mark.parametrize("title", ["One call's life", "A kill"])
def test_every_step_of_a_picture_is_called_in_that_order(title: str) -> None:
    drawing = picture(title)
    assert drawing.count(">>") == len(re.findall(r"--?>>\w+: \w+\(\)", drawing)) > 10, "each arrow names a function"
    assert misdrawn(drawing) == []


STEPS = """
    participant gate as pipeline.calls.gate.Gate
    participant log as ports.log
    participant upstream as ports.upstreams.Upstream
    door-->>gate: pass_through()
"""


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (["gate->>log: append()", "gate->>upstream: send()", "gate->>log: append()"], 0),
        (["gate->>upstream: send()", "gate->>upstream: send()"], 1),
        (["gate->>upstream: sent()"], 1),
    ],
    ids=["as it is", "sent twice", "no such function"],
)
def test_a_misdrawn_step_is_seen(lines: list[str], wrong: int) -> None:
    assert len(misdrawn(STEPS + "".join(f"    {line}\n" for line in lines))) == wrong


def test_every_module_that_the_page_names_is_there() -> None:
    for name in re.findall(r"`((?:core|ports|pipeline|adapters|edges|settings|commands)/[\w/]+\.\w+)[`:]", PAGE):
        assert (ROOT / "src" / "agentgate" / name).is_file(), name
