from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training import tensor_files


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "some.pt")

    assert torch.equal(tensor_files.read(tmp_path / "some.pt")["weight"], torch.ones(2))


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02cos\nsystem\n."], ids=["empty", "text", "code"])
def test_something_else_is_refused_without_advice_to_run_it(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "other.pt").write_bytes(content)

    with pytest.raises(tensor_files.NotTensorsError, match=r"^something else than tensors$"):
        tensor_files.read(tmp_path / "other.pt")
