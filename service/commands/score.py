"""`score`: what does each image of a large collection show? Needs no service."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import ValidationError

from service.commands.options import EXIT_CODES, Parser, number, text
from service.commands.output import fail, say_passed_over, without_room
from service.commands.progress import showing
from service.counting import counted
from service.settings import Settings

if TYPE_CHECKING:
    from service.bulk.run import Engine, Result, Work

SHARD_SIZE = 8192
_SHOWN_FAILURES = 5


def main(arguments: Sequence[str]) -> int:
    """Write a row for each image of a source; return the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.engine == "local" and (options.address or options.actors):
        parser.error("--address and --actors must be given with --engine ray. Given: without")
    for package in ("pyarrow", *(["ray"] if options.engine == "ray" else [])):
        if importlib.util.find_spec(package) is None:
            extra = "ray" if package == "ray" else "parquet"
            return fail(f"this command needs {package}: pip install 'argmax[{extra}]'. Given: an environment without")
    try:
        settings = Settings(**({"registry": options.registry} if options.registry else {}))
    except ValidationError as error:
        return fail(f"settings must be valid. Given: {error}")
    # As for `serve`: a thread that waits for the others of a model call leaves the core to those that decode.
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    # Imported now, because they bring torch and pyarrow.
    from service.bulk.plan import PlanError
    from service.bulk.sources import SourceError
    from service.contract.registry import RegistryError
    from service.model.model import DeviceFailedError, UnfitModelError

    try:
        return _score(options, settings)
    except (PlanError, SourceError, RegistryError, UnfitModelError, DeviceFailedError, RuntimeError) as error:
        return fail(error)
    except OSError as error:
        return fail(without_room(options.out, error) if error.errno and not error.filename else error)


def _score(options: argparse.Namespace, settings: Settings) -> int:
    from service.bulk.run import finish, prepare
    from service.contract.registries import open_registry
    from service.contract.registry import RegistryError

    registry = open_registry(settings.registry).holder(options.model)
    settings = settings.model_copy(update={"registry": registry.url})
    manifest = registry.manifest(options.model, registry.resolve(options.model, options.version))
    if manifest.input.kind != "image":
        raise RegistryError(f"--model must be one of images. Given: {manifest.name}, which takes features")
    work = prepare(options.source, options.out, manifest, settings, shard_size=options.shard_size)
    before, total = work.plan.shards - len(work.missing), work.plan.images
    print(
        f"{counted(total, 'image')} in {counted(work.plan.shards, 'shard')} by {manifest.name}@{manifest.version}"
        + (f", {before:,} already there" if before else ""),
        file=sys.stderr,
    )
    say_passed_over(work.passed_over)
    started = time.monotonic()
    done = total * before // work.plan.shards  # about: a shard's size is known to who scores it
    with showing(sys.stderr, total, done, "image") as advance:
        result = finish(work, _engine(options), advance)
    return _report(work, result, time.monotonic() - started)


def _report(work: Work, result: Result, seconds: float) -> int:
    rate = f" ({counted(round(result.images / seconds), 'image')}/s)" if result.images else ""
    print(f"{counted(result.images, 'image')} scored in {seconds:.1f} s{rate}, {counted(result.errors, 'error')}")
    for failure in result.failures[:_SHOWN_FAILURES]:
        print(failure, file=sys.stderr)
    if result.missing:
        return fail(
            f"every shard must have a part in {work.job.destination}. "
            f"Given: {len(result.missing):,} of {work.plan.shards:,} without; the same command goes on"
        )
    print(f"{counted(work.plan.images, 'row')} in {work.job.destination}")
    return 0


def _engine(options: argparse.Namespace) -> Engine:
    if options.engine == "local":
        from service.bulk import local

        return local.score
    from service.bulk import on_ray

    actors = on_ray.Actors(options.actors, options.cpus_per_actor, options.gpus_per_actor)
    return functools.partial(on_ray.score, address=options.address, actors=actors)


def _parser() -> Parser:
    parser = Parser(
        "score",
        description="Score every image of a source with one version of a model, without a service.\n"
        "SOURCE is a folder, a bucket's prefix (s3://bucket/scans), a text file with a path or URL a line, or\n"
        "Parquet with the images' bytes. DEST receives Parquet with a row for each image: path, class_id, label,\n"
        "probability, outlier (null unless the model gives it), model, version, digest and error.\n"
        "Interrupted, the same command computes only what is missing; _SUCCESS is written when nothing is.\n"
        "A DEST belongs to one plan: the same images, version and limits.",
        epilog="examples:\n"
        "  python -m service score scans --out results --model cifar10\n"
        "  python -m service score s3://bucket/scans --out s3://bucket/results --model cifar10 --version 9 \\\n"
        "    --engine ray --address auto\n\n"
        "settings of the service that hold here too: SERVICE_REGISTRY, SERVICE_DEVICE (local), SERVICE_FORM,\n"
        "SERVICE_MAX_BATCH_SIZE, SERVICE_MAX_PIXELS, SERVICE_MAX_BODY_BYTES (of a file), SERVICE_THREADS\n\n"
        + EXIT_CODES.format(partly=" or some shards are missing"),
    )
    parser.add_argument("source", type=text, metavar="SOURCE", help="Folder, bucket prefix, list of files, or Parquet.")
    parser.add_argument("--out", type=text, required=True, metavar="DEST", help="Folder or URL for the results.")
    parser.add_argument("--model", required=True, metavar="NAME", help="Which model of the registry.")
    parser.add_argument("--version", metavar="V", help="A number or an alias. Default: the one that would be served.")
    parser.add_argument("--registry", metavar="URL", help="Default: SERVICE_REGISTRY, else models")
    parser.add_argument(
        "--shard-size",
        type=number(int, 1),
        default=SHARD_SIZE,
        metavar="N",
        help="Images in a shard, which is what a lost process has to compute again. Default: %(default)s",
    )
    parser.add_argument("--engine", choices=("local", "ray"), default="local", help="Default: %(default)s")
    group = parser.add_argument_group("with --engine ray")
    group.add_argument(
        "--address", metavar="A", help="The cluster: host:6379 or auto. Default: RAY_ADDRESS, else Ray starts here."
    )
    group.add_argument(
        "--actors", type=number(int, 1), default=0, metavar="N", help="Default: as many as there is room for now."
    )
    group.add_argument(
        "--cpus-per-actor", type=number(int, 1), default=1, metavar="N", help="Each decodes. Default: %(default)s"
    )
    group.add_argument(
        "--gpus-per-actor", type=number(float, 0), default=0, metavar="N", help="Default: %(default)g, the CPU."
    )
    return parser
