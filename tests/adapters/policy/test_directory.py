from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest

from agentgate.adapters.policy._bundle import render
from agentgate.adapters.policy._compile import OpaCompiler, find_opa
from agentgate.adapters.policy.directory import PolicyDirectory
from agentgate.core.errors import PolicyInvalid
from agentgate.core.policy import ROOTS
from tests.contracts.policy_engine import POLICIES, needs_opa
from tests.contracts.policy_source import PolicySourceContract
from tests.opa_server import OPA

TOOLS = {"lookup": {"name": "lookup", "access": "read", "upstream": "helpdesk"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(POLICIES, tmp_path / "policies"))


@pytest.fixture
def source(folder: Path) -> PolicyDirectory:
    return PolicyDirectory(folder, TOOLS, compiler=None)


class TestDirectory(PolicySourceContract):
    """The contract, on a copy of the shipped policy."""


async def test_the_committed_wasm_is_of_the_committed_rego() -> None:
    """If this fails, the Rego was changed: run `make policy` and commit policy.wasm and policy.wasm.json."""
    about = json.loads((POLICIES / "policy.wasm.json").read_text())
    bundle = await PolicyDirectory(POLICIES, {}, compiler=None).read()
    assert about["source_sha256"] == bundle.source_sha256, "policies/policy.wasm is stale: run `make policy`"
    assert about["entrypoints"] == ["agentgate/decision", "agentgate/tools"]


@needs_opa
async def test_the_committed_wasm_is_what_opa_makes_of_it() -> None:
    assert OPA is not None
    bundle = await PolicyDirectory(POLICIES, {}, compiler=None).read()
    about = json.loads((POLICIES / "policy.wasm.json").read_text())
    compiler = OpaCompiler(OPA)
    if await compiler.version() == about["opa_version"]:
        assert await compiler.compile(bundle) == bundle.wasm


async def test_new_data_keeps_the_committed_wasm(source: PolicyDirectory, folder: Path) -> None:
    (folder / "data.json").write_text("{}")
    assert (await source.read()).wasm == (POLICIES / "policy.wasm").read_bytes()


async def test_changed_rego_without_a_compiler_has_no_wasm(source: PolicyDirectory, folder: Path) -> None:
    with (folder / "agentgate.rego").open("a") as rego:
        rego.write("\n# changed\n")
    assert (await source.read()).wasm is None


async def test_tools_are_those_of_the_moment(folder: Path) -> None:
    tools = dict(TOOLS)
    source = PolicyDirectory(folder, tools, compiler=None)
    before = await source.read()
    tools["files__read"] = {"name": "files__read", "access": "read", "upstream": "files", "labels": ["pii"]}
    after = await source.read()
    assert before.data["tools"] == TOOLS, "a bundle stays what it is"
    assert after.data["tools"] == tools
    assert after.revision != before.revision


@needs_opa
async def test_changed_rego_is_compiled_once(folder: Path) -> None:
    assert OPA is not None
    source = PolicyDirectory(folder, TOOLS, compiler=OpaCompiler(OPA))
    with (folder / "agentgate.rego").open("a") as rego:
        rego.write("\nextra := 1\n")
    first = await source.read()
    assert first.wasm is not None
    assert (await source.read()).wasm is first.wasm


@needs_opa
async def test_rego_that_does_not_parse_is_refused_in_opas_words(folder: Path) -> None:
    assert OPA is not None
    (folder / "more.rego").write_text("package agentgate\n\nx := {\n")
    with pytest.raises(PolicyInvalid, match=r"more\.rego:\d: rego_parse_error") as refused:
        await PolicyDirectory(folder, TOOLS, compiler=OpaCompiler(OPA)).read()
    assert "/tmp" not in str(refused.value)


@needs_opa
@pytest.mark.parametrize(
    ("rego", "message"),
    [
        ("package elsewhere\n\nx := 1\n", "elsewhere"),
        ("package agentgate\n\nallow { true }\n", "rego_parse_error"),
        ("package agentgate\n\nx := y\n", "unsafe"),
        ("package agentgate\n\nx := no_such_builtin(1)\n", "no_such_builtin"),
    ],
)
async def test_what_opa_would_not_load_is_refused(folder: Path, rego: str, message: str) -> None:
    assert OPA is not None
    (folder / "more.rego").write_text(rego)
    with pytest.raises(PolicyInvalid, match=message):
        await PolicyDirectory(folder, TOOLS, compiler=OpaCompiler(OPA)).read()


async def test_tests_are_left_out_and_subfolders_are_read(source: PolicyDirectory, folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "more.rego").write_text("package agentgate\n")
    (folder / "sub" / "more_test.rego").write_text("package agentgate_test\n")
    modules = (await source.read()).modules
    assert {"agentgate.rego", "sub/more.rego"} <= modules.keys()
    assert not [name for name in modules if name.endswith("_test.rego")]


@pytest.mark.parametrize("name", ["tools", "agentgate", "system", "anything"])
async def test_data_may_not_define_what_is_not_its_own(source: PolicyDirectory, folder: Path, name: str) -> None:
    (folder / "data.json").write_text(json.dumps({name: {}}))
    with pytest.raises(PolicyInvalid, match=name):
        await source.read()


async def test_a_folder_without_rego_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(PolicyInvalid):
            await PolicyDirectory(folder, TOOLS, compiler=None).read()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"source_sha256": 1}'])
async def test_a_broken_note_on_the_wasm_is_no_wasm(source: PolicyDirectory, folder: Path, text: str) -> None:
    (folder / "policy.wasm.json").write_text(text)
    assert (await source.read()).wasm is None


def a_program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


async def test_a_compiler_that_hangs_is_killed(tmp_path: Path, source: PolicyDirectory) -> None:
    opa = a_program(tmp_path / "opa", "echo $$ > " + str(tmp_path / "pid") + "; exec sleep 60")
    with pytest.raises(PolicyInvalid, match="not done within"):
        await OpaCompiler(opa, deadline_s=0.5).compile(await source.read())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


async def test_a_compiler_that_cannot_run_says_so(tmp_path: Path, source: PolicyDirectory) -> None:
    with pytest.raises(PolicyInvalid, match="cannot be run"):
        await OpaCompiler(tmp_path / "none").compile(await source.read())


async def test_a_compiler_that_writes_nothing_says_so(tmp_path: Path, source: PolicyDirectory) -> None:
    with pytest.raises(PolicyInvalid, match="wrote no"):
        await OpaCompiler(a_program(tmp_path / "opa", "exit 0")).compile(await source.read())


async def test_without_a_temporary_folder_nothing_is_compiled(
    tmp_path: Path, source: PolicyDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(PolicyInvalid, match="cannot be compiled here"):
        await OpaCompiler(a_program(tmp_path / "opa", "exit 0")).compile(await source.read())


@pytest.mark.parametrize("left", [b"", b"no archive", gzip.compress(random.Random(7).randbytes(4000))[:3000]])
async def test_half_a_bundle_is_no_compiled_policy(tmp_path: Path, source: PolicyDirectory, left: bytes) -> None:
    (tmp_path / "left").write_bytes(left)
    script = f'for word; do [ "$before" != -o ] || cp {tmp_path}/left "$word"; before=$word; done'
    with pytest.raises(PolicyInvalid, match="cannot be compiled here"):
        await OpaCompiler(a_program(tmp_path / "opa", script)).compile(await source.read())


async def test_a_module_whose_name_is_no_text_is_refused(folder: Path, source: PolicyDirectory) -> None:
    (folder / os.fsdecode(b"\xff.rego")).write_text("package agentgate\n")
    with pytest.raises(PolicyInvalid, match="not UTF-8"):
        await source.read()


def test_opa_is_found_by_name_then_path_then_cache(tmp_path: Path) -> None:
    named = a_program(tmp_path / "named", "")
    (tmp_path / "path").mkdir()
    on_path = a_program(tmp_path / "path" / "opa", "")
    (tmp_path / "cache" / "bin").mkdir(parents=True)
    cached = a_program(tmp_path / "cache" / "bin" / "opa", "")
    all_three = {
        "AGENTGATE_OPA_BIN": str(named),
        "PATH": str(on_path.parent),
        "AGENTGATE_CACHE": str(tmp_path / "cache"),
    }
    assert find_opa(all_three) == named
    assert find_opa({**all_three, "AGENTGATE_OPA_BIN": ""}) == on_path
    assert find_opa({"PATH": str(tmp_path), "AGENTGATE_CACHE": str(tmp_path / "cache")}) == cached
    assert find_opa({"PATH": str(tmp_path), "AGENTGATE_CACHE": str(tmp_path / "empty")}) is None


async def test_a_rendered_bundle_is_deterministic_and_whole(source: PolicyDirectory) -> None:
    bundle = await source.read()
    one, other = render(bundle), render(await source.read())
    assert one == other
    assert one.etag == f'"{bundle.revision}"'
    with tarfile.open(fileobj=io.BytesIO(one.content)) as tar:
        members = {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]
        assert {entry.mtime for entry in tar} == {0}
    modules = [f"{bundle.revision[7:]}/{name}" for name in bundle.modules]
    assert sorted(members) == sorted([".manifest", *modules, "data.json"])
    assert json.loads(members[".manifest"]) == {"revision": bundle.revision, "roots": list(ROOTS), "rego_version": 1}
    assert json.loads(members["data.json"]) == bundle.data
