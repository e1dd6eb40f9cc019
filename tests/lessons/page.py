"""A lesson: a Markdown page whose code and commands run. Knows nothing about pytest or about what a lesson teaches."""

from __future__ import annotations

import contextlib
import doctest
import io
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from service.__main__ import main as service_main
from training.cli.command_line import main as training_main

COMMAND_LINES = {"training": training_main, "service": service_main}
PROMPT = "$ "


@dataclass(frozen=True)
class Block:
    """Code or one command of a page, and what it must print."""

    kind: str  # python, or console
    line: int  # of its first line in the page, from 1
    code: str
    expected: str


def blocks_of(text: str) -> list[Block]:
    """Return the blocks of a page in order: its Python, and each command of its consoles."""
    blocks: list[Block] = []
    found = list(re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))
    for place, (kind, code) in enumerate((match[1], match[2]) for match in found):
        line = text.count("\n", 0, found[place].start()) + 2
        if kind == "python":
            after = found[place + 1] if place + 1 < len(found) else None
            follows = after is not None and not text[found[place].end() : after.start()].strip()
            expected = after[2] if after is not None and follows and after[1] == "text" else ""
            blocks.append(Block(kind, line, code, expected))
        elif kind == "console":
            blocks += _commands(code, line)
    return blocks


def _commands(code: str, line: int) -> Iterator[Block]:
    lines = code.splitlines(keepends=True)
    starts = [place for place, text in enumerate(lines) if text.startswith(PROMPT)]
    if not starts or starts[0]:
        raise ValueError(f"a console must begin with a command after {PROMPT!r}. Given, in line {line}: {lines[0]!r}")
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        command = lines[start].removeprefix(PROMPT)
        output = start + 1
        while command.endswith("\\\n"):
            command, output = command.removesuffix("\\\n") + lines[output], output + 1
        yield Block("console", line + start, command.strip(), "".join(lines[output:end]))


def run(block: Block, namespace: dict[str, Any], *, title: str) -> str:
    """Run one block and return what it printed; Python shares `namespace` with the page's other blocks."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if block.kind == "python":
            # The newlines before it give its lines the numbers that they have in the page.
            exec(compile("\n" * (block.line - 1) + block.code, title, "exec"), namespace)
        else:
            _command(block.code)
    return printed.getvalue()


def _command(command: str) -> None:
    words = shlex.split(command)
    if words[:2] == ["python", "-m"]:  # in this process: importing torch takes two seconds
        code = COMMAND_LINES[words[2]](words[3:])
    else:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        sys.stdout.write(done.stdout)
        code = done.returncode
    if code:
        raise RuntimeError(f"{command!r} must exit with 0. Given: {code}")


def agrees(expected: str, printed: str) -> bool:
    """Return whether `printed` is what a page says, where ... stands for anything."""
    return doctest.OutputChecker().check_output(expected.rstrip("\n"), printed.rstrip("\n"), doctest.ELLIPSIS)
