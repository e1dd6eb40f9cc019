"""The rights that processes which run artifacts give up before they do: files, network, programs, other processes.

What was open before stays open, so a pipe to the parent works on. Where the kernel has none of this, or a container's
profile forbids it, processes run as they did, and `announce` says so. Knows nothing about artifacts.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from service.rollout import kernel
from service.rollout.kernel import ALL, READING, WRITING, Access

logger = logging.getLogger(__name__)

_SYSTEM = (
    "/usr",
    "/lib",
    "/lib64",
    "/sys",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",  # of the process that opens it now
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/devices",
    "/proc/driver",
)
_DEVICES = ("null", "zero", "urandom", "shm", "dxg", "nvmap", "nvidia*", "nvhost*")
"""Files in /dev that CUDA opens, also on Jetson and in WSL."""


def announce() -> None:
    """Log what confines artifacts on this system, once for all processes that run them."""
    abi = kernel.landlock_abi()
    kinds = {f"Landlock (ABI {abi})" if abi else "Landlock": abi > 0, "seccomp": kernel.has_seccomp()}
    there = " and ".join(kind for kind, is_there in kinds.items() if is_there)
    missing = " nor ".join(kind for kind, is_there in kinds.items() if not is_there)
    if not missing:
        logger.info("artifacts are confined by %s", there)
    else:
        logger.warning(
            "artifacts are confined by %s, because this system does not offer %s", there or "nothing", missing
        )


def confine_trial() -> None:
    """Leave this process nothing but computing: it may read Python, torch and the system's libraries, and no more."""
    devices = ((path, READING | Access.WRITE_FILE | Access.IOCTL_DEV) for path in _devices())
    readable = ((path, READING) for path in _libraries())
    if kernel.landlock_abi():
        _try(lambda: kernel.restrict(ALL, [*readable, *devices], connect=False, signal=False))
    if kernel.has_seccomp():
        _try(kernel.refuse_calls)


def confine_worker(folders: Iterable[Path], *, connects: bool) -> None:
    """Let this process write into `folders` alone, and open TCP connections only if it `connects`.

    It may read what it could, because a registry's models may be links to anywhere.
    """
    # /proc: a trial of a prober that replaced another is a grandchild, and says there that it may be killed first.
    writable = [*folders, *_devices(), Path("/proc")]
    if kernel.landlock_abi():
        _try(lambda: kernel.restrict(WRITING, [(path, WRITING) for path in writable], connect=connects))


def _libraries() -> set[Path]:
    """Return where Python, torch and this package are, and where every library lies that is loaded now."""
    own = Path(__file__).parents[1]
    torch = importlib.util.find_spec("torch")
    installed = [Path(torch.origin).parents[1]] if torch and torch.origin else []
    return {*map(Path, (*_SYSTEM, sys.prefix, sys.base_prefix)), own, *installed, *_mapped()}


def _mapped() -> set[Path]:
    """Return the folders of the libraries that this process has loaded, which may lie anywhere, as on NixOS."""
    try:
        maps = Path("/proc/self/maps").read_text(errors="replace")
    except OSError:
        return set()
    # As text until the end: torch has thousands of lines here, and as many paths took 20 ms.
    files = {line[line.index("/") :] for line in maps.splitlines() if ".so" in line and "/" in line}
    return {Path(file).parent for file in files}


def _devices() -> list[Path]:
    return [path for name in _DEVICES for path in Path("/dev").glob(name)]


def _try(restrict: Callable[[], None]) -> None:
    try:
        restrict()
    except OSError as error:
        logger.warning("process %s keeps rights that it does not need: %s", os.getpid(), error)
