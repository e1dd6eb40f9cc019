"""The supervisor over real processes: it replaces what dies, gives up on what cannot live, and ends all in order."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.preloaded import Forked
from tests.service.processes import supervised
from tests.waiting import wait_until


class Program:
    """A running `tests.service.processes.supervised`."""

    def __init__(self, plan: dict[str, object]) -> None:
        self.process = Forked(supervised.main, plan, pipe=1)
        self.lines: list[str] = []

    def wait_for(self, beginning: str | tuple[str, ...]) -> str:
        """The next line that begins so."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith(beginning):
                return line.strip()
        raise AssertionError(f"{beginning!r} never came: {self.lines}")

    def up(self) -> dict[str, int]:
        """The pids of the first worker and the first HTTP process, once both live."""
        pids: dict[str, int] = {}
        while len(pids) < 2:
            kind, _, _, pid = self.wait_for(("worker 0 lives", "http 0 lives")).split()
            pids[kind] = int(pid)
        return pids

    def pid(self, beginning: str) -> int:
        return int(self.wait_for(beginning).rpartition(" ")[2])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> list[str]:
        """Ask it to end; gives what it says until it has."""
        self.process.send_signal(number)
        return self.rest()

    def rest(self) -> list[str]:
        assert self.process.stdout
        rest = [line.strip() for line in self.process.stdout]
        self.lines += rest
        assert self.process.wait(30) == 0
        return rest

    def close(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


Start = Callable[..., Program]


@pytest.fixture
def start() -> Iterator[Start]:
    programs: list[Program] = []

    def start(
        *,
        worker: tuple[str, ...] = ("steady",),
        http: tuple[str, ...] = ("steady",),
        retrier: tuple[str, ...] = (),
        workers: int = 1,
        kill_seconds: float = 30,
        first_wait_seconds: float = 0.01,
        **settings: object,
    ) -> Program:
        settings = {"http_processes": 1, **settings}
        plan = {
            "worker": worker,
            "http": http,
            "retrier": retrier,
            "workers": workers,
            "kill_seconds": kill_seconds,
            "first_wait_seconds": first_wait_seconds,
            "settings": settings,
        }
        programs.append(Program(plan))
        return programs[-1]

    yield start
    for program in programs:
        program.close()


ALL_GONE = "ended with 0 left over"

# Serving


def test_everything_is_started_and_ended(start: Start) -> None:
    program = start(workers=2, http_processes=2)
    program.wait_for("on_start")
    lives = sorted(program.wait_for("") for _ in range(4))

    rest = program.stop()

    assert [line.rpartition(" ")[0] for line in lives] == [
        f"{kind} {n} lives" for kind in ("http", "worker") for n in (0, 1)
    ]
    assert sorted(rest[:-1]) == sorted(
        [
            "on_stop",
            *["http is asked to end while draining", "worker is asked to end while draining"] * 2,
            *["http ends", "worker ends"] * 2,
        ]
    )
    assert rest[-1] == ALL_GONE


@pytest.mark.parametrize("kind", ["worker", "http"])
def test_what_is_killed_is_replaced(start: Start, kind: str) -> None:
    program = start()
    pid = program.up()[kind]

    os.kill(pid, signal.SIGKILL)

    assert program.pid(f"{kind} 0 lives") != pid
    assert program.stop()[-1] == ALL_GONE


def test_the_death_of_an_http_process_is_told_with_its_pid(start: Start) -> None:
    program = start()
    pid = program.pid("http 0 lives")

    os.kill(pid, signal.SIGKILL)

    assert program.pid("on_http_death") == pid


def test_a_worker_that_falls_silent_is_killed_and_replaced(start: Start) -> None:
    program = start(worker=("hangs", "steady"), hang_seconds=0.3)
    pid = program.pid("worker 0 lives")

    assert program.pid("worker 0 lives") != pid
    assert program.stop()[-1] == ALL_GONE


def test_an_http_process_whose_loop_stands_still_is_killed_and_replaced(start: Start) -> None:
    program = start(http=("steady", "steady"), hang_seconds=0.5)
    pid = program.pid("http 0 lives")

    os.kill(pid, signal.SIGSTOP)

    assert program.pid("on_http_death") == pid
    assert program.pid("http 0 lives") != pid
    assert program.stop()[-1] == ALL_GONE


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_retrier_that_dies_or_stands_still_is_replaced(start: Start, number: signal.Signals) -> None:
    program = start(retrier=("steady",), hang_seconds=0.5)
    pid = program.pid("retrier 1 lives")

    os.kill(pid, number)

    assert program.pid("retrier 1 lives") != pid
    assert program.stop()[-1] == ALL_GONE


def test_what_a_worker_computed_when_it_died_is_blamed_and_the_service_goes_on(start: Start) -> None:
    program = start(worker=("dies computing",) * 6 + ("steady",), max_short_lives=3)

    for _ in range(6):
        program.wait_for("on_blame rows@1 digest")
    program.wait_for("worker 0 lives")

    assert program.stop()[-1] == ALL_GONE


def test_a_worker_that_does_not_come_up_is_killed_and_replaced(start: Start) -> None:
    program = start(worker=("never up", "steady"), startup_seconds=0.3)
    pid = program.pid("worker 0 lives")

    assert program.pid("worker 0 lives") != pid
    assert program.stop()[-1] == ALL_GONE


def test_a_worker_may_take_longer_to_come_up_than_it_may_be_silent(start: Start) -> None:
    program = start(worker=("never up",), hang_seconds=0.1, startup_seconds=60)
    pid = program.up()["http"]

    os.kill(pid, signal.SIGKILL)  # by the time that it is replaced, the supervisor has looked at the worker
    program.wait_for("http 0 lives")
    rest = program.stop()

    assert not [line for line in rest if line.startswith("worker 0 lives")]


@pytest.mark.parametrize(
    ("behaviour", "settings", "reason"),
    [
        ("dies", {}, "crashed"),
        ("oversized", {}, "memory"),
        ("fails", {}, "failed_start"),
        ("hangs", {"hang_seconds": 0.3}, "hung"),
        ("never up", {"startup_seconds": 0.3}, "slow_start"),
    ],
)
def test_a_replacement_is_reported_with_its_reason(
    start: Start, behaviour: str, settings: dict[str, float], reason: str
) -> None:
    program = start(worker=(behaviour, "steady"), **settings)

    reported = program.wait_for("on_worker_death")
    program.stop()

    assert reported.split()[2] == reason


# Giving up


def test_a_worker_that_never_comes_up_is_given_up_after_so_many_starts(start: Start) -> None:
    program = start(worker=("fails",), max_failed_starts=3)

    program.wait_for("ServiceFailed worker 0 failed to start 3 times in a row, last with exit code 1")
    rest = program.rest()

    assert sum(line.startswith("worker 0 fails") for line in program.lines) == 3
    assert rest[-1] == ALL_GONE


def test_failures_that_are_not_in_a_row_are_not_added_up(start: Start) -> None:
    program = start(worker=("fails", "dies", "fails", "dies", "fails", "steady"), max_failed_starts=2)

    for _ in range(3):
        program.wait_for("worker 0 fails")
    program.wait_for("worker 0 lives")

    assert program.stop()[-1] == ALL_GONE


def test_a_worker_that_calls_itself_hopeless_is_given_up_at_once(start: Start) -> None:
    program = start(worker=("hopeless",), max_failed_starts=100)

    program.wait_for("ServiceFailed worker 0 failed to start 1 time in a row")

    assert program.rest()[-1] == ALL_GONE


def test_a_worker_that_comes_up_and_dies_again_and_again_is_given_up(start: Start) -> None:
    program = start(worker=("dies",), max_short_lives=4)

    program.wait_for(
        "ServiceFailed worker 0 died 4 times in a row before it had served for 10 s or answered 10 batches"
    )
    rest = program.rest()

    assert sum(line.startswith("worker 0 lives") for line in program.lines) == 4
    assert rest[-1] == ALL_GONE


def test_a_worker_that_dies_after_work_is_replaced_for_as_long_as_it_works(start: Start) -> None:
    program = start(worker=("works and dies",) * 5 + ("steady",), max_short_lives=2)

    for _ in range(6):
        program.wait_for("worker 0 lives")

    assert program.stop()[-1] == ALL_GONE


def test_http_processes_are_tended_while_a_worker_waits_to_be_replaced(start: Start) -> None:
    program = start(worker=("dies",), first_wait_seconds=3600)
    pid = program.up()["http"]
    while sum(line.startswith("worker 0 lives") for line in program.lines) < 4:
        program.wait_for("worker 0 lives")

    os.kill(pid, signal.SIGKILL)

    assert program.wait_for(("http 0 lives", "worker 0 lives")).startswith("http")
    assert program.stop()[-1] == ALL_GONE


def test_an_http_process_that_ends_right_after_each_start_is_given_up(start: Start) -> None:
    program = start(http=("fails",), max_failed_starts=3)

    program.wait_for("ServiceFailed HTTP process 0 ended 3 times in a row right after its start")
    rest = program.rest()

    assert sum(line.startswith("http 0 fails") for line in program.lines) == 3
    assert rest[-1] == ALL_GONE


@pytest.mark.parametrize("kind", ["worker", "http"])
def test_when_a_replacement_cannot_be_started_nothing_is_left_behind(start: Start, kind: str) -> None:
    program = start(**{kind: ("steady", "cannot start")})
    pid = program.up()[kind]

    os.kill(pid, signal.SIGKILL)

    program.wait_for("OSError no process to be had")
    assert program.rest()[-1] == ALL_GONE


@pytest.mark.skipif(sys.platform != "linux", reason="orphans go to another process")
def test_nothing_remains_of_the_processes_that_dead_ones_left_behind(start: Start) -> None:
    program = start(worker=("leaves an orphan", "steady"))
    orphan = program.pid("worker leaves")

    wait_until(lambda: not psutil.pid_exists(orphan))

    assert program.stop()[-1] == ALL_GONE


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_listening_then_http_then_the_workers(start: Start, number: signal.Signals) -> None:
    program = start(http=("slow",))
    program.up()

    assert program.stop(number) == [
        "on_stop",
        "http is asked to end while draining",
        "http ends",
        "worker is asked to end while draining",
        "worker ends",
        ALL_GONE,
    ]


def test_a_worker_that_dies_while_http_finishes_is_replaced(start: Start) -> None:
    program = start(http=("slow",))
    pid = program.up()["worker"]

    program.process.send_signal(signal.SIGTERM)
    program.wait_for("http is asked to end")
    os.kill(pid, signal.SIGKILL)

    program.wait_for("worker 0 lives")
    assert program.rest()[-1] == ALL_GONE


def test_while_it_drains_it_goes_on_serving_until_it_is_asked_twice(start: Start) -> None:
    program = start(http=("watches", "steady"), drain_seconds=3600)
    pid = program.up()["http"]

    program.process.send_signal(signal.SIGTERM)
    program.wait_for("http sees draining")
    os.kill(pid, signal.SIGKILL)
    program.wait_for("http 0 lives")
    before = "on_stop" in program.lines
    rest = program.stop()

    assert not before
    assert "http is asked to end while draining" in rest
    assert rest[-1] == ALL_GONE


def test_an_http_process_that_does_not_finish_in_time_is_killed(start: Start) -> None:
    program = start(http=("stubborn",), kill_seconds=0.1, shutdown_seconds=0.3)
    program.wait_for("http 0 lives")

    rest = program.stop()

    assert "http ends" not in rest
    assert rest[-1] == ALL_GONE


def test_a_third_signal_waits_for_nobody(start: Start) -> None:
    program = start(http=("stubborn",), kill_seconds=0.1, shutdown_seconds=3600)
    program.wait_for("http 0 lives")
    program.process.send_signal(signal.SIGTERM)
    program.wait_for("on_stop")

    program.process.send_signal(signal.SIGTERM)
    program.process.send_signal(signal.SIGINT)

    rest = program.rest()
    assert rest[-1] == ALL_GONE
    assert not [line for line in rest if line.startswith("ERROR")]  # it was asked to
