"""Settings of the training machine, each an environment variable TRAINING_X and an option --x.

Knows nothing about recipes: whatever changes the result of a run is a hyper-parameter. Nothing else in training/ reads
the environment.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def _filled(given: Any) -> Any:
    if given == "":  # a script's variable that is not set; it would be the working directory
        raise ValueError("input should have a character or more")
    return given


Place = Annotated[Path, BeforeValidator(_filled)]


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="TRAINING_", frozen=True, extra="forbid")

    registry: str = Field("my-models", min_length=1, description="Folder or fsspec URL of the registry.")
    sign: Place | None = Field(None, description="File of the key that signs what is published (see keygen).")
    data_dir: Place = Field(Path("data"), description="Folder of the datasets; missing ones are downloaded into it.")
    cache_dir: Place = Field(
        Path("~/.cache/argmax"), description="Folder that keeps decoded pictures, so that later runs start at once."
    )
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="Where to train; auto is the fastest available."
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads; 0 for the recipe's choice.")
    workers: int = Field(
        0,
        ge=0,
        le=256,
        description="Processes that prepare batches. With 0, data that fits is kept on the device and varied there.",
    )
    pin_memory: bool = Field(True, description="Copy batches to a GPU from page-locked memory.")
    tolerance: float = Field(
        0.005, ge=0, le=1, description="How far below production's accuracy a version may be and still be published."
    )
    runs_dir: Place = Field(Path("runs"), description="Folder of checkpoints and TensorBoard logs.")
    log_every: int = Field(0, ge=0, description="Print loss and accuracy every so many batches; 0 for every epoch.")
    tensorboard_details: bool = Field(
        False,
        description="For TensorBoard, besides the curves: example images, the graph of the network, and a histogram of "
        "each weight after every epoch.",
    )
    checkpoint_seconds: float = Field(10, ge=0, description="Time between checkpoints; each waits for an epoch's end.")
    commit: str = Field(
        "",
        pattern=r"^(\w[\w.-]*)?$",
        description="Commit of this code for the manifest, where git cannot tell it, as in an image.",
    )


class JobSettings(Settings):
    """Settings of a job: those of any run, and where its metrics go."""

    metrics_textfile: Place | None = Field(
        None, description="File for the node exporter's textfile collector, written when the run ends."
    )
    pushgateway: str | None = Field(None, description="URL of a Prometheus Pushgateway that receives the same metrics.")
