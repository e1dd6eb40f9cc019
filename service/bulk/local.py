"""The engine without a cluster: shards one after the other, in this process, by all its cores or its GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from service.bulk.scoring import Job, Report, Scorer
from service.settings import usable_cores


def score(job: Job, shards: Iterable[int], advance: Callable[[int], None]) -> Iterator[Report]:
    """Score shards and report each; `advance` hears of images as they are computed.

    Raises:
        UnfitModelError, RegistryError, SourceError: as `Scorer`.
    """
    torch.set_num_threads(1)  # the model sets its own number for its calls
    scorer = Scorer(job, device=_device(job.settings.device), cores=usable_cores())
    for shard in shards:
        yield scorer.score(shard, advance)


def _device(wanted: str) -> torch.device:
    """Return the device that the settings ask for."""
    return torch.device("cuda:0" if wanted == "cuda" or (wanted == "auto" and torch.cuda.is_available()) else "cpu")
