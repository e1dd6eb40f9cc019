from __future__ import annotations

import fcntl
import logging
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest

from training.errors import OptionError, TrainingError
from training.learning.run_lock import alone, turn


def test_two_at_the_same_run_take_turns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    order: list[str] = []

    def second() -> None:
        with turn(tmp_path / "run" / "lock"):
            order.append("second")

    with turn(tmp_path / "run" / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        while "waiting for it to end" not in caplog.text:
            time.sleep(0.01)
        order.append("first")
    thread.join()

    assert order == ["first", "second"]


def test_who_must_be_alone_is_refused_where_another_is_and_let_in_afterwards(tmp_path: Path) -> None:
    with alone(tmp_path / "run" / "lock"), pytest.raises(TrainingError) as refused, alone(tmp_path / "run" / "lock"):
        pass

    assert str(refused.value) == (
        f"a run must be alone in its folder. Given: {tmp_path}/run, where another process trains the same. Wait for it "
        "to end, or name another folder with --runs-dir."
    )
    with alone(tmp_path / "run" / "lock"):
        pass


def test_a_lock_ends_with_the_process_that_held_it(tmp_path: Path) -> None:
    child = os.fork()
    if not child:
        with alone(tmp_path / "lock"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)

    with alone(tmp_path / "lock"):
        pass


def test_a_lock_is_not_held_by_the_processes_that_its_holder_leaves_behind(tmp_path: Path) -> None:
    reader, writer = os.pipe()

    def outlive() -> None:
        os.write(writer, b"%d" % os.getpid())
        time.sleep(60)

    child = os.fork()
    if not child:
        with alone(tmp_path / "lock"):
            multiprocessing.get_context("fork").Process(target=outlive).start()
            time.sleep(60)
    orphan = int(os.read(reader, 20))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

    try:
        with alone(tmp_path / "lock"):
            pass
    finally:
        os.kill(orphan, signal.SIGKILL)


def test_where_files_cannot_be_locked_a_job_fails_and_a_run_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(95, "Operation not supported")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(fcntl, "flock", refuse)

    with pytest.raises(TrainingError, match="runs_dir must be on a file system that locks files"), turn(tmp_path / "l"):
        pass
    with alone(tmp_path / "l"):
        pass
    assert "files cannot be locked there" in caplog.text


def test_a_folder_that_cannot_be_made_is_a_wrong_option(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")

    with pytest.raises(OptionError, match="runs_dir must be a folder to write to"), alone(tmp_path / "runs" / "lock"):
        pass
