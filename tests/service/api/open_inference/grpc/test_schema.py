"""Our messages are on the wire what the public .proto makes of them; tritonclient carries what it was compiled to."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("google.protobuf", reason="needs grpcio and protobuf; pip install argmax[grpc]")
public = pytest.importorskip("tritonclient.grpc", reason="needs tritonclient")

from service.api.open_inference.grpc.schema import CLASSES, SERVICE  # noqa: E402


def public_message(name: str) -> Any:
    """The public descriptor of one of our messages, or None; some are inside another there."""
    tops = [
        message
        for file in (public.service_pb2, public.model_config_pb2)
        for message in file.DESCRIPTOR.message_types_by_name.values()
    ]
    nested = [inner for message in tops for inner in message.nested_types]
    return next((message for message in (*tops, *nested) if message.name == name), None)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_message_has_the_public_names_numbers_and_types(name: str) -> None:
    theirs = public_message(name)

    assert theirs is not None
    check(CLASSES[name].DESCRIPTOR, theirs)


def check(ours: Any, theirs: Any) -> None:
    for field in ours.fields:
        known = theirs.fields_by_name[field.name]
        assert (field.number, field.type, field.is_repeated) == (known.number, known.type, known.is_repeated)
        assert bool(field.containing_oneof) == bool(known.containing_oneof)
        if field.message_type:
            assert field.message_type.name == known.message_type.name
            assert field.message_type.GetOptions().map_entry == known.message_type.GetOptions().map_entry
            if field.message_type.GetOptions().map_entry:
                check(field.message_type, known.message_type)
        if field.enum_type:
            numbers = {value.name: value.number for value in known.enum_type.values}
            assert all(numbers[value.name] == value.number for value in field.enum_type.values)


def test_every_message_of_a_service_method_is_there() -> None:
    service = public.service_pb2.DESCRIPTOR.services_by_name[SERVICE.rpartition(".")[2]]

    methods = [name.removesuffix("Request") for name in CLASSES if name.endswith("Request")]

    assert service.full_name == SERVICE
    for method in methods:
        described = service.methods_by_name[method]
        assert {described.input_type.name, described.output_type.name} <= set(CLASSES)
