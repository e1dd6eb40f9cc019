"""What is taken from a process is refused to it; a kernel that knows less, or nothing, takes what it can."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from service.rollout import kernel
from service.rollout.kernel import ALL, READING, WRITING, Access

ROOT = Path(__file__).parents[3]
HAS_LANDLOCK = pytest.mark.skipif(kernel.landlock_abi() < 4, reason="needs Linux 6.7 with Landlock")


class FakeLibc:
    """A libc over a kernel with Landlock's interface of version `abi`, 0 for none, and no seccomp."""

    def __init__(self, abi: int) -> None:
        self.abi = abi
        self.rulesets: list[tuple[int, ...]] = []
        self.rules: list[int] = []
        self.calls: list[int] = []

    def prctl(self, *_: object) -> int:
        self.calls.append(0)
        return 0

    def syscall(self, number: ctypes.c_long, *arguments: object) -> int:
        self.calls.append(number.value)
        if not self.abi or number.value not in (444, 445, 446):
            ctypes.set_errno(errno.ENOSYS)
            return -1
        if number.value == 445:
            assert isinstance(arguments[2], bytes)
            self.rules.append(struct.unpack("=Qi", arguments[2])[0])
        elif number.value == 444 and arguments[0] is None:
            return self.abi
        elif number.value == 444:
            assert isinstance(arguments[0], bytes)
            self.rulesets.append(struct.unpack("=QQQ", arguments[0]))
            return os.open(os.devnull, os.O_RDONLY)
        return 0


@pytest.fixture
def libc(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> FakeLibc:
    fake = FakeLibc(request.param)
    monkeypatch.setattr(kernel, "libc", fake)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    return fake


@pytest.mark.parametrize("libc", [0], indirect=True)
def test_a_kernel_without_landlock_and_seccomp_offers_nothing(libc: FakeLibc) -> None:
    assert (kernel.landlock_abi(), kernel.has_seccomp()) == (0, False)
    with pytest.raises(OSError, match="not implemented"):
        kernel.restrict(ALL, [])
    assert 446 not in libc.calls


def test_on_another_system_no_call_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "libc", None)  # a call would fail
    monkeypatch.setattr(platform, "system", lambda: "Darwin")

    assert (kernel.landlock_abi(), kernel.has_seccomp()) == (0, False)


@pytest.mark.parametrize(
    ("libc", "expected"),
    [
        (1, (0x1FFF, 0, 0)),
        (2, (0x3FFF, 0, 0)),
        (3, (0x7FFF, 0, 0)),
        (4, (0x7FFF, 3, 0)),
        (5, (0xFFFF, 3, 0)),
        (6, (0xFFFF, 3, 3)),
        (99, (0xFFFF, 3, 3)),
    ],
    indirect=["libc"],
)
def test_each_version_of_landlock_is_asked_for_what_it_knows(
    libc: FakeLibc, expected: tuple[int, int, int], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()

    allowed = [(tmp_path, ALL), (file, ALL), (tmp_path / "not there", ALL), (file, READING)]
    kernel.restrict(ALL, allowed, connect=False, signal=False)

    of_files = 0b111 | expected[0] & (Access.TRUNCATE | Access.IOCTL_DEV)
    assert libc.rulesets == [expected]
    assert libc.rules == [expected[0], of_files, Access.READ_FILE]
    assert libc.calls[-2:] == [0, 446]  # without privileges first, and then restricted


@pytest.mark.parametrize("libc", [6], indirect=True)
def test_a_process_that_connects_and_signals_keeps_both(libc: FakeLibc) -> None:
    kernel.restrict(WRITING, [])

    assert libc.rulesets == [(int(WRITING), 1, 0)]


def verdict(program: bytes, architecture: int, number: int) -> int:
    """Run a filter as the kernel does; return its verdict on a call."""
    steps = list(struct.iter_unpack("=HBBI", program))
    words = {0: number, 4: architecture}
    at = loaded = 0
    while True:
        code, if_true, if_false, value = steps[at]
        at += 1
        if code == 0x20:
            loaded = words[value]
        elif code == 0x15:
            at += if_true if loaded == value else if_false
        elif code == 0x35:
            at += if_true if loaded >= value else if_false
        else:
            return int(value)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_refuses_its_calls_and_those_of_other_architectures_and_allows_the_rest(machine: str) -> None:
    architecture = kernel._ARCHITECTURES[machine]
    refused = set(architecture.calls.values())
    program = kernel._program(architecture)
    of_x32 = 0x40000000 | architecture.calls["socket"]

    verdicts = {number: verdict(program, architecture.audit, number) for number in [*range(500), of_x32]}

    assert {number for number, given in verdicts.items() if given == 0x00050001} == {*refused, of_x32}
    assert set(verdicts.values()) == {0x00050001, 0x7FFF0000}
    assert verdict(program, 0x40000003, 1) == 0x00050001  # i386


def outcomes(restriction: str, *attempts: str, folder: Path) -> list[str]:
    """Return what becomes of each attempt in a process of its own after a restriction."""
    tried = "".join(
        f"try: {attempt}; print('done')\nexcept OSError as e: print(type(e).__name__, e.errno)\n"
        for attempt in attempts
    )
    code = (
        f"import os, socket, threading\nfrom pathlib import Path\nfrom service.rollout import kernel\n"
        f"from service.rollout.confinement import confine_worker\nfolder = Path({str(folder)!r})\n"
        f"(folder / 'file').write_text('kept'); (folder / 'own').mkdir()\n"
        f"server = socket.create_server(('127.0.0.1', 0))\n{restriction}\n{tried}"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return run.stdout.splitlines()


@HAS_LANDLOCK
@pytest.mark.parametrize(("connects", "connection"), [(True, "done"), (False, "PermissionError 13")])
def test_a_worker_writes_into_its_folders_alone_and_connects_only_where_it_must(
    tmp_path: Path, connects: bool, connection: str
) -> None:
    assert outcomes(
        f"confine_worker([folder / 'own'], connects={connects})",
        "(folder / 'own' / 'a').write_text('x'); (folder / 'own' / 'a').rename(folder / 'own' / 'b')",
        "(folder / 'own' / 'b').unlink()",
        "(folder / 'file').read_text(); os.listdir(folder)",
        "(folder / 'file').open('r+')",
        "os.truncate(folder / 'file', 0)",
        "(folder / 'file').unlink()",
        "(folder / 'new').mkdir()",
        "Path('/proc/self/oom_score_adj').write_text('1000')",
        "open(os.devnull, 'w').close()",
        "socket.create_connection(server.getsockname()).close()",
        "socket.create_server(('127.0.0.1', 0))",
        "socket.socketpair()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        folder=tmp_path,
    ) == [*["done"] * 3, *["PermissionError 13"] * 4, "done", "done", connection, "PermissionError 13", "done", "done"]


@pytest.mark.skipif(not kernel.has_seccomp(), reason="needs Linux with seccomp on x86-64 or arm64")
def test_refused_calls_fail_on_all_threads_and_others_work(tmp_path: Path) -> None:
    thread = (
        "ready, go, found = threading.Event(), threading.Event(), []\n"
        "def wait():\n    ready.set(); go.wait()\n    try: socket.socket()\n    except OSError as e: found.append(e)\n"
        "t = threading.Thread(target=wait); t.start(); ready.wait()\nkernel.refuse_calls(); go.set(); t.join()"
    )

    assert outcomes(
        thread,
        "raise found[0]",
        "socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)",
        "os.execv('/bin/true', ['true'])",
        "os.close(os.pipe()[0])",
        "(folder / 'own' / 'a').write_text('x')",
        folder=tmp_path,
    ) == [*["PermissionError 1"] * 3, "done", "done"]
