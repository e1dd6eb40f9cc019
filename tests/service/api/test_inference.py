"""What is found in a request is decoded without keeping other requests waiting."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import cast

from service.api.inference import TURN_SECONDS, Inference
from service.engine.dispatcher import Dispatcher
from service.problems import BadRequest, Problem
from service.settings import Settings
from tests import pictures
from tests.registries import RGB


def decode_all(
    found: list[bytes | Problem], executor: Executor, *, turn_seconds: float = TURN_SECONDS
) -> tuple[list[bytes | Problem], int]:
    """What becomes of the images, and how often the loop went round meanwhile."""
    subject = Inference(cast("Dispatcher", None), Settings(), executor, turn_seconds=turn_seconds)
    rounds = 0

    async def story() -> list[bytes | Problem]:
        loop = asyncio.get_running_loop()

        def count() -> None:
            nonlocal rounds
            rounds += 1
            loop.call_soon(count)

        loop.call_soon(count)
        return await subject.decode_all(found, RGB)

    return asyncio.run(story()), rounds


def test_many_images_let_other_requests_have_their_turns() -> None:
    with ThreadPoolExecutor(1) as executor:
        decoded, rounds = decode_all([pictures.row_png(3)] * 20, executor, turn_seconds=0.0)

    assert len(set(decoded)) == 1
    assert rounds >= 20


def test_each_image_is_decoded_or_its_problem_in_its_place() -> None:
    large = pictures.encode(pictures.row(3, size=1000))
    already = BadRequest("it must be good. Given: it is not")
    with ThreadPoolExecutor(1) as executor:
        (small, bad, known, slow), _ = decode_all([pictures.row_png(3), b"no image", already, large], executor)

    assert isinstance(small, bytes)
    assert isinstance(bad, BadRequest)
    assert known is already
    assert isinstance(slow, bytes)
