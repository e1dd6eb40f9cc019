"""A service in one thread, on a clock of its own: real dispatchers, workers, retrier, supervisor and catalogues.

Processes, sockets, models and the registry are fakes that a seeded scheduler stops, delays, cuts and kills. An actor
runs when something is there for it, after a delay that the seed decides. Nothing sleeps.
"""

from __future__ import annotations

import asyncio
import collections
import heapq
import itertools
import math
import random
import selectors
import socket as real_socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest

from service import heartbeats
from service.contract.listing import Listings, ModelListing, VersionFiles
from service.contract.manifest import ModelManifest, identity
from service.contract.registry import Registry, RegistryError
from service.contract.variants import Form
from service.engine import dispatcher, quarantine, queues, worker
from service.engine.dispatcher import Dispatcher
from service.engine.messages import FAILED
from service.engine.quarantine import Quarantine
from service.engine.queues import Part
from service.engine.served_models import Key
from service.engine.worker import MemoryLimit, OversizedWorkerError, Timing, Worker
from service.heartbeats import Heartbeats
from service.model import selftest
from service.model.model import Model, UnfitModelError
from service.model.outputs import Outputs
from service.model.selftest import SelfTests, UnsoundWorkerError
from service.problems import QueueFull, Unavailable
from service.processes import supervisor
from service.processes.restart_policy import OVERSIZED, UNSOUND
from service.processes.supervisor import Supervisor
from service.rollout import catalogue, retrier, retrier_child
from service.rollout.catalogue import Catalogue
from service.rollout.mirror import Mirror
from service.rollout.retrier import Limits, Retrier
from service.rollout.watcher import Watcher
from service.settings import Settings

POISON, HANG, RAISE = 255, 254, 253
"""Images that end the process, that never end, and that the model fails on."""

TIMEOUT = 1.5
SETTINGS = Settings(
    timeout_seconds=TIMEOUT, hang_seconds=0.5, startup_seconds=2.0, http_processes=2, max_failed_starts=10, registry="x"
)
BATCH = 4
POLL_SECONDS = 0.7
SELFTEST_SECONDS = 0.6
TIMING = Timing(watch_seconds=math.inf, memory_seconds=0.3, suspicion_seconds=0.1)
_MODULES = (dispatcher, queues, worker, quarantine, heartbeats, supervisor, retrier, selftest, catalogue)


_BEGIN = 1000.0


class Died(BaseException):
    """The process that runs ends here, by a crash."""


class Hung(BaseException):
    """The process that runs goes no further."""


class Clock:
    """The time, as `service` reads it."""

    def __init__(self) -> None:
        self.now = _BEGIN

    def monotonic(self) -> float:
        return self.now


CLOCK = Clock()


# Sockets


class Wire:
    """One direction of a connection: what was sent, and when each piece arrives."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.pieces: collections.deque[tuple[float, bytes]] = collections.deque()
        self.is_cut = False
        self.cut_at = math.inf
        self.on_arrival: Callable[[float], None] | None = None

    def send(self, data: bytes) -> None:
        at = self._world.arrival(self.pieces[-1][0] if self.pieces else 0.0)
        split = self._world.rng.randrange(len(data) + 1) if self._world.rng.random() < 0.2 else 0
        for piece in (data[:split], data[split:]):
            if piece:
                self.pieces.append((at, piece))
                at = self._world.arrival(at)
        if self.on_arrival:
            self.on_arrival(self.pieces[-1][0])

    def cut(self) -> None:
        self.is_cut = True
        self.cut_at = self._world.arrival(self.pieces[-1][0] if self.pieces else 0.0)
        if self.on_arrival:
            self.on_arrival(self.cut_at)

    def next_time(self) -> float:
        return self.pieces[0][0] if self.pieces else self.cut_at

    def receive(self) -> bytes | None:
        """What has arrived; None at the end of the stream, b"" where nothing is there yet."""
        data = b""
        while self.pieces and self.pieces[0][0] <= CLOCK.now:
            data += self.pieces.popleft()[1]
        if not data and not self.pieces and self.cut_at <= CLOCK.now:
            return None
        return data


class FakeSocket:
    """An accepted connection, as a worker or the retrier uses it."""

    def __init__(self, incoming: Wire, outgoing: Wire) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._number = next(_NUMBERS)
        self._is_closed = False

    def setblocking(self, _: bool) -> None: ...

    def fileno(self) -> int:
        return -1 if self._is_closed else self._number

    def next_time(self) -> float:
        return self._incoming.next_time()

    def recv(self, _: int) -> bytes:
        data = self._incoming.receive()
        if data == b"":
            raise BlockingIOError
        return data or b""

    def send(self, data: bytes) -> int:
        if self._incoming.is_cut or self._outgoing.is_cut:
            raise BrokenPipeError
        if data:
            self._outgoing.send(bytes(data))
        return len(data)

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self._outgoing.cut()


_NUMBERS = itertools.count(100_000)


class FakeListener:
    """A listening socket, whose backlog outlives those who accept from it."""

    def __init__(self) -> None:
        self._number = next(_NUMBERS)
        self.backlog: collections.deque[tuple[float, FakeSocket]] = collections.deque()

    def setblocking(self, _: bool) -> None: ...

    def fileno(self) -> int:
        return self._number

    def next_time(self) -> float:
        return self.backlog[0][0] if self.backlog else math.inf

    def accept(self) -> tuple[FakeSocket, str]:
        return self.backlog.popleft()[1], ""


class Transport:
    """An HTTP process's end of a connection."""

    def __init__(self, world: World, protocol: Any, incoming: Wire, outgoing: Wire) -> None:
        self._world = world
        self._protocol = protocol
        self._incoming = incoming
        self._outgoing = outgoing
        self._is_lost = False
        world.loop.call_soon(self._made)

    def _made(self) -> None:
        self._protocol.connection_made(self)
        self._incoming.on_arrival = self._expect
        self._expect(self._incoming.next_time())

    def _expect(self, at: float) -> None:
        if at < math.inf:
            self._world.loop.call_at(at, self._look)

    def _look(self) -> None:
        if self._is_lost:
            return
        data = self._incoming.receive()
        if data is None:
            self._lose()
        elif data:
            self._protocol.data_received(data)

    def _lose(self) -> None:
        if not self._is_lost:
            self._is_lost = True
            self._outgoing.cut()
            self._protocol.connection_lost(None)

    def write(self, data: bytes) -> None:
        if not self._is_lost and not self._outgoing.is_cut:
            self._outgoing.send(data)

    def abort(self) -> None:
        self._world.loop.call_soon(self._lose)


class FakeSelector:
    """Says which fakes have something to read. `select` never waits: the scheduler does."""

    def __init__(self) -> None:
        self._keys: dict[int, selectors.SelectorKey] = {}
        self._times: dict[int, Callable[[], float]] = {}  # when each fake has something to read

    @staticmethod
    def _number(fileobj: Any) -> int:
        return fileobj if isinstance(fileobj, int) else cast("int", fileobj.fileno())

    def register(self, fileobj: Any, events: int, data: Any = None) -> None:
        number = self._number(fileobj)
        assert number not in self._keys
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)
        if hasattr(fileobj, "next_time"):
            self._times[number] = fileobj.next_time

    def modify(self, fileobj: Any, events: int, data: Any = None) -> None:
        number = self._number(fileobj)
        self._keys[number] = selectors.SelectorKey(fileobj, number, events, data)

    def unregister(self, fileobj: Any) -> None:
        number = self._number(fileobj)
        del self._keys[number]
        self._times.pop(number, None)

    def get_map(self) -> dict[int, selectors.SelectorKey]:
        return self._keys

    def close(self) -> None:
        self._keys, self._times = {}, {}

    def next_time(self) -> float:
        earliest = math.inf
        for next_time in self._times.values():
            if (at := next_time()) < earliest:
                earliest = at
        return earliest

    def select(self, _: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return [
            (key, selectors.EVENT_READ)
            for key in list(self._keys.values())
            if key.fd in WAKES or (key.fd in self._times and self._times[key.fd]() <= CLOCK.now)
        ]


WAKES: set[int] = set()
"""The reading ends of the workers' pipes in which something is."""


class FakeOS:
    """The pipes by which threads wake a worker; everything else is the real module's."""

    @staticmethod
    def pipe() -> tuple[int, int]:
        reader = next(_NUMBERS)
        return reader, reader

    @staticmethod
    def read(descriptor: int, _: int) -> bytes:
        WAKES.discard(descriptor)
        return b"."

    @staticmethod
    def write(descriptor: int, data: bytes) -> int:
        WAKES.add(descriptor)
        return len(data)

    @staticmethod
    def close(descriptor: int) -> None:
        WAKES.discard(descriptor)


class Loop(asyncio.BaseEventLoop):
    """An event loop on the fake clock, which the scheduler turns."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._selector = self  # of real files there are none
        self.errors: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _loop, context: self.errors.append(context))

    def time(self) -> float:
        return CLOCK.now

    def select(self, _: float | None) -> list[Any]:
        return []

    def _process_events(self, _: object) -> None: ...

    def _write_to_self(self) -> None: ...

    def next_time(self) -> float:
        if self._ready:  # type: ignore[attr-defined]
            return CLOCK.now
        scheduled = self._scheduled  # type: ignore[attr-defined]
        return scheduled[0]._when if scheduled else math.inf

    def turn(self) -> None:
        asyncio._set_running_loop(self)
        try:
            self._run_once()  # type: ignore[attr-defined]
        finally:
            asyncio._set_running_loop(None)

    async def create_unix_connection(self, factory: Callable[[], Any], path: str) -> Any:  # type: ignore[override]
        there, back = Wire(self._world), Wire(self._world)
        listener = self._world.listeners[path]
        listener.backlog.append((self._world.arrival(), FakeSocket(there, back)))
        protocol = factory()
        return Transport(self._world, protocol, back, there), protocol


# Models and the registry


class FakePending:
    def __init__(self, at: float, outcome: Outputs | RuntimeError) -> None:
        self._at = at
        self._outcome = outcome

    def ready(self) -> bool:
        return CLOCK.now >= self._at

    def outputs(self) -> Outputs:
        if isinstance(self._outcome, RuntimeError):
            raise self._outcome
        return self._outcome


def classes_of(images: bytes) -> list[int]:
    """What every model says of innocent images."""
    return [image % 2 for image in images]


def outputs_of(images: bytes) -> Outputs:
    ids = np.array(classes_of(images), np.int32)
    return Outputs(ids, np.ones(len(ids), np.float32), np.eye(2, dtype=np.float32)[ids])


class FakeModel:
    """A model whose images are single bytes."""

    def __init__(self, world: World, manifest: ModelManifest) -> None:
        self._world = world
        self.manifest = manifest
        self.form = Form()
        self.identity = identity(manifest).encode()
        self.input_bytes = 1
        self.is_spoilt = False

    def __str__(self) -> str:
        return f"{self.manifest.name}@{self.manifest.version}"

    def batch(self, data: bytearray) -> bytearray:
        return data

    def start(self, images: bytearray) -> FakePending:
        if POISON in images:
            raise Died
        if HANG in images:
            raise Hung
        at = CLOCK.now + self._world.compute_seconds()
        return FakePending(at, RuntimeError("no") if RAISE in images else outputs_of(bytes(images)))

    def failed(self) -> Outputs:
        nan = np.full((1, 2), np.nan, np.float32)
        return Outputs(np.array([FAILED], np.int32), nan[:, 0], nan)

    def prove(self) -> None:
        if self.is_spoilt:
            raise UnfitModelError("the golden sample came out wrong")


class FakeRegistry:
    """Models and their versions; `manifests` has those that exist."""

    url = "x"

    def __init__(self, manifests: list[ModelManifest]) -> None:
        self.versions_of: dict[str, list[int]] = {}
        self.production: dict[str, int] = {}
        self.is_down = False
        self.unfit: set[tuple[str, int]] = set()
        self._manifests = {(m.name, m.version): m for m in manifests}

    def _check(self) -> None:
        if self.is_down:
            raise RegistryError("the bucket must answer. Given: nothing")

    def look(self) -> Listings:
        self._check()
        return {
            name: ModelListing(
                versions={version: VersionFiles(manifest_bytes=0) for version in versions},
                aliases={"production": self.production[name]} if name in self.production else {},
            )
            for name, versions in sorted(self.versions_of.items())
        }

    def manifest(self, name: str, version: int) -> ModelManifest:
        self._check()
        return self._manifests[name, version]

    def artifact(self, manifest: ModelManifest) -> bytes:
        self._check()
        return b""


# Processes


class FakeProcess:
    """A process as the supervisor sees it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.pid = next(_NUMBERS)
        self.exitcode: int | None = None
        self.is_stopped = False
        self.due = CLOCK.now

    def is_alive(self) -> bool:
        return self.exitcode is None

    def next_time(self) -> float:
        return math.inf if self.is_stopped or not self.is_alive() else self.due

    def turn(self) -> None:
        raise NotImplementedError

    def end(self, code: int) -> None:
        if self.exitcode is None:
            self.exitcode = code
            self.release()
            self.world.wake_supervisor()

    def release(self) -> None:
        """Lose what the system takes from a dead process."""

    def kill(self) -> None:
        self.end(-9)

    terminate = kill

    def join(self, _: float | None = None) -> None: ...

    def close(self) -> None: ...


class WorkerProcess(FakeProcess):
    """A worker: loads what the catalogue finds, then turns its loop, and looks at the registry now and then."""

    def __init__(self, world: World, number: int, *, fails: bool) -> None:
        super().__init__(world)
        self._number = number
        self._fails = fails
        self.worker: Worker | None = None
        self.is_oversized = False
        self.due = CLOCK.now + world.rng.uniform(0.02, 0.3)

    def _load(self, manifest: ModelManifest, _: bytes) -> Model:
        if (manifest.name, manifest.version) in self.world.registry.unfit:
            raise UnfitModelError("it is not fit")
        return cast("Model", FakeModel(self.world, manifest))

    def _start(self) -> None:
        world = self.world
        if self._fails:
            self.end(1)
            return
        found = Catalogue(Mirror(cast("Registry", world.registry)), self._load, keep_versions=1)
        is_down, world.registry.is_down = world.registry.is_down, False  # an outage ends no service that has run
        line_up = found.restored() if world.has_served else found.first_line_up("a")  # as `Classifier.setup`
        world.has_served = True
        world.registry.is_down = is_down
        beats = world.heartbeats
        self.worker = Worker(
            line_up,
            cast("real_socket.socket", world.listeners[f"worker-{self._number}"]),
            max_batch_size=BATCH,
            beat=lambda now, batches: beats.beat(self._number, now, batches),
            self_tests=SelfTests(SELFTEST_SECONDS),
            on_compute=lambda model: beats.compute(self._number, model.identity if model else None),
            suspect=beats.suspect(self._number),
            memory=MemoryLimit(100, lambda: 200 if self.is_oversized else 50),
            timing=TIMING,
        )
        self._watcher = Watcher(found, line_up, self.worker.offer)
        self._look_at = CLOCK.now + world.rng.uniform(0, POLL_SECONDS)
        self.worker.open(-1)

    def turn(self) -> None:
        if self.worker is None:
            self._start()
            return
        if CLOCK.now >= self._look_at:
            self._look_at = CLOCK.now + POLL_SECONDS
            self._watcher.look()
        try:
            self.worker.turn()
        except Died:
            self.end(-8)
        except Hung:
            self.is_stopped = True
        except (UnsoundWorkerError, OversizedWorkerError) as error:
            self.worker.say_goodbye()
            self.end(UNSOUND if isinstance(error, UnsoundWorkerError) else OVERSIZED)

    def next_time(self) -> float:
        if self.is_stopped or not self.is_alive() or self.worker is None:
            return super().next_time()
        if self.worker._wakes in WAKES:
            return CLOCK.now
        ends = [batch.pending._at for batch in self.worker._underway]  # type: ignore[attr-defined]
        rest = CLOCK.now if self.worker._jobs and not self.worker._suspect else CLOCK.now + 0.02
        idle = self.due if not (self.worker._jobs or self.worker._underway) else rest
        selector = cast("FakeSelector", self.worker._selector)
        return min(idle, self._look_at, selector.next_time(), *ends) if ends else min(idle, selector.next_time())

    def spoil(self) -> None:
        for model in self.worker._models.values() if self.worker else ():
            cast("FakeModel", model).is_spoilt = True

    def release(self) -> None:
        if self.worker:
            self.worker.close()


class FakeChild:
    """A process of the retrier with this process id."""

    def __init__(self, world: World, retrier_pid: int, manifest: ModelManifest) -> None:
        world.children.add(self)
        self._crash = (retrier_pid, manifest.name, manifest.version)
        self._world = world
        self._number = next(_NUMBERS)
        registry = world.registry
        self._at = CLOCK.now + world.rng.uniform(0.01, 0.1)
        self._report: bytes | None = b"nthe bucket is down" if registry.is_down else b"r"
        self._is_over = False
        self._memory = 0

    def fileno(self) -> int:
        return self._number

    def next_time(self) -> float:
        return self._at

    def send(self, image: bytes) -> None:
        value = image[0]
        self._at = CLOCK.now + self._world.compute_seconds()
        if value == POISON:
            self._report = None
        elif value == HANG:
            self._at = math.inf
        elif value == RAISE:
            self._report = b"a" + struct.pack("<if", FAILED, math.nan) + bytes(8)
        else:
            self._report = b"a" + retrier_child.pack_image(outputs_of(image))

    def receive(self) -> bytes | None:
        self._at = math.inf
        if self._report is None:
            self._world.crashes.append(self._crash)
        return self._report

    def memory(self) -> int:
        return self._memory

    def kill(self) -> str:
        self._world.children.discard(self)
        self._at = math.inf
        return "killed"


class RetrierProcess(FakeProcess):
    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.due = CLOCK.now + world.rng.uniform(0.0, 0.1)
        self.retrier: Retrier | None = None

    def turn(self) -> None:
        world = self.world
        if self.retrier is None:
            self.retrier = Retrier(
                cast("real_socket.socket", world.listeners["retrier"]),
                -1,
                lambda manifest: FakeChild(world, self.pid, manifest),
                limits=Limits(0.25, 100),
                on_crash=lambda version: world.quarantine.record(version, "image"),
                beat=lambda now: world.heartbeats.other_beat(SETTINGS.front_processes, now),
            )
        self.retrier.turn()

    def next_time(self) -> float:
        if self.is_stopped or not self.is_alive() or self.retrier is None:
            return super().next_time()
        return min(self.due, cast("FakeSelector", self.retrier._selector).next_time())

    def release(self) -> None:
        if self.retrier:
            self.retrier.close()


class Caller:
    def __init__(self) -> None:
        self.disconnected = False


class HTTPProcess(FakeProcess):
    """A dispatcher, on the event loop that all share."""

    def __init__(self, world: World, number: int) -> None:
        super().__init__(world)
        self._number = number
        self._quarantine = Quarantine(world.folder / "deaths.jsonl")
        self.requests: list[Request] = []
        self.dispatcher = Dispatcher(
            [path for path in world.listeners if path != "retrier"],
            retrier="retrier",
            default_model="a",
            max_batch_size=BATCH,
            max_queue=200,
        )
        asyncio._set_running_loop(world.loop)
        self.dispatcher.open()
        asyncio._set_running_loop(None)

    def turn(self) -> None:
        self.due = CLOCK.now + 0.25
        self.world.heartbeats.other_beat(self._number, CLOCK.now)
        if (found := self._quarantine.news()) is not None:
            self.dispatcher.quarantine(found)

    def release(self) -> None:
        for request in self.requests:
            request.is_lost = True
        task = self.world.loop.create_task(self.dispatcher.close())
        self.world.closing.append(task)


class Request:
    """What a client asked and what became of it."""

    def __init__(self, name: str, images: bytes, deadline: float, caller: Caller) -> None:
        self.name = name
        self.images = images
        self.asked = CLOCK.now
        self.deadline = deadline
        self.caller = caller
        self.is_lost = False  # with its HTTP process
        self.refused = ""
        self.answered = math.inf
        self.key: Key | None = None  # of the version that was served then
        self.parts: list[Part | BaseException] = []

    def __repr__(self) -> str:
        return f"{self.name} {list(self.images)} until {self.deadline:.3f}: {self.refused or self.parts}"

    async def gather(self, futures: list[asyncio.Future[Part]]) -> None:
        self.parts = await asyncio.gather(*futures, return_exceptions=True)
        self.answered = CLOCK.now


class Event(NamedTuple):
    at: float
    order: int
    act: Callable[[], None]


class World:
    """A service and its clients, as the seed has it."""

    def __init__(self, seed: int, folder: Path, manifests: list[ModelManifest]) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        CLOCK.now = _BEGIN
        WAKES.clear()
        self.workers_count = self.rng.choice([1, 1, 2])
        self.listeners = {f"worker-{n}": FakeListener() for n in range(self.workers_count)}
        self.listeners["retrier"] = FakeListener()
        self.loop = Loop(self)
        self.registry = FakeRegistry(manifests)
        self.registry.versions_of = {"a": [1], "b": [1]}
        self.heartbeats = Heartbeats(self.workers_count, SETTINGS.front_processes + 1)
        self.quarantine = Quarantine(folder / "deaths.jsonl")
        self.children: set[FakeChild] = set()
        self.crashes: list[tuple[int, str, int]] = []  # of children, by POISON: the retrier, model and version
        self.closing: list[asyncio.Task[None]] = []
        self.requests: list[Request] = []
        self.log: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._order = itertools.count()
        self._agenda: list[Event] = []
        self._failing_starts = 0
        self._starts_have_failed = False
        self.has_served = False
        self._is_over = False
        self._supervisor_due = CLOCK.now
        self.processes: dict[str, FakeProcess] = {}
        self.supervisor = Supervisor(
            lambda number: self._launch(f"worker-{number}", self._worker(number)),
            lambda number: self._launch(f"http-{number}", HTTPProcess(self, number)),
            self.heartbeats,
            SETTINGS,
            workers=self.workers_count,
            on_start=lambda: None,
            on_worker_death=lambda _pid, reason: self.log.append(f"{CLOCK.now - _BEGIN:.3f} worker died: {reason}"),
            on_http_death=lambda _pid: None,
            on_stop=lambda: None,
            start_retrier=lambda: self._launch("retrier", RetrierProcess(self)),
            on_blame=lambda version: self.quarantine.record(version, "worker"),
        )

    def _worker(self, number: int) -> WorkerProcess:
        fails, self._failing_starts = self._failing_starts > 0, max(0, self._failing_starts - 1)
        return WorkerProcess(self, number, fails=fails)

    def _launch(self, name: str, process: FakeProcess) -> Any:
        self.processes[name] = process
        return process

    def arrival(self, after: float = 0.0) -> float:
        """When something sent now arrives, not before what was sent earlier."""
        return max(after, CLOCK.now + self.rng.random() * 0.003)

    def compute_seconds(self) -> float:
        return self.rng.choice((0.0, 0.001, 0.01, 0.05))

    def wake_supervisor(self) -> None:
        self._supervisor_due = CLOCK.now

    # The plan

    def at(self, seconds: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._agenda, Event(_BEGIN + seconds, next(self._order), act))

    def plan(self) -> None:
        """Decide on what clients ask and what goes wrong."""
        rng = self.rng
        bad = rng.choice([(), (), (POISON,), (HANG,), (RAISE,), (POISON, HANG, RAISE)])
        for _ in range(rng.randrange(5, 25)):
            self.at(rng.uniform(0.3, 2.0), self._ask(bad))
        for _ in range(rng.randrange(5)):
            self.at(rng.uniform(0.2, 2.0), rng.choice(self._faults()))

    def _ask(self, bad: tuple[int, ...]) -> Callable[[], None]:
        rng = self.rng
        name = rng.choice("ab")
        images = bytes(rng.randrange(200) for _ in range(rng.choice([1, 1, 1, 2, 3, 9])))
        if bad and name == "a" and rng.random() < 0.2:  # b is innocent
            images = images[:-1] + bytes([rng.choice(bad)])
        seconds, bulk, leaves = rng.uniform(0.5, TIMEOUT), rng.random() < 0.2, rng.random() < 0.1
        return lambda: self.ask(name, images, seconds, bulk=bulk, leaves=leaves)

    def ask(
        self,
        name: str,
        images: bytes,
        seconds: float,
        *,
        bulk: bool = False,
        leaves: bool = False,
        front: HTTPProcess | None = None,
    ) -> None:
        """Send a request to an HTTP process that lives, by default to any."""
        fronts = list(self.http_processes())
        if not fronts:
            return
        front = front or self.rng.choice(fronts)
        request = Request(name, images, CLOCK.now + seconds, Caller())
        self.requests.append(request)
        front.requests.append(request)
        asyncio._set_running_loop(self.loop)
        try:
            model = front.dispatcher.served.resolve(name)
            request.key = model.key
            front.dispatcher.admission.admit(model.key, len(images), seconds)
            futures = front.dispatcher.submit(model, images, len(images), request.deadline, request.caller, bulk=bulk)
        except (Unavailable, QueueFull) as problem:
            request.refused, request.answered = problem.detail, CLOCK.now
            return
        finally:
            asyncio._set_running_loop(None)
        self._tasks.append(self.loop.create_task(request.gather(futures)))
        if leaves:
            leave = CLOCK.now - _BEGIN + self.rng.random() * seconds
            self.at(leave, lambda: setattr(request.caller, "disconnected", True))

    def _faults(self) -> list[Callable[[], None]]:
        def on(kind: str, act: Callable[[Any], None]) -> Callable[[], None]:
            def strike() -> None:
                found = [p for name, p in self.processes.items() if name.startswith(kind) and p.is_alive()]
                if found:
                    self.log.append(f"{CLOCK.now - _BEGIN:.3f} fault on {kind}: {act.__name__}")
                    act(self.rng.choice(found))

            return strike

        def kill(process: FakeProcess) -> None:
            process.kill()

        def stop(process: FakeProcess) -> None:
            process.is_stopped = True

        def swell(process: WorkerProcess) -> None:
            process.is_oversized = True

        def spoil(process: WorkerProcess) -> None:
            process.spoil()

        def fail_starts(process: WorkerProcess) -> None:
            if not self._starts_have_failed:
                self._starts_have_failed = True
                self._failing_starts = 2
            process.kill()

        def kill_with_retrier() -> None:  # as a system that is out of memory does
            for strike in (on("retrier", kill), on("worker", kill)):
                strike()

        return [
            kill_with_retrier,
            *[on("worker", act) for act in (kill, kill, stop, swell, spoil, fail_starts)],
            *[on("http", kill), on("retrier", kill), on("retrier", stop)],
            self._outage,
            self._publish,
            self._publish,
        ]

    def _outage(self) -> None:
        self.registry.is_down = True
        self.at(CLOCK.now - _BEGIN + self.rng.uniform(0.01, 0.5), lambda: setattr(self.registry, "is_down", False))

    def _publish(self) -> None:
        name = self.rng.choice("ab")
        versions = self.registry.versions_of[name]
        if len(versions) < 3:
            versions.append(versions[-1] + 1)
            if self.rng.random() < 0.3:
                self.registry.unfit.add((name, versions[-1]))

    # The scheduler

    def run(self, seconds: float) -> None:
        """Let everything happen that happens within `seconds`."""
        until = CLOCK.now + seconds
        while True:
            at, actor = self._next()
            if at > until:
                CLOCK.now = until
                return
            CLOCK.now = max(CLOCK.now, at)
            if isinstance(actor, FakeProcess):
                actor.due = CLOCK.now + 0.25
                actor.turn()
            else:
                actor()

    def run_until(self, is_over: Callable[[], bool], seconds: float) -> None:
        """Let things happen until `is_over`, at most for `seconds`."""
        until = CLOCK.now + seconds
        while not is_over() and CLOCK.now < until:
            self.run(min(0.25, until - CLOCK.now))

    def has_plans(self) -> bool:
        """Return whether something is still to be asked, to go wrong or to come back."""
        return bool(self._agenda)

    def _next(self) -> tuple[float, Callable[[], None] | FakeProcess]:
        """Return who goes next, and when; among those that are ready, the seed decides."""
        earliest = self._agenda[0].at if self._agenda else math.inf
        chosen: Callable[[], None] | FakeProcess = self._act
        chance = self.rng.random
        others = ((self.loop.next_time(), self.loop.turn), (self._supervisor_due, self._supervise))
        for at, actor in others:
            if at < earliest or (at == earliest and chance() < 0.5):
                earliest, chosen = at, actor
        for process in self.processes.values():
            at = max(process.next_time(), CLOCK.now)
            if at < earliest or (at == earliest and chance() < 0.5):
                earliest, chosen = at, process
        return earliest, chosen

    def _act(self) -> None:
        heapq.heappop(self._agenda).act()

    def _supervise(self) -> None:
        self._supervisor_due = CLOCK.now + 0.25
        if not self._is_over:
            self.supervisor.tend()

    def http_processes(self) -> Iterator[HTTPProcess]:
        for process in self.processes.values():
            if isinstance(process, HTTPProcess) and process.is_alive():
                yield process

    def fronts(self) -> Iterator[Dispatcher]:
        return (process.dispatcher for process in self.http_processes())

    def close(self) -> None:
        self._is_over = True
        for process in self.processes.values():
            process.end(0)
        self.run(0.2)
        self.loop.close()


@pytest.fixture
def fake_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the service's modules the fake clock, selectors and pipes."""
    for module in _MODULES:
        monkeypatch.setattr(module, "time", CLOCK)
    for module in (worker, retrier):
        fake = type("FakeSelectors", (), {"DefaultSelector": FakeSelector, "EVENT_READ": 1, "EVENT_WRITE": 2})
        monkeypatch.setattr(module, "selectors", fake)
    monkeypatch.setattr(worker, "os", FakeOS)
