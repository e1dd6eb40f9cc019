"""A few processes that decode large pictures for one event loop, and are killed when nobody waits for them any more.

Knows nothing about HTTP. The processes start on first use and end when they have been idle, so that a service that gets
small pictures has none. They are fresh interpreters, not forks: they hold no connection, key or model.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import orjson

import service
from service.contract.manifest import ImageInput
from service.images.decode_process import ANSWER, CPU_SECONDS, HEAD, PROBLEMS, READY
from service.problems import BadRequest, ClientGone, DeadlineExceeded, Problem, TooLarge

_LOOK_SECONDS = 0.1  # between looks whether the client is still there
_IDLE_SECONDS = 30.0
_REAP_SECONDS = 0.005

_START = (
    "import sys; sys.path.insert(0, sys.argv[2]); from service.images.decode_process import main; main(sys.argv[1])"
)


class DecodePool:
    """Decodes pictures in at most `processes` processes; who comes first is served first."""

    def __init__(self, processes: int = 2, *, idle_seconds: float = _IDLE_SECONDS) -> None:
        self._slots = asyncio.Semaphore(processes)
        self._idle_seconds = idle_seconds
        self._started: set[_Process] = set()  # all that are not reaped yet
        self._idle: list[_Process] = []

    async def decode(
        self,
        data: bytes,
        spec: ImageInput,
        *,
        max_pixels: int,
        deadline: float,  # on time.monotonic()'s clock
        is_gone: Callable[[], bool],
        signs: bool = False,
    ) -> bytes:
        """Return one picture as the model takes it, as `decode.decode` does, or with `signs` as `decode_signs`.

        Raises:
            BadRequest, TooLarge: as `decode.decode`; or it takes more computing or memory than is allowed.
            DeadlineExceeded: it is not decoded by then.
            ClientGone: nobody waits for it any more.
        """
        work = asyncio.ensure_future(self._decode(data, _description(spec, max_pixels, signs)))
        work.add_done_callback(lambda done: done.cancelled() or done.exception())  # so that none goes unheard
        try:
            while not work.done():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded("the image must decode before the request's deadline. Given: it did not")
                if is_gone():
                    raise ClientGone
                await asyncio.wait([work], timeout=min(left, _LOOK_SECONDS))
            return work.result()
        finally:
            work.cancel()

    def close(self) -> None:
        """End all processes."""
        for process in self._started:
            process.kill()
            process.wait()
        self._started.clear()
        self._idle.clear()

    async def _decode(self, data: bytes, description: bytes) -> bytes:
        async with self._slots:
            process = self._take()
            try:
                await process.be_ready()
            except asyncio.CancelledError:
                self._keep(process)  # it harms nobody; killed, it would never be ready where a start takes long
                raise
            except (OSError, EOFError) as error:
                raise await self._what_ended(process) from error
            try:
                answer = await process.ask(description, data)
            except (OSError, EOFError) as error:
                raise await self._what_ended(process) from error
            except BaseException:
                process.kill()
                raise
            self._keep(process)
            if isinstance(answer, Problem):
                raise answer
            return answer

    def _take(self) -> _Process:
        while self._idle:
            process = self._idle.pop()
            process.stop_clock()
            if not process.is_gone():
                return process
            process.kill()
        self._started = {process for process in self._started if not process.is_gone()}
        process = _Process()
        self._started.add(process)
        return process

    def _keep(self, process: _Process) -> None:
        self._idle.append(process)
        process.start_clock(self._idle_seconds, self._retire)

    def _retire(self, process: _Process) -> None:
        self._idle.remove(process)
        process.kill()

    async def _what_ended(self, process: _Process) -> Problem:
        """Say what is wrong with a picture over which the process died."""
        for _ in range(20):
            if process.is_gone():
                break
            await asyncio.sleep(_REAP_SECONDS)
        code = process.exit_code
        process.kill()
        if code == -signal.SIGXCPU:
            return TooLarge(f"the image must decode in {CPU_SECONDS} s of computing. Given: one that takes longer")
        return BadRequest("the image must decode. Given: one that made the decoder fail")


class _Process:
    """One interpreter that runs `decode_process`, and our end of its socket."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        self._channel.setblocking(False)
        self._ready = False
        self._clock: asyncio.TimerHandle | None = None
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ours
                [sys.executable, "-c", _START, str(theirs.fileno()), str(Path(service.__file__).parents[1])],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # each thread takes address space
                start_new_session=True,  # a Ctrl-C while it starts is for others
            )

    async def be_ready(self) -> None:
        """Wait until the interpreter has started.

        Raises:
            OSError, EOFError: the process has died.
        """
        if not self._ready:
            await self._receive(len(READY))
            self._ready = True

    async def ask(self, description: bytes, data: bytes) -> bytes | Problem:
        """Return the pixels, or what is wrong with the picture.

        Raises:
            OSError, EOFError: the process has died.
        """
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(self._channel, HEAD.pack(len(description), len(data)) + description)
        await loop.sock_sendall(self._channel, data)
        good, size = ANSWER.unpack(await self._receive(ANSWER.size))
        answer = await self._receive(size)
        if good:
            return answer
        problem = orjson.loads(answer)
        return PROBLEMS[problem["problem"]](problem["detail"])

    async def _receive(self, size: int) -> bytes:
        loop = asyncio.get_running_loop()
        received = bytearray()
        while len(received) < size:
            part = await loop.sock_recv(self._channel, min(size - len(received), 2**20))
            if not part:
                raise EOFError
            received += part
        return bytes(received)

    def start_clock(self, seconds: float, then: Callable[[_Process], None]) -> None:
        self._clock = asyncio.get_running_loop().call_later(seconds, then, self)

    def stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    @property
    def exit_code(self) -> int | None:
        return self._process.returncode

    def is_gone(self) -> bool:
        return self._process.poll() is not None

    def kill(self) -> None:
        self.stop_clock()
        self._process.kill()
        self._channel.close()

    def wait(self) -> None:
        self._process.wait()


@lru_cache(64)
def _description(spec: ImageInput, max_pixels: int, signs: bool) -> bytes:
    return orjson.dumps({"spec": spec.model_dump(), "max_pixels": max_pixels, "signs": signs})
