"""What every section of the configuration is: frozen, and without unknown members."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileRef(Part):
    file: Path


class EnvRef(Part):
    env: str
