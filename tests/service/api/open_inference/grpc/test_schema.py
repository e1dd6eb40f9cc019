"""Our messages match the public .proto on the wire; tritonclient carries what that was compiled to."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("google.protobuf", reason="needs grpcio and protobuf; pip install argmax[grpc]")

from google.protobuf import descriptor_pb2
from google.protobuf.message import DecodeError

from service.api.open_inference.grpc import schema
from service.api.open_inference.grpc.schema import CLASSES, MOST_FIELDS, SERVICE
from service.problems import BadRequest


def file_in(compiled: bytes) -> Any:
    (file,) = descriptor_pb2.FileDescriptorSet.FromString(compiled).file
    return file


def public_message(name: str) -> Any:
    """The public descriptor of one of our messages, or None; some are nested in another there."""
    public = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient")
    return next(
        (
            file.DESCRIPTOR.message_types_by_name[name]
            for file in (public.service_pb2, public.model_config_pb2)
            if name in file.DESCRIPTOR.message_types_by_name
        ),
        None,
    )


def check(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        known = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (known.number, known.type, known.is_repeated)
        assert bool(field.containing_oneof) == bool(known.containing_oneof)
        if field.message_type:
            assert field.message_type.full_name == known.message_type.full_name
            assert field.message_type.GetOptions().map_entry == known.message_type.GetOptions().map_entry
            if field.message_type.containing_type:
                check(field.message_type, known.message_type)
        if field.enum_type:
            numbers = {value.name: value.number for value in known.enum_type.values}
            assert all(numbers[value.name] == value.number for value in field.enum_type.values)


def test_the_compiled_schema_is_that_of_the_proto(tmp_path: Path) -> None:
    protoc = pytest.importorskip("grpc_tools.protoc", reason="needs grpcio-tools")
    compiled = tmp_path / schema.COMPILED.name

    code = protoc.main(["protoc", f"-I{schema.PROTO.parent}", f"--descriptor_set_out={compiled}", schema.PROTO.name])

    assert code == 0
    assert file_in(compiled.read_bytes()) == file_in(schema.COMPILED.read_bytes())


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_message_has_the_public_names_numbers_and_types(name: str) -> None:
    theirs = public_message(name)

    assert theirs is not None
    check(CLASSES[name].DESCRIPTOR, theirs)


def test_every_method_takes_and_gives_the_public_messages() -> None:
    public = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient")
    theirs = public.service_pb2.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]]
    (ours,) = file_in(schema.COMPILED.read_bytes()).service

    assert theirs.full_name == SERVICE
    for method in ours.method:
        known = theirs.methods_by_name[method.name]
        assert method.input_type == f".{known.input_type.full_name}"
        assert method.output_type == f".{known.output_type.full_name}"


def request() -> Any:
    """A request with fields of every encoding."""
    message = CLASSES["ModelInferRequest"](model_name="mnist", id="1", raw_input_contents=[b"\x80" * 300])
    message.parameters["priority"].int64_param = 2**40
    message.inputs.add(name="images", datatype="UINT8", shape=[1, 1, 28, 28])
    return message


def test_a_message_is_parsed_with_fields_that_are_not_known() -> None:
    unknown = b"\x98\x06\x80\x01" + b"\xa1\x06" + bytes(8) + b"\xad\x06" + bytes(4) + b"\xb3\x06\xb4\x06"

    assert schema.parse("ModelInferRequest", request().SerializeToString() + unknown).inputs == request().inputs


@pytest.mark.parametrize("encoded", [b"\x2a\x00", b"\xb3\x06\x2a\x00\xb4\x06"], ids=["empty tensors", "in groups"])
def test_a_message_of_more_fields_than_a_request_has_is_not_parsed(encoded: bytes) -> None:
    with pytest.raises(BadRequest, match="at most 2,000 fields"):
        schema.parse("ModelInferRequest", encoded * (MOST_FIELDS + 1))


def test_bytes_are_refused_where_protobuf_refuses_them_and_nowhere_else() -> None:
    chance = random.Random(0)
    encoded = request().SerializeToString()
    for _ in range(3000):
        changed = bytearray(encoded[: chance.randrange(len(encoded) + 1)])
        for _ in range(chance.randrange(4)):
            changed.insert(chance.randrange(len(encoded)), chance.randrange(256))
        data = bytes(changed)
        try:
            expected = CLASSES["ModelInferRequest"].FromString(data)
        except DecodeError:
            with pytest.raises(BadRequest, match="Given: one that does not parse"):
                schema.parse("ModelInferRequest", data)
        else:
            assert schema.parse("ModelInferRequest", data) == expected
