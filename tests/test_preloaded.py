from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.conftest import ROOT
from tests.preloaded import Forked
from tests.processes import still_running

STARTER = """
import time
from tests.preloaded import FORKS, Forked
FORKS.set_forkserver_preload([])
print(Forked(time.sleep, 60).pid, flush=True)
time.sleep(60)
"""


def answer(code: int) -> int:
    os.write(2, f"{os.environ['ASKED']} in session {os.getsid(0)}".encode())
    return code


def test_it_has_the_environment_the_streams_and_the_session_of_a_command_and_its_exit_code() -> None:
    process = Forked(answer, 7, environment={"ASKED": "yes"})

    assert process.stderr is not None
    with process.stderr as stream:
        said = stream.read()
    assert said == f"yes in session {process.pid}"
    assert process.wait(30) == 7


def test_it_is_waited_for_no_longer_than_asked_and_ends_by_signals() -> None:
    process = Forked(time.sleep, 60)

    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.kill()

    assert process.wait(30) == -signal.SIGKILL
    process.terminate()  # which is no error once it has ended
    assert process.stderr is not None
    process.stderr.close()


def test_it_ends_when_the_process_that_started_it_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", STARTER], cwd=ROOT, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        started = psutil.Process(int(starter.stdout.readline()))

        starter.kill()

    assert still_running([started]) == []
