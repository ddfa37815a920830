"""compliance.yaml as values: which requirement is answered by which fields, kinds of event and tests.

The same data make the tables of docs/compliance.md (tests/test_compliance.py holds them equal) and the OSCAL export.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any, Final

import yaml

_FILE: Final = "compliance.yaml"


@cache
def frameworks() -> list[dict[str, Any]]:
    """Every framework with its source, its dates and its items."""
    raw = files("agentgate.adapters.exports").joinpath(_FILE).read_text(encoding="utf-8")
    found: list[dict[str, Any]] = yaml.safe_load(raw)["frameworks"]
    return found


def controls() -> list[dict[str, Any]]:
    """The items that an export of events can say something about: those that name a check."""
    return [item for framework in frameworks() for item in framework["items"] if "check" in item]
