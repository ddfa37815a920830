"""A61: nothing in the source runs what somebody else has written: no text as code, no pickles, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.test_walls import MODULES

RUNS_TEXT = frozenset(
    """
    eval exec __import__ compile os.system os.popen os.execl os.execle os.execlp os.spawnl os.spawnlp pty.spawn
    marshal.load marshal.loads pickle.load pickle.loads pickle.Unpickler shelve.open dill.loads jsonpickle.decode
    yaml.load yaml.load_all yaml.unsafe_load yaml.full_load subprocess.getoutput subprocess.getstatusoutput
    asyncio.create_subprocess_shell tempfile.mktemp ssl._create_unverified_context code.interact
    """.split()  # noqa: SIM905 - a list of words reads as one
)
ONLY_HERE = {
    ("worker.py", "pickle.loads"): "from the parent alone, over a pair of sockets that nobody else has",
    ("settings/document.py", "yaml.load"): "with the safe loader that is written in C",
}


def found_in(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in RUNS_TEXT:
                yield name
            for keyword in node.keywords:
                is_set = not isinstance(keyword.value, ast.Constant) or keyword.value.value is True
                if keyword.arg == "shell" and is_set:
                    yield "shell=True"
                if keyword.arg in {"verify", "verify_ssl", "check_hostname"} and ast.unparse(keyword.value) == "False":
                    yield f"{keyword.arg}=False"


def test_no_module_runs_what_it_was_given() -> None:
    assert {(module.rel, name) for module in MODULES for name in found_in(module.tree)} == set(ONLY_HERE)


@pytest.mark.parametrize(
    "text", ["eval(x)", "yaml.load(x)", "subprocess.run(x, shell=True)", "run(x, shell=y)", "get(x, verify=False)"]
)
def test_a_breach_is_seen(text: str) -> None:
    assert list(found_in(ast.parse(text)))
