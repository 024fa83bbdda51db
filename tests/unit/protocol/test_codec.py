"""The hand-written codec reads and writes what protobuf's classes read and write, and survives what is neither."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from tierflow.errors import IntegrityError, InvalidRequestError
from tierflow.protocol import heads, wire
from tierflow.protocol.codec import (
    beginning_of,
    decode_request,
    decode_response,
    encode_request,
    encode_response,
    response_parts,
    without_seconds,
)
from tierflow.protocol.messages import (
    OIP_DTYPES,
    SECONDS_PARAMETER,
    EncodedResponse,
    InferRequest,
    InferResponse,
    InferTensor,
)

WORDS = ["", "x", "input", "höhe", "a" * 200]


def random_tensor(rng: random.Random) -> InferTensor:
    size = rng.choice([0, 1, 3, 127, 128, 129, 20_000])
    shape = tuple(rng.randrange(5) for _ in range(rng.randrange(4)))
    return InferTensor(rng.choice(WORDS), rng.choice(list(OIP_DTYPES)), shape, rng.randbytes(size))


def random_parameters(rng: random.Random) -> dict[str, Any]:
    values = [True, False, 0, -5, 2**40, 1.5, "", "text"]
    return {rng.choice(WORDS): rng.choice(values) for _ in range(rng.randrange(3))}


def random_request(rng: random.Random) -> InferRequest:
    return InferRequest(
        model=rng.choice(WORDS),
        version=rng.choice(WORDS),
        id=rng.choice(WORDS),
        tensors=tuple(random_tensor(rng) for _ in range(rng.randrange(4))),
        outputs=tuple(rng.choice(WORDS) for _ in range(rng.randrange(3))),
        parameters=random_parameters(rng),
    )


def as_protobuf(request: InferRequest) -> Any:
    """The same request made with tritonclient's classes."""
    message = service_pb2.ModelInferRequest(model_name=request.model, model_version=request.version, id=request.id)
    for tensor in request.tensors:
        message.inputs.add(name=tensor.name, datatype=OIP_DTYPES[tensor.dtype], shape=tensor.shape)
        message.raw_input_contents.append(bytes(tensor.data))
    for name in request.outputs:
        message.outputs.add(name=name)
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    for name, value in request.parameters.items():
        setattr(message.parameters[name], kinds[type(value)], value)
    return message


@pytest.mark.parametrize("seed", range(200))
def test_requests_are_what_protobuf_reads_and_writes(seed: int) -> None:
    request = random_request(random.Random(seed))
    ours = encode_request(request)
    assert service_pb2.ModelInferRequest.FromString(ours) == as_protobuf(request)
    assert decode_request(as_protobuf(request).SerializeToString()) == request
    assert decode_request(ours) == request


@pytest.mark.parametrize("seed", range(100))
def test_responses_are_what_protobuf_reads_and_writes(seed: int) -> None:
    request = random_request(random.Random(seed))
    response = InferResponse(request.model, request.tensors, request.id, request.parameters, request.version)
    message = service_pb2.ModelInferResponse.FromString(encode_response(response))
    assert [bytes(tensor.data) for tensor in response.tensors] == list(message.raw_output_contents)
    assert [tuple(output.shape) for output in message.outputs] == [tensor.shape for tensor in response.tensors]
    assert decode_response(message.SerializeToString()) == response


def test_raw_contents_are_views_and_no_copies() -> None:
    data = encode_request(InferRequest("m", (InferTensor("x", "float32", (1000,), bytes(4000)),)))
    view = decode_request(data).tensors[0].data
    assert isinstance(view, memoryview)
    assert view.obj is data


def test_fields_in_any_order_and_unknown_ones_are_read() -> None:
    request = random_request(random.Random(1))
    tail = InferRequest("", request.tensors)
    head = as_protobuf(InferRequest(request.model, (), request.id, request.outputs)).SerializeToString()
    unknown = b"\xf8\x07\x05" + b"\xfa\x07\x03abc" + b"\xfd\x07\x01\x02\x03\x04" + b"\xf9\x07" + bytes(8)
    assert decode_request(encode_request(tail) + unknown + head) == InferRequest(
        request.model, request.tensors, request.id, request.outputs
    )


TYPED = [
    ("BOOL", "bool_contents", [True, False], np.array([1, 0], "?")),
    ("INT8", "int_contents", [-128, 127], np.array([-128, 127], "i1")),
    ("INT16", "int_contents", [-3, 4], np.array([-3, 4], "<i2")),
    ("INT32", "int_contents", [-3, 4], np.array([-3, 4], "<i4")),
    ("INT64", "int64_contents", [-(2**63), 4], np.array([-(2**63), 4], "<i8")),
    ("UINT8", "uint_contents", [0, 255], np.array([0, 255], "u1")),
    ("UINT16", "uint_contents", [3, 4], np.array([3, 4], "<u2")),
    ("UINT32", "uint_contents", [3, 2**32 - 1], np.array([3, 2**32 - 1], "<u4")),
    ("UINT64", "uint64_contents", [3, 2**64 - 1], np.array([3, 2**64 - 1], "<u8")),
    ("FP32", "fp32_contents", [1.5, float("nan")], np.array([1.5, float("nan")], "<f4")),
    ("FP64", "fp64_contents", [1.5, float("inf")], np.array([1.5, float("inf")], "<f8")),
]


@pytest.mark.parametrize(("datatype", "field", "values", "expected"), TYPED)
def test_typed_contents_become_raw_bytes(datatype: str, field: str, values: list[Any], expected: Any) -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[2])
    getattr(tensor.contents, field).extend(values)
    assert bytes(decode_request(message.SerializeToString()).tensors[0].data) == expected.tobytes()


def test_typed_strings_get_their_lengths() -> None:
    message = service_pb2.ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="BYTES", shape=[2]).contents.bytes_contents.extend([b"ab", b""])
    assert decode_request(message.SerializeToString()).tensors[0].data == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"


def typed(datatype: str, field: str, values: list[Any]) -> Any:
    message = service_pb2.ModelInferRequest(model_name="m")
    getattr(message.inputs.add(name="x", datatype=datatype, shape=[1]).contents, field).extend(values)
    return message


def raw(datatype: str, contents: list[bytes]) -> Any:
    message = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=contents)
    message.inputs.add(name="x", datatype=datatype, shape=[1])
    return message


def with_shared_memory() -> Any:
    message = raw("FP32", [bytes(4)])
    message.inputs[0].parameters["shared_memory_region"].string_param = "region"
    return message


def with_classification() -> Any:
    message = raw("FP32", [bytes(4)])
    message.outputs.add(name="y").parameters["classification"].int64_param = 3
    return message


def with_both_contents() -> Any:
    message = raw("FP32", [bytes(4)])
    message.inputs[0].contents.fp32_contents.append(1)
    return message


@pytest.mark.parametrize(
    ("message", "culprit"),
    [
        (typed("INT8", "int_contents", [128]), "'x': 128 is out of the range of int8"),
        (typed("UINT8", "uint_contents", [256]), "'x': 256 is out of the range of uint8"),
        (typed("FP32", "int_contents", [1]), "'x' of FP32 has its elements in int_contents; use fp32_contents"),
        (typed("FP16", "fp32_contents", [1]), "use raw contents"),
        (raw("FP33", [bytes(4)]), "'x' has the unknown datatype 'FP33'"),
        (raw("FP32", [bytes(4), bytes(4)]), "2 entries for 1 tensors"),
        (with_shared_memory(), "shared memory is not supported"),
        (with_classification(), "'y': the classification extension is not supported"),
        (with_both_contents(), "'x' has both contents and raw contents"),
    ],
)
def test_what_is_well_formed_but_wrong_is_refused_by_name(message: Any, culprit: str) -> None:
    with pytest.raises(InvalidRequestError, match=None) as caught:
        decode_request(message.SerializeToString())
    assert culprit in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\x3a",  # raw contents without a length
        b"\x3a\x05ab",  # with a length that lies
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01ab",  # with a huge one
        b"\x38\x01",  # as a number
        b"\x3b",  # as a group
        b"\x00\x01",  # field zero
        b"\x0e\x01",  # wire type 6
        b"\x0a\x02\xff\xfe",  # a name that is not UTF-8
        b"\xff" * 20,  # a tag without an end
        b"\x0d\x01",  # a fixed field that is cut short
        b"\x3a\x00" * 70_000,  # more fields than any request has
    ],
)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        decode_request(data)


def test_an_answer_that_is_garbage_is_the_servers_fault() -> None:
    with pytest.raises(IntegrityError, match="the server's answer is no valid ModelInferResponse"):
        decode_response(b"\x32\x05ab")


def damaged(data: bytes, rng: random.Random) -> bytes:
    kind = rng.randrange(4)
    place = rng.randrange(len(data) + 1)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + rng.randbytes(rng.randrange(1, 6)) + data[place:]
    if kind == 2:
        return data[:place] + data[place + rng.randrange(1, 6) :]
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def test_damaged_messages_are_read_as_protobuf_reads_them_or_refused() -> None:
    rng = random.Random(7)
    agreed = refused = 0
    for _ in range(5_000):
        request = random_request(rng)
        whole = encode_request(InferRequest("m", request.tensors[:2], request.id, request.outputs))
        data = damaged(whole[:400], rng)
        try:
            ours = decode_request(data)
        except InvalidRequestError:
            refused += 1
            continue
        theirs = service_pb2.ModelInferRequest.FromString(data)  # what we accept, protobuf accepts
        assert ours.model == theirs.model_name
        assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.inputs]
        if theirs.raw_input_contents:
            assert [bytes(tensor.data) for tensor in ours.tensors] == list(theirs.raw_input_contents)
        agreed += 1
    assert agreed > 100
    assert refused > 1_000


def test_requests_that_say_the_same_keep_their_own_ids_contents_and_parameters() -> None:
    for number in range(100):
        content = bytes((number,)) * 8
        request = InferRequest(
            "m", (InferTensor("x", "float32", (2,), content),), f"request-{number % 7}", ("y",), {"a": True}, "1"
        )
        read = decode_request(encode_request(request))
        assert read == request
        assert isinstance(read.parameters, dict)
        read.parameters["b"] = number  # what is done with one is no other's


def test_many_kinds_of_requests_are_read_without_being_kept() -> None:
    for number in range(300):
        request = InferRequest(f"m{number}", (InferTensor("x", "uint8", (1,), b"x"),), "r")
        assert decode_request(encode_request(request)) == request
    assert len(heads.REQUESTS) <= heads.MOST_KNOWN


def test_an_id_that_is_no_text_is_refused() -> None:
    head = wire.ModelInferRequest(model_name="m").SerializeToString()
    with pytest.raises(InvalidRequestError, match="its id is no UTF-8"):
        decode_request(head + b"\x1a\x01\xff")


def with_one_tensor(rng: random.Random) -> InferRequest:
    request = random_request(rng)
    return InferRequest(
        request.model, (random_tensor(rng),), request.id, request.outputs, request.parameters, request.version
    )


@pytest.mark.parametrize("seed", range(100))
def test_a_request_begins_with_all_but_its_tensors_content(seed: int) -> None:
    request = with_one_tensor(random.Random(seed))
    [tensor] = request.tensors
    described = InferTensor(tensor.name, tensor.dtype, tensor.shape, b"")
    empty = InferRequest(request.model, (described,), request.id, request.outputs, request.parameters, request.version)
    assert beginning_of(empty, len(tensor.data)) + bytes(tensor.data) == encode_request(request)


@pytest.mark.parametrize("seed", range(60))
def test_a_request_of_which_a_part_has_come_is_read_as_the_whole_is_or_not_at_all(seed: int) -> None:
    rng = random.Random(seed)
    data = encode_request(random_request(rng) if seed % 2 else with_one_tensor(rng))
    whole = decode_request(data)
    read = 0
    for there in {*range(min(len(data), 600)), *(rng.randrange(len(data) + 1) for _ in range(50)), len(data)}:
        coming = bytearray(data[:there] + rng.randbytes(len(data) - there))  # what has not come is anything
        try:
            early = decode_request(memoryview(coming), there)
        except InvalidRequestError:
            continue
        coming[:] = data
        assert early == whole
        read += 1
    assert read > 0 or not whole.tensors


def test_a_request_is_read_as_soon_as_only_its_last_content_is_missing() -> None:
    content = random.Random(0).randbytes(500)
    request = InferRequest("m", (InferTensor("x", "uint8", (500,), content),), "r")
    data = encode_request(request)
    coming = bytearray(data[:-500] + bytes(500))
    early = decode_request(memoryview(coming), len(data) - 500)
    coming[-500:] = content
    assert early == request


@pytest.mark.parametrize("seed", range(50))
def test_an_answer_that_is_passed_on_unread_says_the_same_but_for_the_seconds(seed: int) -> None:
    request = random_request(random.Random(seed))
    answer = InferResponse(request.model, request.tensors, request.id, {SECONDS_PARAMETER: 0.25}, request.version)
    passed_on = without_seconds(memoryview(encode_response(answer)))
    assert passed_on is not None
    assert passed_on.seconds == 0.25
    data = b"".join(response_parts(EncodedResponse(passed_on.data, 0.5)))
    assert decode_response(data) == replace(answer, parameters={SECONDS_PARAMETER: 0.5})
    assert service_pb2.ModelInferResponse.FromString(data).parameters[SECONDS_PARAMETER].double_param == 0.5


def test_answers_without_seconds_are_not_passed_on_unread() -> None:
    tensor = InferTensor("y", "uint8", (3,), b"abc")
    for parameters in ({}, {SECONDS_PARAMETER: "long"}, {"other": 1.5}):
        assert without_seconds(memoryview(encode_response(InferResponse("m", (tensor,), "r", parameters)))) is None
    assert without_seconds(memoryview(b"")) is None
