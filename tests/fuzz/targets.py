"""All fuzz targets, by name. `tests/fuzz/run.py` runs one for as long as one likes."""

from __future__ import annotations

from tests.fuzz import answers, documents, requests, signed
from tests.fuzz.target import CORPUS, TARGETS, Target

__all__ = ("CORPUS", "TARGETS", "Target")

_MODULES = (answers, documents, requests, signed)
"""Loaded for the targets that each of them registers."""
