"""The command `python -m training`, also installed as `argmax-training`."""

import gc
import os
import signal
import sys

TERMINATED = 143  # 128 + SIGTERM, as in shells


def main() -> int:
    """Run one command and return its exit code; start quickly."""
    # A container's first process would not hear the signal without a handler. `run` has one of its own, once it begins.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(TERMINATED))
    # Imports leave many objects behind for good. Scanning them for garbage takes 0.2 s while torch is imported, and
    # 0.3 s when Python exits.
    gc.disable()
    try:
        from training.cli.command_line import main as run
    except KeyboardInterrupt:  # it takes seconds
        sys.stderr.write("\nInterrupted: nothing was begun.\n")
        return 130  # 128 + SIGINT, as in shells
    finally:
        gc.enable()
    gc.freeze()
    gc.set_threshold(50_000)
    code = run()
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
