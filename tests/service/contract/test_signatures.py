"""A signature proves who published a manifest, and of a version that no trusted key has signed nothing is opened."""

from __future__ import annotations

import base64
import re
import shutil
import stat
from pathlib import Path

import pytest

from service.__main__ import main
from service.contract.manifest import ModelManifest
from service.contract.model_folder import ModelFolder
from service.contract.registry import MANIFEST, SIGNATURE, Registry, UntrustedVersionError
from service.contract.signatures import SignatureError, SigningKey, TrustedKeys, key_id
from tests.registries import publish

MINE, OTHER = SigningKey.generate(), SigningKey.generate()


def trusting(*keys: SigningKey) -> TrustedKeys:
    return TrustedKeys([key.public_key for key in keys])


def line(key: SigningKey) -> str:
    return base64.b64encode(key.public_key).decode()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Version 1 is signed by MINE, version 2 by OTHER, version 3 by nobody."""
    for key in (MINE, OTHER, None):
        publish(tmp_path / "plain")
        republished = Registry(tmp_path / "plain")
        source = republished.manifest("rows", republished.versions("rows")[-1])

        def describe(version: int, _: object, source: ModelManifest = source) -> ModelManifest:
            return source.model_copy(update={"version": version})

        Registry(tmp_path / "signed", signer=key).publish("rows", republished.artifact(source), describe)
    return tmp_path / "signed"


def readable(root: Path, trusted: TrustedKeys | None) -> list[int]:
    registry, found = Registry(root, trusted=trusted), []
    for version in registry.versions("rows"):
        try:
            found.append(registry.manifest("rows", version).version)
        except UntrustedVersionError:
            continue
    return found


def test_only_what_a_trusted_key_has_signed_is_read(root: Path) -> None:
    assert readable(root, None) == [1, 2, 3]
    assert readable(root, trusting(MINE)) == [1]
    assert readable(root, trusting(OTHER, MINE)) == [1, 2]  # while keys change, both are trusted
    assert readable(root, trusting(OTHER)) == [2]  # the other was revoked


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / SIGNATURE).unlink(),
        lambda folder: (folder / SIGNATURE).write_bytes(b"{}"),
        lambda folder: (folder / SIGNATURE).write_bytes(b"x" * 10_000),
        lambda folder: shutil.copy(folder.parent / "2" / SIGNATURE, folder / SIGNATURE),
        lambda folder: (folder / MANIFEST).write_bytes((folder / MANIFEST).read_bytes() + b" "),
        lambda folder: (folder / MANIFEST).write_text(
            re.sub(r"[0-9a-f]{64}", "0" * 64, (folder / MANIFEST).read_text(), count=1)
        ),
    ],
    ids=["without", "empty", "long", "of another", "a space more", "another digest"],
)
def test_what_was_altered_is_not_read(root: Path, change: object) -> None:
    assert callable(change)
    change(root / "rows" / "1")

    with pytest.raises(UntrustedVersionError, match="rows@1: the version must be signed by a trusted key"):
        Registry(root, trusted=trusting(MINE)).manifest("rows", 1)


def test_a_signed_version_under_another_number_is_no_version(root: Path) -> None:
    shutil.copytree(root / "rows" / "1", root / "rows" / "9")

    with pytest.raises(Exception, match="must speak of rows@9"):
        Registry(root, trusted=trusting(MINE)).manifest("rows", 9)


def test_a_flat_folder_is_held_to_the_same(root: Path) -> None:
    assert ModelFolder(str(root / "rows" / "1"), "mine", trusted=trusting(MINE)).models() == ["mine"]

    with pytest.raises(UntrustedVersionError):
        ModelFolder(str(root / "rows" / "2"), "mine", trusted=trusting(MINE)).models()


def test_keys_survive_their_files_and_the_private_one_is_its_owners_alone(tmp_path: Path) -> None:
    MINE.write(tmp_path / "key")
    (tmp_path / "trusted").write_text(f"# who may publish\n\n{line(OTHER)} the old one\n{line(MINE)}\n")

    TrustedKeys.read(tmp_path / "trusted").verify(b"{}", SigningKey.read(tmp_path / "key").sign(b"{}"))

    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(SignatureError, match="new file"):
        MINE.write(tmp_path / "key")


def test_another_set_of_keys_has_another_digest_in_whatever_order() -> None:
    assert trusting(MINE, OTHER).digest == trusting(OTHER, MINE).digest != trusting(MINE).digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold at least one trusted key"),
        ("# nobody\n", "must hold at least one trusted key"),
        ("abc\n", "line 1 must begin with a public key: 32 bytes in base64. Given: 'abc'"),
        ("\n&&&& x\n", "line 2 must begin with a public key"),
    ],
)
def test_a_file_of_trusted_keys_that_holds_something_else_ends_the_start_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "trusted").write_text(content)

    assert main(["--registry", str(tmp_path), "--trusted-keys", str(tmp_path / "trusted")]) == 2

    assert message in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"])
def test_what_is_no_signing_key_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "key").write_bytes(content)

    with pytest.raises(SignatureError, match=r"must be an Ed25519 private key in PEM without a password. Given: "):
        SigningKey.read(tmp_path / "key")


def test_a_key_is_called_by_the_start_of_its_digest() -> None:
    assert re.fullmatch("[0-9a-f]{16}", key_id(MINE.public_key))
