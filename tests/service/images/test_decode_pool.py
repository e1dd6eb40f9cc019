"""Large pictures are decoded by processes that can do no harm: they are limited, killed, and not there until needed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from PIL import Image

from service.contract.manifest import ImageInput
from service.images import decode as images
from service.images import decode_pool, decode_process
from service.images.decode_pool import DecodePool
from service.problems import BadRequest, ClientGone, DeadlineExceeded, TooLarge
from tests import pictures

RGB = ImageInput(shape=(3, 32, 32), colour="rgb")
MAX_PIXELS = 32_000_000
LARGE = pictures.encode(Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)))
STARTING = "import time; time.sleep(60)"
STUCK = "import socket, sys, time; s = socket.socket(fileno=int(sys.argv[1])); s.send(b'1'); time.sleep(60)"

T = TypeVar("T")


def run(story: Callable[[DecodePool], Awaitable[T]], **options: float) -> T:
    """What a story with a pool gives; no process of it is left."""

    async def whole() -> T:
        pool = DecodePool(**options)  # type: ignore[arg-type]
        try:
            return await story(pool)
        finally:
            pool.close()

    return asyncio.run(whole())


def test_a_process_can_separate_the_signs_of_a_picture() -> None:
    spec = ImageInput(shape=(1, 28, 28), colour="grey", style="mnist")
    pixels = np.full((60, 100), 255, np.uint8)
    pixels[10:50, 20:26] = pixels[10:50, 70:76] = 0

    async def story(pool: DecodePool) -> bytes:
        deadline, data = time.monotonic() + 60, pictures.encode(Image.fromarray(pixels))
        return await pool.decode(
            data, spec, max_pixels=MAX_PIXELS, deadline=deadline, is_gone=lambda: False, signs=True
        )

    found = run(story)

    assert len(found) == 2 * 784
    assert found[:784] == found[784:]


async def decode(
    pool: DecodePool, data: bytes = LARGE, *, seconds: float = 60, gone: Callable[[], bool] = lambda: False
) -> bytes:
    deadline = time.monotonic() + seconds
    return await pool.decode(data, RGB, max_pixels=MAX_PIXELS, deadline=deadline, is_gone=gone)


def children() -> set[int]:
    """The processes that this one has started, of whatever kind, and that are still running."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == os.getpid() and state != "Z":
            found.add(int(stat.parent.name))
    return found


def test_a_process_decodes_what_the_function_decodes() -> None:
    async def story(pool: DecodePool) -> list[bytes]:
        return await asyncio.gather(*(decode(pool) for _ in range(5)))

    assert run(story) == [images.decode(LARGE, RGB, max_pixels=MAX_PIXELS)] * 5


def test_what_is_wrong_with_a_picture_is_said_as_the_function_says_it_and_the_process_goes_on() -> None:
    async def story(pool: DecodePool) -> set[int]:
        before = children()
        with pytest.raises(BadRequest, match=r"Given: 8 bytes that look like text"):
            await decode(pool, b"no image")
        with pytest.raises(TooLarge, match=r"at most 32,000,000 pixels"):
            await decode(pool, pictures.bomb())
        await decode(pool)
        return children() - before

    assert len(run(story)) == 1


def test_there_is_no_process_before_it_is_needed_nor_when_it_has_been_idle_nor_after_the_end() -> None:
    before = children()

    async def story(pool: DecodePool) -> None:
        assert children() == before
        await decode(pool)
        assert len(children() - before) == 1
        for _ in range(200):
            await asyncio.sleep(0.01)
            if children() == before:
                break
        assert children() == before
        await decode(pool)

    run(story, idle_seconds=0.01)

    assert children() == before


def test_at_most_so_many_processes_decode_at_once() -> None:
    async def story(pool: DecodePool) -> int:
        before, most = children(), 0
        work = [asyncio.ensure_future(decode(pool)) for _ in range(8)]
        while not all(one.done() for one in work):
            most = max(most, len(children() - before))
            await asyncio.sleep(0.005)
        return most

    assert run(story, processes=2) == 2


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "_START", STUCK)


@pytest.mark.usefixtures("stuck")
def test_a_decoder_that_is_over_the_deadline_is_killed() -> None:
    before = children()

    async def story(pool: DecodePool) -> None:
        with pytest.raises(DeadlineExceeded):
            await decode(pool, seconds=2)
        await asyncio.sleep(0.1)
        assert children() == before

    run(story)


@pytest.mark.usefixtures("stuck")
def test_a_decoder_whose_client_has_gone_is_killed() -> None:
    before = children()

    async def story(pool: DecodePool) -> None:
        leaves = time.monotonic() + 2
        with pytest.raises(ClientGone):
            await decode(pool, gone=lambda: time.monotonic() > leaves)
        await asyncio.sleep(0.1)
        assert children() == before

    run(story)


@pytest.mark.usefixtures("stuck")
def test_who_waits_for_a_place_leaves_at_the_deadline_too() -> None:
    async def story(pool: DecodePool) -> None:
        first = asyncio.ensure_future(decode(pool, seconds=0.4))
        await asyncio.sleep(0)
        with pytest.raises(DeadlineExceeded):
            await decode(pool, seconds=0.1)
        assert not first.done()
        with pytest.raises(DeadlineExceeded):
            await first

    run(story, processes=1)


def test_a_decoder_that_takes_long_to_start_is_kept_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "_START", STARTING)

    async def story(pool: DecodePool) -> int:
        before = children()
        for _ in range(3):
            with pytest.raises(DeadlineExceeded):
                await decode(pool, seconds=0.1)
        return len(children() - before)

    assert run(story) == 1


def test_a_decoder_that_dies_fails_its_own_picture_alone() -> None:
    async def story(pool: DecodePool) -> bytes:
        before = children()
        work = asyncio.ensure_future(decode(pool))
        while not children() - before:
            await asyncio.sleep(0.001)
        (decoder,) = children() - before
        os.kill(decoder, signal.SIGKILL)
        with pytest.raises(BadRequest, match="made the decoder fail"):
            await work
        return await decode(pool)

    assert run(story) == images.decode(LARGE, RGB, max_pixels=MAX_PIXELS)


def test_a_decoder_that_nobody_listens_to_any_more_ends_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_process, "_allow_cpu_seconds", lambda _: None)
    ours, theirs = socket.socketpair()
    description, small = decode_pool._description(RGB, MAX_PIXELS, signs=False), pictures.row_png(3)
    ours.sendall(decode_process.HEAD.pack(len(description), len(small)) + description + small)
    ours.close()

    with theirs:
        decode_process.serve(theirs)


def test_an_idle_decoder_that_dies_is_replaced() -> None:
    async def story(pool: DecodePool) -> bytes:
        before = children()
        await decode(pool)
        (decoder,) = children() - before
        os.kill(decoder, signal.SIGKILL)
        await asyncio.sleep(0.1)
        return await decode(pool)

    assert run(story) == images.decode(LARGE, RGB, max_pixels=MAX_PIXELS)


CHILD = "import sys; sys.path.insert(0, sys.argv[2]); from service.images import decode_process as p; "


def test_a_picture_that_computes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = "p.decode = lambda *a, **k: [None for _ in iter(int, 1)]; p.CPU_SECONDS = 1; p.main(sys.argv[1])"
    monkeypatch.setattr(decode_pool, "_START", CHILD + endless)

    with pytest.raises(TooLarge, match=r"in 10 s of computing\. Given: one that takes longer"):
        run(decode)


def test_a_picture_that_takes_too_much_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "_START", f"{CHILD}p.MEMORY_BYTES = 2**20; p.main(sys.argv[1])")
    wide = pictures.encode(Image.new("RGB", (3000, 3000)))

    with pytest.raises((TooLarge, BadRequest), match=r"memory|decode"):
        run(lambda pool: decode(pool, wide))


def test_a_process_ends_with_the_one_that_started_it() -> None:
    ours, theirs = socket.socketpair()

    with theirs:
        ours.close()
        decode_process.serve(theirs)


LARGEST = {
    "RGB PNG": ("PNG", "RGB", {"compress_level": 1}),
    "RGBA PNG": ("PNG", "RGBA", {"compress_level": 1}),
    "16-bit PNG": ("PNG", "I;16", {"compress_level": 1}),
    "JPEG": ("JPEG", "RGB", {}),
    "progressive JPEG": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "GIF": ("GIF", "L", {}),
    "BMP": ("BMP", "RGB", {}),
    "WebP": ("WEBP", "RGB", {"lossless": True, "quality": 0, "method": 0}),
}


@pytest.mark.parametrize(("kind", "mode", "options"), LARGEST.values(), ids=LARGEST)
def test_the_largest_picture_that_is_allowed_fits_into_the_memory_of_a_process(
    kind: str, mode: str, options: dict[str, object]
) -> None:
    white = 65535 if mode == "I;16" else 255 if mode == "L" else (255,) * len(mode)
    data = pictures.encode(Image.new(mode, (8000, 4000), white), kind, **options)

    assert run(lambda pool: decode(pool, data)) == b"\xff" * 3072
