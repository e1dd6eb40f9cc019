"""`classify`: what does each image of a folder show?"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from service.client import AsyncClient, ClientError
from service.client.batches import MOST_IMAGES
from service.commands.asking import client_options
from service.commands.options import EXIT_CODES, Parser, add_choice, add_connection, number, path
from service.commands.output import fail, passed_over, say_passed_over, without_room
from service.commands.progress import showing
from service.commands.results import Results, ResultsError
from service.counting import counted
from service.images.formats import SUFFIXES, other_endings

RESULT_SUFFIXES = (".csv", ".parquet")


def main(arguments: Sequence[str]) -> int:
    """Write a row for each image under a folder; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if not options.folder.is_dir():
        parser.error(f"FOLDER must be a folder. Given: {options.folder}")
    if options.out.suffix not in RESULT_SUFFIXES:
        parser.error(f"--out must end in {' or '.join(RESULT_SUFFIXES)}. Given: {options.out}")
    try:
        with Results(options.out) as results:
            results.expect(options.model, options.version)
            return _classify(options, results)
    except ResultsError as error:
        return fail(error)
    except OSError as error:
        return fail(error if error.filename else without_room(options.out, error))


def images_under(folder: Path, others: Counter[str] | None = None) -> Iterator[str]:
    """Return the path, from `folder` on, of each image under it, in the same order each time.

    `others` counts what is passed over by how their names end, and links to folders, which are not followed.

    Raises:
        OSError: a folder cannot be listed.
    """
    for where, folders, files in os.walk(folder, onerror=_raise):
        folders.sort()
        if others is not None:
            others["behind a link to a folder"] += sum(Path(where, name).is_symlink() for name in folders)
            others.update(other_endings(files))
        for name in sorted(files):
            if not name.lower().endswith(SUFFIXES):
                continue
            path = Path(where, name)
            if not path.exists() or path.is_file():
                yield os.path.relpath(path, folder)
            elif others is not None:
                others["pipe or device"] += 1  # which would be waited for


def _raise(error: OSError) -> NoReturn:
    raise error


def _classify(options: argparse.Namespace, results: Results) -> int:
    others: Counter[str] = Counter()
    total, before = sum(1 for _ in images_under(options.folder, others)), len(results.done)
    own = [file for file in results.files() if options.folder.resolve() in file.resolve().parents]
    others.subtract(other_endings(file.name for file in own))
    others = +others
    if total == 0:
        given = f"none, but {passed_over(others)}" if others else "none"
        return fail(f"{options.folder} must hold images ({' '.join(SUFFIXES)}). Given: {given}")
    say_passed_over(others)
    if before:
        print(f"already in {options.out}: {counted(before, 'file')}", file=sys.stderr)
    started = time.monotonic()
    added = 0

    def add() -> None:
        nonlocal added
        added += 1
        advance()

    try:
        with showing(sys.stderr, total, before) as advance:
            asyncio.run(_add_missing(options, results, add))
    except (ClientError, KeyboardInterrupt) as error:
        print(
            f"in {options.out}: {before + added:,} of {counted(total, 'file')}; the same command goes on",
            file=sys.stderr,
        )
        if isinstance(error, ClientError):
            return fail(error)
        raise
    results.finish()
    seconds = time.monotonic() - started
    rate = f", {added:,} now in {seconds:.1f} s ({counted(round(added / seconds), 'file')}/s)" if added else ""
    print(f"{counted(before + added, 'file')} in {options.out}, {counted(results.failed, 'error')}{rate}")
    return int(results.failed > 0)


async def _add_missing(options: argparse.Namespace, results: Results, advance: Callable[[], None]) -> None:
    missing = (options.folder / path for path in images_under(options.folder) if path not in results.done)
    async with AsyncClient(**client_options(options)) as client:
        async for classified in client.classify(
            missing,
            concurrency=options.concurrency,
            batch_size=options.batch_size,
            model=options.model,
            version=options.version,
            abstain=options.abstain,
        ):
            results.add(os.path.relpath(classified.path, options.folder), classified.answer)
            advance()


def _parser() -> Parser:
    parser = Parser(
        "classify",
        description="Classify every image under a folder (PNG, JPEG, WebP, GIF, BMP, by the ending of its name;\n"
        "others are passed over, and counted).\n"
        "The result has a row for each: path (from FOLDER on), class_id, label, probability, whether it is\n"
        "an outlier (a blank picture has no label), the model and the version that answered, and error.\n"
        "Interrupted, the same command goes on where it was; rows that are there stay as they are,\n"
        "so another model needs a new file. Other users of the service are answered first.",
        epilog="examples:\n"
        "  python -m service classify scans --out results.csv\n"
        "  python -m service classify scans --out results.parquet --model mnist --concurrency 8\n\n"
        + EXIT_CODES.format(partly=" or some files failed"),
    )
    parser.add_argument("folder", type=path, metavar="FOLDER", help="Folder of images, and of folders of them.")
    parser.add_argument(
        "--out", type=path, required=True, metavar="FILE", help="Results: .csv, or .parquet (needs pyarrow)."
    )
    parser.add_argument(
        "--concurrency",
        type=number(int, 1),
        default=4,
        metavar="N",
        help="Most requests under way at once. Default: %(default)s",
    )
    parser.add_argument(
        "--batch-size",
        type=number(int, 1),
        default=MOST_IMAGES,
        metavar="N",
        help="Most files in one request. Default: %(default)s",
    )
    parser.add_argument("--abstain", action="store_true", help="No label for images unlike the training data.")
    add_choice(parser)
    add_connection(parser, retry_seconds=60)
    return parser
