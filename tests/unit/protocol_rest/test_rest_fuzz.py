"""Whatever a body is, reading it gives a request or says what is wrong with it; nothing else is raised."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tierflow.errors import InvalidRequestError
from tierflow.protocol.messages import GRAPH_DTYPES
from tierflow.protocol.rest import read_request

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["NaN", "-1", "\ud800"])
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)


def mostly(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """What is expected in a place, and now and then anything."""
    return st.one_of(strategy, strategy, strategy, JSON)


PARAMETERS = mostly(
    st.dictionaries(
        st.sampled_from(["binary_data_size", "binary_data", "shared_memory_region", "classification", "timeout"]),
        mostly(st.integers(0, 40)),
        max_size=2,
    )
)
TENSOR = st.fixed_dictionaries(
    {
        "name": mostly(st.sampled_from(["x", "y"])),
        "datatype": mostly(st.sampled_from([*GRAPH_DTYPES])),
        "shape": mostly(st.lists(mostly(st.integers(0, 3)), max_size=3)),
    },
    optional={"data": mostly(st.lists(mostly(st.integers(-1, 300)), max_size=6)), "parameters": PARAMETERS},
)
DOCUMENT = mostly(
    st.fixed_dictionaries(
        {"inputs": mostly(st.lists(mostly(TENSOR), max_size=3))},
        optional={
            "id": mostly(st.text(max_size=5)),
            "outputs": mostly(st.lists(mostly(st.fixed_dictionaries({"name": mostly(st.just("y"))})), max_size=2)),
            "parameters": PARAMETERS,
        },
    )
)


def check(body: bytes, length: int | None) -> None:
    problem = None
    try:
        request, form = read_request(body, length, model="m")
    except InvalidRequestError as error:
        problem = error.message
    if problem is not None:
        assert problem.encode()
        return
    assert all(isinstance(size, int) and size >= 0 for tensor in request.tensors for size in tensor.shape)
    assert all(len(tensor.data) >= 0 for tensor in request.tensors)
    assert isinstance(form.is_binary("y"), bool)


@settings(max_examples=300, deadline=None)
@given(document=DOCUMENT, binary=st.binary(max_size=60), has_length=st.booleans())
def test_any_document_is_read_or_refused(document: Any, binary: bytes, has_length: bool) -> None:
    head = json.dumps(document).encode()
    check(head + binary if has_length else head, len(head) if has_length else None)


@settings(max_examples=150, deadline=None)
@given(body=st.binary(max_size=80), length=st.none() | st.integers(0, 100))
def test_any_bytes_are_read_or_refused(body: bytes, length: int | None) -> None:
    check(body, length)


@pytest.mark.parametrize("depth", [1_000, 100_000])
def test_deep_nesting_is_refused(depth: int) -> None:
    body = b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":' + b"[" * depth + b"]" * depth + b"}]}"
    with pytest.raises(InvalidRequestError):
        read_request(body, None, model="m")
