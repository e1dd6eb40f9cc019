"""A version serves in the fastest form of those that were proved, with as many threads as pay."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import ModelManifest
from service.contract.registry import Registry
from service.contract.variants import Form
from service.model import autotune
from service.model.model import Model, UnfitModelError
from tests.registries import RGB, publish

CPU = torch.device("cpu")
MICROSECOND = 1e-6

Choose = Callable[..., Form]


class TwoFaces(nn.Module):
    """Gives other logits where its inputs lie in memory as channels last."""

    def forward(self, images: Tensor) -> Tensor:
        last = float(images.is_contiguous(memory_format=torch.channels_last))
        return images[:, 0, :10].float().sum(dim=2) / 255 + last


class FewLast(nn.Module):
    """Computes no more than two images where they lie in memory as channels last."""

    def forward(self, images: Tensor) -> Tensor:
        last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        assert not (last and len(images) > 2), "too many"
        return images[:, 0, :10].float().sum(dim=2) / 255


class OnlyPairs(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.view(2, -1)[:, :10].float()


def published(root: Path, module: nn.Module | None = None, **changes: Any) -> tuple[ModelManifest, bytes]:
    manifest = publish(root, "rows", module, spec=RGB, **changes)
    return manifest, Registry(root).artifact(manifest)


def taking(**seconds_an_image: float) -> autotune.Measure:
    """A stand-in for the clock: what an image takes in each form, whatever the machine."""

    def measure(model: Model, size: int) -> float:
        assert model.form.threads == 1, "forms are compared on one thread"
        return seconds_an_image[model.form.name] * size

    return measure


@pytest.fixture
def choose(tmp_path: Path) -> Choose:
    """The form of a version that was proved in the forms `proved`, where each takes so many seconds an image."""

    def chosen(proved: tuple[str, ...], *, cores: int = 1, **options: Any) -> Form:
        measure = options.pop("measure", None) or taking(**options.pop("seconds"))
        manifest, artifact = published(tmp_path, forms=proved)
        return autotune.fastest(manifest, artifact, CPU, cores=cores, measure=measure, **options).form

    return chosen


def test_the_fastest_proved_form_serves(choose: Choose) -> None:
    seconds = {"published": 5e-5, "channels_last": 4e-5, "prepacked": 3e-5}

    assert choose(("channels_last", "prepacked"), seconds=seconds).name == "prepacked"


def test_a_form_that_was_not_proved_is_not_even_measured(choose: Choose) -> None:
    assert choose(("channels_last",), seconds={"published": 5e-5, "channels_last": 6e-5}).name == "published"


def test_a_form_that_is_hardly_faster_does_not_serve(choose: Choose) -> None:
    assert choose(("prepacked",), seconds={"published": 5e-5, "prepacked": 4.8e-5}).name == "published"


def test_a_form_for_another_device_is_passed_over(choose: Choose) -> None:
    assert choose(("float16",), seconds={"published": 5e-5}).name == "published"


def test_with_the_setting_off_versions_serve_as_published(choose: Choose) -> None:
    assert choose(("prepacked",), seconds={"published": 5e-5}, forms=False).name == "published"


def test_a_form_that_was_chosen_before_serves_however_fast_others_are(choose: Choose) -> None:
    seconds = {"published": 3e-5, "channels_last": 1e-3}

    form = choose(("channels_last",), cores=2, seconds=seconds, forms=False, name="channels_last")

    assert (form.name, form.threads) == ("channels_last", 2)


def test_a_form_that_fails_the_golden_sample_here_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, artifact = published(tmp_path, TwoFaces(), forms=("channels_last",))

    with caplog.at_level(logging.WARNING, "service.model.autotune"):
        model = autotune.fastest(manifest, artifact, CPU, cores=1, measure=taking(published=1e-3))

    assert model.form.name == "published"
    assert "rows@1 does not serve as channels_last: rows@1: golden logits must be within" in caplog.text


def test_a_form_that_fails_on_a_batch_here_is_passed_over_and_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest, artifact = published(tmp_path, FewLast(), forms=("channels_last",))

    with caplog.at_level(logging.WARNING, "service.model.autotune"):
        model = autotune.fastest(manifest, artifact, CPU, cores=1)

    assert model.form.name == "published"
    assert re.search(r"rows@1 does not serve as channels_last: rows@1: a batch of \d+ must compute", caplog.text)


def test_a_version_that_cannot_compute_one_image_is_unfit(tmp_path: Path) -> None:
    manifest, artifact = published(tmp_path, OnlyPairs())

    with pytest.raises(UnfitModelError, match=r"rows@1: a batch of 1 must compute\. Given: "):
        autotune.fastest(manifest, artifact, CPU, cores=2)


@pytest.mark.parametrize(("seconds", "threads"), [(20e-6, 1), (99e-6, 1), (150e-6, 4)])
def test_all_cores_compute_a_network_of_which_an_image_takes_long(choose: Choose, seconds: float, threads: int) -> None:
    assert choose((), seconds={"published": seconds}, cores=4).threads == threads


def test_the_form_that_was_chosen_decides_how_many_threads_pay(choose: Choose) -> None:
    form = choose(("prepacked",), seconds={"published": 150e-6, "prepacked": 50e-6}, cores=4)

    assert (form.name, form.threads) == ("prepacked", 1)


def test_a_number_of_threads_that_is_set_stands(choose: Choose) -> None:
    assert choose((), seconds={"published": 5e-6}, cores=4, threads=3).threads == 3


def test_a_version_without_choices_is_not_measured_at_all(choose: Choose) -> None:
    def never(model: Model, size: int) -> float:
        raise AssertionError

    assert choose((), cores=1, measure=never) == Form()


def test_a_model_computes_with_the_threads_of_its_form(tmp_path: Path) -> None:
    manifest, artifact = published(tmp_path)
    seen = []
    for threads in (2, 1):
        model = Model(manifest, artifact, Form(threads=threads))
        model.run(torch.zeros(1, *RGB.shape, dtype=torch.uint8))
        seen.append(torch.get_num_threads())

    assert seen == [2, 1]


def test_measuring_gives_the_seconds_of_a_batch(tmp_path: Path) -> None:
    model = Model(*published(tmp_path))

    assert 0 < autotune.seconds_of(model, 3) < 1


def test_a_slow_network_is_measured_once(choose: Choose) -> None:
    sizes = []

    def measure(model: Model, size: int) -> float:
        sizes.append(size)
        return 0.5 * size

    assert choose((), measure=measure, cores=2).threads == 2
    assert sizes == [1]
