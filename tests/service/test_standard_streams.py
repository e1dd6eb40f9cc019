"""Commands whose output is closed, full or cut off: in processes of their own, whose standard streams are real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SPEAKING = """
import sys
from service import standard_streams
def command():
    print("x" * 100_000)
    return 3
sys.exit(standard_streams.run(command))
"""


def run(redirection: str, code: str = SPEAKING) -> subprocess.CompletedProcess[str]:
    line = f'exec "$0" -c "$1" {redirection}'
    return subprocess.run(["sh", "-c", line, sys.executable, code], cwd=ROOT, capture_output=True, text=True)


def test_a_command_whose_output_is_read_ends_with_its_own_code() -> None:
    done = run("")

    assert (done.returncode, len(done.stdout), done.stderr) == (3, 100_001, "")


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_does_no_harm(redirection: str) -> None:
    done = run(redirection)

    assert (done.returncode, done.stderr) == (3, "")


def test_a_reader_that_has_seen_enough_is_no_error_to_tell_of() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, "-c", SPEAKING], cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)

    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_output_that_does_not_fit_is_an_error_of_one_line() -> None:
    done = run("> /dev/full")

    assert done.returncode == 1
    assert done.stderr == "error: the output must have room. Given: No space left on device\n"
