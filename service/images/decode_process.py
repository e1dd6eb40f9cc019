"""The process that decodes large pictures, one at a time, under limits of its own. Knows nothing about requests.

It is started with one end of a socket, reads pictures from it and writes inputs back, until the other end is closed. A
decoder that runs wild ends here and nowhere else: the kernel kills this process when its computing time is spent, and
memory over the limit is refused.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import orjson
from PIL import Image

from service.contract.manifest import ImageInput
from service.images.decode import decode, decode_signs
from service.problems import BadRequest, Problem, TooLarge

HEAD = struct.Struct(">IQ")
"""Before each request: the bytes of its description, JSON, and of the picture."""
ANSWER = struct.Struct(">?Q")
"""Before each answer: whether there are pixels, and the bytes of them or of the problem, JSON."""

READY = b"\1"
"""What is sent once, before the first request is read."""

PROBLEMS: dict[str, type[Problem]] = {problem.__name__: problem for problem in (BadRequest, TooLarge)}

CPU_SECONDS = 10
"""Of computing for one picture. 32 megapixels take 0.1 s as a JPEG, 1.4 s as a PNG, 2.2 s as an RGBA PNG."""
MEMORY_BYTES = 768 * 2**20
"""Beyond what the process has when it starts. Of 32 megapixels a WebP takes the most, 488 MiB."""

_NICENESS = 5  # the event loops of small pictures go first


def serve(channel: socket.socket) -> None:
    """Decode what comes through `channel` until its other end is closed."""
    while head := _receive(channel, HEAD.size):
        described, size = HEAD.unpack(head)
        request = orjson.loads(_receive(channel, described))
        data = _receive(channel, size)
        _allow_cpu_seconds(CPU_SECONDS)
        work = decode_signs if request["signs"] else decode
        good, answer = _answer(work, bytes(data), ImageInput(**request["spec"]), request["max_pixels"])
        del data
        try:
            channel.sendall(ANSWER.pack(good, len(answer)) + answer)
        except (BrokenPipeError, ConnectionResetError):  # nobody waits any more, and this process is about to be killed
            return


def main(descriptor: str) -> None:
    """Serve the socket `descriptor`, inherited from the process that takes requests."""
    # Stop signals, which may be sent to all, are for the supervisor; the socket's end ends this process.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    warnings.simplefilter("ignore")  # Pillow's, on metadata
    Image.MAX_IMAGE_PIXELS = None  # sizes were checked, with words of our own
    os.nice(_NICENESS)
    _limit_memory(MEMORY_BYTES)
    with socket.socket(fileno=int(descriptor)) as channel:
        channel.sendall(READY)
        serve(channel)


def _answer(work: Callable[..., bytes], data: bytes, spec: ImageInput, max_pixels: int) -> tuple[bool, bytes]:
    try:
        return True, work(data, spec, max_pixels=max_pixels)
    except Problem as problem:
        return False, orjson.dumps({"problem": type(problem).__name__, "detail": problem.detail})


def _receive(channel: socket.socket, size: int) -> bytearray:
    """Return exactly `size` bytes, or none if the other end was closed before them."""
    received = bytearray(size)
    view, at = memoryview(received), 0
    while at < size:
        count = channel.recv_into(view[at:])
        if not count:
            return bytearray()
        at += count
    return received


def _allow_cpu_seconds(seconds: int) -> None:
    """Let the kernel kill this process after so much more computing."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(usage.ru_utime + usage.ru_stime) + seconds, hard))


def _limit_memory(more_bytes: int) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:  # not Linux, where the limit would not be kept
        return
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
