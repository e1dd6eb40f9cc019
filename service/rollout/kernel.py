"""Rights taken from a running process for good: paths, TCP, signals (Landlock) and system calls (seccomp).

Python has no functions for these calls, so they go through ctypes. A kernel, a container's profile or a system without
them is no error: `landlock_abi` is then 0, `has_seccomp` false. Knows nothing about what should be taken from whom.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

libc: Any = ctypes.CDLL(None, use_errno=True)


class Access(enum.IntFlag):
    """Rights to what lies below a path, by the bits that Landlock gives them."""

    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE = 0b1111111 << 6  # devices, folders, files, sockets, pipes and links
    REFER = 1 << 13  # to move and link between folders
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


READING = Access.READ_FILE | Access.READ_DIR
WRITING = Access.WRITE_FILE | Access.REMOVE_DIR | Access.REMOVE_FILE | Access.MAKE | Access.REFER | Access.TRUNCATE
ALL = READING | WRITING | Access.EXECUTE | Access.IOCTL_DEV

_OF_FILES = Access.EXECUTE | Access.WRITE_FILE | Access.READ_FILE | Access.TRUNCATE | Access.IOCTL_DEV
_SINCE = {Access.REFER: 2, Access.TRUNCATE: 3, Access.IOCTL_DEV: 5}
"""The versions of Landlock's interface that brought rights; earlier ones refuse a ruleset that names them."""

_TCP_SINCE, _TCP_BIND, _TCP_CONNECT = 4, 1, 2
_SCOPES_SINCE, _ABSTRACT_SOCKETS, _SIGNALS = 6, 1, 2

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every architecture
_RULESET_VERSION, _PATH_BENEATH = 1, 1

_SET_NO_NEW_PRIVS = 38
_SET_FILTER, _ALL_THREADS, _ACTION_AVAILABLE = 1, 1, 2

# linux/filter.h: load a word, compare it, return.
_LOAD, _IF_EQUAL, _IF_AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # where seccomp's data has them
_FOREIGN = 0x40000000  # numbers of x86-64's second set of calls begin here
_ALLOWED, _REFUSED = 0x7FFF0000, 0x00050000 | errno.EPERM


class _Architecture:
    """Numbers of an architecture's system calls, and its own."""

    def __init__(self, audit: int, seccomp: int, **calls: int) -> None:
        self.audit = audit
        self.seccomp = seccomp
        self.calls = calls


_ARCHITECTURES = {
    "x86_64": _Architecture(
        0xC000003E,
        317,
        socket=41,
        connect=42,
        bind=49,
        listen=50,
        execve=59,
        execveat=322,
        ptrace=101,
        process_vm_readv=310,
        process_vm_writev=311,
        io_uring_setup=425,
    ),
    "aarch64": _Architecture(
        0xC00000B7,
        277,
        socket=198,
        connect=203,
        bind=200,
        listen=201,
        execve=221,
        execveat=281,
        ptrace=117,
        process_vm_readv=270,
        process_vm_writev=271,
        io_uring_setup=425,
    ),
}


def landlock_abi() -> int:
    """Return the version of Landlock's interface; 0 where it is missing or forbidden."""
    if platform.system() != "Linux":
        return 0
    try:
        return _call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_RULESET_VERSION))
    except OSError:
        return 0


def has_seccomp() -> bool:
    """Return whether `refuse_calls` can work here."""
    architecture = _architecture()
    if architecture is None:
        return False
    refused = ctypes.c_uint(_REFUSED & 0xFFFF0000)
    try:
        _call(architecture.seccomp, ctypes.c_uint(_ACTION_AVAILABLE), ctypes.c_uint(0), ctypes.byref(refused))
    except OSError:
        return False
    return True


def restrict(
    handled: Access, allowed: Iterable[tuple[Path, Access]], *, connect: bool = True, signal: bool = True
) -> None:
    """Take the rights `handled` away from this thread and its children, but for `allowed` below paths; and TCP's ports.

    Without `connect` no TCP connection can be made, and without `signal` nothing outside can be signalled. What this
    kernel does not know is not taken away; paths that are not there are passed over.

    Raises:
        OSError: nothing was taken away.
    """
    abi = landlock_abi()
    for access, since in _SINCE.items():
        if abi < since:
            handled &= ~access
    tcp = _TCP_BIND | (0 if connect else _TCP_CONNECT) if abi >= _TCP_SINCE else 0
    scoped = _ABSTRACT_SOCKETS | _SIGNALS if abi >= _SCOPES_SINCE and not signal else 0
    attributes = struct.pack("=QQQ", handled, tcp, scoped)
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint(0))
    try:
        for path, access in allowed:
            _allow(ruleset, path, access & handled)
        _forbid_privileges()
        _call(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint(0))
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, access: Access) -> None:
    try:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            access &= _OF_FILES
        if access:
            rule = struct.pack("=Qi", access, folder)
            _call(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint(0))
    finally:
        os.close(folder)


def refuse_calls() -> None:
    """Let this process make no socket, start no program and reach into no other process: such calls fail with EPERM.

    Raises:
        OSError: nothing was taken away.
    """
    architecture = _architecture()
    if architecture is None:
        raise OSError(errno.ENOSYS, f"seccomp must have a filter for this architecture. Given: {platform.machine()}")
    program = _program(architecture)
    code = ctypes.create_string_buffer(program, len(program))
    described = struct.pack("@HP", len(program) // 8, ctypes.addressof(code))
    _forbid_privileges()
    if thread := _call(architecture.seccomp, ctypes.c_uint(_SET_FILTER), ctypes.c_uint(_ALL_THREADS), described):
        raise OSError(errno.EBUSY, f"all threads must take the filter. Given: {thread} has another")


def _program(architecture: _Architecture) -> bytes:
    """Return the filter: calls of another architecture are refused, and so are those in the table."""
    calls = sorted(architecture.calls.values())
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_IF_EQUAL, 0, len(calls) + 3, architecture.audit),  # else go to the last step
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, len(calls) + 1, 0, _FOREIGN),
        *((_IF_EQUAL, len(calls) - i, 0, number) for i, number in enumerate(calls)),
        (_RETURN, 0, 0, _ALLOWED),
        (_RETURN, 0, 0, _REFUSED),
    ]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


def _architecture() -> _Architecture | None:
    if platform.system() != "Linux" or sys.maxsize < 2**32:
        return None
    return _ARCHITECTURES.get(platform.machine())


def _forbid_privileges() -> None:
    """Give up what setuid programs would give, without which the kernel takes restrictions from nobody but root."""
    zero = ctypes.c_ulong(0)
    if libc.prctl(ctypes.c_int(_SET_NO_NEW_PRIVS), ctypes.c_ulong(1), zero, zero, zero):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _call(number: int, *arguments: object) -> int:
    result = int(libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
