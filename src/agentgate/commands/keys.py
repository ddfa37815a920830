"""`agentgate keys`: API keys of agents and people."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from agentgate import keyfile
from agentgate.commands.terminal import EXIT_START, EXIT_USAGE, Config, DataDir, die, err, settings_of
from agentgate.core.call import Role, key_sha256
from agentgate.core.errors import AgentGateError
from agentgate.settings import Key

cli = typer.Typer(help="API keys of agents and people.", no_args_is_help=True)


@cli.command("create")
def create_key(
    agent: Annotated[str | None, typer.Option("--agent", help="The agent that the key stands for")] = None,
    person: Annotated[str | None, typer.Option("--person", help="The person that the key stands for")] = None,
    role: Annotated[list[Role] | None, typer.Option("--role", help="May be repeated; default agent")] = None,
    tenant: Annotated[str, typer.Option("--tenant")] = "default",
    all_tenants: Annotated[bool, typer.Option("--all-tenants", help="An operator or auditor of all tenants")] = False,
    expires_in_days: Annotated[float | None, typer.Option("--expires-in-days", min=0.0)] = None,
    config: Config = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is shown once; only its SHA-256 is kept. A running gateway takes it within a second."""
    if (agent is None) == (person is None):
        die("say whom the key is for: --agent NAME or --person NAME", EXIT_USAGE)
    roles = tuple(role or [Role.AGENT])
    if person is not None and roles == (Role.AGENT,) and not role:
        die("a person's key needs its roles: --role operator, approver, auditor or admin", EXIT_USAGE)
    settings = settings_of(config, {"data_dir": data_dir})
    secret = f"agk_{secrets.token_urlsafe(32)}"
    expires = datetime.now(UTC) + timedelta(days=expires_in_days) if expires_in_days is not None else None
    try:
        key = Key(
            id=f"k-{secrets.token_hex(4)}",
            sha256=key_sha256(secret),
            agent=agent,
            person=person,
            roles=roles,
            tenant=tenant,
            all_tenants=all_tenants,
            expires=expires,
        )
        keyfile.add_key(keyfile.key_file(settings.data_dir), key)
    except ValueError as error:
        die(f"not a key: {_last_line(error)}", EXIT_USAGE)
    except AgentGateError as error:
        die(str(error), EXIT_START)
    err.print(
        f"key {key.id} for {'agent' if agent else 'person'} {agent or person}, roles {', '.join(roles)}; shown once:"
    )
    print(secret)


def _last_line(error: ValueError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line.split(" [type=")[0] for line in lines if "[type=" in line), lines[0])
