"""The Dockerfile and both compose files: valid, hardened line by line, and every command in them run for real.

No container engine is needed: the commands run on the programs themselves, with their addresses and folders moved.
"""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import jsonschema_rs
import pytest
import yaml

from tests.web import Handler, serving

ROOT = Path(__file__).resolve().parents[2]
DEV = "docker-compose.yaml"
PROD = "docker-compose.prod.yml"
HEX = "0" * 64
VARIABLES = {
    "AGENTGATE_SIGNING_KEY": "a-signing-key-that-only-this-test-knows",
    "AGENTGATE_AGENT_KEY_SHA256": HEX,
    "AGENTGATE_ADMIN_KEY_SHA256": "1" * 64,
    "AGENTGATE_OPA_KEY_SHA256": "2" * 64,
    "AGENTGATE_PUBLISH": "127.0.0.1:8000",
    "AGENTGATE_CONFIG_FILE": "/etc/agentgate/agentgate.yaml",
    "AGENTGATE_SIGNING_KEY_FILE": "/etc/agentgate/signing.key",
    "AGENTGATE_OPA_KEY_FILE": "/etc/agentgate/opa.key",
}

VARIABLE = re.compile(r"\$\{(?P<name>[A-Z0-9_]+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")


class Missing(Exception):
    pass


def interpolated(text: str, variables: dict[str, str]) -> str:
    """Compose's `${NAME}`, `${NAME:-default}` and `${NAME:?message}`."""

    def value(found: re.Match[str]) -> str:
        given = variables.get(found["name"], "")
        if given or found["kind"] is None:
            return given
        if found["kind"] == "-":
            return found["rest"]
        raise Missing(f"{found['name']}: {found['rest']}")

    return VARIABLE.sub(value, text)


def source(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def compose(name: str) -> dict[str, Any]:
    loaded = yaml.safe_load(interpolated(source(name), VARIABLES))
    assert isinstance(loaded, dict)
    return loaded


def services(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose(name)["services"]
    return found


both = pytest.mark.parametrize("name", [DEV, PROD])
every_prod_service = pytest.mark.parametrize("service", ["gateway", "opa", "redis"])


# The files are what compose would accept.


@both
def test_compose_file_fits_the_schema(name: str) -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text(encoding="utf-8"))
    errors = [
        f"{'/'.join(map(str, e.instance_path))}: {e.message}"
        for e in jsonschema_rs.Draft202012Validator(schema).iter_errors(compose(name))
    ]
    assert not errors


@both
def test_everything_a_service_refers_to_exists(name: str) -> None:
    whole = compose(name)
    for label, service in whole["services"].items():
        for kind in ("configs", "secrets"):
            wanted = {entry if isinstance(entry, str) else entry["source"] for entry in service.get(kind, [])}
            assert wanted <= whole.get(kind, {}).keys(), label
        assert set(service.get("networks", [])) <= whole.get("networks", {}).keys(), label
        assert service.get("depends_on", {}).keys() <= whole["services"].keys(), label
        for volume in service.get("volumes", []):
            place = volume.split(":")[0]
            assert (ROOT / place).exists() if place.startswith(".") else place in whole["volumes"], volume


@both
def test_services_start_in_an_order_that_ends(name: str) -> None:
    """OPA is healthy only with the gateway's bundle: a gateway that waited for that would wait for ever."""
    assert services(name)["gateway"]["depends_on"] == {
        "redis": {"condition": "service_healthy"},
        "opa": {"condition": "service_started"},
    }


@both
def test_images_are_pinned(name: str) -> None:
    images = {label: s["image"] for label, s in services(name).items()}
    assert images == {"gateway": "agentgate:0.3.0", "opa": "openpolicyagent/opa:1.21.1-static", "redis": "redis:7"}


@both
def test_gateway_image_is_the_version_in_the_package(name: str) -> None:
    version = re.search(r'__version__ = "([^"]+)"', source("src/agentgate/__init__.py"))
    assert version is not None
    assert services(name)["gateway"]["image"] == f"agentgate:{version[1]}"


# What an attacker would look for.


@both
def test_only_the_gateway_is_published(name: str) -> None:
    assert [label for label, s in services(name).items() if "ports" in s] == ["gateway"]


def test_the_trial_set_up_is_published_to_this_machine_only() -> None:
    assert services(DEV)["gateway"]["ports"] == ["127.0.0.1:8000:8000"]


@pytest.mark.parametrize(
    ("name", "variable"),
    [
        (name, found["name"])
        for name in (DEV, PROD)
        for found in VARIABLE.finditer(source(name))
        if found["kind"] == "?"
    ],
)
def test_a_missing_secret_stops_the_start_by_name(name: str, variable: str) -> None:
    with pytest.raises(Missing, match=variable):
        interpolated(source(name), {k: v for k, v in VARIABLES.items() if k != variable})


@both
def test_no_variable_but_the_port_has_a_default(name: str) -> None:
    optional = {f["name"] for f in VARIABLE.finditer(source(name)) if f["kind"] != "?"}
    assert optional <= {"AGENTGATE_PORT"}


def test_prod_keeps_secrets_out_of_the_environment() -> None:
    for service in services(PROD).values():
        assert set(service.get("environment", {})) <= {
            "AGENTGATE_REDIS_URL", "AGENTGATE_OPA_URL", "AGENTGATE_URL", "AGENTGATE_OPA_TOKEN_FILE",
        }  # fmt: skip
    assert all("file" in secret for secret in compose(PROD)["secrets"].values())


@every_prod_service
def test_prod_root_file_system_is_read_only(service: str) -> None:
    assert services(PROD)[service]["read_only"] is True


@every_prod_service
def test_prod_drops_every_capability(service: str) -> None:
    assert services(PROD)[service]["cap_drop"] == ["ALL"]
    assert "cap_add" not in services(PROD)[service]


@every_prod_service
def test_prod_forbids_new_privileges(service: str) -> None:
    assert services(PROD)[service]["security_opt"] == ["no-new-privileges:true"]


@every_prod_service
def test_prod_runs_as_nobody_special(service: str) -> None:
    uid, gid = services(PROD)[service]["user"].split(":")
    assert int(uid) > 0
    assert int(gid) > 0


@every_prod_service
def test_prod_limits_cpu_memory_and_processes(service: str) -> None:
    assert services(PROD)[service]["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}


@every_prod_service
def test_prod_scratch_space_cannot_hold_a_program(service: str) -> None:
    for mount in services(PROD)[service]["tmpfs"]:
        assert {"noexec", "nosuid", "nodev"} <= set(mount.split(":")[1].split(",")), mount
        assert "size=" in mount


@every_prod_service
def test_prod_has_a_health_check(service: str) -> None:
    assert services(PROD)[service]["healthcheck"]["test"][0] == "CMD"


@every_prod_service
def test_prod_logs_cannot_fill_the_disk(service: str) -> None:
    assert services(PROD)[service]["logging"]["options"].keys() == {"max-size", "max-file"}


@every_prod_service
def test_prod_restarts(service: str) -> None:
    assert services(PROD)[service]["restart"] == "unless-stopped"


def test_prod_redis_and_opa_reach_nobody_but_the_gateway() -> None:
    whole = compose(PROD)
    networks = {label: set(s["networks"]) for label, s in whole["services"].items()}
    assert networks == {"gateway": {"edge", "to-redis", "to-opa"}, "opa": {"to-opa"}, "redis": {"to-redis"}}
    assert whole["networks"] == {"edge": {}, "to-redis": {"internal": True}, "to-opa": {"internal": True}}


def test_prod_redis_keeps_its_state_and_never_evicts() -> None:
    command = services(PROD)["redis"]["command"]
    flags = dict(zip(command[1::2], command[2::2], strict=True))
    assert flags["--appendonly"] == "yes"
    assert flags["--maxmemory-policy"] == "noeviction"
    # the container's limit is above Redis's own, so that Redis refuses a write before the kernel kills it
    assert int(flags["--maxmemory"].removesuffix("mb")) < int(
        services(PROD)["redis"]["deploy"]["resources"]["limits"]["memory"].removesuffix("M")
    )


# The Dockerfile.


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, rest) in order, continuation lines joined, comments gone."""
    kept = "\n".join(line for line in source("Dockerfile").splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", kept)
    found = []
    for line in joined.splitlines():
        if line.strip():
            instruction, _, rest = line.partition(" ")
            assert re.fullmatch(r"[A-Z]+", instruction), line
            found.append((instruction, rest.strip()))
    return found


def final_stage() -> list[tuple[str, str]]:
    lines = dockerfile()
    return lines[max(i for i, (instruction, _) in enumerate(lines) if instruction == "FROM") :]


def test_image_uses_only_known_instructions_and_two_stages() -> None:
    known = {
        "FROM",
        "ENV",
        "WORKDIR",
        "RUN",
        "COPY",
        "LABEL",
        "USER",
        "VOLUME",
        "EXPOSE",
        "HEALTHCHECK",
        "ENTRYPOINT",
        "CMD",
    }
    assert {i for i, _ in dockerfile()} <= known
    assert [rest for i, rest in dockerfile() if i == "FROM"] == ["python:3.13-slim AS build", "python:3.13-slim"]


def test_image_runs_as_uid_10001() -> None:
    assert [rest for i, rest in final_stage() if i == "USER"] == ["10001:10001"]
    assert services(PROD)["gateway"]["user"] == "10001:10001"


def test_image_installs_the_lock_by_hash_and_nothing_beside_it() -> None:
    installs = [rest for i, rest in dockerfile() if i == "RUN" and "pip install" in rest]
    assert len(installs) == 2
    assert "--require-hashes --only-binary :all: --requirement requirements/runtime.lock" in installs[0]
    assert "--no-index --no-build-isolation --no-deps ." in installs[1]


def test_image_is_built_the_way_make_setup_builds() -> None:
    """So that every developer's set-up is a trial of the image's install line."""
    setup = source("scripts/setup")
    assert '--require-hashes --only-binary :all: --requirement "requirements/$lock.lock"' in setup
    assert "--no-index --no-build-isolation --no-deps --editable ." in setup


def test_all_that_is_copied_exists_and_reaches_the_build() -> None:
    ignored = [line for line in source(".dockerignore").splitlines() if line and not line.startswith("#")]
    assert ignored[0] == "*"
    for instruction, rest in dockerfile():
        if instruction == "COPY" and "--from" not in rest:
            for path in rest.split()[:-1]:
                assert (ROOT / path).exists(), path
                assert f"!{path}" in ignored, path


def test_image_health_check_asks_readyz() -> None:
    (check,) = [rest for i, rest in final_stage() if i == "HEALTHCHECK"]
    command = json.loads(check.split("CMD", 1)[1])
    assert command == services(PROD)["gateway"]["healthcheck"]["test"][1:]
    assert "http://127.0.0.1:8000/readyz" in command[-1]


def test_image_starts_the_gateway_by_its_exec_form() -> None:
    lines = dict(final_stage())
    assert json.loads(lines["ENTRYPOINT"]) == ["agentgate"]
    assert json.loads(lines["CMD"])[0] == "serve"


# The commands, run.


class Answer(Handler):
    """Answers `routes[path]`, and notes the bearer tokens it was shown."""

    routes: ClassVar[dict[str, tuple[int, bytes]]] = {}
    tokens: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.tokens.append(self.headers.get("Authorization", ""))
        status, body = self.routes.get(self.path, (404, b""))
        self.say(status, body)


@contextmanager
def answering(routes: dict[str, tuple[int, bytes]]) -> Iterator[tuple[int, list[str]]]:
    handler = type("Answers", (Answer,), {"routes": routes, "tokens": []})
    with serving(handler) as url:
        yield int(url.rpartition(":")[2]), handler.tokens


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(command: list[str], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(timeout=10)


def eventually(holds: Callable[[], bool], *, within_s: float = 15.0) -> None:
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.05)


def succeeds(command: list[str]) -> bool:
    return subprocess.run(command, check=False, capture_output=True, timeout=20).returncode == 0


@pytest.fixture
def opa() -> str:
    cache = (
        os.environ.get("AGENTGATE_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'}/agentgate"
    )
    found = os.environ.get("AGENTGATE_OPA_BIN") or shutil.which("opa") or shutil.which("opa", path=f"{cache}/bin")
    if not found:
        pytest.skip("no opa: make services")
    return found


@pytest.fixture
def redis_server() -> str:
    found = shutil.which("redis-server")
    if not found or not shutil.which("redis-cli"):
        pytest.skip("no redis-server: make services")
    return found


@both
def test_redis_starts_with_this_command_and_its_health_check_passes(
    name: str, redis_server: str, tmp_path: Path
) -> None:
    service = services(name)["redis"]
    port = str(free_port())
    program, *flags = service["command"]
    assert program == "redis-server"
    ask = [*service["healthcheck"]["test"][1:], "-p", port]
    ask = [ask[0], *ask[2:], ask[1]]  # redis-cli takes its options before the command
    with running([redis_server, *flags, "--port", port, "--bind", "127.0.0.1", "--dir", str(tmp_path)]):
        eventually(lambda: succeeds(ask))
        said = subprocess.run(
            ["redis-cli", "-p", port, "config", "get", "*"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
    config = dict(zip(said[::2], said[1::2], strict=True))
    assert config["maxmemory-policy"] == "noeviction"
    assert config["appendonly"] == "yes"
    assert (tmp_path / "appendonlydir").is_dir()


def bundle() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path, content in {
            "x.rego": b'package agentgate\n\ndecision := {"action": "DENY"}\n',
            ".manifest": b'{"revision": "r1", "roots": ["agentgate"]}',
        }.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


@both
def test_opa_starts_with_this_command_and_is_healthy_only_with_the_gateways_bundle(
    name: str, opa: str, tmp_path: Path
) -> None:
    service = services(name)["opa"]
    key = tmp_path / "opa.key"
    key.write_text("the-key-of-opa", encoding="utf-8")
    port = str(free_port())

    def moved(text: str) -> str:
        text = text.replace("0.0.0.0:8181", f"127.0.0.1:{port}").replace("127.0.0.1:8181", f"127.0.0.1:{port}")
        return text.replace("/etc/opa/config.yaml", str(ROOT / "deploy/opa/config.yaml"))

    program, *check = service["healthcheck"]["test"][1:]
    assert program == "/opa"
    is_healthy = [opa, *map(moved, check)]
    routes: dict[str, tuple[int, bytes]] = {}
    with answering(routes) as (gateway_port, tokens):
        env = {
            **os.environ,
            **service["environment"],
            "AGENTGATE_URL": f"http://127.0.0.1:{gateway_port}",
            "AGENTGATE_OPA_TOKEN_FILE": str(key),
        }
        with running([opa, *map(moved, service["command"])], env):
            eventually(lambda: bool(tokens))
            assert not succeeds(is_healthy)
            routes["/bundles/agentgate.tar.gz"] = (200, bundle())
            eventually(lambda: succeeds(is_healthy))
    assert set(tokens) == {"Bearer the-key-of-opa"}


def test_opa_asks_for_its_bundle_often_enough_for_a_reload() -> None:
    """`policies/reload` waits five seconds for the new revision to be enforced."""
    config = yaml.safe_load(source("deploy/opa/config.yaml"))
    assert config["bundles"]["agentgate"]["polling"]["max_delay_seconds"] <= 2
    assert config["bundles"]["agentgate"]["resource"] == "/bundles/agentgate.tar.gz"


@pytest.mark.parametrize("status", [200, 503])
def test_the_gateways_health_check_follows_readyz(status: int) -> None:
    for name in (PROD, "Dockerfile"):
        command = (
            services(name)["gateway"]["healthcheck"]["test"][1:]
            if name == PROD
            else json.loads(dict(final_stage())["HEALTHCHECK"].split("CMD", 1)[1])
        )
        with answering({"/readyz": (status, b"{}")}) as (port, _):
            moved = [sys.executable, *(part.replace(":8000", f":{port}") for part in command[1:])]
            assert succeeds(moved) is (status == 200)


def serve_commands() -> list[list[str]]:
    return [json.loads(dict(final_stage())["CMD"])] + [services(name)["gateway"]["command"] for name in (DEV, PROD)]


def test_the_gateway_knows_every_flag_it_is_started_with() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "agentgate", "serve", "--help"],
        check=True, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"},
    ).stdout  # fmt: skip
    for command in serve_commands():
        assert command[0] == "serve"
        for flag in command[1::2]:
            assert re.search(rf"{flag}\b", asked), flag


def test_the_trial_configuration_is_one_the_gateway_accepts(tmp_path: Path) -> None:
    from agentgate import settings  # here: the other tests of this file need no gateway

    whole = compose(DEV)
    config = tmp_path / "agentgate.yaml"
    config.write_text(whole["configs"]["gateway"]["content"], encoding="utf-8")
    loaded = settings.load(whole["services"]["gateway"]["environment"], config=config)
    assert (loaded.policy.kind, loaded.containment.kind) == ("opa", "redis")
    assert {"opa", "admin", "agent"} == {str(role) for key in loaded.auth.keys for role in key.roles}
    # OPA and the health check address it by these names
    assert {"gateway", "localhost"} <= set(loaded.server.hosts)


def test_compose_env_prints_all_that_the_trial_set_up_asks_for() -> None:
    said = subprocess.run(
        [sys.executable, str(ROOT / "scripts/compose-env")], check=True, capture_output=True, text=True
    ).stdout
    given = dict(line.split("=", 1) for line in said.splitlines())
    interpolated(source(DEV), given)
    assert compose(DEV)["secrets"]["opa_key"]["environment"] in given
    digest = hashlib.sha256(given["AGENTGATE_OPA_KEY"].encode()).hexdigest()
    assert given["AGENTGATE_OPA_KEY_SHA256"] == digest


def test_the_package_carries_its_policy_and_its_command(tmp_path: Path) -> None:
    """The image's second install line, as a wheel: from the checkout alone, with no index and no isolation."""
    if not (ROOT / "README.md").exists():
        pytest.fail("README.md is missing: the package cannot be built without it")
    tree = tmp_path / "tree"
    tree.mkdir()
    for path in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / path, tree / path)
    for folder in ("src", "policies"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-build-isolation", "--no-deps",
         "--wheel-dir", str(tmp_path), "."],
        cwd=tree, check=True, capture_output=True,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    listed = subprocess.run(
        [sys.executable, "-m", "zipfile", "--list", str(wheel)], check=True, capture_output=True, text=True
    ).stdout
    for member in ("_policies/agentgate.rego", "_policies/data.json", "_policies/policy.wasm", "py.typed"):
        assert f"agentgate/{member}" in listed
    assert "entry_points.txt" in listed
