"""Small answers that the upstream kinds share."""

from __future__ import annotations

from typing import Final

from agentgate.core.errors import ReasonCode
from agentgate.ports.upstreams import Undelivered

NO_GRANT: Final = Undelivered(ReasonCode.INTERNAL, "nothing is sent without a grant", reached=False)
"""For a caller that got past the type checker with something else than a `Grant`."""

CLOSED: Final = Undelivered(ReasonCode.UPSTREAM_UNAVAILABLE, "the upstream is closed", reached=False)


class ToolError(ValueError):
    """A tool says no. The text is for the caller and never repeats an argument's value."""


class Misfit(ValueError):
    """Arguments that cannot be put where the tool's declaration wants them; nothing was sent."""
