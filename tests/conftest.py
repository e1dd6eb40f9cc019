"""What tests of both halves share: where real data lies, and when a test is skipped for want of something."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from service.contract.manifest import FeatureInput, FormEvidence
from tests import running
from tests.registries import RGB, FirstFeature, publish
from tests.running import Service, serving

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # So starts what a script runs in the background. The processes of the tests would inherit it and never feel Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
MNIST_ROOT = Path(os.environ.get("MNIST_ROOT", ROOT.parent / "shared" / "data"))

EVIDENCE = FormEvidence(form="float16", agreement=0.9985, accuracy_difference=-0.0001, data="photos/test", n=10_000)
"""What the manifest of `photos` says about float16, which may therefore not serve."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="five times the requests and swaps where tests count them")


def pytest_configure(config: pytest.Config) -> None:
    running.as_commands = config.getoption("--thorough")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    has_mnist = (MNIST_ROOT / "MNIST" / "raw" / "t10k-images-idx3-ubyte").exists()
    has_browser = bool(shutil.which("chromium") and importlib.util.find_spec("playwright"))
    has_prometheus = bool(shutil.which("prometheus") and shutil.which("promtool"))
    for item in items:
        if item.get_closest_marker("prometheus") and not has_prometheus:
            item.add_marker(
                pytest.mark.skip(reason="needs prometheus and promtool on the PATH; apt-get install prometheus")
            )
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
        if item.get_closest_marker("browser") and not has_browser:
            item.add_marker(
                pytest.mark.skip(reason="needs chromium on the PATH and playwright; pip install argmax[dev]")
            )
        if item.get_closest_marker("fakes") and os.environ.get("TEST_COMPILED"):
            item.add_marker(pytest.mark.skip(reason="compiled modules take no fakes"))
        if item.get_closest_marker("data") and not has_mnist:
            item.add_marker(pytest.mark.skip(reason=f"needs MNIST under {MNIST_ROOT}; set MNIST_ROOT"))


@pytest.fixture(scope="session")
def times(request: pytest.FixtureRequest) -> int:
    """How many times as much a test of load does: 1, or 5 with --thorough."""
    return 5 if request.config.getoption("--thorough") else 1


@pytest.fixture(scope="session")
def mnist_root() -> Path:
    return MNIST_ROOT


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket of a server of our own that speaks S3, over the wire."""
    server = pytest.importorskip("moto.server", reason="needs moto and flask; pip install argmax[dev]")
    pytest.importorskip("s3fs", reason="needs s3fs; pip install argmax[s3]")
    import fsspec

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("argmax")
        yield "s3://argmax"
    running.stop()


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models of two lines: `rows` (grey digits), `photos` (colour), `sign` (features)."""
    root = tmp_path_factory.mktemp("registry")
    publish(root, "rows")
    publish(root, "photos", spec=RGB, half_precision=(EVIDENCE,))
    publish(root, "sign", FirstFeature(), spec=FeatureInput(shape=(2,)), classes=("negative", "positive"))
    return root


@pytest.fixture(scope="session")
def service(registry: Path) -> Iterator[Service]:
    """One service for every test that does not harm it: two HTTP processes, one worker."""
    with serving(registry, "--default-model", "rows", "--http-processes", "2") as service:
        yield service
        assert service.stop() == 0, service.text
