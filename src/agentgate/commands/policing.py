"""`agentgate policy`: what a policy directory says, without a gateway."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.table import Table

from agentgate.commands.terminal import Config, DataDir, Status, die, or_die, out, safe, say_json, settings_of, wide
from agentgate.commands.typed import json_object
from agentgate.commands.words import plain
from agentgate.core.call import Role
from agentgate.core.decision import Decision, Verdict
from agentgate.core.errors import AgentGateError
from agentgate.settings import Settings

cli = typer.Typer(help="What a policy directory says, without a gateway.", no_args_is_help=True)

PolicyPath = Annotated[Path | None, typer.Option("--path", help="The policy directory (default: the configured one)")]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON")]
SessionFacts = Annotated[
    str | None, typer.Option("--session-facts", help='What its session did: {"labels": ["private"], "calls": 3, …}')
]

EXITS: Final = {Verdict.ALLOW: 0, Verdict.DENY: Status.REFUSED, Verdict.REQUIRE_APPROVAL: Status.NOT_YET}


@cli.command("packs")
def list_packs(
    path: PolicyPath = None, as_json: AsJson = False, config: Config = None, data_dir: DataDir = None
) -> None:
    """List the packs of the policy directory, and which of them are on."""
    from agentgate import rulings  # policy engines: for who asks one, as they double the start of every command

    settings = _settings(config, data_dir, path)
    with or_die(Status.START):
        packs = asyncio.run(rulings.packs_of(settings))
    if as_json:
        say_json({"packs": [{"name": one.name, "about": one.about, "on": one.is_on} for one in packs]})
        return
    table = Table("pack", "on", "what it does", box=None, pad_edge=False, header_style="bold")
    for one in packs:
        table.add_row(*map(safe, (plain(one.name), "on" if one.is_on else "–", plain(one.about))))
    wide().print(table)


@cli.command("try")
def try_call(
    tool: Annotated[str, typer.Option("--tool", help="A tool of the configuration", show_default=False)],
    arguments: Annotated[str, typer.Option("--arguments", help="A JSON object")] = "{}",
    agent: Annotated[str, typer.Option("--agent", help="Who calls")] = "agent",
    role: Annotated[list[Role] | None, typer.Option("--role", help="May be repeated; default agent")] = None,
    tenant: Annotated[str, typer.Option("--tenant")] = "default",
    tier: Annotated[str, typer.Option("--tier")] = "",
    session_facts: SessionFacts = None,
    approved: Annotated[bool, typer.Option("--approved", help="As if somebody had approved the call")] = False,
    path: PolicyPath = None,
    as_json: AsJson = False,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Say what policy would decide on a call. Nothing is called and nothing recorded; limits, budgets and kills are not
    asked. Exit 0 allowed, 1 denied, 4 needs an approval; 2 wrong usage, 3 it could not be asked."""
    from agentgate import rulings  # policy engines: for who asks one, as they double the start of every command

    settings = _settings(config, data_dir, path)
    asked = rulings.Asked(
        tool=tool,
        arguments=json_object(arguments, "--arguments"),
        agent=agent,
        roles=tuple(dict.fromkeys(role or [Role.AGENT])),
        tenant=tenant,
        tier=tier,
        session_facts=json_object(session_facts, "--session-facts") if session_facts is not None else None,
        is_approved=approved,
    )
    try:
        decision, revision = asyncio.run(rulings.ask_policy(settings, asked))
    except (AgentGateError, rulings.CannotAsk) as error:
        die(str(error), Status.START)
    said = _said(decision, revision)
    if as_json:
        say_json(said)
    else:
        for name, value in said.items():
            shown = value if isinstance(value, str) else json.dumps(value)
            out.print(f"{name + ':':<14} {safe(plain(shown))}")
    raise typer.Exit(EXITS[decision.verdict])


def _settings(config: Path | None, data_dir: Path | None, path: Path | None) -> Settings:
    settings = settings_of(config, {"data_dir": data_dir})
    if path is None:
        return settings
    return settings.model_copy(update={"policy": settings.policy.model_copy(update={"path": path})})


def _said(decision: Decision, revision: str) -> dict[str, Any]:
    said: dict[str, Any] = {
        "decision": decision.verdict.value,
        "matched_rule": decision.matched_rule,
        "reason": decision.reason,
        "reason_code": decision.reason_code.value,
        "revision": revision,
    }
    if decision.verdict is Verdict.REQUIRE_APPROVAL:
        terms = decision.terms
        said["approval"] = {"quorum": terms.quorum, "approvers": list(terms.approvers), "expires_in_s": terms.ttl_s}
    return said
