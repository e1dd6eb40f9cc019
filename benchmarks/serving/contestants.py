"""Who competes: how each is started, and the requests it is asked. Each gets the same artifact and images."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving.requests import PNG, RAW_PNG, Request, png, png_in_form, tensor_of_one
from service.settings import usable_cores

PEERS = Path(os.environ.get("PEERS", ".peers")).absolute()
"""Where `make bench-peers` installs the peers, each in an environment of its own."""

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Contestant:
    """`command` is formatted with {port}, {registry} and {model}, the path of the artifact."""

    title: str
    command: list[str]
    requests: tuple[Request, ...] = (PNG,)
    peer: str = ""  # the environment that it needs; '' is ours
    needs: str = ""  # a file below PEERS without which it cannot start
    variables: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None  # where it starts; ours if there is none
    says_ready: bool = False  # at /readyz, as Argmax does

    @property
    def is_installed(self) -> bool:
        return not self.needs or ((PEERS / self.peer / "installed").exists() and (PEERS / self.needs).exists())


def _uvicorn(module: str) -> list[str]:
    options = ["--port", "{port}", "--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--lifespan", "off"]
    return [sys.executable, "-m", "uvicorn", f"benchmarks.serving.{module}:app", *options]


def _peer(
    title: str, name: str, *arguments: str, requests: tuple[Request, ...] = (PNG,), needs: str = ""
) -> Contestant:
    """Return a contestant with a script of ours in the peer's environment, where this package cannot be imported."""
    command = [str(PEERS / name / "bin" / "python"), str(_HERE / "peers" / f"{name}_server.py"), *arguments]
    variables = {"OMP_NUM_THREADS": "1", "PEERS": str(PEERS)}
    return Contestant(title, command, requests, name, needs or f"{name}/installed", variables)


def _triton_libtorch(title: str, queue_delay_micros: int) -> Contestant:
    requests = (tensor_of_one("logits__0"),)
    backend = "triton_backend/libtriton_pytorch.so"
    return _peer(title, "triton", "pytorch", str(queue_delay_micros), requests=requests, needs=backend)


_CORES = str(usable_cores())

CONTESTANTS = {
    "argmax": Contestant(
        "Argmax",
        [sys.executable, "-m", "service", "--registry", "{registry}", "--port", "{port}"],
        (PNG, tensor_of_one("class_ids")),
        says_ready=True,
    ),
    "granian": _peer("granian, coalescing, ONNX Runtime, 1 process", "granian", "granian_coalescing", "1"),
    "granian-cores": _peer("granian, coalescing, a process per core", "granian", "granian_coalescing", _CORES),
    "granian-unbatched": _peer("granian, no batching, a process per core", "granian", "granian_unbatched", _CORES),
    "uvicorn": _peer("bare uvicorn, no batching, a process per core", "granian", "uvicorn_unbatched", _CORES),
    "mosec": _peer("mosec, 2 Python workers", "mosec"),
    "triton-python": _peer("Triton, Python backend", "triton", "python", "0", requests=(RAW_PNG,)),
    "triton": _triton_libtorch("Triton, LibTorch backend", 0),
    "triton-1ms": _triton_libtorch("Triton, LibTorch backend, queue delay 1 ms", 1000),
    "ceiling": Contestant("in-process ceiling", _uvicorn("ceiling")),
    "constant": Contestant("uvicorn, a constant", _uvicorn("constant")),
    "fastapi": Contestant("FastAPI by hand", _uvicorn("fastapi_by_hand")),
    "litserve": Contestant(
        "LitServe 0.2.19 as documented",
        [sys.executable, "-m", "benchmarks.serving.stock_litserve"],
        (png_in_form("request"),),
    ),
    "torchserve": _peer("TorchServe", "torchserve", requests=(png("/predictions/model"),)),
    "bentoml": _peer("BentoML", "bentoml", requests=(png_in_form("images"),)),
    "ray": _peer("Ray Serve", "ray"),
}
