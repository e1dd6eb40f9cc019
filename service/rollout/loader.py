"""The way of a new version into a worker: tried out elsewhere first, then loaded, and what was found out remembered."""

from __future__ import annotations

from collections.abc import Callable

from service.contract.manifest import ModelManifest
from service.model.model import Load, Model, UnfitModelError
from service.rollout.verdicts import Verdicts

Try = Callable[[ModelManifest, bytes], None]
"""Tries a version out without harm, or raises UnfitModelError."""


class Probation:
    """Loads versions into this process, but none that did not pass a trial.

    A version that some worker of the service has served needs no second trial, so that a worker's replacement is back
    soon; one that was refused is not tried again.
    """

    def __init__(self, try_out: Try, load: Load, verdicts: Verdicts) -> None:
        self._try_out = try_out
        self._load = load
        self._verdicts = verdicts

    def load(self, manifest: ModelManifest, artifact: bytes) -> Model:
        """The version as a model that is ready to serve.

        Raises:
            UnfitModelError: it is not fit to.
        """
        if reason := self._verdicts.against(manifest):
            raise UnfitModelError(reason)
        if self._verdicts.is_fit(manifest):
            return self._load(manifest, artifact)
        try:
            self._try_out(manifest, artifact)
            self._verdicts.begin(manifest)
            model = self._load(manifest, artifact)
        except UnfitModelError as error:
            self._verdicts.refuse(manifest, str(error))
            raise
        self._verdicts.accept(manifest)
        return model
