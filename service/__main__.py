"""The command line: `python -m service [COMMAND]`, where no command is `serve`."""

from __future__ import annotations

import contextlib
import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence

from service import standard_streams
from service.commands import COMMANDS

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
TERMINATED = 143  # 128 + SIGTERM; a container's first process would not hear the signal without a handler


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit code: 0 done, 1 failed, 2 wrong usage, 130 or 143 interrupted."""
    return standard_streams.run(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(arguments: list[str]) -> int:
    name = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "serve"
    if name not in COMMANDS:
        known = ", ".join(COMMANDS)
        print(
            f"error: the command must be one of {known}. Given: {name}. See: python -m service --help", file=sys.stderr
        )
        return 2
    try:
        with _ended_by_sigterm():
            # Imported where needed: `health` runs every few seconds in a container, and `predict` has no use for torch.
            code: int = importlib.import_module(f"service.commands.{name}").main(arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return code


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Unwind on SIGTERM; only the main thread hears signals."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        sys.exit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:  # `serve` leaves it ignored
            signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    sys.exit(main())
