"""The destination of a run: its registry and its folders, tried before training. Knows nothing about training."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from service.contract import registries
from service.contract.manifest import Name
from service.contract.registry import Registry, RegistryError
from service.contract.signatures import SignatureError, SigningKey
from training.errors import OptionError


def open_registry(url: str, *, must_exist: bool = True, sign: Path | None = None) -> Registry:
    """Open the registry at `url`; what is published to it is signed with the key in the file `sign`.

    Raises:
        OptionError: `url` is neither a folder nor a URL that fsspec can open, or with `must_exist` a missing folder; or
            `sign` is no key.
    """
    try:
        signer = SigningKey.read(sign) if sign else None
        return registries.open_registry(url, must_exist=must_exist, signer=signer)
    except (RegistryError, SignatureError) as error:
        raise OptionError(str(error)) from error


def registry_for(url: str, publish_as: str | None, *, sign: Path | None = None) -> Registry | None:
    """Open the registry to publish to, so that a wrong name or URL fails before training, not after."""
    if publish_as is None:
        return None
    try:
        TypeAdapter(Name).validate_python(publish_as)
    except ValidationError as error:
        raise OptionError(
            f"name must be 1 to 64 of a-z, 0-9, '_', '.' and '-', beginning with a letter or a digit. "
            f"Given: {publish_as!r}"
        ) from error
    expect_one_registry(url)
    if url.startswith(("http://", "https://")):
        raise OptionError(f"registry must be a folder or a bucket, to publish to. Given: {url}, which can only be read")
    registry = open_registry(url, must_exist=False, sign=sign)
    registry.versions(publish_as)
    return registry


def expect_one_registry(url: str) -> None:
    """Raise OptionError for several registries, of which none is the one to publish to."""
    if "," in url:
        raise OptionError(f"registry must be one folder or URL, to publish to. Given: {url}")


def expect_writable_registry(url: str) -> None:
    """Raise OptionError if the registry is a folder that cannot be written to; a bucket is not tried."""
    if "://" not in url and "," not in url:
        expect_writable(Path(url), "registry")


def expect_outside(data: str | None, place: str, option: str) -> None:
    """Raise OptionError if `place`, the value of `option`, is among the folders of classes of the user's own `data`.

    The next run would take it for a class.
    """
    kind, _, path = (data or "").partition(":")
    if kind != "folder" or not path or "://" in place:
        return
    root, folder = Path(path).resolve(), Path(place).resolve()
    is_split = (root / "train").is_dir() and (root / "test").is_dir()
    roots = (root / "train", root / "test") if is_split else (root,)
    if any(folder.is_relative_to(each) for each in roots):
        raise OptionError(
            f"{option} must not be among the pictures. Given: {place}, in {root}. Name another folder with "
            f"--{option.replace('_', '-')}, or start in another one"
        )


def expect_writable(folder: Path, option: str) -> None:
    """Make `folder` if it is missing, and try to write to it.

    Raises:
        OptionError: that fails; the message names `option`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OptionError(f"{option} must be a folder to write to. Given: {error}") from error
