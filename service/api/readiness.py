"""The readiness of the service: every required model can be computed, and no other is still being loaded."""

from __future__ import annotations

from service.engine.dispatcher import Dispatcher
from service.heartbeats import Heartbeats
from service.settings import Settings


class Readiness:
    """The readiness of the service, as one process sees it."""

    def __init__(self, dispatcher: Dispatcher, heartbeats: Heartbeats, settings: Settings) -> None:
        self._dispatcher = dispatcher
        self._heartbeats = heartbeats
        self._required = settings.required_models

    def has_started(self) -> bool:
        """Return whether every model was loaded or refused once; it stays true, whatever happens later."""
        return self._dispatcher.served.is_complete

    def is_ready(self) -> bool:
        """Return whether the service should get requests."""
        return not self.obstacle()

    def obstacle(self) -> str:
        """Return why the service should get no requests, or ''."""
        served = self._dispatcher.served
        if self._heartbeats.draining:
            return "draining"
        if not any(map(self._dispatcher.is_ready, served.models())):
            return "no worker is ready"
        if not served.is_complete:
            return "other models are being loaded"
        if missing := self.missing():
            told = ", ".join(f"{name} ({state})" for name, state in missing.items())
            return f"required models must be served. Missing: {told}"
        return ""

    def missing(self) -> dict[str, str]:
        """Return each required model of which no worker would compute the default version now, and its state."""
        served = self._dispatcher.served
        required = self._required
        if required is None:  # nobody said which; a name that is only built in is required of no registry
            default = served.default_name()
            required = frozenset({default} if default else ())
        ready = {model.name for model in served.models() if model.default and self._dispatcher.is_ready(model)}
        states = {model.name: "no worker" for model in served.models()}
        absent = {version.name: version.state for version in served.absent()}
        return {
            name: states.get(name) or absent.get(name) or "not in the registry" for name in sorted(required - ready)
        }

    def refused(self) -> list[str]:
        """Return the versions that were refused, required or not."""
        return [str(absent) for absent in self._dispatcher.served.absent() if absent.state == "refused"]
