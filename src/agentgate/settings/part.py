"""What every section of the configuration is: frozen, and without unknown members where it is ours to know them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OpenPart(BaseModel):
    """Has what we know of it, and whatever its kind takes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class FileRef(Part):
    file: Path


class EnvRef(Part):
    env: str
