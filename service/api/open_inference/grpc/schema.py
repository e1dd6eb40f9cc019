"""The messages of open_inference.proto as classes, read from its compiled form, open_inference.binpb.

They live in a descriptor pool of their own. Generated Python code would enter the default pool, which refuses a second
file that defines the package `inference`, as tritonclient's does; it also refuses a protobuf older than its generator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROTO = Path(__file__).with_name("open_inference.proto")
COMPILED = PROTO.with_suffix(".binpb")

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

Message = Any
"""A protobuf message. Its class is made at run time, so type checkers do not know its fields."""


def _classes() -> dict[str, Any]:
    pool = descriptor_pool.DescriptorPool()
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(COMPILED.read_bytes()).file
    pool.Add(file)
    return {
        message.name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{message.name}"))
        for message in file.message_type
    }


CLASSES = _classes()
"""The class of each top-level message, by its name."""
