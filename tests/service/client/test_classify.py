"""AsyncClient.classify: any number of files, a bounded number of them in memory."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import AsyncClient, Classified, NotFound, Prediction, PredictionError
from tests import pictures
from tests.running import Service


def files(folder: Path, count: int) -> list[Path]:
    """Files whose name ends in the class that they show."""
    contents = [pictures.row_png(class_id) for class_id in range(10)]
    paths = [folder / f"{number:04}.png" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(contents[number % 10])
    return paths


async def collect(client: AsyncClient, paths: Any, **options: Any) -> list[Classified]:
    async with client:
        return [classified async for classified in client.classify(paths, **options)]


def is_right(classified: Classified) -> bool:
    return isinstance(classified.answer, Prediction) and classified.path.endswith(f"{classified.answer.class_id}.png")


def test_a_thousand_files_are_each_answered_once(service: Service, tmp_path: Path) -> None:
    paths = files(tmp_path, 1000)

    results = asyncio.run(collect(AsyncClient(service.url), paths, batch_size=32))

    assert sorted(result.path for result in results) == [str(path) for path in paths]
    assert all(is_right(result) for result in results)


def test_results_come_in_order_if_that_is_asked_for(service: Service, tmp_path: Path) -> None:
    paths = files(tmp_path, 200)

    results = asyncio.run(collect(AsyncClient(service.url), paths, batch_size=3, concurrency=8, ordered=True))

    assert [result.path for result in results] == [str(path) for path in paths]


def test_a_file_that_is_no_image_or_not_there_is_an_entry(service: Service, tmp_path: Path) -> None:
    paths = files(tmp_path, 3)
    paths[0].write_bytes(b"hello")
    paths[1].unlink()

    results = asyncio.run(collect(AsyncClient(service.url), paths, ordered=True))

    assert [type(result.answer) for result in results] == [PredictionError, PredictionError, Prediction]
    assert [getattr(result.answer, "status", 200) for result in results] == [400, None, 200]


def test_a_model_that_does_not_exist_ends_it(service: Service, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        asyncio.run(collect(AsyncClient(service.url), files(tmp_path, 300), batch_size=2, model="nope"))


class Counting:
    """A service that counts the requests that it holds at once, and answers out of order.

    It answers nobody before it holds `full` of them.
    """

    def __init__(self, full: int = 1) -> None:
        self.now = self.most = self.total = 0
        self._full = full
        self._is_full = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        self.now += 1
        self.total += 1
        self.most = max(self.most, self.now)
        if self.now == self._full:
            self._is_full.set()
        await asyncio.wait_for(self._is_full.wait(), 10)
        await asyncio.sleep(0.002 if self.total % 2 else 0)
        self.now -= 1
        count = len(json.loads(request.content)["images"])
        entry = {"class_id": 0, "label": "0", "probability": 1.0}
        return httpx.Response(200, json={"model": "m", "version": 1, "predictions": [entry] * count})


@pytest.mark.parametrize("ordered", [False, True])
def test_at_most_concurrency_requests_are_under_way_and_no_more_files_are_read(tmp_path: Path, ordered: bool) -> None:
    counting = Counting(full=3)
    paths = files(tmp_path, 10)
    taken = yielded = most_held = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        for number in range(2000):
            taken += 1
            yield paths[number % 10]

    async def consume() -> None:
        nonlocal yielded, most_held
        async with AsyncClient("http://service", transport=httpx.MockTransport(counting)) as client:
            async for _ in client.classify(endless(), concurrency=3, batch_size=10, ordered=ordered):
                yielded += 1
                most_held = max(most_held, taken - yielded)

    asyncio.run(consume())

    assert counting.total == 200
    assert counting.most == 3
    # Three requests of ten, one being given out, and the file that begins the next.
    assert most_held <= 4 * 10 + 1
    assert yielded == 2000


def test_leaving_early_leaves_nothing_running(tmp_path: Path) -> None:
    asked = 0

    async def answer_once(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.Event().wait()
        entry = {"class_id": 0, "label": "0", "probability": 1.0}
        return httpx.Response(200, json={"model": "m", "version": 1, "predictions": [entry] * 2})

    async def consume() -> set[asyncio.Task[object]]:
        async with AsyncClient("http://service", transport=httpx.MockTransport(answer_once)) as client:
            stream = client.classify(files(tmp_path, 100), batch_size=2)
            async for _ in stream:
                break
            await asyncio.wait_for(stream.aclose(), 10)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(consume()) == set()


def test_classifying_gives_way_to_others(tmp_path: Path) -> None:
    seen: list[str | None] = []

    def check(request: httpx.Request) -> httpx.Response:
        seen.append(request.url.params.get("priority"))
        entry = {"class_id": 0, "label": "0", "probability": 1.0}
        return httpx.Response(200, json={"model": "m", "version": 1, "predictions": [entry]})

    asyncio.run(collect(AsyncClient("http://service", transport=httpx.MockTransport(check)), files(tmp_path, 1)))

    assert seen == ["bulk"]
