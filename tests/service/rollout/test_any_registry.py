"""Whatever lies in a registry, it harms at most its own model: 5,100 seeded manifests, aliases and folders.

A case that fails is repeated alone from its number. No version is computed here, so a case takes under a millisecond.
"""

from __future__ import annotations

import copy
import json
import logging
import math
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.contract.manifest import ModelManifest
from service.contract.registry import CorruptVersionError, Registry, parse_manifest
from service.contract.variants import Form
from service.engine import messages
from service.engine.line_up import LineUp
from service.engine.messages import MessageReader
from service.engine.served_models import ServedModel
from service.model.outputs import Outputs
from service.rollout.cache import Cache
from service.rollout.catalogue import Catalogue
from service.rollout.mirror import Mirror
from tests.registries import publish

MANIFESTS, ALIASES, FOLDERS = 4000, 700, 400
assert MANIFESTS + ALIASES + FOLDERS >= 5000

NUMBERS = (0, -1, 1, 2**31, 2**53, 2**63, 2**64, 10**25, 10**400, 0.5, -0.0, 1e-320, 1e39, 1e308)
WORDS = ("", "\0", "a\nb", "\u2028", "😀", "x" * 5000, "../../etc", '"} 1\nevil 1\n#', "-1", "NaN", "²")
RAW = ("Infinity", "-Infinity", "NaN", "1e999", "9" * 5000, '"\\ud800"', "[" * 300 + "]" * 300, "{", "")
"""What JSON libraries write or read differently, put into the text where a value stands."""

TEXTS = (b"", b"\n", b"latest", b"\xff\xfe\0", b"1 2", b"-1", b"+1", b"1.0", b"0", b"00", b"9", b"9" * 30, b"\xc2\xb2")
HUGE = b"1" * 5000


class FakeModel:
    """A version as the line-up knows it."""

    def __init__(self, manifest: ModelManifest, _artifact: bytes) -> None:
        self.manifest = manifest
        self.form = Form()


def catalogue(root: Path, cache: Cache | None = None) -> Catalogue:
    return Catalogue(Mirror(Registry(root), cache), FakeModel, keep_versions=1)  # type: ignore[arg-type]


def announced(line_up: LineUp) -> dict[str, int]:
    """Return the default versions as an HTTP process reads them, which must be able to read what the worker writes."""
    models = {
        number: ServedModel(entry.model.manifest, default=entry.default, aliases=entry.aliases, form=entry.model.form)
        for number, entry in enumerate(line_up.served)
    }
    (message,) = MessageReader().feed(messages.pack_models(models, line_up.absent))
    read, absent = messages.unpack_models(message.payload)
    assert [model.manifest for model in read.values()] == [entry.model.manifest for entry in line_up.served]
    assert absent == line_up.absent
    assert all(len(version.reason) <= 1000 for version in absent)
    return {model.name: model.version for model in read.values() if model.default}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = publish(tmp_path_factory.mktemp("source"), "rows").model_dump_json()
    found: dict[str, Any] = json.loads(text)
    found["metrics"] = [{"name": "accuracy", "value": 0.5, "data": "rows/test", "n": 10}]
    found["provenance"]["hyper_parameters"] = {"lr": 0.1, "layers": [1, 2, {"deep": 3}]}
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path to everything in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    found = copy.deepcopy(document)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


def damaged(chance: random.Random, document: dict[str, Any]) -> bytes:
    """Return a manifest with something else in one or two places, or cut off, or with other bytes."""
    changed, mark = document, "here-is-a-value"
    for _ in range(chance.choice((1, 1, 2))):
        there = chance.choice(places(changed))
        value: Any = chance.choice((*NUMBERS, *WORDS, None, True, [], {}, [[]], mark, mark, mark))
        changed = put(changed, there, value)
        if not isinstance(changed, dict):
            break
    text = json.dumps(changed).replace(f'"{mark}"', chance.choice(RAW))
    data = bytearray(text.encode())
    how = chance.random()
    if how < 0.05:
        del data[chance.randrange(len(data) + 1) :]
    elif how < 0.1 and data:
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def test_a_manifest_is_refused_in_a_few_words_or_can_be_served_and_told_of(document: dict[str, Any]) -> None:
    read = longest = 0
    for number in range(MANIFESTS):
        data = damaged(random.Random(number), document)
        try:
            manifest = parse_manifest(data, "rows", 1)
        except CorruptVersionError as error:
            longest = max(longest, len(str(error)))
            continue
        read += 1
        model = FakeModel(manifest, b"")
        entry = LineUp(((model, True, ()),))  # type: ignore[arg-type]
        served = ServedModel(manifest, default=True)
        (message,) = MessageReader().feed(messages.pack_models({0: served}, entry.absent))
        assert messages.unpack_models(message.payload)[0][0].manifest == manifest, number
        assert 0 < manifest.golden.tolerance <= 1, number
        assert all(math.isfinite(logit) and abs(logit) < 3.5e38 for row in manifest.golden.logits for logit in row)
        outputs = Outputs.of(golden_logits(manifest), temperature=manifest.temperature)
        assert (outputs.class_ids >= 0).all(), f"{number}: logits over the temperature must stay finite"

    assert longest <= 1000
    assert read > MANIFESTS // 50, "some changes must be harmless, or nothing but refusals was tried"


def golden_logits(manifest: ModelManifest) -> Any:
    import numpy as np

    return np.clip(np.array(manifest.golden.logits, np.float32), -1e4, 1e4)


def test_an_alias_of_any_content_leaves_its_model_served_and_is_told_unless_it_names_a_version(tmp_path: Path) -> None:
    for _ in range(2):
        publish(tmp_path, "good", artifact=b"weights")
    publish(tmp_path, "other", artifact=b"weights")
    folder = tmp_path / "good" / "aliases"
    folder.mkdir()

    for number in range(ALIASES):
        chance = random.Random(number)
        alias = folder / chance.choice(("production", "canary", "notes"))
        text = chance.choice((*TEXTS, HUGE, b"1", b"2\n", chance.randbytes(chance.randrange(1, 40))))
        alias.write_bytes(text)
        line_up = catalogue(tmp_path).line_up()
        alias.unlink()

        is_named = text.strip() in (b"1", b"2")
        told = [absent.name for absent in line_up.absent]
        expected = int(text) if is_named and alias.name == "production" else 2
        assert announced(line_up) == {"good": expected, "other": 1}, number
        assert told == ([] if is_named else ["good"]), number
    assert catalogue(tmp_path).line_up().absent == ()


WHOLE: dict[str, bytes] = {}


def _name(chance: random.Random) -> str:
    return chance.choice(
        ("1", "2", "001", "0", "-1", "1.5", "²", "9" * 25, "9" * 200, "aliases", "history", "turns", ".3", "a", "BAD")
    )


def _write(model: Path, name: str, data: bytes) -> None:
    """Write a new file, never through a link or a pipe that another fault has put there."""
    place = model / name
    place.unlink(missing_ok=True)
    if place.parent != model and place.parent.is_symlink():
        raise OSError(f"{place} leads elsewhere")
    place.parent.mkdir(exist_ok=True)
    with place.open("xb") as file:
        file.write(data)


def _stray_file(chance: random.Random, model: Path) -> None:
    _write(model, _name(chance), chance.choice((*TEXTS, HUGE)))


def _stray_folder(chance: random.Random, model: Path) -> None:
    (model / _name(chance) / chance.choice(("manifest.json", "model.pt", "production", "x"))).mkdir(parents=True)


def _half_uploaded(chance: random.Random, model: Path) -> None:
    for file in chance.sample(("model.pt", "manifest.json", ".claim", ".model.pt.5d1c", "card.md"), 2):
        _write(model, f"2/{file}", WHOLE.get(file, b"half a fi"))


def _cut_off(chance: random.Random, model: Path) -> None:
    file = chance.choice(("manifest.json", "model.pt"))
    _write(model, f"1/{file}", WHOLE[file][: chance.randrange(len(WHOLE[file]))])


def _linked(chance: random.Random, model: Path) -> None:
    target = chance.choice(
        (model / "1", model, model.parent, Path("/nowhere"), Path("/dev/zero"), Path("/proc/self/status"))
    )
    place = model / chance.choice(("2", "aliases", "history", "3", "loop"))
    if not place.exists() and not place.is_symlink():
        place.symlink_to(target)


def _linked_files(chance: random.Random, model: Path) -> None:
    folder = model / chance.choice(("2", "aliases", "history"))
    folder.mkdir()
    target = chance.choice(
        ("/dev/zero", "/dev/stdin", "/nowhere", "/proc/self/status", "manifest.json", str(model), "/dev/full")
    )
    for file in chance.sample(("manifest.json", "model.pt", "production", "canary"), 2):
        (folder / file).symlink_to(target)


def _pipe(chance: random.Random, model: Path) -> None:
    place = model / chance.choice(("1", "2", "aliases", "history")) / chance.choice(("manifest.json", "production"))
    place.parent.mkdir(exist_ok=True)
    if not place.parent.is_symlink():
        place.unlink(missing_ok=True)
        os.mkfifo(place)


def _history(chance: random.Random, model: Path) -> None:
    _write(model, "history/production", b"\n".join(chance.choices((*TEXTS, HUGE, b"1"), k=3)))


def _nothing_left(chance: random.Random, model: Path) -> None:
    shutil.rmtree(model / chance.choice(("1", "")))


FAULTS: tuple[Callable[[random.Random, Path], None], ...] = (
    _stray_file,
    _stray_folder,
    _half_uploaded,
    _cut_off,
    _linked,
    _linked_files,
    _pipe,
    _history,
    _nothing_left,
)


def test_folders_of_any_kind_harm_at_most_their_model_and_heal(tmp_path: Path) -> None:
    source = tmp_path / "source"
    publish(source, "bad", artifact=b"weights")
    WHOLE.update({path.name: path.read_bytes() for path in (source / "bad" / "1").iterdir()})
    root = tmp_path / "models"
    publish(root, "good", artifact=b"weights")
    served_anyway = 0

    for number in range(FOLDERS):
        chance = random.Random(number)
        shutil.copytree(source / "bad", root / "bad")
        cache = Cache(tmp_path / "cache", str(number), 10**6)
        for fault in chance.sample(FAULTS, chance.choice((1, 1, 2, 3))):
            try:
                fault(chance, root / "bad")
            except OSError:
                continue  # two faults in the same place

        followed = catalogue(root, cache)
        defaults = announced(followed.line_up())
        assert defaults.pop("good") == 1, number
        assert defaults.keys() <= {"bad"}, number
        served_anyway += bool(defaults)
        assert announced(catalogue(tmp_path / "nowhere", cache).restored())["good"] == 1, number
        shutil.rmtree(root / "bad", ignore_errors=True)
        shutil.copytree(source / "bad", root / "bad")
        healed = followed.line_up()
        assert announced(healed) == {"bad": 1, "good": 1}, number
        assert healed.absent == (), number
        shutil.rmtree(root / "bad")

    assert FOLDERS // 10 < served_anyway < FOLDERS


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="service.rollout")
