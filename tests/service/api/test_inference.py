"""What is found in a request is decoded without keeping other requests waiting."""

from __future__ import annotations

import asyncio
import time
from typing import cast

import pytest

from service.api.inference import TURN_SECONDS, Ask, Inference
from service.engine.dispatcher import Dispatcher
from service.engine.served_models import ServedModel
from service.images.decode_pool import DecodePool
from service.problems import BadRequest, DeadlineExceeded, Problem
from service.settings import Settings
from tests import pictures
from tests.registries import RGB


class Waiting:
    disconnected = False


def decode_all(
    found: list[bytes | Problem], *, seconds: float = 60, turn_seconds: float = TURN_SECONDS
) -> tuple[list[bytes | Problem], int]:
    """What becomes of the images, and how often the loop went round meanwhile."""
    pool = DecodePool()
    subject = Inference(cast("Dispatcher", None), Settings(), pool, turn_seconds=turn_seconds)
    ask = Ask(cast("ServedModel", None), time.monotonic() + seconds, Waiting())
    rounds = 0

    async def story() -> list[bytes | Problem]:
        loop = asyncio.get_running_loop()

        def count() -> None:
            nonlocal rounds
            rounds += 1
            loop.call_soon(count)

        loop.call_soon(count)
        try:
            return await subject.decode_all(found, RGB, ask)
        finally:
            pool.close()

    return asyncio.run(story()), rounds


def test_many_images_let_other_requests_have_their_turns() -> None:
    decoded, rounds = decode_all([pictures.row_png(3)] * 20, turn_seconds=0.0)

    assert len(set(decoded)) == 1
    assert rounds >= 20


def test_each_image_is_decoded_or_its_problem_in_its_place() -> None:
    large = pictures.encode(pictures.row(3, size=1000))
    already = BadRequest("it must be good. Given: it is not")

    (small, bad, known, slow), _ = decode_all([pictures.row_png(3), b"no image", already, large])

    assert isinstance(small, bytes)
    assert isinstance(bad, BadRequest)
    assert known is already
    assert isinstance(slow, bytes)


@pytest.mark.parametrize("image", [pictures.row_png(3), pictures.encode(pictures.row(3, size=1000))])
def test_images_that_nobody_can_wait_for_are_not_decoded(image: bytes) -> None:
    with pytest.raises(DeadlineExceeded):
        decode_all([image] * 3, seconds=0, turn_seconds=0.0)
