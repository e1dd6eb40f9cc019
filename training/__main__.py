"""The command `python -m training`, also installed as `argmax-training`."""

import gc
import sys


def main() -> int:
    """Run one command and return its exit code; start quickly."""
    # Imports leave many objects behind for good. Scanning them for garbage takes 0.2 s while torch is imported, and
    # 0.3 s when Python exits.
    gc.disable()
    from training.cli.command_line import main as run

    gc.freeze()
    gc.set_threshold(50_000)
    gc.enable()
    code = run()
    gc.freeze()
    return code


if __name__ == "__main__":
    sys.exit(main())
