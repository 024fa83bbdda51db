"""Requests that are wrong, each refused by name over both faces; and workers that go on."""

import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.workers import PIPELINE
from factories.clients import Answer, ask_both, rest_body, send_grpc, send_rest
from factories.models import model_of, node, value, weight
from factories.planes import array_of, tensor_of
from factories.served import Served, by_layer_name, served
from tierflow.model.extract import whole_model
from tierflow.protocol.codec import encode_request
from tierflow.protocol.messages import BOUNDARY_PARAMETER, InferRequest, InferTensor
from tierflow.tiers import Tier
from tierflow_worker.runtime import create_session

LEFT = tensor_of("left", np.arange(6, dtype=np.float32).reshape(2, 3))
RIGHT = tensor_of("right", np.ones((2, 3), np.float32))
WORDS = tensor_of("words", np.array(["a", "b"], dtype=object))
GOOD = InferRequest(PIPELINE, (LEFT, RIGHT, WORDS), "good")
MOST_BYTES = 64 * 1024


def changed(*tensors: InferTensor, **more: Any) -> InferRequest:
    """The good request with these tensors in the place of those of the same name."""
    by_name = {tensor.name: tensor for tensor in tensors}
    return replace(GOOD, tensors=tuple(by_name.get(tensor.name, tensor) for tensor in GOOD.tensors), **more)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = model_of(
        [
            node("Add", "left right", "sum", name="device/add"),
            node("MatMul", "sum w", "product", name="edge/multiply"),
            node("Softmax", "product", "scores", name="cloud/softmax"),
            node("Identity", "words", "said", name="device/say"),
        ],
        [value("left", [2, 3]), value("right", [2, 3]), value("words", [2], 8)],
        [value("scores", [2, 5]), value("said", [2], 8)],
        [weight("w", 3, 5)],
    )
    folder = tmp_path_factory.mktemp("bad")
    with served(model, folder, by_layer_name, max_message_bytes=MOST_BYTES) as running:
        yield running


@pytest.fixture(autouse=True)
def _the_workers_go_on(chain: Served) -> Iterator[None]:
    yield
    assert {answer.status for answer in ask_both(chain.grpc, chain.rest, GOOD).values()} == {"OK"}


CASES: dict[str, tuple[InferRequest, str, str]] = {
    "wrong name": (
        replace(GOOD, tensors=(replace(LEFT, name="lefd"), RIGHT, WORDS)),
        "INVALID_ARGUMENT",
        "the model pipe takes no tensor 'lefd', did you mean left?; it takes left, right, words",
    ),
    "wrong dtype": (
        changed(tensor_of("left", np.ones((2, 3), np.float64))),
        "INVALID_ARGUMENT",
        "tensor 'left' must be FP32 (float32), not FP64",
    ),
    "wrong shape": (
        changed(tensor_of("left", np.ones((3, 2), np.float32))),
        "INVALID_ARGUMENT",
        "tensor 'left' must have the shape [2, 3], not [3, 2]",
    ),
    "negative shape": (changed(replace(LEFT, shape=(-1, 3))), "INVALID_ARGUMENT", "tensor 'left'"),
    "too few bytes": (
        changed(replace(LEFT, data=bytes(LEFT.data)[:-4])),
        "INVALID_ARGUMENT",
        "tensor 'left' of FP32 [2, 3] must have 24 bytes, not 20",
    ),
    "too many bytes": (
        changed(replace(LEFT, data=bytes(LEFT.data) * 2)),
        "INVALID_ARGUMENT",
        "tensor 'left' of FP32 [2, 3] must have 24 bytes, not 48",
    ),
    "missing": (
        replace(GOOD, tensors=(RIGHT, WORDS)),
        "INVALID_ARGUMENT",
        "tensor 'left' is missing; the model pipe takes left, right, words",
    ),
    "none": (replace(GOOD, tensors=()), "INVALID_ARGUMENT", "tensor 'left' is missing"),
    "twice": (replace(GOOD, tensors=(LEFT, RIGHT, WORDS, LEFT)), "INVALID_ARGUMENT", "tensor 'left' is given twice"),
    "one too many": (
        replace(GOOD, tensors=(*GOOD.tensors, replace(LEFT, name="more"))),
        "INVALID_ARGUMENT",
        "takes no tensor 'more'",
    ),
    "too few strings": (
        changed(tensor_of("words", np.array(["a"], dtype=object)), tensor_of("left", np.ones((2, 3), np.float32))),
        "INVALID_ARGUMENT",
        "tensor 'words' must have the shape [2], not [1]",
    ),
    "string cut short": (
        changed(replace(WORDS, data=bytes(WORDS.data)[:-1])),
        "INVALID_ARGUMENT",
        "tensor 'words': a string says it has 1 bytes where 0 are left",
    ),
    "string that is no text": (
        changed(replace(WORDS, data=b"\x01\0\0\0\xff\x01\0\0\0b")),
        "INVALID_ARGUMENT",
        "input words has a string that is not UTF-8",
    ),
    "unknown output": (
        replace(GOOD, outputs=("score",)),
        "INVALID_ARGUMENT",
        "the model has no output 'score', did you mean scores?; it has scores, said",
    ),
    "output twice": (
        replace(GOOD, outputs=("said", "said")),
        "INVALID_ARGUMENT",
        "the output 'said' is asked for twice",
    ),
    "unknown model": (
        replace(GOOD, model="other"),
        "NOT_FOUND",
        "no model 'other' is served here; this worker serves pipe",
    ),
    "unknown version": (replace(GOOD, version="7"), "NOT_FOUND", "pipe has no version '7'"),
    "unknown boundary": (
        replace(GOOD, parameters={BOUNDARY_PARAMETER: "0123456789abcdef"}),
        "FAILED_PRECONDITION",
        "boundary 0123456789abcdef is not accepted here: the sender has another plan",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_wrong_request_is_refused_by_name_over_both_faces(chain: Served, case: str) -> None:
    request, status, message = CASES[case]
    for face, answer in ask_both(chain.grpc, chain.rest, request).items():
        assert (answer.status, message in answer.text) == (status, True), f"{face}: {answer}"


def test_a_tier_above_the_entry_says_where_requests_go(chain: Served) -> None:
    answer = send_grpc(chain.workers[Tier.EDGE].address, encode_request(GOOD))
    assert answer.status == "INVALID_ARGUMENT"
    assert "this is the edge tier of pipe; send requests to its device tier" in answer.text


def test_a_boundarys_tensors_are_checked_above_the_entry_too(chain: Served) -> None:
    cloud = chain.workers[Tier.CLOUD]
    known = send_grpc(cloud.address, encode_request(replace(GOOD, parameters={BOUNDARY_PARAMETER: "?"}))).text
    boundary = known.rpartition(": ")[2]
    request = InferRequest(
        PIPELINE,
        (tensor_of("product", np.ones((2, 4), np.float32)),),
        parameters={BOUNDARY_PARAMETER: boundary},
    )
    answer = send_grpc(cloud.address, encode_request(request))
    assert answer.status == "INVALID_ARGUMENT"
    assert "tensor 'product' must have the shape [2, 5], not [2, 4]" in answer.text


def test_an_oversized_body_is_refused_with_the_limit(chain: Served) -> None:
    request = changed(replace(LEFT, shape=(MOST_BYTES,), data=bytes(4 * MOST_BYTES)))
    answers = ask_both(chain.grpc, chain.rest, request)
    assert {answer.status for answer in answers.values()} == {"RESOURCE_EXHAUSTED"}
    assert "raise the worker's --max-message-bytes" in answers["rest"].text
    assert str(MOST_BYTES) in answers["grpc"].text


@pytest.mark.parametrize(
    "body", [b"\xff" * 100, encode_request(GOOD)[:-1], b"\x00", b"{}"], ids=["noise", "cut", "zero", "json"]
)
def test_bytes_that_are_no_request_are_refused(chain: Served, body: bytes) -> None:
    answer = send_grpc(chain.grpc, body)
    assert answer.status == "INVALID_ARGUMENT"
    assert "no valid ModelInferRequest" in answer.text


def test_what_a_face_cannot_read_is_counted_too(chain: Served) -> None:
    def invalid() -> int:
        connection = http.client.HTTPConnection(chain.rest, timeout=30)
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
        connection.close()
        [count] = re.findall(r'tierflow_requests_total\{outcome="invalid".*\} (\d+)', text)
        return int(count)

    before = invalid()
    send_grpc(chain.grpc, b"\xff" * 100)
    send_rest(chain.rest, f"/v2/models/{PIPELINE}/infer", b"{", {})
    assert invalid() - before == 2


def test_raw_contents_that_do_not_match_the_tensors_are_refused(chain: Served) -> None:
    raw_content_more = b"\x3a\x04abcd"
    answer = send_grpc(chain.grpc, encode_request(GOOD) + raw_content_more)
    assert answer == Answer("INVALID_ARGUMENT", "raw_input_contents has 4 entries for 3 tensors; give one for each")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Inference-Header-Content-Length": "7"}, "no valid JSON"),
        ({"Inference-Header-Content-Length": "999999"}, "says 999999 bytes, but the body has"),
        ({"Inference-Header-Content-Length": "-1"}, "give the JSON's length in bytes"),
        ({"Content-Encoding": "gzip"}, "no valid gzip"),
    ],
    ids=["short", "long", "negative", "not compressed"],
)
def test_rest_headers_that_lie_are_named(chain: Served, change: dict[str, str], message: str) -> None:
    body, headers = rest_body(GOOD)
    status, answer = send_rest(chain.rest, f"/v2/models/{PIPELINE}/infer", body, headers | change)
    assert status == 400
    assert message in json.loads(answer)["error"]


def test_not_a_number_goes_through_as_through_the_whole_model(chain: Served, tmp_path: Any) -> None:
    left = np.array([[np.nan, 1, -np.inf], [np.inf, 0, 1]], np.float32)
    request = changed(tensor_of("left", left))
    whole_model(chain.model, tmp_path / "whole.onnx")
    expected = create_session(tmp_path / "whole.onnx").run(
        {"left": left, "right": array_of(RIGHT), "words": array_of(WORDS)}
    )
    answer = send_grpc(chain.grpc, encode_request(request))
    assert answer.tensors is not None
    assert np.isnan(expected["scores"]).any()
    np.testing.assert_array_equal(array_of(answer.tensors["scores"]), expected["scores"])
    status, body = send_rest(chain.rest, f"/v2/models/{PIPELINE}/infer", *rest_body(request))
    assert status == 200
    [scores, _] = json.loads(body)["outputs"]
    np.testing.assert_array_equal(np.array(scores["data"], np.float32).reshape(2, 5), expected["scores"])
