"""What every section of the configuration is: frozen, and without unknown members where it is ours to know them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

_NUMBERS: Final = (int, float, int | None, float | None)


class _Numbered(BaseModel):
    @field_validator("*", mode="before")
    @classmethod
    def _is_no_answer_to_how_many(cls, value: Any, about: ValidationInfo) -> Any:
        """YAML's `yes` and `true` would be taken for a 1."""
        if isinstance(value, bool) and cls.model_fields[str(about.field_name)].annotation in _NUMBERS:
            raise ValueError("must be a number")
        return value


class Part(_Numbered):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OpenPart(_Numbered):
    """Has what we know of it, and whatever its kind takes."""

    model_config = ConfigDict(frozen=True, extra="allow")

    @property
    def options(self) -> Mapping[str, Any]:
        return self.model_extra or {}


class FileRef(Part):
    file: Path


class EnvRef(Part):
    env: str
