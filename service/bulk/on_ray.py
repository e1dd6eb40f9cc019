"""The engine on a Ray cluster: actors get a shard each, and Ray starts one that dies again, on any node.

Ray only schedules: an actor gets a shard's number and returns counts. What is done is decided by the parts that are
there, so an actor, a node or this process may be lost at any moment.

Not through Ray Data, which looks every 0.1 s which shards are done: an actor waited 0.16 s for its next one, here 3 ms.
To hide that, Ray Data would queue a second shard at each actor, where it waits though others rest.
"""

from __future__ import annotations

import logging
import os
from collections import deque
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

    def ready(self) -> None:
        """Return when the version is loaded."""

    def score(self, shard: int) -> Report:
        """Score a shard and report it."""
        try:
            return self._scorer.score(shard)
        except DeviceFailedError:
            logger.exception("this actor must be replaced: its device must compute")
            os._exit(1)  # Ray then starts it again, and sends the shard again


def score(
    job: Job, shards: Iterable[int], advance: Callable[[int], None], *, address: str | None, actors: Actors
) -> Iterator[Report]:
    """Score shards on the cluster at `address` and report each; without an address and RAY_ADDRESS Ray starts here.

    Raises:
        ConnectionError: there is no cluster at the address.
        RuntimeError: the cluster could not score them; those that are missing can be tried again.
    """
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        connect(address)
    try:
        for report in _reports(ray, job, list(shards), actors):
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


def _reports(ray: Any, job: Job, shards: list[int], actors: Actors) -> Iterator[Report]:
    """Score shards and return their reports, one shard at a time in each actor that has started."""
    number = actors.number or _room(ray.cluster_resources(), actors)
    # Both without end: a shard is given up by those that scored it, see `scoring`.
    actor = ray.remote(max_restarts=-1, max_task_retries=-1)(ScoringActor)
    actor = actor.options(num_cpus=actors.cores, num_gpus=actors.gpus)
    given = ray.put(job.model_dump(mode="json"))  # held until the end: an actor that starts again is given it again
    pool = [actor.remote(given, actors.cores) for _ in range(min(number, len(shards)))]
    left = deque(shards)
    starting = {one.ready.remote(): one for one in pool}
    scoring: dict[Any, Any] = {}
    try:
        while left or scoring:
            (done,), _ = ray.wait([*scoring, *starting])
            one = scoring.pop(done, None) or starting.pop(done)
            report: Report | None = ray.get(done)
            if left:
                scoring[one.score.remote(left.popleft())] = one
            else:
                ray.kill(one)  # one that must start again may be waiting for its cores
            if report is not None:
                yield report
    finally:
        for one in pool:
            ray.kill(one)


def _room(resources: dict[str, float], actors: Actors) -> int:
    """Return how many actors a cluster has room for, at least one."""
    wanted = {"CPU": actors.cores, "GPU": actors.gpus}
    return max(1, min(int(resources.get(name, 0) // amount) for name, amount in wanted.items() if amount))


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2]
