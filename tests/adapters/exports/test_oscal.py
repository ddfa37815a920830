"""OSCAL Assessment Results, and compliance-trestle's word on them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agentgate.adapters.exports._compliance import controls
from agentgate.adapters.exports.oscal import OscalResults
from agentgate.core.event import Kind, Record, make
from agentgate.core.query import Query
from tests.contracts.export import ExportContract, exported, records
from tests.core.events import a_session, origin, record_of

NC_NAME = re.compile(r"[A-Za-z_][\w.-]*")
STATES = {"satisfied", "not-satisfied"}


class TestOscalResults(ExportContract):
    begin = OscalResults


def results(some: list[Record], query: Query | None = None) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(exported(OscalResults(query or Query()), some))
    return document["assessment-results"]


def states(some: list[Record]) -> dict[str, str]:
    findings = results(some)["results"][0]["findings"]
    return {one["target"]["target-id"]: one["target"]["status"]["state"] for one in findings}


def test_a_session_bears_out_what_events_can() -> None:
    assert states(a_session(3)) == {control["objective"]: "satisfied" for control in controls()}


def test_without_events_nothing_is_satisfied() -> None:
    assert set(states([]).values()) == {"not-satisfied"}


def test_a_decision_that_does_not_say_who_is_found() -> None:
    nameless = record_of(make(origin(), Kind.DECIDED, {"decision": "ALLOW"}), index=77)
    found = results([*a_session(1), nameless])["results"][0]
    finding = next(one for one in found["findings"] if one["target"]["target-id"] == "au-3_obj")
    assert finding["target"]["status"]["state"] == "not-satisfied"
    assert "index 77" in finding["description"]


def test_a_time_that_is_not_utc_is_found() -> None:
    record = a_session(1)[0]
    local = Record(5, 1, 0, {**record.fields, "at": "2026-11-21T10:00:00+01:00"}, record.leaf, None, None)
    assert states([local])["au-8_obj.b"] == "not-satisfied"


def test_other_records_or_another_question_are_another_document() -> None:
    some = a_session(2)
    one, other, asked = results(some), results(some[1:]), results(some, Query(tool="db_query"))
    assert len({one["uuid"], other["uuid"], asked["uuid"]}) == 3
    assert one == results(some)


def walk(value: Any) -> list[dict[str, Any]]:
    if isinstance(value, dict):
        return [value, *(found for inner in value.values() for found in walk(inner))]
    return [found for inner in value for found in walk(inner)] if isinstance(value, list) else []


def test_properties_are_names_and_single_lines() -> None:
    asked = Query(text=" two\nlines\t", session="s", kinds=(Kind.DECIDED, Kind.KILLED))
    props = [prop for part in walk(results(records(), asked)) for prop in part.get("props", [])]
    assert len(props) > 5
    for prop in props:
        assert NC_NAME.fullmatch(prop["name"])
        assert re.fullmatch(r"\S(.*\S)?", prop["value"])


def test_findings_know_two_states_and_their_observations_exist() -> None:
    found = results(records())["results"][0]
    observations = {one["uuid"] for one in found["observations"]}
    for finding in found["findings"]:
        assert finding["target"]["status"]["state"] in STATES
        assert {one["observation-uuid"] for one in finding["related-observations"]} <= observations


def trestle() -> Path | None:
    """The program that `scripts/services` installs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    cache = Path(os.environ.get("AGENTGATE_CACHE") or Path(home) / "agentgate")
    found = sorted(cache.glob("trestle-*/.whole"))
    return found[-1].parent / "bin" / "trestle" if found else None


@pytest.mark.parametrize("some", [[], a_session(2), records()], ids=["nothing", "a session", "everything"])
def test_compliance_trestle_accepts_it(tmp_path: Path, some: list[Record]) -> None:
    program = trestle()
    if program is None:
        if os.environ.get("AGENTGATE_NO_SKIPS"):
            pytest.fail("compliance-trestle is not installed: scripts/services")
        pytest.skip("compliance-trestle is not installed: scripts/services")
    given = tmp_path / "given.json"
    given.write_bytes(exported(OscalResults(Query(session="s-1", text="a b")), some))
    place = tmp_path / "workspace"
    place.mkdir()
    for words in (
        ["init", "--local"],
        ["import", "-f", str(given), "-o", "log"],
        ["validate", "-t", "assessment-results", "-n", "log"],
    ):
        ran = subprocess.run([program, *words], cwd=place, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "VALID" in ran.stdout
