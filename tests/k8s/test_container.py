"""The image's command, environment, user and read-only root, without an engine: as the first process of namespaces."""

from __future__ import annotations

import base64
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import psutil
import pytest
from PIL import Image

from tests.k8s.test_dockerfile import instructions
from tests.namespaces import NEEDED, entered, first_process
from tests.ports import free_port
from tests.registries import publish

ROOT = Path(__file__).parents[2]
GRACE_SECONDS = 40
# A root that cannot be written but for a fresh /tmp, and a /proc of its own; then no privilege is left.
ENTER = """set -e
mount --make-rprivate /
mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp
mount -o remount,bind,ro /
mount -t proc proc /proc
exec setpriv --reuid "$1" --regid "$1" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all -- "${@:2}"
"""


def container(*command: str, **environment: str) -> AbstractContextManager[subprocess.Popen[str]]:
    """`command` as an image's runtime would start it, with `environment` and nothing else."""
    user = instructions("service")["USER"].partition(":")[0]
    own = {"PATH": os.environ["PATH"], "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1", **environment}
    return entered(ENTER, user, *command, environment=own, folder=ROOT)


@pytest.fixture(scope="module")
def registry() -> Iterator[Path]:
    """Beside the code, since the container has a /tmp of its own."""
    missing = [name for name in NEEDED if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip("needs root, unshare and setpriv to make namespaces")
    with container("true") as attempt:
        said, _ = attempt.communicate(timeout=30)
    if attempt.returncode:
        pytest.skip(f"needs namespaces of its own, which are not permitted here: {said.strip()}")
    folder = ROOT / ".pytest_cache" / f"registry-{os.getpid()}"
    publish(folder, "rows")
    for path in (ROOT / ".pytest_cache", *folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o055)
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def ready(url: str, started: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if httpx.get(f"{url}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert started.poll() is None, started.stdout and started.stdout.read()
        time.sleep(0.1)
    pytest.fail("never ready")


def test_the_service_serves_drains_and_starts_again_where_only_tmp_can_be_written(registry: Path) -> None:
    for port in [free_port()] * 2:  # the second one finds nothing that the first has left
        environment = {
            "SERVICE_HOST": "127.0.0.1",
            "SERVICE_PORT": str(port),
            "SERVICE_REGISTRY": str(registry),
            "SERVICE_HTTP_PROCESSES": "1",
            "SERVICE_DRAIN_SECONDS": "1",
        }
        url = f"http://127.0.0.1:{port}"
        with container(sys.executable, "-m", "service", **environment) as started:
            ready(url, started)
            first = first_process(started)
            everyone = [first, *first.children(recursive=True)]
            assert {process.uids().real for process in everyone} == {10001}
            assert subprocess.run([sys.executable, "-m", "service", "health", "--url", url]).returncode == 0
            rows = b'{"image": "%s"}' % png()
            answer = httpx.post(f"{url}/predict", content=rows, headers={"content-type": "application/json"})
            assert answer.status_code == 200, answer.text

            first.send_signal(signal.SIGTERM)

            while (status := httpx.get(f"{url}/readyz").status_code) == 200:
                time.sleep(0.01)
            assert status == 503  # draining: not ready, and still answering
            assert httpx.post(f"{url}/predict", content=rows, headers={"content-type": "application/json"}).is_success
            started.communicate(timeout=GRACE_SECONDS)
        assert started.returncode == 0
        assert not [process for process in everyone if process.is_running()]


def test_what_still_runs_when_a_test_ends_is_ended(registry: Path) -> None:
    with container("sh", "-c", "sleep 600 & echo here; wait") as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "here\n"
        inside = psutil.Process(started.pid).children(recursive=True)

    assert len(inside) == 2
    assert not [process for process in inside if process.is_running()]


def test_nothing_but_tmp_can_be_written_in_there(registry: Path) -> None:
    attempt = "touch /tmp/here && ! touch /var/tmp/here 2>/dev/null && id -u"

    with container("bash", "-c", attempt) as started:
        said, _ = started.communicate(timeout=30)

    assert (started.returncode, said.strip()) == (0, "10001")


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (28, 28)).save(file, "PNG")
    return base64.b64encode(file.getvalue())
