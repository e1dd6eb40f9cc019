"""Each image is scored exactly once on a real Ray cluster, whatever dies, and as without Ray to the byte.

The cluster is one of Ray's on this machine: a head without cores, and nodes of one core each, which tests may lose.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import psutil
import pytest

import service
from service.bulk import on_ray
from service.bulk.on_ray import Actors
from service.bulk.run import Engine, Result
from service.bulk.scoring import Job
from tests.registries import Slow, publish
from tests.service.bulk.scored import content, expect_every_image_once, parts_of, rows_of, score, write_images
from tests.waiting import wait_until

ray = pytest.importorskip("ray", reason="needs Ray; pip install argmax[ray]")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of Ray's own sockets and files
    pytest.mark.filterwarnings("ignore::FutureWarning:ray"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray"),
]

PACKAGE = Path(service.__file__).parent

COUNT = 60
SHARDS = 6
OBJECT_STORE_BYTES = 80 * 2**20


class Nodes:
    """A cluster whose nodes have a core each."""

    def __init__(self) -> None:
        self._options = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        self.cluster = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **self._options})
        self.nodes: list[Any] = []

    def have(self, count: int) -> None:
        while len(self.nodes) < count:
            self.nodes.append(self.cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES))
        self.cluster.wait_for_nodes()

    def lose_one(self) -> None:
        """Kill a node: all of its processes, at once."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)


@pytest.fixture(scope="module")
def nodes(registry: Path) -> Iterator[Nodes]:
    settings = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_AUTH_MODE": "disabled",  # else Ray leaves a token in the home of whoever runs the tests
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # else every other process of a busy machine goes first
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        running = Nodes()
        try:
            yield running
        finally:
            running.cluster.shutdown()


@pytest.fixture(scope="module")
def connection(nodes: Nodes) -> Iterator[None]:
    """One connection for the tests that kill nothing, which come last."""
    on_ray.connect(nodes.cluster.address)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def slow_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that takes about a second for a shard, so that something can be killed meanwhile."""
    root = tmp_path_factory.mktemp("slow")
    publish(root, "rows", Slow(500))
    return root


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "images", COUNT)


def engine(nodes: Nodes, actors: int) -> Engine:
    return functools.partial(on_ray.score, address=nodes.cluster.address, actors=Actors(actors))


class InBackground(threading.Thread):
    """A run in a thread, which the test may disturb."""

    def __init__(self, work: Callable[[], Result]) -> None:
        super().__init__()
        self._work = work
        self._result: Result | BaseException = RuntimeError("not done")
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - raised by `result`
            self._result = error

    def has(self, out: Path, parts: int) -> None:
        """Wait until there are so many parts; if the run ends before, it has failed."""
        wait_until(lambda: len(list(out.glob("part-*"))) >= parts or not self.is_alive(), seconds=120)
        if not self.is_alive():
            self.result()

    def result(self) -> Result:
        self.join()
        if isinstance(self._result, BaseException):
            raise self._result
        return self._result


def actor_processes() -> list[psutil.Process]:
    """The processes of this cluster's actors, which Ray starts below its raylets, below this process."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "ScoringActor" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_killed_actor_a_flaky_bucket_and_bad_files_cost_no_image_and_the_parts_are_those_of_one_process(
    nodes: Nodes, slow_registry: Path, tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.have(2)
    fs, root = fsspec.url_to_fs(f"{bucket}/{uuid.uuid4().hex}")
    fs.pipe({f"{root}/images/{n:05d}.png": content(n) for n in range(COUNT)})
    out = tmp_path / "by-ray"

    with flaky_bucket(every=7) as refused:
        running = InBackground(lambda: score(f"s3://{root}/images", out, slow_registry, engine(nodes, 2)))
        running.has(out, parts=1)
        actor_processes()[0].kill()
        result = running.result()

    assert refused
    assert result.missing == []
    expect_every_image_once(out, COUNT)
    score(f"s3://{root}/images", tmp_path / "alone", slow_registry)
    assert parts_of(out) == parts_of(tmp_path / "alone")


def test_a_killed_driver_and_then_a_lost_node_cost_no_image(
    nodes: Nodes, slow_registry: Path, images: Path, tmp_path: Path, times: int
) -> None:
    if times == 1:
        pytest.skip("takes most of a minute: with --thorough")
    nodes.have(2)
    out = tmp_path / "out"
    command = [
        *(sys.executable, "-m", "service", "score", str(images), "--out", str(out), "--model", "rows"),
        *("--registry", str(slow_registry), "--shard-size", "10"),
        *("--engine", "ray", "--address", nodes.cluster.address, "--actors", "2"),
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        wait_until(lambda: len(list(out.glob("part-*"))) >= 1, seconds=120)
        driver.send_signal(signal.SIGKILL)
    done = {path: path.stat().st_mtime_ns for path in out.glob("part-*")}

    running = InBackground(lambda: score(images, out, slow_registry, engine(nodes, 2)))
    running.has(out, parts=len(done) + 1)
    nodes.lose_one()
    running.result()

    assert 1 <= len(done) < SHARDS
    assert {path: path.stat().st_mtime_ns for path in done} == done
    expect_every_image_once(out, COUNT)


def test_actors_that_hold_every_core_one_without_room_and_a_deleted_part(
    nodes: Nodes, connection: None, registry: Path, images: Path, tmp_path: Path
) -> None:
    nodes.have(1)
    out = tmp_path / "out"
    score(images, out, registry)
    expected = parts_of(out)
    (out / "part-000004.parquet").unlink()
    (out / "part-000001.parquet").unlink()

    result = score(images, out, registry, engine(nodes, 2))

    assert (result.images, result.missing) == (20, [])
    assert parts_of(out) == expected


def test_the_code_of_the_driver_is_sent_to_the_nodes(connection: None) -> None:
    """So that a node needs our dependencies only."""
    ours = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}

    assert ray.get(ray.remote(num_cpus=1)(modules_that_were_sent).remote()) == ours


def test_a_version_that_cannot_be_loaded_ends_the_run_with_the_reason(
    nodes: Nodes, connection: None, images: Path, tmp_path: Path
) -> None:
    nodes.have(1)
    publish(tmp_path / "registry", "rows", logits=[[0.0] * 10] * 2)

    with pytest.raises(RuntimeError, match="golden logits must be within"):
        score(images, tmp_path / "out", tmp_path / "registry", engine(nodes, 1))

    assert rows_of(tmp_path / "out") == []


def test_an_actor_gets_cores_or_gpus_and_the_cluster_is_filled() -> None:
    resources = {"CPU": 16.0, "GPU": 2.0}

    assert on_ray._room(resources, Actors(cores=1)) == 16
    assert on_ray._room(resources, Actors(cores=6)) == 2
    assert on_ray._room(resources, Actors(cores=1, gpus=0.5)) == 4
    assert on_ray._room({}, Actors(cores=1)) == 1


@pytest.mark.parametrize(("assigned", "device"), [([0], "cuda:0"), ([], "cpu")])
def test_an_actor_computes_on_the_gpu_that_ray_assigned_to_it(
    monkeypatch: pytest.MonkeyPatch, assigned: list[int], device: str
) -> None:
    made: list[str] = []
    monkeypatch.setattr(ray, "get_gpu_ids", lambda: assigned)
    monkeypatch.setattr(Job, "model_validate", lambda job: job)
    monkeypatch.setattr(on_ray, "Scorer", lambda job, device, cores: made.append(str(device)))

    on_ray.ScoringActor({}, cores=1)

    assert made == [device]


@pytest.mark.parametrize(
    ("given", "variable", "address"), [(None, "", "local"), (None, "head:6379", "head:6379"), ("auto", "", "auto")]
)
def test_without_an_address_ray_starts_here_although_another_cluster_runs_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, given: str | None, variable: str, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    addresses: list[str | None] = []
    monkeypatch.setattr(ray, "init", lambda address=None, **_: addresses.append(address))

    on_ray.connect(given)

    assert addresses == [address]


def modules_that_were_sent() -> set[str]:
    sent = [Path(path) / "service" for path in sys.path if "runtime_resources" in path]
    return {str(path.relative_to(folder)) for folder in sent for path in folder.rglob("*.py")}


@contextlib.contextmanager
def flaky_bucket(every: int) -> Iterator[list[int]]:
    """Let moto refuse each so manieth request for an object with 503; the list holds those that it refused."""
    from moto.s3.responses import S3Response

    asked = 0
    refused: list[int] = []
    get = S3Response.get_object

    def get_or_refuse(self: Any, *args: Any, **options: Any) -> Any:
        nonlocal asked
        asked += 1
        if asked % every == 0:
            refused.append(asked)
            return 503, {}, "<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
        return get(self, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(S3Response, "get_object", get_or_refuse)
        yield refused
