"""What every policy source promises. `source` is over a folder with the shipped policy; `folder` is that folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentgate.core.errors import PolicyInvalid
from agentgate.ports.policy import PolicySource


class PolicySourceContract:
    async def test_reads_modules_and_data(self, source: PolicySource) -> None:
        bundle = await source.read()
        assert {"agentgate.rego", "lib/sql.rego", "packs/sql_guard.rego"} <= bundle.modules.keys()
        assert "db_query" in bundle.data["read_only_tools"]

    async def test_the_same_content_is_the_same_revision(self, source: PolicySource) -> None:
        assert (await source.read()).revision == (await source.read()).revision

    async def test_reads_what_is_there_now(self, source: PolicySource, folder: Path) -> None:
        before = await source.read()
        (folder / "data.json").write_text('{"read_only_tools": []}')
        after = await source.read()
        assert after.data["read_only_tools"] == []
        assert before.revision != after.revision

    async def test_the_registry_is_part_of_the_data(self, source: PolicySource) -> None:
        tools = (await source.read()).data["tools"]
        assert tools == {"lookup": {"name": "lookup", "access": "read", "upstream": "helpdesk"}}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"a": 1, "a": 2}',
            '{"rate_limits": NaN}',
            '{"rate_limits": 1e999}',
            '{"roles": "\\ud800"}',
        ],
    )
    async def test_data_that_is_not_strict_json_is_refused(self, source: PolicySource, folder: Path, text: str) -> None:
        (folder / "data.json").write_text(text)
        with pytest.raises(PolicyInvalid, match=r"data\.json"):
            await source.read()
