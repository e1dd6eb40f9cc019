"""The messages of open_inference.proto as classes, read from its compiled form, open_inference.binpb.

They live in a descriptor pool of their own. Generated Python code would enter the default pool, which refuses a second
file that defines the package `inference`, as tritonclient's does; it also refuses a protobuf older than its generator.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from service.problems import BadRequest

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

MOST_FIELDS = 2000
"""Of a message, each element of a repeated one counted. A request has about ten, besides its parameters; one with a
little too much gets to hear what is wrong with it."""


def parse(name: str, data: bytes) -> Message:
    """Return the message `name` that the bytes are.

    Raises:
        BadRequest: they are none, or one of more fields than a request has.
    """
    try:
        # An empty tensor is 2 bytes long and becomes 88, so 15 MB of them took 660 MB.
        if _has_more_fields(data, MOST_FIELDS):
            raise BadRequest(f"the message must have at most {MOST_FIELDS:,} fields with all that repeat. Given: more")
        return CLASSES[name].FromString(data)
    except (DecodeError, IndexError):
        raise BadRequest(f"the message must be of {PACKAGE}.{name}. Given: one that does not parse") from None


def _has_more_fields(data: bytes, most: int) -> bool:
    """Return whether an encoded message has more than `most` fields; raises IndexError if it ends too early."""
    position = count = 0
    while position < len(data) and count <= most:
        tag, position = _varint(data, position)
        kind = tag & 7  # https://protobuf.dev/programming-guides/encoding/#structure
        if kind == 0:
            _, position = _varint(data, position)
        elif kind == 2:
            size, position = _varint(data, position)
            position += size
        else:
            position += {1: 8, 5: 4}.get(kind, 0)
        count += 1
    return count > most


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number of variable length that is at a position, and where it ends."""
    value = shift = 0
    while (byte := data[position]) & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        position += 1
    return value | byte << shift, position + 1
