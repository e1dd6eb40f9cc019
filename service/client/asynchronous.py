"""The client for code that is asynchronous, which also classifies more files than fit into memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterable
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

import httpx

from service.client import dialogs
from service.client.answers import Answer, Classified, Health, LiveAccuracy, Models, Prediction, Told
from service.client.batches import MOST_IMAGES, Encoded, cut
from service.client.dialogs import Dialog, Options, PredictOptions, Request
from service.client.inputs import encode, rows_of
from service.client.retries import Retries
from service.client.streams import map_concurrently
from service.client.wire import DEFAULT_URL, TIMEOUT_SECONDS, Attempts, http_options, http_request, opening

if TYPE_CHECKING:
    from service.client.inputs import Features, ImageLike

T = TypeVar("T")


class AsyncClient:
    """The same as `Client`, awaited; and `classify`. Close it, or use it in an `async with`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = TIMEOUT_SECONDS,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._retries = retries or Retries()
        options = http_options(url, api_key, timeout_seconds)
        with opening():
            self._http = httpx.AsyncClient(transport=transport, **options)

    async def predict(self, image: ImageLike, **options: Unpack[PredictOptions]) -> Prediction:
        """Do as `Client.predict`."""
        return await self._run(dialogs.predict(await asyncio.to_thread(encode, image), Options(**options)))

    async def predict_many(self, images: Iterable[ImageLike], **options: Unpack[PredictOptions]) -> list[Answer]:
        """Do as `Client.predict_many`."""
        batches = cut(images)
        answers: list[Answer] = []
        while batch := await asyncio.to_thread(next, batches, None):
            answers += await self._run(dialogs.predict_batch([encoded for _, encoded in batch], Options(**options)))
        return answers

    async def classify(
        self,
        paths: Iterable[str | PathLike[str]],
        *,
        concurrency: int = 4,
        batch_size: int = MOST_IMAGES,
        ordered: bool = False,
        **options: Unpack[PredictOptions],
    ) -> AsyncGenerator[Classified, None]:
        """Return each file with its answer, as they come or, if `ordered`, in the order of `paths`.

        At most `concurrency` requests of at most `batch_size` files and 4 MiB are in memory, however many paths there
        are. The service answers others first (`priority=bulk`).
        """
        due = cut(paths, batch_size)
        wanted = Options(**options, bulk=True)

        async def take() -> list[tuple[str | PathLike[str], Encoded]] | None:
            return await asyncio.to_thread(next, due, None)

        async def answer(batch: list[tuple[str | PathLike[str], Encoded]]) -> list[Classified]:
            answers = await self._run(dialogs.predict_batch([encoded for _, encoded in batch], wanted))
            return [Classified(str(path), one) for (path, _), one in zip(batch, answers, strict=True)]

        results = map_concurrently(answer, take, concurrency=concurrency, ordered=ordered)
        async with contextlib.aclosing(results):
            async for batch in results:
                for classified in batch:
                    yield classified

    async def features(self, rows: Features, **options: Unpack[PredictOptions]) -> list[Answer]:
        """Do as `Client.features`."""
        return await self._run(dialogs.predict_features(rows_of(rows), Options(**options)))

    async def health(self) -> Health:
        """Do as `Client.health`."""
        return await self._run(dialogs.health(), Retries(attempts=1))

    async def models(self) -> Models:
        """Do as `Client.models`."""
        return await self._run(dialogs.models())

    async def feedback(self, prediction: Prediction | str, truth: str | int, *, index: int | None = None) -> Told:
        """As Client.feedback."""
        return await self._run(dialogs.feedback(prediction, truth, index))

    async def accuracies(self) -> tuple[LiveAccuracy, ...]:
        """As Client.accuracies."""
        return await self._run(dialogs.accuracies())

    async def pairs(self) -> list[dict[str, Any]]:
        """As Client.pairs."""
        return await self._run(dialogs.pairs())

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, dialog: Dialog[T], retries: Retries | None = None) -> T:
        try:
            request = next(dialog)
            while True:
                request = dialog.send(await self._send(request, retries or self._retries))
        except StopIteration as end:
            result: T = end.value
            return result

    async def _send(self, request: Request, retries: Retries) -> httpx.Response:
        attempts = Attempts(retries, self._http.base_url)
        while True:
            try:
                response = await self._http.request(**http_request(request))
            except httpx.RequestError as error:
                wait = attempts.after_error(error)
            else:
                final = attempts.after_response(response)
                if final is None:
                    return response
                wait = final
            await asyncio.sleep(wait)
