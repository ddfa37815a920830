"""`agentgate serve --reload`: what a developer saves is what runs next, with all that was said on the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from agentgate import whereabouts
from tests.forked import ROOT
from tests.gateway import GatewayProcess, until


def limit_of(gateway: GatewayProcess) -> str | None:
    answer = gateway.agent().post("/tools/call", json={"session_id": "s", "tool_name": "db_query", "arguments": {}})
    return answer.headers.get("X-RateLimit-Limit")


def save(path: Path, text: str) -> None:
    """At once, as editors do: half a file would be a change of its own."""
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def test_a_saved_policy_or_configuration_is_what_runs_next(tmp_path: Path) -> None:
    policies = Path(shutil.copytree(ROOT / "policies", tmp_path / "policies"))
    data = policies / "data.json"
    checkpoints = tmp_path / "checkpoints"
    config = {"policy": {"path": str(policies)}}
    flags = ("--reload", "--checkpoint-file", str(checkpoints))
    with GatewayProcess(*flags, config=config, fresh=True) as gateway:
        assert checkpoints.exists()
        assert whereabouts.find(gateway.data_dir) == gateway.url

        rules = json.loads(data.read_text(encoding="utf-8"))
        rules["rate_limits"]["db_query"] = 77
        save(data, json.dumps(rules))
        until(lambda: len(gateway.stdout) == 2, timeout_s=20)
        assert limit_of(gateway) == "77"

        assert gateway.config_path is not None
        save(gateway.config_path, "polcy: {}")
        until(lambda: "there is none of this name" in gateway.stderr, timeout_s=20)
        save(gateway.config_path, json.dumps({**config, "approvals": {"ttl_s": 60}}))
        until(lambda: len(gateway.stdout) == 3, timeout_s=20)
        assert limit_of(gateway) == "77"
        assert len({line.rpartition(" is ready on ")[2] for line in gateway.stdout}) == 1
        assert gateway.stop() == 0
