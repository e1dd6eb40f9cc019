"""The CPU time, memory and descriptors of processes are those of /proc, and of what they start themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.telemetry.metrics import families
from service.telemetry.metrics.processes import Processes

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")


def shown(processes: Processes) -> dict[tuple[str, str, str], float]:
    return {(family.name, *labels): value for family, labels, value in processes.gauges()}  # type: ignore[misc]


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that this one has started."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def test_a_process_shows_what_it_uses_and_what_those_use_that_it_started(child: subprocess.Popen[bytes]) -> None:
    processes = Processes(["supervisor", "http-0"])
    processes.started("http-0", os.getpid())

    found = shown(processes)

    assert {(role, name) for _, role, name in found} == {("http", "http-0"), ("decoder", "http-0")}
    assert found[families.PROCESS_CPU.name, "http", "http-0"] == pytest.approx(sum(os.times()[:2]), abs=1)
    assert found[families.PROCESS_MEMORY.name, "http", "http-0"] > 10 * 2**20
    assert found[families.PROCESS_DESCRIPTORS.name, "http", "http-0"] >= 3
    assert found[families.PROCESS_MEMORY.name, "decoder", "http-0"] > 0


def test_a_process_that_is_gone_shows_nothing(child: subprocess.Popen[bytes]) -> None:
    processes = Processes(["grpc"])
    processes.started("grpc", child.pid)
    before = shown(processes)

    child.kill()
    child.wait()

    assert {role for _, role, _ in before} == {"grpc"}
    assert shown(processes) == {}


def test_a_system_without_proc_shows_nothing(tmp_path: Path) -> None:
    processes = Processes(["supervisor"], tmp_path)
    processes.started("supervisor", os.getpid())

    assert shown(processes) == {}
