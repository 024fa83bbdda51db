"""The REST form read as requests: what tritonclient writes, what people write by hand, and what is wrong."""

import json
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput

from tierflow.errors import InvalidRequestError
from tierflow.protocol.elements import pack_strings
from tierflow.protocol.messages import InferRequest
from tierflow.protocol.rest import MOST_JSON_BYTES, ResponseForm, read_header_length, read_request

ARRAYS = {
    "BOOL": np.array([[True, False, True]]),
    "UINT8": np.array([[0, 1, 255]], np.uint8),
    "UINT16": np.array([[0, 1, 65535]], np.uint16),
    "UINT32": np.array([[0, 1, 2**32 - 1]], np.uint32),
    "UINT64": np.array([[0, 1, 2**64 - 1]], np.uint64),
    "INT8": np.array([[-128, 0, 127]], np.int8),
    "INT16": np.array([[-(2**15), 0, 2**15 - 1]], np.int16),
    "INT32": np.array([[-(2**31), 0, 2**31 - 1]], np.int32),
    "INT64": np.array([[-(2**63), 0, 2**63 - 1]], np.int64),
    "FP16": np.array([[-1.5, 0.1, 65504]], np.float16),
    "FP32": np.array([[-1.5, 0.1, 3.4e38]], np.float32),
    "FP64": np.array([[-1.5, 0.1, 1.7e308]], np.float64),
}


def read(document: Any, binary: bytes = b"", *, length: int | None = None) -> InferRequest:
    head = document if isinstance(document, bytes) else json.dumps(document).encode()
    if length is None and binary:
        length = len(head)
    return read_request(head + binary, length, model="m")[0]


def one(data: Any, *, datatype: str = "FP32", shape: Sequence[int] = (3,), **more: Any) -> dict[str, Any]:
    tensor = {"name": "x", "datatype": datatype, "shape": list(shape), **more}
    return {"inputs": [tensor | ({} if data is None else {"data": data})]}


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("datatype", ARRAYS)
def test_what_tritonclient_writes_is_read_bit_by_bit(datatype: str, binary: bool) -> None:
    array = ARRAYS[datatype]
    given = InferInput("x", list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    body, length = InferenceServerClient.generate_request_body([given])
    request, form = read_request(body, length, model="m")
    assert request.tensors[0].name == "x"
    assert request.tensors[0].shape == array.shape
    assert bytes(request.tensors[0].data) == array.tobytes()
    assert form.is_binary("anything"), "without requested outputs tritonclient asks for binary ones"


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_strings_that_tritonclient_writes_are_read(binary: bool) -> None:
    array = np.array(["", "grün", "日本"], dtype=object)
    given = InferInput("x", [3], "BYTES")
    given.set_data_from_numpy(array, binary_data=binary)
    body, length = InferenceServerClient.generate_request_body([given])
    request, _ = read_request(body, length, model="m")
    assert request.tensors[0].dtype == "string"
    assert bytes(request.tensors[0].data) == pack_strings(text.encode() for text in array)


def test_bfloat16_is_read_from_binary_data() -> None:
    request = read(one(None, datatype="BF16", parameters={"binary_data_size": 6}), b"\x80\x3f\x00\x40\x40\x40")
    assert request.tensors[0].dtype == "bfloat16"
    assert bytes(request.tensors[0].data) == b"\x80\x3f\x00\x40\x40\x40"


def test_json_and_binary_tensors_of_one_request_keep_their_order() -> None:
    first, second, third = (InferInput(name, [2], "INT32") for name in "abc")
    first.set_data_from_numpy(np.array([1, 2], np.int32))
    second.set_data_from_numpy(np.array([3, 4], np.int32), binary_data=False)
    third.set_data_from_numpy(np.array([5, 6], np.int32))
    outputs = [InferRequestedOutput("y", binary_data=False), InferRequestedOutput("z", binary_data=True)]
    body, length = InferenceServerClient.generate_request_body(
        [first, second, third], outputs=outputs, request_id="seven", timeout=5000
    )
    request, form = read_request(body, length, model="m", version="1")
    assert [np.frombuffer(tensor.data, np.int32).tolist() for tensor in request.tensors] == [[1, 2], [3, 4], [5, 6]]
    assert request.outputs == ("y", "z")
    assert (form.is_binary("y"), form.is_binary("z")) == (False, True)
    assert (request.id, request.version, request.parameters) == ("seven", "1", {"timeout": 5000})


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]], ids=["flat", "nested"])
def test_json_data_may_be_flat_or_nested(data: Any) -> None:
    request = read(one(data, shape=[2, 3]))
    assert np.frombuffer(request.tensors[0].data, np.float32).tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("literal", ["NaN, Infinity, -Infinity", '"NaN", "Infinity", "-Infinity"'])
def test_not_finite_numbers_are_read_as_words_and_as_strings(literal: str) -> None:
    body = f'{{"inputs": [{{"name": "x", "datatype": "FP64", "shape": [3], "data": [{literal}]}}]}}'
    nan, infinity, minus = np.frombuffer(read(body.encode()).tensors[0].data, np.float64)
    assert math.isnan(nan)
    assert (infinity, minus) == (math.inf, -math.inf)


def test_binary_data_that_is_not_finite_is_passed_bit_by_bit() -> None:
    quiet_and_loud = struct.pack("<II", 0x7FC00001, 0x7F800001)
    request = read(one(None, shape=[2], parameters={"binary_data_size": 8}), quiet_and_loud)
    assert bytes(request.tensors[0].data) == quiet_and_loud


def test_scalars_and_empty_tensors_are_read() -> None:
    assert len(read(one([7], shape=[])).tensors[0].data) == 4
    assert len(read(one([], shape=[0, 3])).tensors[0].data) == 0
    assert len(read(one([[], []], shape=[2, 0])).tensors[0].data) == 0


def test_an_output_is_binary_as_it_says_else_as_the_request_says() -> None:
    document = one([1, 2, 3]) | {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "y"}, {"name": "z", "parameters": {"binary_data": False}}],
    }
    request, form = read_request(json.dumps(document).encode(), None, model="m")
    assert form == ResponseForm(binary=True, by_output={"z": False})
    assert request.parameters == {}, "how the answer is written is not the data plane's business"


WRONG: dict[str, tuple[Any, bytes, str]] = {
    "no JSON": (b"{", b"", "no valid JSON"),
    "no UTF-8": (b'{"inputs": "\xff"}', b"", "no valid JSON"),
    "too deep": (b'{"inputs": ' + b"[" * 100_000, b"", "no valid JSON"),
    "endless number": (b'{"inputs": ' + b"9" * 10_000 + b"}", b"", "no valid JSON"),
    "no object": ([1], b"", "no object"),
    "no inputs": ({}, b"", "no `inputs`"),
    "inputs no list": ({"inputs": {}}, b"", "`inputs` of the request"),
    "input no object": ({"inputs": [1]}, b"", "`inputs` of the request"),
    "no name": ({"inputs": [{"datatype": "FP32", "shape": [1], "data": [1]}]}, b"", "an input's name"),
    "name no text": ({"inputs": [{"name": "\ud800", "datatype": "FP32", "shape": [], "data": [1]}]}, b"", "surrogate"),
    "id no text": ({"id": 7, "inputs": []}, b"", "the request's id"),
    "unknown datatype": (one([1], datatype="FP31"), b"", "'x' has the unknown datatype 'FP31'"),
    "no datatype": ({"inputs": [{"name": "x", "shape": [1], "data": [1]}]}, b"", "the datatype of tensor 'x'"),
    "no shape": ({"inputs": [{"name": "x", "datatype": "FP32", "data": [1]}]}, b"", "'x': its shape None"),
    "negative shape": (one([1], shape=[-1]), b"", "'x': its shape [-1]"),
    "shape of booleans": (one([1], shape=[True]), b"", "'x': its shape [True]"),
    "huge shape": (one([1], shape=[2**63]), b"", "'x': its shape"),
    "many dimensions": (one([1], shape=[1] * 65), b"", "'x' has 65 dimensions"),
    "no data": (one(None), b"", "'x' has no data"),
    "data no list": (one("abc"), b"", "'x' has data that is no list"),
    "too few": (one([1, 2]), b"", "'x' has 2 elements, but its shape [3] asks for 3"),
    "too many nested": (one([[1, 2], [3]], shape=[2, 2]), b"", "'x': its data is nested otherwise"),
    "ragged": (one([[1, 2], 3], shape=[2, 2]), b"", "'x': its data is nested otherwise"),
    "nested too deep": (one([[[1]], [[2]]], shape=[2, 1]), b"", "'x': its data is nested otherwise"),
    "list in flat": (one([1, [2], 3]), b"", "'x': [2] is no element of FP32"),
    "text as number": (one([1, "2", 3]), b"", "'x': '2' is no element of FP32; give numbers"),
    "null as number": (one([1, None, 3]), b"", "'x': None is no element of FP32"),
    "float as integer": (one([1, 2.5, 3], datatype="INT32"), b"", "'x': 2.5 is no element of INT32"),
    "out of range": (one([1, 2, 256], datatype="UINT8"), b"", "'x': 256 is out of the range of uint8"),
    "far out of range": (one([1, 2, 2**70], datatype="UINT64"), b"", "'x'"),
    "boolean as integer": (one([1, True, 0], datatype="INT8"), b"", "'x': True is no element of INT8"),
    "integer as boolean": (one([0, True, 0], datatype="BOOL"), b"", "'x': 0 is no element of BOOL"),
    "number as string": (one(["a", 1, "b"], datatype="BYTES"), b"", "'x': 1 is no string"),
    "BF16 as JSON": (one([1, 2, 3], datatype="BF16"), b"", "'x': elements of bfloat16"),
    "too little binary": (one(None, parameters={"binary_data_size": 12}), b"1234", "'x' says it has 12 bytes"),
    "too much binary": (one(None, parameters={"binary_data_size": 4}), b"12345678", "8 bytes follow the JSON"),
    "size no number": (one(None, parameters={"binary_data_size": "4"}), b"1234", "'x': its binary_data_size '4'"),
    "negative size": (one(None, parameters={"binary_data_size": -4}), b"1234", "'x': its binary_data_size -4"),
    "both": (one([1, 2, 3], parameters={"binary_data_size": 4}), b"1234", "'x' has both data and binary_data_size"),
    "binary without header": (one(None, parameters={"binary_data_size": 0}), b"", "'x' has binary data, but"),
    "shared memory": (one(None, parameters={"shared_memory_region": "r"}), b"", "'x': shared memory"),
    "parameters no object": (one([1, 2, 3], parameters=[]), b"", "`parameters` of tensor 'x'"),
    "parameter null": (one([1, 2, 3]) | {"parameters": {"p": None}}, b"", "the parameter 'p'"),
    "parameter too large": (one([1, 2, 3]) | {"parameters": {"p": 2**64}}, b"", "the parameter 'p'"),
    "outputs no list": (one([1, 2, 3]) | {"outputs": "y"}, b"", "`outputs` of the request"),
    "output no name": (one([1, 2, 3]) | {"outputs": [{}]}, b"", "an output's name"),
    "classification": (one([1, 2, 3]) | {"outputs": [{"name": "y", "parameters": {"classification": 3}}]}, b"", "'y'"),
    "binary no flag": (one([1, 2, 3]) | {"parameters": {"binary_data_output": 1}}, b"", "binary_data_output is 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_refused_by_name(case: str) -> None:
    document, binary, message = WRONG[case]
    with pytest.raises(InvalidRequestError) as caught:
        read(document, binary)
    assert message in caught.value.message
    assert caught.value.subject == ("x" if message.startswith("'x'") else caught.value.subject)


@pytest.mark.parametrize("length", [0, 10, 10_000])
def test_a_lying_header_length_is_named(length: int) -> None:
    with pytest.raises(InvalidRequestError, match="Inference-Header-Content-Length"):
        read(one([1, 2, 3]), length=length)


@pytest.mark.parametrize("text", ["", "-1", "1.0", "0x10", "1 2", "9" * 30, "１２"])
def test_a_header_that_is_no_length_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="Inference-Header-Content-Length"):
        read_header_length(text)


def test_a_header_with_a_length_is_read() -> None:
    assert read_header_length("12") == 12
    assert read_header_length(None) is None


def test_json_of_a_size_that_would_swell_in_memory_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidRequestError, match="as binary data"):
        read_request(b" " * (MOST_JSON_BYTES + 1), None, model="m")
