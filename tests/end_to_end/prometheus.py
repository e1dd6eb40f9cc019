"""A real Prometheus that scrapes a service once a second, and its HTTP API."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.ports import free_port
from tests.waiting import wait_until

START_SECONDS = 60


class Prometheus:
    """A running server."""

    def __init__(self, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self._client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
        self._process = process
        self._log = log

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **parameters: str) -> Any:
        answer = self._client.get(f"/api/v1/{path}", params=parameters)
        document = answer.json()
        assert document["status"] == "success", f"{parameters}: {document}"
        return document["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        found: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return found

    def value(self, expression: str) -> float:
        """The one value that an expression gives now; NaN if it gives none."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else float("nan")

    def wait_for(self, expression: str) -> None:
        """Wait until an expression gives something."""

        def gives() -> bool:
            assert self._process.poll() is None, self._log.read_text()
            with contextlib.suppress(httpx.HTTPError, ValueError):
                return self._client.get("/-/ready").status_code == 200 and bool(self.query(expression))
            return False

        wait_until(gives, START_SECONDS, interval=0.1, otherwise=lambda: f"{expression}:\n{self._log.read_text()}")


@contextlib.contextmanager
def scraping(port: int, folder: Path, rules: dict[str, Any]) -> Iterator[Prometheus]:
    """A Prometheus whose only target is the service on `port`."""
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules))
    target = {"job_name": "argmax", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
    every_second = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration = {"global": every_second, "rule_files": ["rules.yaml"], "scrape_configs": [target]}
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(configuration))
    own_port = free_port()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{own_port}",
            ],
            stdout=output,
            stderr=output,
        )
    server = Prometheus(own_port, process, log)
    try:
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(30)
