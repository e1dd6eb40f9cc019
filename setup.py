"""Compile the path of a request with mypyc, mypy's compiler of typed Python; pyproject.toml says everything else.

ARGMAX_COMPILE is 1 (compile or fail), 0 (never), or unset: compile where there are a C compiler and Python.h.
ARGMAX_OPT_LEVEL is gcc's. Levels 1, 2 and 3 make equally fast services and take 36, 47 and 49 s; 0 takes 26 s and gains
nothing.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILED = (
    # What each request runs through. The Makefile reads these lines, too.
    "service/api/body.py",
    "service/api/exchange.py",
    "service/api/inference.py",
    "service/api/json_body.py",
    "service/api/open_inference/messages.py",
    "service/api/open_inference/routes.py",
    "service/api/open_inference/tensor_inference.py",
    "service/api/open_inference/tensors.py",
    "service/api/predict.py",
    "service/api/predictions.py",
    "service/api/request.py",
    "service/api/response.py",
    "service/api/router.py",
    "service/engine/admission.py",
    "service/engine/dispatcher.py",
    "service/engine/queues.py",
    "service/engine/retries.py",
    "service/engine/served_models.py",
    "service/engine/worker_link.py",
    "service/engine/workers.py",
    "service/http/chunks.py",
    "service/http/connection.py",
    "service/http/messages.py",
    "service/http/reader.py",
    "service/images/decode.py",
    "service/images/mnist.py",
    "service/telemetry/metrics/recorder.py",
    "service/telemetry/observer.py",
)
MYPY_OPTIONS = (
    # pip builds where none of the packages is installed that the service imports, and elsewhere the result is the same.
    "--config-file=",
    "--no-site-packages",
    "--ignore-missing-imports",
    "--follow-imports=silent",
    "--cache-dir=build/mypy",
)


class Build(build_ext):
    """Replaces what an earlier build put beside the sources: its modules do not work with those of this one."""

    def run(self) -> None:
        if self.inplace:
            for module in Path("service").rglob("*.so"):
                module.unlink()
        super().run()
        for extension in self.extensions or ():
            # One that came out as before keeps its time, and would seem to be older than its source.
            Path(self.get_ext_fullpath(extension.name)).touch()


def lacks_a_compiler() -> bool:
    compiler = os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc"
    command = [*shlex.split(compiler), "-fsyntax-only", "-I", sysconfig.get_path("include"), "-x", "c", "-"]
    try:
        done = subprocess.run(command, input=b"#include <Python.h>", capture_output=True, check=False)  # noqa: S603
    except OSError:
        return True
    return done.returncode != 0


def extensions() -> list[Extension]:
    wanted = os.environ.get("ARGMAX_COMPILE", "")
    if wanted == "0" or (wanted != "1" and lacks_a_compiler()):
        reason = "ARGMAX_COMPILE is 0" if wanted == "0" else "there is no C compiler with Python.h"
        print(f"argmax: the path of a request is not compiled, because {reason}", file=sys.stderr)  # noqa: T201
        return []
    from mypyc.build import mypycify

    compiled: list[Extension] = mypycify(
        [*MYPY_OPTIONS, *COMPILED],
        opt_level=os.environ.get("ARGMAX_OPT_LEVEL", "1"),
        debug_level="0",
        # service/native__mypyc.*.so holds the code, and a small file beside each source leads to it. In the package,
        # editable installations and confined processes find it. mypyc expects it above: a compiled module may have
        # service/service/... as its `__file__`.
        group_name="service.native",
    )
    for extension in compiled:
        # Another compiler may warn of something else.
        extension.extra_compile_args = [option for option in extension.extra_compile_args if option != "-Werror"]
    return compiled


setup(ext_modules=extensions(), cmdclass={"build_ext": Build})
