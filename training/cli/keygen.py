"""`keygen`: make a key that signs versions."""

from __future__ import annotations

import argparse
import base64
from pathlib import Path

from service.contract.signatures import SignatureError, SigningKey, key_id
from training.errors import OptionError

HELP = "Make a key that signs versions."


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="New file for the private key; FILE.pub gets the public one."
    )


def run(arguments: argparse.Namespace) -> int:
    """Write both keys, and say what each is for."""
    key = SigningKey.generate()
    private, public = arguments.file, Path(f"{arguments.file}.pub")
    try:
        with public.open("x") as file:
            file.write(f"{base64.b64encode(key.public_key).decode()} {key_id(key.public_key)}\n")
        try:
            key.write(private)
        except SignatureError:
            public.unlink()
            raise
    except (SignatureError, OSError) as error:
        raise OptionError(f"keys must be written to new files. Given: {error.__cause__ or error}") from error
    print(f"Key {key_id(key.public_key)}.")
    print(f"{private} signs: python -m training train RECIPE --publish --sign {private}   (keep it secret)")
    print(f"{public} verifies: append it to the file that SERVICE_TRUSTED_KEYS names.")
    return 0
