"""Signatures of manifests, which prove who published a version: Ed25519 (RFC 8032) of the `cryptography` library.

A manifest names its artifact's SHA-256 digest, so whoever signs a manifest signs the artifact too. Aliases are not
signed: who can write the registry still chooses which of the signed versions serves. Knows nothing about registries.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

# `cryptography` takes memory in every process, so it is imported only where signatures are used.
if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_FILE_BYTES = 4096

_CONTEXT = b"argmax manifest 1\n"  # so that a signature of something else is never taken for one of a manifest
_KEY_BYTES = 32
_KEY_ID_LENGTH = 16


class SignatureError(Exception):
    """A key that cannot be read, or a manifest that no trusted key has signed."""


class _Signature(BaseModel):
    """The content of a signature's file; `key` is the identifier of the public key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    ed25519: str


class SigningKey:
    """A private key, which signs manifests."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public_key = _raw(key.public_key())

    @classmethod
    def generate(cls) -> SigningKey:
        """Make a new key."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def read(cls, file: Path) -> SigningKey:
        """Read a key that `write` wrote, or any Ed25519 key in PEM without a password.

        Raises:
            SignatureError: there is none.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        required = f"the signing key {file} must be an Ed25519 private key in PEM without a password"
        try:
            key = serialization.load_pem_private_key(file.read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise SignatureError(f"{required}. Given: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise SignatureError(f"{required}. Given: another kind of key")
        return cls(key)

    def write(self, file: Path) -> None:
        """Write the key to a file that must not exist, readable by its owner alone.

        Raises:
            SignatureError: it exists, or cannot be written.
        """
        from cryptography.hazmat.primitives import serialization

        pem = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        try:
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
                opened.write(pem)
        except OSError as error:
            raise SignatureError(f"the key must be written to a new file. Given: {error}") from error

    def sign(self, manifest: bytes) -> bytes:
        """Return the content of the signature's file for a manifest's bytes."""
        signature = base64.b64encode(self._key.sign(_CONTEXT + manifest)).decode()
        return _Signature(key=key_id(self.public_key), ed25519=signature).model_dump_json().encode()


class TrustedKeys:
    """The public keys whose signatures count."""

    def __init__(self, public_keys: list[bytes]) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        self._keys = {key_id(key): Ed25519PublicKey.from_public_bytes(key) for key in public_keys}
        self.digest = hashlib.sha256(b"".join(sorted(public_keys))).hexdigest()
        """Names this set of keys; another set has another digest."""

    @classmethod
    def read(cls, file: Path) -> TrustedKeys:
        """Read a file with one public key a line, in base64; what follows it in the line, and lines with #, is comment.

        Raises:
            SignatureError: it cannot be read, or holds something else, or no key.
        """
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SignatureError(f"the file of trusted keys must be readable. Given: {error}") from error
        keys = [
            _parse(line.split()[0], f"{file}, line {number}")
            for number, line in enumerate(lines, 1)
            if line.split() and not line.lstrip().startswith("#")
        ]
        if not keys:
            raise SignatureError(f"{file} must hold at least one trusted key. Given: none")
        return cls(keys)

    def verify(self, manifest: bytes, signature_file: bytes | None) -> None:
        """Check a manifest's bytes against the content of its signature's file, None if there is no file.

        Raises:
            SignatureError: no trusted key has signed these bytes.
        """
        from cryptography.exceptions import InvalidSignature

        required = "the version must be signed by a trusted key"
        if signature_file is None:
            raise SignatureError(f"{required}. Given: no signature. Publish it with --sign")
        try:
            signature = _Signature.model_validate_json(signature_file)
            value = base64.b64decode(signature.ed25519, validate=True)
        except (ValidationError, binascii.Error) as error:
            raise SignatureError(f"{required}. Given: a signature that does not parse") from error
        key = self._keys.get(signature.key)
        if key is None:
            raise SignatureError(f"{required}. Given: a signature of key {signature.key[:_KEY_ID_LENGTH]!r}")
        try:
            key.verify(value, _CONTEXT + manifest)
        except InvalidSignature as error:
            raise SignatureError(f"{required}. Given: a manifest that is not the signed one") from error


def key_id(public_key: bytes) -> str:
    """Return the identifier of a public key: the start of its SHA-256 digest, in hexadecimal."""
    return hashlib.sha256(public_key).hexdigest()[:_KEY_ID_LENGTH]


def _raw(key: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives import serialization

    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def _parse(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise SignatureError(
            f"{where} must begin with a public key: {_KEY_BYTES} bytes in base64. Given: {text[:60]!r}"
        )
    return key
