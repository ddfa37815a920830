"""The containment protocol keeps its promises in every order of its steps, and the model would tell if it did not."""

from __future__ import annotations

import re
from functools import cache

import pytest

from tests.containment.model import BREAKS, SCENARIOS, WHOLE, Outcome, Protocol, State, explore, main

STEPS = {
    "R# starts, joined at #",
    "R# is dead, and presumed gone",
    "R#'s host is attested to be destroyed",
    "R# catches up to #",
    "R# acked #",
    "R#'s lease ends: all is cut",
    "R# renews its lease",
    "R# is expelled: all is cut",
    "R# left, joined anew at #",
    "R# reaches the primary",
    "R# applies # to the primary",
    "R# applies # to the deposed primary",
    "R#.# enters",
    "R#.# is refused: kill state unknown",
    "R#.# is refused: killed",
    "R#.# is admitted",
    "R#.# decided, receipt at #",
    "R#.# is not recorded: member gone",
    "R#.# is granted",
    "R#.# is sent",
    "R#.# finishes",
    "R#.# is cancelled",
    "kill # at #",
    "release # at #",
    "release # by force at #",
    "kill # is answered drained",
    "kill # is answered drained_except",
    "Redis loses everything",
    "the last write reaches the standby",
    "Redis fails over to the standby",
    "Redis fails over, and its clients stay with the deposed primary",
    "R# is cut off from Redis",
    "R# crashes",
    "R# lives, and is presumed gone",
    "R# left",
}


@cache
def explored(scenario: str) -> Outcome:
    return explore(Protocol(SCENARIOS[scenario]))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_protocol_keeps_its_promises_in_every_order(scenario: str) -> None:
    outcome = explored(scenario)
    assert not outcome.violation, outcome.trace


@pytest.mark.torture
@pytest.mark.parametrize("scenario", WHOLE)
def test_protocol_keeps_its_promises_with_more_of_everything(scenario: str) -> None:
    outcome = explore(Protocol(WHOLE[scenario]))
    print(f"{scenario}: {outcome.states:,} states")
    assert not outcome.violation, outcome.trace


@pytest.mark.parametrize("broken", BREAKS)
def test_model_finds_what_a_deliberate_fault_leads_to(broken: str) -> None:
    promise, scenario, _ = BREAKS[broken]
    outcome = explore(Protocol(SCENARIOS[scenario], broken))
    assert outcome.violation.startswith(f"{promise},"), outcome.trace
    assert outcome.trace


def test_nothing_in_the_model_stands_idle() -> None:
    """A promise that is kept because the step that could break it never comes would be no proof."""
    taken = {re.sub(r"\d", "#", label) for name in SCENARIOS for label in explored(name).labels}
    assert taken == STEPS


def reachable(protocol: Protocol) -> set[State]:
    found, todo = {protocol.start()}, [protocol.start()]
    while todo:
        new = {following for _, _, following in protocol.steps(todo.pop())} - found
        found |= new
        todo += new
    return found


@pytest.mark.parametrize("scenario", ["more calls", "two primaries"])
def test_folding_loses_no_state(scenario: str) -> None:
    protocol = Protocol(SCENARIOS[scenario])
    assert len({protocol.folded(state) for state in reachable(protocol)}) == explored(scenario).states


def test_counter_example_is_a_shortest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["breaks", "send before recorded"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith("RECORD, without a durable Decided: R0.0 is sent")
    assert [line.split(maxsplit=1)[1] for line in told[1:]] == ["R0.0 enters", "R0.0 is admitted"]


def test_command_line_names_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in [*SCENARIOS, *WHOLE, *BREAKS])
    assert main(["run", "no such scenario"]) == 1
