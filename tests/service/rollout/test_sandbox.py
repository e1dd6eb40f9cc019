"""A version that is tried out may do what it likes: the process that asked lives, and is told why it was refused."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from service.contract.manifest import ModelManifest
from service.contract.registry import Registry
from service.rollout import kernel
from service.rollout.sandbox import Limits
from tests.preloaded import FORKS
from tests.processes import still_running
from tests.registries import Endless, artifact_of, publish
from tests.service.rollout import trying
from tests.waiting import wait_until


class Prober:
    """A process of its own that keeps a prober."""

    def __init__(self, limits: Limits) -> None:
        self._connection, theirs = FORKS.Pipe()
        self.process = FORKS.Process(target=trying.main, args=(theirs, limits))
        self.process.start()
        theirs.close()
        self.pid: int = self._connection.recv()

    def ask(self, manifest: ModelManifest, artifact: bytes = b"", *, gently: bool = False) -> None:
        self._connection.send((manifest, artifact, gently))

    def answer(self) -> str:
        assert self._connection.poll(60)
        return str(self._connection.recv())

    def trial(self) -> psutil.Process:
        """Return the trial that runs, once there is one."""
        return wait_until(lambda: psutil.Process(self.pid).children())[0]

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.send(None)
        self._connection.close()
        self.process.join(30)


@pytest.fixture(scope="module")
def prober() -> Iterator[Prober]:
    """One that lives through all trials of this module: none may harm it."""
    prober = Prober(Limits(seconds=1, memory_bytes=200 * 2**20))
    yield prober
    prober.close()


def acting(root: Path, recipe: str) -> ModelManifest:
    manifest = publish(root)
    return manifest.model_copy(update={"provenance": manifest.provenance.model_copy(update={"recipe": recipe})})


@pytest.mark.parametrize("gently", [False, True])
def test_a_version_that_computes_what_it_promises_passes(prober: Prober, tmp_path: Path, gently: bool) -> None:
    manifest = publish(tmp_path)

    prober.ask(manifest, Registry(tmp_path).artifact(manifest), gently=gently)

    assert prober.answer() == ""


def test_what_a_worker_would_refuse_is_refused_in_its_words(prober: Prober, tmp_path: Path) -> None:
    manifest = publish(tmp_path, logits=[[0.0] * 10] * 2)

    prober.ask(manifest, Registry(tmp_path).artifact(manifest))

    assert prober.answer().startswith("rows@1: golden logits must be within 0.001 of the manifest's. Given: off by")


def test_a_module_that_never_returns_is_refused_after_its_time_of_computing(prober: Prober, tmp_path: Path) -> None:
    manifest = publish(tmp_path)

    prober.ask(manifest, artifact_of(Endless()))

    assert prober.answer() == (
        "rows@1: it must load, answer its golden sample and warm up within 1 s of computing. Given: no answer"
    )


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("crash", "loading it must not end the process. Given: SIGSEGV"),
        ("abort", "loading it must not end the process. Given: SIGABRT"),
        ("exit", "loading it must not end the process. Given: exit code 7"),
        ("eat", "loading it must take at most 209,715,200 bytes of memory. Given: more"),
        ("raise", "loading it must not fail. Given: KeyError: 'nothing'"),
    ],
)
def test_what_harms_its_process_is_refused_with_the_reason(
    prober: Prober, tmp_path: Path, recipe: str, reason: str
) -> None:
    prober.ask(acting(tmp_path, recipe))

    assert prober.answer() == f"rows@1: {reason}"


@pytest.mark.skipif(kernel.landlock_abi() < 6 or not kernel.has_seccomp(), reason="needs Linux 6.12 with Landlock")
@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("create {folder}/new", "PermissionError: [Errno 13] Permission denied"),
        ("overwrite {folder}/secret", "PermissionError: [Errno 13] Permission denied"),
        ("truncate {folder}/secret", "PermissionError: [Errno 13] Permission denied"),
        ("remove {folder}/secret", "PermissionError: [Errno 13] Permission denied"),
        ("read {folder}/secret", "PermissionError: [Errno 13] Permission denied"),
        ("list {folder}", "PermissionError: [Errno 13] Permission denied"),
        ("overwrite {package}", "PermissionError: [Errno 13] Permission denied"),
        ("tcp {port}", "PermissionError: [Errno 1] Operation not permitted"),
        ("unix {folder}/socket", "PermissionError: [Errno 1] Operation not permitted"),
        ("run /bin/true", "PermissionError: [Errno 1] Operation not permitted"),
        ("signal", "PermissionError: [Errno 1] Operation not permitted"),
        ("spy", "PermissionError: [Errno 13] Permission denied"),
    ],
)
def test_what_runs_in_a_trial_reaches_no_files_no_network_no_programs_and_no_other_process(
    prober: Prober, tmp_path: Path, attempt: str, error: str
) -> None:
    (tmp_path / "secret").write_text("for nobody")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "socket"))
        unix.listen()
        given = attempt.format(folder=tmp_path, package=kernel.__file__, port=tcp.getsockname()[1])
        prober.ask(acting(tmp_path / "registry", given))
        answer = prober.answer()

    assert answer.startswith(f"rows@1: loading it must not fail. Given: {error}")
    assert (tmp_path / "secret").read_text() == "for nobody"
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_a_trial_holds_nothing_open_but_standard_streams_and_its_way_to_report(prober: Prober, tmp_path: Path) -> None:
    prober.ask(acting(tmp_path, "descriptors"))
    given = prober.answer().rpartition("KeyError: ")[2].strip("'").split()

    assert {"0", "1", "2"} <= {*given}
    assert len(given) == 5  # and the folder that was listed


def test_a_trial_is_what_the_system_ends_first_where_memory_runs_out_and_yields_when_told_to(
    prober: Prober, tmp_path: Path
) -> None:
    prober.ask(acting(tmp_path, "sleep"), gently=True)
    trial = prober.trial()

    wait_until(lambda: (Path(f"/proc/{trial.pid}/oom_score_adj").read_text(), trial.nice()) == ("1000\n", 19))
    trial.kill()
    assert prober.answer() == "rows@1: loading it must not end the process. Given: SIGKILL"


def test_a_trial_that_waits_for_ever_without_computing_is_ended_by_the_clock(tmp_path: Path) -> None:
    prober = Prober(Limits(seconds=0.05, memory_bytes=2**30))  # and twenty times that on the clock

    prober.ask(acting(tmp_path, "sleep"))

    assert "within 0.05 s of computing" in prober.answer()
    prober.close()


def test_a_prober_that_died_is_replaced_and_the_version_tried(tmp_path: Path) -> None:
    prober = Prober(Limits(seconds=60, memory_bytes=2**30))
    manifest = acting(tmp_path, "lose the prober")

    prober.ask(manifest, Registry(tmp_path).artifact(manifest))
    answers = [prober.answer()]
    prober.ask(acting(tmp_path / "another", "abort"))
    answers.append(prober.answer())

    assert answers == ["", "rows@1: loading it must not end the process. Given: SIGABRT"]
    prober.close()


def test_when_the_worker_dies_its_prober_and_a_trial_that_runs_end_too(prober: Prober, tmp_path: Path) -> None:
    # The last one, for the prober is gone after it.
    prober.ask(acting(tmp_path, "sleep"))
    family = [psutil.Process(prober.pid), prober.trial()]

    os.kill(prober.process.pid or 0, 9)

    assert still_running(family, seconds=30) == []
