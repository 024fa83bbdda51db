"""The compiled descriptor set is what the .proto says, and what the protocol's clients use."""

from typing import Any

import pytest
from tritonclient.grpc import service_pb2

from tierflow.protocol import wire
from tierflow.protocol.compile import DESCRIPTOR_SET, compile_proto

MESSAGES = [
    "ServerLiveResponse", "ServerReadyResponse", "ModelReadyRequest", "ModelReadyResponse", "ServerMetadataResponse",
    "ModelMetadataRequest", "ModelMetadataResponse", "ModelInferRequest", "ModelInferResponse",
]  # fmt: skip


def test_the_committed_descriptor_set_is_the_compiled_proto(tmp_path: Any) -> None:
    pytest.importorskip("grpc_tools")
    compile_proto(tmp_path / "fresh.binpb")
    assert (tmp_path / "fresh.binpb").read_bytes() == DESCRIPTOR_SET.read_bytes(), (
        "run `python -m tierflow.protocol.compile`"
    )


def fields_of(descriptor: Any, seen: dict[str, Any]) -> dict[str, Any]:
    """Number, type and repetition of each field, of the messages inside as well."""
    if descriptor.full_name in seen:
        return seen
    seen[descriptor.full_name] = {
        field.name: (field.number, field.type, field.is_repeated) for field in descriptor.fields
    }
    for field in descriptor.fields:
        if field.message_type is not None:
            fields_of(field.message_type, seen)
    return seen


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_have_the_fields_of_tritonclient_which_lives_in_the_same_process(name: str) -> None:
    ours = fields_of(getattr(wire, name).DESCRIPTOR, {})
    theirs = fields_of(getattr(service_pb2, name).DESCRIPTOR, {})
    assert ours == theirs
