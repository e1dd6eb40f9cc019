"""The way of a version into a worker: tried out in a sandbox, then loaded, and the outcome remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch

from service.contract.manifest import ModelManifest
from service.contract.variants import FormName
from service.model import autotune
from service.model.model import Load, Model, UnfitModelError
from service.rollout.verdicts import Verdicts
from service.settings import Settings, usable_cores


class TryOut(Protocol):
    """Loads a version where it can do no harm; raises UnfitModelError if that fails."""

    def __call__(self, manifest: ModelManifest, artifact: bytes, *, gently: bool) -> None: ...


class Loader:
    """Loads versions into this process, but only those that passed a trial.

    A version that some worker of the service has served needs no second trial, so that a worker's replacement is ready
    soon; one that was refused is not tried again. Trials yield to other processes while `is_serving`.
    """

    def __init__(self, try_out: TryOut, load: Load, verdicts: Verdicts, *, is_serving: Callable[[], bool]) -> None:
        self._try_out = try_out
        self._load = load
        self._verdicts = verdicts
        self._is_serving = is_serving

    def load(self, manifest: ModelManifest, artifact: bytes) -> Model:
        """Load a version so that it is ready to serve.

        Raises:
            UnfitModelError: it is not fit to.
        """
        if reason := self._verdicts.against(manifest):
            raise UnfitModelError(reason)
        if self._verdicts.is_fit(manifest):
            return self._load(manifest, artifact)
        try:
            self._try_out(manifest, artifact, gently=self._is_serving())
            self._verdicts.begin(manifest)
            model = self._load(manifest, artifact)
        except UnfitModelError as error:
            self._verdicts.refuse(manifest, str(error))
            raise
        self._verdicts.accept(manifest)
        return model


def load_on(
    device: torch.device,
    settings: Settings,
    manifest: ModelManifest,
    artifact: bytes,
    *,
    cores: int | None = None,
    form: FormName | Literal["published"] | None = None,
) -> Model:
    """Load a version on a device, in the fastest form that agrees with the published one, and warm it up.

    `cores` are those that it may use, by default all; `form` is the one to load it in if that was decided before.

    Raises:
        UnfitModelError: it cannot be loaded, or does not give the logits that its manifest promises.
    """
    is_fastest = settings.form == "fastest"
    model = autotune.fastest(
        manifest,
        artifact,
        device,
        cores=cores or usable_cores(),
        threads=settings.threads,
        forms=is_fastest and form is None,
        name=form or "published",
    )
    if is_fastest:
        autotune.choose_path(model, settings.max_batch_size)
    model.warm_up(settings.max_batch_size)
    return model
