"""What the locks, docs/dependencies.md and the SBOM say of packages is the same, and true of the installed ones."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from license_expression import Licensing, get_spdx_licensing

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))

FREE = frozenset("MIT MIT-0 MIT-CMU BSD-2-Clause BSD-3-Clause ISC Apache-2.0 LLVM-exception PSF-2.0 OFL-1.1".split())  # noqa: SIM905
OF_THEIR_FILES = frozenset({"MPL-2.0", "LGPL-2.1-or-later"})
"""Conditions on changes of the package itself, which we do not make."""
OLD_WORDS = {
    "Apache-2.0": r"apache",
    "BSD-2-Clause": r"bsd",
    "BSD-3-Clause": r"bsd",
    "ISC": r"isc",
    "LGPL-2.1-or-later": r"lgplv2\+",
    "MIT": r"\bmit\b",
    "MPL-2.0": r"mpl.2\.0",
    "OFL-1.1": r"ofl v1\.1",
    "PSF-2.0": r"psf-2\.0|python software foundation",
}
"""How packages say it that have no SPDX expression."""


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@cache
def licences() -> list[tuple[str, str]]:
    """(package, SPDX expression), as the page has them."""
    rows = re.findall(r"^\| ([^|`]+) \| (`[^|]+`) \|$", section("Licences at run time"), re.MULTILINE)
    return [(name, spdx) for spdx, names in rows for name in re.findall(r"`([^`]+)`", names)]


@cache
def spdx_licensing() -> Licensing:
    return get_spdx_licensing()


def locked(lock: Path) -> list[tuple[str, str]]:
    return re.findall(r"^([A-Za-z0-9_.-]+)==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE)


RUNTIME = locked(ROOT / "requirements" / "runtime.lock")


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_every_line_of_a_lock_has_hashes(lock: Path) -> None:
    entries = re.split(r"^(?=\S)", lock.read_text(encoding="utf-8"), flags=re.MULTILINE)
    pinned = [entry for entry in entries if entry.strip() and not entry.startswith("#")]
    assert len(pinned) == len(locked(lock)) > 50, "nothing but exact versions: no addresses, paths or other indexes"
    assert [entry for entry in pinned if not re.search(r"--hash=sha256:[0-9a-f]{64}", entry)] == []


def test_every_locked_package_has_its_licence_once() -> None:
    assert sorted(name for name, _ in licences()) == sorted(name for name, _ in RUNTIME)


@pytest.mark.parametrize(("name", "spdx"), licences(), ids=[name for name, _ in licences()])
def test_a_licence_is_what_the_package_says_and_one_that_we_may_use(name: str, spdx: str) -> None:
    licensing = spdx_licensing()
    assert licensing.validate(spdx).errors == []
    words = {key for symbol in licensing.license_symbols(spdx) for key in str(symbol).split(" WITH ")}
    assert words <= FREE | OF_THEIR_FILES
    try:
        said = metadata(name)
    except PackageNotFoundError:
        return  # for another system
    if expression := said.get("License-Expression"):
        assert licensing.is_equivalent(licensing.parse(expression), licensing.parse(spdx)), expression
        return
    text = " ".join([*(said.get_all("License") or []), *(said.get_all("Classifier") or [])])
    for word in words:
        assert re.search(OLD_WORDS[word], text, re.IGNORECASE), f"{word}: {text[:200]}"


def test_every_tool_that_is_asked_for_says_why_it_is_here() -> None:
    for name in (ROOT / "requirements" / "dev.in").read_text(encoding="utf-8").split():
        if not name.startswith("-"):
            assert f"`{name}`" in section("For development"), name


def test_no_package_is_explained_that_nobody_asked_for() -> None:
    listed = re.findall(r"^\| (`[^|]+`)(?: \([^|]*\))? \|", section("At run time"), re.MULTILINE)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = re.search(r"^dependencies = \[(.*?)^\]", project, re.DOTALL | re.MULTILINE)
    assert wanted is not None
    direct = set(re.findall(r'^\s+"([A-Za-z0-9-]+)', wanted[1], re.MULTILINE))
    assert {name for names in listed for name in re.findall(r"`([^`]+)`", names)} <= direct


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("sbom") / "sbom.json"
    subprocess.run([sys.executable, "scripts/sbom", str(out)], cwd=ROOT, check=True, capture_output=True)
    return out.read_text(encoding="utf-8")


def test_the_sbom_is_what_its_schema_says(sbom: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(sbom) is None
    broken = json.loads(sbom) | {"specVersion": 1.6}
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(broken)) is not None


def test_the_sbom_has_every_locked_package_with_version_hashes_and_licence(sbom: str) -> None:
    found: list[dict[str, Any]] = json.loads(sbom)["components"]
    assert sorted((one["name"], one["version"]) for one in found) == sorted(RUNTIME)
    lock = (ROOT / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    hashes = [one["content"] for component in found for one in component["hashes"]]
    assert sorted(hashes) == sorted(set(re.findall(r"sha256:([0-9a-f]{64})", lock)))
    assert {one["name"]: one["licenses"] for one in found} == {
        name: [{"expression": spdx}] for name, spdx in licences()
    }
