"""The listing of one model in a registry: its versions and aliases, and from them alone which versions serve.

Every replica that sees the same listing serves the same versions. Knows nothing about stores or artifacts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

PRODUCTION = "production"
ALIASES = "aliases"

_PRODUCTION_ALIAS = f"{ALIASES}/{PRODUCTION}"


class VersionFiles(BaseModel):
    """The files of a version as they were listed; a tag changes with its file, and '' says nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest_bytes: int
    manifest_tag: str = ""
    artifact_bytes: int | None = Field(None, description="None if there is no artifact.")
    artifact_tag: str = ""

    @property
    def tags(self) -> tuple[str, str] | None:
        """Tags that change when the version's files do; None if the files may change without that."""
        if not self.manifest_tag or (self.artifact_bytes is not None and not self.artifact_tag):
            return None
        return self.manifest_tag, self.artifact_tag


class ModelListing(BaseModel):
    """What the registry holds of one model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    versions: dict[int, VersionFiles] = {}
    aliases: dict[str, int] = Field({}, description="Those that hold the number of a version that is there.")
    promoted: tuple[int, ...] | None = Field(
        None, description="What was promoted, oldest first; None without a record."
    )
    faults: dict[str, str] = Field({}, description="Path below the model's folder -> what is wrong there.")

    @property
    def is_readable(self) -> bool:
        """Whether the model's folder could be looked into."""
        return "" not in self.faults

    def production(self) -> int:
        """Return the version that answers by default; there must be one.

        It is what the alias production says, without that alias the newest. If the alias is damaged, it is what was
        promoted last: the newest may never have been meant to serve.
        """
        if PRODUCTION in self.aliases:
            return self.aliases[PRODUCTION]
        promoted = [version for version in self.promoted or () if version in self.versions]
        if _PRODUCTION_ALIAS in self.faults and promoted:
            return promoted[-1]
        return max(self.versions)

    def history(self) -> list[int]:
        """Return what is and was production, oldest first, the present one last; without versions that are gone.

        A model of which nothing was promoted has served its newest version ever since it was there.
        """
        current = self.production()
        if self.promoted is None:
            promoted = [version for version in sorted(self.versions) if version <= current]
        else:
            promoted = [version for version in self.promoted if version in self.versions]
        if current in promoted:  # what stands after it was rolled back, or its promotion was cut off
            return promoted[: len(promoted) - promoted[::-1].index(current)]
        return [*promoted, current]

    def defaults(self) -> list[int]:
        """Return production and then, the latest first, what may stand in for it if it cannot serve."""
        return list(dict.fromkeys(reversed(self.history())))

    def servable(self, keep_versions: int) -> list[int]:
        """Return the versions that serve: production, the last others of its history, and each that has an alias."""
        return sorted({*self.defaults()[: 1 + keep_versions], *self.aliases.values()})

    def or_last_known(self, last: Self | None) -> Self:
        """Return the listing with what can no longer be read, or has become nonsense, as it was known before."""
        if last is None or not self.faults:
            return self
        if not self.is_readable:
            return last.model_copy(update={"faults": self.faults})
        known = {
            alias: version
            for alias, version in last.aliases.items()
            if f"{ALIASES}/{alias}" in self.faults or ALIASES in self.faults
            if version in self.versions
        }
        return self.model_copy(update={"aliases": known | self.aliases})


Listings = Mapping[str, ModelListing]
"""The models of a registry by name."""
