"""Responses in the REST form, read back by tritonclient."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient.http import InferenceServerClient, InferResult

from tierflow.errors import InvalidRequestError
from tierflow.protocol.elements import pack_strings
from tierflow.protocol.messages import (
    OIP_DTYPES,
    InferResponse,
    InferTensor,
    ModelMetadata,
    ServerMetadata,
    TensorMetadata,
)
from tierflow.protocol.rest import (
    ResponseForm,
    read_request,
    write_error,
    write_model_metadata,
    write_response,
    write_server_metadata,
)

NUMBERS = [
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64",
]  # fmt: skip


def answered(*tensors: InferTensor, form: ResponseForm) -> InferResult:
    body, length = write_response(InferResponse("m", tensors, id="one"), form)
    return InferenceServerClient.parse_response_body(body, header_length=length)


def tensor_of(array: np.ndarray, name: str = "y") -> InferTensor:
    return InferTensor(name, array.dtype.name, array.shape, array.tobytes())


@st.composite
def tensors(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(NUMBERS)))
    return draw(arrays.arrays(dtype, arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)))


@given(array=tensors(), binary=st.booleans())
def test_tritonclient_reads_every_number_back(array: np.ndarray, binary: bool) -> None:
    result = answered(tensor_of(array), form=ResponseForm(binary=binary)).as_numpy("y")
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


@given(array=tensors())
def test_json_that_was_written_is_read_as_the_same_bytes(array: np.ndarray) -> None:
    array = np.where(np.isnan(array), np.array(0, array.dtype), array)  # a NaN's payload is binary data's alone
    body, _ = write_response(InferResponse("m", (tensor_of(array),)), ResponseForm())
    document = json.loads(body)
    request, _ = read_request(json.dumps({"inputs": document["outputs"]}).encode(), None, model="m")
    assert bytes(request.tensors[0].data) == array.tobytes()


def test_json_answers_are_valid_json_also_where_numbers_are_not_finite() -> None:
    array = np.array([math.nan, math.inf, -math.inf, 0.5], np.float32)
    body, _ = write_response(InferResponse("m", (tensor_of(array),)), ResponseForm())

    def refuse(word: str) -> float:
        pytest.fail(f"{word} is no JSON")

    document = json.loads(body, parse_constant=refuse)
    assert document["outputs"][0]["data"] == ["NaN", "Infinity", "-Infinity", 0.5]
    result = InferenceServerClient.parse_response_body(body).as_numpy("y")
    np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_tritonclient_reads_strings_back(binary: bool) -> None:
    texts = ["", "grün", "日本"]
    tensor = InferTensor("y", "string", (3,), pack_strings(text.encode() for text in texts))
    result = answered(tensor, form=ResponseForm(binary=binary)).as_numpy("y")
    assert [item.decode() if isinstance(item, bytes) else item for item in result] == texts


def test_outputs_of_both_forms_and_of_no_bytes_keep_their_places() -> None:
    first, empty, last = np.array([1.5]), np.empty((0, 2)), np.array([2, 3], np.int16)
    form = ResponseForm(binary=True, by_output={"b": False})
    result = answered(
        tensor_of(first, "a"), tensor_of(np.array([9]), "b"), tensor_of(empty, "c"), tensor_of(last, "d"), form=form
    )
    np.testing.assert_array_equal(result.as_numpy("a"), first)
    np.testing.assert_array_equal(result.as_numpy("b"), [9])
    assert result.as_numpy("c").shape == (0, 2)
    np.testing.assert_array_equal(result.as_numpy("d"), last)
    assert result.get_response()["id"] == "one"


@pytest.mark.parametrize(
    "tensor",
    [
        InferTensor("y", "string", (1,), pack_strings([b"\xff"])),
        InferTensor("y", "bfloat16", (1,), b"\x80\x3f"),
        InferTensor("y", "float8e5m2", (1,), b"\x80"),
    ],
    ids=["bytes", "bfloat16", "float8"],
)
def test_what_json_cannot_carry_asks_for_binary_data(tensor: InferTensor) -> None:
    with pytest.raises(InvalidRequestError, match=r"output 'y' .*ask for it as binary data"):
        write_response(InferResponse("m", (tensor,)), ResponseForm())
    body, length = write_response(InferResponse("m", (tensor,)), ResponseForm(binary=True))
    assert length is not None
    assert body[length:] == tensor.data


def test_metadata_says_the_protocols_names() -> None:
    model = ModelMetadata(
        "m", "onnx", (TensorMetadata("x", "float32", (1, 3)),), (TensorMetadata("y", "string", (2,)),), ("1",)
    )
    assert json.loads(write_model_metadata(model)) == {
        "name": "m",
        "versions": ["1"],
        "platform": "onnx",
        "inputs": [{"name": "x", "datatype": OIP_DTYPES["float32"], "shape": [1, 3]}],
        "outputs": [{"name": "y", "datatype": "BYTES", "shape": [2]}],
    }
    server = json.loads(write_server_metadata(ServerMetadata("tierflow", "1.0", ("binary_tensor_data",))))
    assert server == {"name": "tierflow", "version": "1.0", "extensions": ["binary_tensor_data"]}
    assert json.loads(write_error('"quoted"')) == {"error": '"quoted"'}
