"""The engine on a Ray cluster: Ray Data gives out shards to actors, and starts another where one dies.

Ray only schedules: an actor gets a shard's number and returns counts. What is done is decided by the parts that are
there, so an actor, a node or this process may be lost at any moment.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

import service
from service.bulk.scoring import Job, Report, Scorer
from service.model.model import DeviceFailedError

logger = logging.getLogger(__name__)


class Actors(NamedTuple):
    """What the cluster is asked for; 0 actors are as many as it has room for."""

    number: int = 0
    cores: int = 1
    gpus: float = 0


class ScoringActor:
    """A `Scorer` in a process of Ray's."""

    def __init__(self, job: dict[str, Any], cores: int) -> None:
        import ray

        torch.set_num_threads(1)
        device = torch.device("cuda:0" if ray.get_gpu_ids() else "cpu")  # of those that Ray lets it see
        self._scorer = Scorer(Job.model_validate(job), device=device, cores=cores)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._scorer.score(int(row["shard"]))._asdict()
        except DeviceFailedError:
            logger.exception("this actor must be replaced: its device must compute")
            os._exit(1)  # Ray then starts another, and that gets the shard


def score(
    job: Job, shards: Iterable[int], advance: Callable[[int], None], *, address: str | None, actors: Actors
) -> Iterator[Report]:
    """Score shards on the cluster at `address` and report each; without an address and RAY_ADDRESS Ray starts here.

    Raises:
        ConnectionError: there is no cluster at the address.
        RuntimeError: the cluster could not score them; those that are missing can be tried again.
    """
    import ray
    import ray.data

    is_ours = not ray.is_initialized()
    if is_ours:
        connect(address)
    try:
        for row in _dataset(ray, job, list(shards), actors).iter_rows():
            report = Report(**row)
            advance(report.images)
            yield report
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"Ray must score every shard. Given: {_last_line(error)}") from error
    finally:
        if is_ours:
            ray.shutdown()


def connect(address: str | None) -> None:
    """Connect to a cluster, or start Ray here, so that its processes import the `service` that this one does.

    Raises:
        ConnectionError: there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would report to its makers
    import ray

    code = {
        # Nodes have our dependencies, not necessarily this very code.
        "py_modules": [str(Path(service.__file__).parent)],
        "excludes": ["page", "__pycache__"],
        "env_vars": {"GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "0")},
    }
    address = address or os.environ.get("RAY_ADDRESS")
    # Given no address, Ray would join whatever cluster was last started on this machine.
    given: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    ray.init(runtime_env=code, logging_level=logging.WARNING, **given)


def _dataset(ray: Any, job: Job, shards: list[int], actors: Actors) -> Any:
    """Return the reports of shards as they are scored. Ray Data restarts actors, and gives out a shard, without end."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a shard of large photos takes minutes
    number = actors.number or _room(ray.cluster_resources(), actors)
    # Of items, which are in memory: a reading task would want a core when actors may hold all of them.
    rows = ray.data.from_items([{"shard": shard} for shard in shards], override_num_blocks=len(shards))
    return rows.map(
        ScoringActor,
        fn_constructor_args=(job.model_dump(mode="json"), actors.cores),
        # One at work and one that waits: Ray Data's executor looks at two or more actors ten times a second, and needs
        # two looks to give out the next shard.
        compute=ray.data.ActorPoolStrategy(size=min(number, len(shards)), max_tasks_in_flight_per_actor=2),
        num_cpus=actors.cores,
        num_gpus=actors.gpus,
    )


def _room(resources: dict[str, float], actors: Actors) -> int:
    """Return how many actors a cluster has room for, at least one."""
    wanted = {"CPU": actors.cores, "GPU": actors.gpus}
    return max(1, min(int(resources.get(name, 0) // amount) for name, amount in wanted.items() if amount))


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
