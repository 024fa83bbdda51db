"""tritonclient, unchanged, against the entry of a chain of three: every data type, every form."""

import itertools
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

from benchmarks.workers import PIPELINE
from factories.served import BF16, TRITON_DTYPES, Served, by_layer_name, example, handing_on, served

CLIENTS = {"grpc": tritonclient.grpc, "http": tritonclient.http}
FORMS = [("grpc", True, True), *(("http", *form) for form in itertools.product([True, False], repeat=2))]
FORM_NAMES = ["grpc", "http-binary-binary", "http-binary-json", "http-json-binary", "http-json-json"]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(handing_on(TRITON_DTYPES), tmp_path_factory.mktemp("dtypes"), by_layer_name) as running:
        yield running


@pytest.fixture(scope="module", params=["grpc", "http"])
def client(request: pytest.FixtureRequest, chain: Served) -> Iterator[Any]:
    with CLIENTS[request.param].InferenceServerClient(chain.grpc if request.param == "grpc" else chain.rest) as client:
        yield client


def inputs_of(module: Any, *, json_for: str = "") -> list[Any]:
    """An input of each data type; that of `json_for` as JSON."""
    inputs = []
    for datatype in TRITON_DTYPES:
        tensor = module.InferInput(f"in_{datatype}", [2, 3], datatype)
        form = {"binary_data": False} if datatype == json_for else {}
        tensor.set_data_from_numpy(example(datatype), **form)
        inputs.append(tensor)
    return inputs


def assert_same(found: Any, datatype: str) -> None:
    expected = example(datatype)
    assert found.shape == (2, 3)
    if datatype == "BYTES":
        texts = [item.decode() if isinstance(item, bytes) else item for item in found.ravel()]
        assert texts == list(expected.ravel())
    else:
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes() or np.array_equal(found, expected, equal_nan=True)


@pytest.mark.parametrize("datatype", TRITON_DTYPES)
@pytest.mark.parametrize(("protocol", "binary_in", "binary_out"), FORMS, ids=FORM_NAMES)
def test_every_data_type_comes_back_as_it_was_sent(
    chain: Served, protocol: str, binary_in: bool, binary_out: bool, datatype: str
) -> None:
    module = CLIENTS[protocol]
    inputs = inputs_of(module, json_for="" if binary_in else datatype)
    form = {"binary_data": binary_out} if protocol == "http" else {}
    outputs = [module.InferRequestedOutput(f"out_{datatype}", **form)]
    with module.InferenceServerClient(chain.grpc if protocol == "grpc" else chain.rest) as client:
        result = client.infer(PIPELINE, inputs, outputs=outputs, request_id="seven")
    assert_same(result.as_numpy(f"out_{datatype}"), datatype)
    response = result.get_response()
    assert (response.id if protocol == "grpc" else response["id"]) == "seven"


def test_bfloat16_comes_back_as_binary_data_and_json_says_why_it_cannot(tmp_path: Path) -> None:
    with served(handing_on(BF16), tmp_path, by_layer_name) as chain:
        for protocol, module in CLIENTS.items():
            tensor = module.InferInput("in_BF16", [2, 3], "BF16")
            tensor.set_data_from_numpy(example("BF16"))
            with module.InferenceServerClient(chain.grpc if protocol == "grpc" else chain.rest) as client:
                assert_same(client.infer(PIPELINE, [tensor]).as_numpy("out_BF16"), "BF16")
        as_json = [tritonclient.http.InferRequestedOutput("out_BF16", binary_data=False)]
        with (
            tritonclient.http.InferenceServerClient(chain.rest) as client,
            pytest.raises(InferenceServerException, match=r"'out_BF16' of BF16 .* ask for it as binary data"),
        ):
            client.infer(PIPELINE, [tensor], outputs=as_json)


def test_without_requested_outputs_all_come(client: Any) -> None:
    module = tritonclient.grpc if isinstance(client, tritonclient.grpc.InferenceServerClient) else tritonclient.http
    result = client.infer(PIPELINE, inputs_of(module))
    for datatype in TRITON_DTYPES:
        assert_same(result.as_numpy(f"out_{datatype}"), datatype)


def test_server_and_model_are_live_and_ready(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(PIPELINE)
    assert client.is_model_ready(PIPELINE, "1")
    assert not client.is_model_ready("another")


def test_metadata_names_every_input_and_output(client: Any) -> None:
    as_json = {"as_json": True} if isinstance(client, tritonclient.grpc.InferenceServerClient) else {}
    server = client.get_server_metadata(**as_json)
    assert server["name"] == "tierflow"
    model = client.get_model_metadata(PIPELINE, **as_json)
    assert model["name"] == PIPELINE
    described = {part["name"]: (part["datatype"], [int(size) for size in part["shape"]]) for part in model["inputs"]}
    assert described == {f"in_{datatype}": (datatype, [2, 3]) for datatype in TRITON_DTYPES}
    assert {part["name"] for part in model["outputs"]} == {f"out_{datatype}" for datatype in TRITON_DTYPES}


def test_what_is_not_there_is_said_in_words(client: Any) -> None:
    with pytest.raises(InferenceServerException, match="no model 'another' is served here"):
        client.get_model_metadata("another")
    module = tritonclient.grpc if isinstance(client, tritonclient.grpc.InferenceServerClient) else tritonclient.http
    with pytest.raises(InferenceServerException, match="has no version '2'"):
        client.infer(PIPELINE, inputs_of(module), model_version="2")


def test_several_requests_at_once_over_grpc_are_each_answered(chain: Served) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(chain.grpc) as client:
        inputs = inputs_of(tritonclient.grpc)
        for number in range(8):
            client.async_infer(
                PIPELINE, inputs, lambda result, error: answers.put((result, error)), request_id=str(number)
            )
        found = [answers.get(timeout=60) for _ in range(8)]
    assert [error for _, error in found] == [None] * 8
    assert sorted(result.get_response().id for result, _ in found) == [str(number) for number in range(8)]
    for result, _ in found:
        assert_same(result.as_numpy("out_FP32"), "FP32")


def test_several_requests_at_once_over_http_are_each_answered(chain: Served) -> None:
    with tritonclient.http.InferenceServerClient(chain.rest, concurrency=4) as client:
        inputs = inputs_of(tritonclient.http)
        sent = [client.async_infer(PIPELINE, inputs, request_id=str(number)) for number in range(8)]
        for number, request in enumerate(sent):
            result = request.get_result()
            assert result.get_response()["id"] == str(number)
            assert_same(result.as_numpy("out_INT64"), "INT64")


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression_that_the_client_asks_for_works(chain: Served, algorithm: str) -> None:
    with tritonclient.http.InferenceServerClient(chain.rest) as client:
        result = client.infer(
            PIPELINE,
            inputs_of(tritonclient.http),
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        )
        assert_same(result.as_numpy("out_FP64"), "FP64")
    with tritonclient.grpc.InferenceServerClient(chain.grpc) as client:
        result = client.infer(PIPELINE, inputs_of(tritonclient.grpc), compression_algorithm=algorithm)
        assert_same(result.as_numpy("out_FP64"), "FP64")


def test_a_deadline_that_is_over_is_said_so(chain: Served) -> None:
    with (
        tritonclient.http.InferenceServerClient(chain.rest) as client,
        pytest.raises(InferenceServerException, match="deadline") as caught,
    ):
        client.infer(PIPELINE, inputs_of(tritonclient.http), timeout=1)
    assert caught.value.status() == "504"
