"""`python -m training`: starts the command line, and starts it quickly."""

import gc
import sys

if __name__ == "__main__":
    # What imports make stays, and there is much of it: looking through it for garbage takes 0.2 s while torch is
    # imported, and 0.3 s more when Python ends.
    gc.disable()
    from training.cli.command_line import main

    gc.freeze()
    gc.enable()
    sys.exit(main())
