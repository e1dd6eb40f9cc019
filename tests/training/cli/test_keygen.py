"""A key is made once, and what is published with it is what a service that trusts it opens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.contract.registry import Registry, UntrustedVersionError
from service.contract.signatures import TrustedKeys
from training.cli.command_line import main
from training.publishing.equivalence import Equivalence

pytestmark = pytest.mark.usefixtures("plain_pictures")


def test_what_is_published_with_a_new_key_is_trusted_by_who_has_its_public_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("training.pipeline.equivalence", lambda *_: Equivalence(("channels_last",), ()))
    key, root = tmp_path / "release.key", tmp_path / "registry"
    run = ["train", "simple_net", "--epochs", "1", "--publish", "--force", "--registry", str(root), "--device", "cpu"]
    run += ["--runs-dir", str(tmp_path / "runs")]

    assert main(["keygen", str(key)]) == 0
    assert main([*run, "--sign", str(key)]) == 0
    assert main(run) == 0

    assert "SERVICE_TRUSTED_KEYS" in capsys.readouterr().out
    trusting = Registry(root, trusted=TrustedKeys.read(tmp_path / "release.key.pub"))
    assert trusting.manifest("simple_net", 1).version == 1
    with pytest.raises(UntrustedVersionError):
        trusting.manifest("simple_net", 2)


def test_a_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("mine")

    assert main(["keygen", str(tmp_path / "key")]) == 2

    assert "keys must be written to new files" in capsys.readouterr().err
    assert (tmp_path / "key").read_text() == "mine"
    assert [file.name for file in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("name", ["", ".", "/", "nowhere/key", "taken"])
def test_a_key_that_cannot_be_written_whole_leaves_no_half(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken.pub").write_text("another's")

    assert main(["keygen", name]) == 2

    assert re.fullmatch(r"error: keys must be written to new files\. Given: \[Errno .*\n", capsys.readouterr().err)
    assert [file.name for file in tmp_path.iterdir()] == ["taken.pub"]


def test_a_file_that_is_no_key_is_refused_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("no key")

    assert main(["train", "simple_net", "--publish", "--sign", str(tmp_path / "key"), "--registry", str(tmp_path)]) == 2

    assert "must be an Ed25519 private key in PEM without a password" in capsys.readouterr().err
