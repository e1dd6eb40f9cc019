"""An artifact computes with tensors, and can do nothing else to the machine that opens it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.model import operators, torchscript
from service.model.operators import ForbiddenOperatorError
from service.model.torchscript import TorchScriptError
from tests.conftest import ROOT
from tests.registries import artifact_of

CPU = torch.device("cpu")
WITNESS = "witness.bin"


class WritesFiles(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        file = torch.from_file("witness.bin", True, 8, dtype=torch.uint8)
        file.copy_(torch.arange(8))
        return images.float().flatten(1)[:, :2] + file.float().sum()


class WritesFilesInAFunction(nn.Module):
    """The same where no first look finds it: in a branch of a loop of another module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = WritesFiles()

    def forward(self, images: Tensor) -> Tensor:
        outputs = images.float().flatten(1)[:, :2]
        for number in range(len(images)):
            if number == 3:
                outputs = self.inner(images)
        return outputs


class WritesFilesWhenRead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.zeros(1)

    @torch.jit.export
    def __getstate__(self) -> tuple[Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[Tensor, bool]) -> None:
        file = torch.from_file("witness.bin", True, 8, dtype=torch.uint8)
        self.weight, self.training = state[0] + file.float().sum(), state[1]

    def forward(self, images: Tensor) -> Tensor:
        return images.float().flatten(1)[:, :2] + self.weight


class WaitsForAnother(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        flat: Tensor = torch.jit.wait(torch.jit.fork(torch.flatten, images.float(), 1))
        return flat[:, :2]


class Prints(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        print("here")  # noqa: T201 - that is the point
        return images.float().flatten(1)[:, :2]


@pytest.mark.parametrize("network", [WritesFiles, WritesFilesInAFunction])
def test_a_module_that_writes_files_is_refused_by_the_operators_name_and_writes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: type[nn.Module]
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(TorchScriptError, match=r"operators on tensors. Given: aten::from_file"):
        torchscript.load(artifact_of(network()), CPU)

    assert not (tmp_path / WITNESS).exists()


def test_code_that_would_run_while_the_archive_is_read_is_refused_and_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with torchscript.without_deprecations():
        scripted = torch.jit.script(WritesFilesWhenRead())
    buffer = io.BytesIO()
    with torchscript.without_deprecations():
        torch.jit.save(scripted, buffer)

    with pytest.raises(TorchScriptError, match=r"no code that runs when it is read. Given: __setstate__"):
        torchscript.load(buffer.getvalue(), CPU)

    assert not (tmp_path / WITNESS).exists()
    with torchscript.without_deprecations():
        torch.jit.load(io.BytesIO(buffer.getvalue()))
    assert (tmp_path / WITNESS).exists()  # so without the check it would have run


def test_an_object_of_another_kind_than_tensors_is_refused() -> None:
    content = io.BytesIO(artifact_of(nn.Linear(2, 2)))
    changed = io.BytesIO()
    with zipfile.ZipFile(content) as whole, zipfile.ZipFile(changed, "w", zipfile.ZIP_STORED) as copy:
        for name in whole.namelist():
            data = whole.read(name)
            if name.endswith("data.pkl"):
                data = data.replace(b"\x80\x02", b"\x80\x02c__torch__.torch\nclasses.quantized.Packed\n0", 1)
            copy.writestr(name, data)

    with pytest.raises(ForbiddenOperatorError, match=r"Given: torch.classes"):
        operators.check_archive(changed.getvalue())


@pytest.mark.parametrize(
    ("network", "operator"), [(WaitsForAnother, "aten::wait, prim::fork"), (Prints, "prim::Print")]
)
def test_what_is_no_arithmetic_is_refused_by_its_name(network: type[nn.Module], operator: str) -> None:
    with pytest.raises(TorchScriptError, match=rf"Given: {operator}"):
        torchscript.load(artifact_of(network()), CPU)


def test_every_operator_that_is_allowed_exists() -> None:
    known = {schema.name for schema in torch._C._jit_get_all_schemas()}

    assert {name for name in operators.ALLOWED if name.startswith("aten::")} <= known


@pytest.mark.parametrize("artifact", sorted((ROOT / "models").glob("*/*/model.pt")), ids=lambda file: file.parts[-3])
def test_what_we_ship_passes(artifact: Path) -> None:
    torchscript.load(artifact.read_bytes(), CPU)
