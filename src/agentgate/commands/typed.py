"""Times, lengths of time, ids, principals and JSON, as people type them."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

import typer

from agentgate.commands.terminal import Status, die
from agentgate.core import strict_json
from agentgate.core.call import is_id
from agentgate.core.event import rfc3339

Since = Annotated[str | None, typer.Option("--since", help="A time, or how long ago: 15m, 2h, 7d")]
Until = Annotated[str | None, typer.Option("--until", help="A time, or how long ago; not itself included")]

_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def moment(text: str | None) -> str | None:
    """A time as events say it, from a time (UTC unless it says otherwise) or from how long ago it was."""
    if text is None:
        return None
    try:
        if ago := re.fullmatch(r"(\d{1,6})([smhd])", text):
            return rfc3339(datetime.now(UTC) - timedelta(seconds=int(ago[1]) * _UNITS[ago[2]]))
        time = datetime.fromisoformat(text)
        return rfc3339(time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        die(f"{text!r} is no time, such as 2026-11-21, 2026-11-21T08:00:00Z or 15m", Status.USAGE)


def seconds(text: str) -> float:
    """`90s`, `15m`, `1h30m`; seconds where no unit is said."""
    whole = f"{text}s" if re.fullmatch(r"\d+(\.\d+)?", text) else text
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", whole)
    found = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != whole or not math.isfinite(found):
        die(f"{text!r} is not a length of time, such as 90s, 15m, 2h or 1d", Status.USAGE)
    return found


def json_object(text: str | bytes, option: str) -> dict[str, Any]:
    """The value of an option. Half a character, which a shell can give as well, is refused and not replaced."""
    try:
        value = strict_json.parse(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    except strict_json.NotStrictJson as error:
        die(f"{option} is not JSON: {error}", Status.USAGE)
    if not isinstance(value, dict):
        die(f"{option} is not a JSON object", Status.USAGE)
    return value


def check_ids(**given: str | None) -> None:
    """End with a sentence when one of these cannot be an id. They are named by what it is the id of."""
    for what, name in given.items():
        if name is not None and not is_id(name):
            die(f"{name!r} is not the id of a {what}", Status.USAGE)


def check_own_id(what: str, given: str) -> None:
    """The same for what a tenant's people may have given an id: `TENANT~ID` then."""
    tenant, _, own = given.rpartition("~")
    check_ids(**{"tenant": tenant or None, what: own})


def principal(name: str) -> str:
    """An agent's id, or a person's where that is said."""
    return name if name.startswith(("agent:", "person:")) else f"agent:{name}"
