"""A version that is in the registry and not served, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Absent(BaseModel):
    """A version that is in the registry and cannot be asked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int = Field(0, description="0 if not one version is meant, but the model's other files.")
    state: Literal["loading", "refused", "unloaded", "quarantined"]
    reason: str = ""
    is_production: bool = Field(False, description="Whether it should answer when no version is named.")

    def __str__(self) -> str:
        return f"{self.name}@{self.version}" if self.version else self.name
