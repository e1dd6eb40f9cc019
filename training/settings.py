"""Every setting of the machine that trains, declared once: an environment variable TRAINING_X and an option --x.

Knows nothing about recipes: what makes two runs differ in their result is a hyper-parameter. Nothing else in
training/ reads the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TRAINING_", frozen=True, extra="forbid")

    registry: str = Field("models", min_length=1, description="Folder or fsspec URL that --publish writes to.")
    data_dir: Path = Field(Path("data"), description="Folder of the data sets; what is missing is downloaded into it.")
    cache_dir: Path = Field(
        Path("~/.cache/argmax"), description="Folder that keeps decoded pictures, so that later runs start at once."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="Where to train; auto takes the fastest.")
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 leaves it to the recipe.")
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Processes that prepare batches. With 0, data that fits lives on the device and is varied there.",
    )
    pin_memory: bool = Field(True, description="Where batches are copied to a GPU, copy them from page-locked memory.")
    tolerance: float = Field(0.005, ge=0, le=1, description="How much less accurate than production may be published.")
    runs_dir: Path = Field(Path("runs"), description="Folder of checkpoints and TensorBoard logs.")
    checkpoint_seconds: float = Field(10, ge=0, description="Time between checkpoints; each waits for an epoch's end.")
    commit: str = Field(
        "",
        pattern=r"^[\w.-]*$",
        description="Commit of this code for the manifest, where git cannot tell it: in an image.",
    )


class JobSettings(Settings):
    """What a job needs beyond that: where its figures go."""

    metrics_textfile: Path | None = Field(
        None, description="File for the node exporter's textfile collector, written when the run ends."
    )
    pushgateway: str | None = Field(None, description="URL of a Prometheus Pushgateway that gets the same figures.")
