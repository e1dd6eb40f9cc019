"""The command line of the service: `python -m service` serves."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import PydanticUndefined

from service.settings import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives the exit code: 0 done, 1 the service failed, 2 a wrong option or setting."""
    options = vars(_parser().parse_args(argv))
    try:
        settings = Settings(**{name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0]) if problem["loc"] else "settings"
            print(f"--{name.replace('_', '-')}: {problem['msg']}. Given: {problem['input']!r}", file=sys.stderr)
        return 2
    return serve(settings)


def serve(settings: Settings) -> int:
    with tempfile.TemporaryDirectory(prefix="argmax-") as folder:
        # prometheus_client chooses at import whether its numbers are shared, so this comes before what imports it.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        from service.server import Server, configure_logging
        from service.supervisor import ServiceFailed

        configure_logging(settings.log_level)
        try:
            Server(settings, Path(folder)).run()
        except (OSError, ServiceFailed, ValueError) as error:
            print(f"the service stopped: {error}", file=sys.stderr)
            return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve the models of a registry over HTTP. Each option is an environment variable too, SERVICE_*.",
    )
    for name, field in Settings.model_fields.items():
        default = "chosen by the number of cores" if field.default is PydanticUndefined else field.default
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            metavar=name.rpartition("_")[2].upper(),
            help=f"{field.description} [SERVICE_{name.upper()}; {default}]".replace("%", "%%"),
        )
    return parser


if __name__ == "__main__":
    sys.exit(main())
