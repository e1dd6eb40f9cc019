"""The retrier, which computes what dead workers held image by image, in processes that may die of it.

A process for each version, see `retrier_child`, is handed one image at a time. The image that it dies of, or takes too
long or too much memory for, fails alone; another process goes on with the next. Knows nothing about HTTP processes but
the messages that they send.
"""

from __future__ import annotations

import collections
import hashlib
import logging
import selectors
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from service.contract.manifest import ModelManifest, identity
from service.engine import messages
from service.engine.messages import CRASHED, Kind, Retry
from service.engine.peer import Peer
from service.rollout.retrier_child import ANSWER, IMAGE, READY, Child

logger = logging.getLogger(__name__)

MOST_CHILDREN = 2
"""Versions that are computed at a time: a retrier should not take more of the cores than that."""

_WATCH_SECONDS = 0.05
_IDLE_SECONDS = 0.25


class Limits(NamedTuple):
    """What one image may take: seconds, and bytes on top of what its process starts with."""

    seconds: float
    memory_bytes: int


class _Job:
    """A block on its way: the images that are done, and where it came from."""

    def __init__(self, peer: Peer, block_id: int, retry: Retry, manifest: ModelManifest) -> None:
        self.peer = peer
        self.block_id = block_id
        self.deadline = retry.deadline
        self.input_bytes = len(retry.data) // retry.size
        self.size = retry.size
        self.classes = len(manifest.classes)
        self._scores = int(manifest.outliers is not None)
        self._data = retry.data
        self._results: list[bytes] = []
        self._began = time.monotonic()

    @property
    def is_done(self) -> bool:
        return len(self._results) == self.size

    def image(self) -> bytes:
        """Return the next image to compute."""
        start = len(self._results) * self.input_bytes
        return bytes(self._data[start : start + self.input_bytes])

    def add(self, result: bytes) -> None:
        self._results.append(result)

    def add_failure(self, class_id: int) -> None:
        values = np.full(self.classes + self._scores, np.nan, np.float32).tobytes()
        self.add(IMAGE.pack(class_id, float("nan")) + values)

    def answer(self) -> bytes:
        scores_at = IMAGE.size + 4 * self.classes
        columns = (
            b"".join(result[:4] for result in self._results),
            b"".join(result[4 : IMAGE.size] for result in self._results),
            b"".join(result[IMAGE.size : scores_at] for result in self._results),
            b"".join(result[scores_at:] for result in self._results),
        )
        return messages.pack_answer(
            self.block_id,
            columns,
            classes=self.classes,
            batch_size=1,
            queue_seconds=0.0,
            compute_seconds=time.monotonic() - self._began,
        )


class _Line:
    """The jobs of one version and, while one is computed, the process that does it."""

    def __init__(self, manifest: ModelManifest) -> None:
        self.manifest = manifest
        self.jobs: collections.deque[_Job] = collections.deque()
        self.child: Child | None = None
        self.is_loaded = False
        self.since = 0.0  # when the child began what it does


class Retrier:
    """Serves whoever connects to `listener`, until `stop` becomes readable.

    `on_crash` hears the identity of a version when an image of it has ended a process.
    """

    def __init__(
        self,
        listener: socket.socket,
        stop: int,
        start_child: Callable[[ModelManifest], Child],
        *,
        limits: Limits,
        on_crash: Callable[[str], None],
        beat: Callable[[float], None],
    ) -> None:
        self._start_child = start_child
        self._limits = limits
        self._on_crash = on_crash
        self._beat = beat
        self._listener = listener
        self._stop = stop
        self._selector = selectors.DefaultSelector()
        listener.setblocking(False)
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(stop, selectors.EVENT_READ)
        self._lines: dict[str, _Line] = {}
        self._culprits: collections.deque[bytes] = collections.deque(maxlen=1000)

    def run(self) -> None:
        """Serve until `stop` becomes readable."""
        try:
            while self.turn():
                pass
        finally:
            self.close()

    def turn(self) -> bool:
        """Do what there is to do now; False when `stop` has become readable."""
        self._beat(time.monotonic())
        for key, events in self._selector.select(_WATCH_SECONDS if self._lines else _IDLE_SECONDS):
            if key.fd == self._stop:
                return False
            if key.fileobj is self._listener:
                self._accept()
            elif isinstance(key.data, _Line):
                self._hear(key.data)
            elif events & selectors.EVENT_READ:
                self._read(key.data)
            else:
                key.data.send()
        now = time.monotonic()
        for line in list(self._lines.values()):
            self._watch(line, now)
        for line in list(self._lines.values()):
            self._move_on(line)
        return True

    def close(self) -> None:
        """End the processes and close the connections."""
        for line in self._lines.values():
            self._end_child(line)
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, Peer):
                key.data.close()
        self._selector.close()

    # Peers

    def _accept(self) -> None:
        if peer := Peer.accept(self._listener, self._selector):
            peer.send(messages.pack_models({}, ()))  # says that somebody is here

    def _read(self, peer: Peer) -> None:
        received = peer.receive()
        if received is None:
            for line in self._lines.values():
                for job in line.jobs:
                    if job.peer is peer:
                        job.deadline = 0.0  # nobody waits for it any more
            return
        for message in received:
            if message.kind == Kind.RETRY:
                retry = messages.unpack_retry(message.payload)
                manifest = ModelManifest.model_validate_json(retry.manifest)
                line = self._lines.setdefault(identity(manifest), _Line(manifest))
                line.jobs.append(_Job(peer, message.block_id, retry, manifest))

    # Computing

    def _move_on(self, line: _Line) -> None:
        """Answer what is done, drop what is late, and have somebody compute the rest."""
        while line.jobs and line.child is None:
            job = line.jobs[0]
            if job.is_done:
                job.peer.send(job.answer())
            elif job.deadline <= time.monotonic():
                self._refuse(job, "the deadline passed before the images were computed")
            elif self._is_known(line, job.image()):
                job.add_failure(CRASHED)
                continue
            else:
                break
            line.jobs.popleft()
        if not line.jobs:
            if line.child is None:
                del self._lines[identity(line.manifest)]
            return
        if line.child is None and sum(1 for other in self._lines.values() if other.child) < MOST_CHILDREN:
            line.child = self._start_child(line.manifest)
            line.is_loaded = False
            line.since = time.monotonic()
            self._selector.register(line.child, selectors.EVENT_READ, line)

    def _hand_over(self, line: _Line) -> None:
        """Give the loaded process its next image; end it if there is none."""
        while line.jobs:
            job = line.jobs[0]
            if job.is_done:
                job.peer.send(job.answer())
                line.jobs.popleft()
            elif job.deadline <= time.monotonic():
                self._refuse(job, "the deadline passed before the images were computed")
                line.jobs.popleft()
            elif self._is_known(line, job.image()):
                job.add_failure(CRASHED)
            else:
                line.since = time.monotonic()
                if line.child:
                    line.child.send(job.image())
                return
        self._end_child(line)

    def _hear(self, line: _Line) -> None:
        if line.child is None:
            return
        report = line.child.receive()
        if report is None:
            self._lose_child(line, "")
        elif report[:1] == READY:
            line.is_loaded = True
            self._hand_over(line)
        elif report[:1] == ANSWER:
            line.jobs[0].add(report[1:])
            self._hand_over(line)
        else:
            self._end_child(line)
            for job in line.jobs:
                self._refuse(job, report[1:].decode())
            line.jobs.clear()

    def _watch(self, line: _Line, now: float) -> None:
        """End a process that takes too long or too much, or whose image nobody waits for any more."""
        if line.child is None:
            return
        if line.is_loaded and now - line.since > self._limits.seconds:
            self._lose_child(line, f"it took longer than {self._limits.seconds:g} s")
        elif line.is_loaded and line.child.memory() > self._limits.memory_bytes:
            self._lose_child(line, f"it took more than {self._limits.memory_bytes:,} bytes")
        elif all(job.deadline <= now for job in line.jobs):
            self._end_child(line)

    def _lose_child(self, line: _Line, reason: str) -> None:
        how = self._end_child(line)
        if not line.is_loaded:
            for job in line.jobs:
                self._refuse(job, f"the version must load once more. Given: {how}")
            line.jobs.clear()
            return
        logger.error("an image ended a process of %s: %s", line.manifest.name, reason or how)
        job = line.jobs[0]
        self._culprits.append(_digest(line, job.image()))
        job.add_failure(CRASHED)
        self._on_crash(identity(line.manifest))

    def _is_known(self, line: _Line, image: bytes) -> bool:
        return bool(self._culprits) and _digest(line, image) in self._culprits

    def _end_child(self, line: _Line) -> str:
        if line.child is None:
            return ""
        self._selector.unregister(line.child)
        how = line.child.kill()
        line.child = None
        return how

    def _refuse(self, job: _Job, reason: str) -> None:
        job.peer.send(messages.pack(Kind.REFUSAL, job.block_id, reason.encode()))


def _digest(line: _Line, image: bytes) -> bytes:
    return hashlib.blake2b(image, digest_size=16, key=line.manifest.artifact.sha256[:64].encode()).digest()
