"""A chain of three workers answers as the whole model does, wherever it is cut."""

import asyncio
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tritonclient.grpc

from benchmarks.workers import PIPELINE, Start, start_chain
from factories.models import convolutions, model_of, node, saved, value, weight
from factories.planes import array_of, ask, serving_chain, tensor_of
from tierflow.graph import Graph
from tierflow.model import open_model
from tierflow.model.extract import whole_model
from tierflow.model.model import Model
from tierflow.protocol.messages import InferRequest
from tierflow.segment import Route, cut
from tierflow.tiers import TIERS, Tier
from tierflow_worker.runtime import create_session

LIGHT = Path(onnx.__file__).parent / "backend/test/data/light"


def branches() -> onnx.ModelProto:
    """Two inputs, three outputs (one made early, one of integers), and tensors that are needed far above."""
    return model_of(
        [
            node("Relu", "left", "a", name="first"),
            node("Add", "left right", "b", name="join"),
            node("Mul", "a w", "early", name="early"),
            node("Sigmoid", "b", "c", name="middle"),
            node("Concat", "c a", "d", name="skip", axis=1),
            node("ArgMax", "d", "best", name="best", axis=1),
            node("MatMul", "d m", "late", name="late"),
            node("Tanh", "right", "other", name="other"),
        ],
        [value("left", [2, 8]), value("right", [2, 8])],
        [
            value("early", [2, 8]),
            value("best", [2, 1], onnx.TensorProto.INT64),
            value("late", [2, 5]),
            value("other", [2, 8]),
        ],
        [weight("w", 8), weight("m", 16, 5)],
    )


def strings_and_truths() -> onnx.ModelProto:
    """Boundaries of booleans and half floats, an input and an output of strings, and an output that is an input."""
    return model_of(
        [
            node("Greater", "x limit", "above", name="compare"),
            node("Cast", "x", "half", name="shrink", to=onnx.TensorProto.FLOAT16),
            node("Not", "above", "below", name="invert"),
            node("Cast", "half", "again", name="grow", to=onnx.TensorProto.FLOAT),
            node("Where", "below x again", "y", name="choose"),
            node("Identity", "words", "said", name="say"),
            node("Cast", "y", "text", name="write", to=onnx.TensorProto.STRING),
        ],
        [value("x", [2, 3]), value("words", [2], onnx.TensorProto.STRING)],
        [
            value("y", [2, 3]),
            value("said", [2], onnx.TensorProto.STRING),
            value("text", [2, 3], onnx.TensorProto.STRING),
        ],
        [weight("limit", 1)],
    )


def inputs_of(graph: Graph, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for name in graph.inputs:
        tensor = graph.tensors[name]
        if tensor.dtype == "string":
            found[name] = np.array([f"wört {rng.integers(100)}" for _ in range(tensor.elements)], dtype=object)
        else:
            found[name] = rng.standard_normal(tensor.shape).astype(tensor.dtype)
    return found


def answer_of(model: Model, inputs: dict[str, Any], folder: Path) -> dict[str, Any]:
    whole_model(model, folder / "whole.onnx")
    return create_session(folder / "whole.onnx").run(inputs)


def request_of(inputs: dict[str, Any], outputs: tuple[str, ...] = ()) -> InferRequest:
    return InferRequest(PIPELINE, tuple(tensor_of(name, array) for name, array in inputs.items()), "r1", outputs)


def assert_equal(found: Any, expected: Any) -> None:
    assert found.shape == expected.shape
    if expected.dtype.kind == "f":
        largest = np.abs(expected).max(initial=0)
        assert np.abs(found - expected).max(initial=0) <= 1e-6 * largest
    else:
        assert (found == expected).all()


async def check_cut(model: Model, tiers: tuple[Tier, ...], route: Route, folder: Path) -> None:
    inputs = inputs_of(model.graph)
    expected = answer_of(model, inputs, folder)
    async with serving_chain(model, tiers, folder, route) as nodes:
        response = await ask(nodes[Tier.DEVICE].address, request_of(inputs))
    assert response.id == "r1"
    assert [tensor.name for tensor in response.tensors] == list(model.graph.outputs)
    for tensor in response.tensors:
        assert_equal(array_of(tensor), expected[tensor.name])


def random_partitions(graph: Graph, count: int, seed: int) -> list[tuple[Tier, ...]]:
    """Monotone partitions: each layer on the tier of its latest predecessor, or above."""
    rng = random.Random(seed)
    found = []
    for _ in range(count):
        tiers: list[Tier] = []
        for layer in graph.layers:
            before = [tiers[graph.producer[name]].rank for name in layer.inputs if name in graph.producer]
            lowest = max(before, default=0)
            tiers.append(TIERS[lowest if rng.random() < 0.6 else rng.randrange(lowest, 3)])
        found.append(tuple(tiers))
    return found


@pytest.mark.parametrize("make", [convolutions, branches, strings_and_truths])
def test_any_partition_of_a_small_model_answers_as_the_whole(make: Any, tmp_path: Path) -> None:
    model = open_model(str(saved(make(), tmp_path)))

    async def check_all() -> None:
        for tiers in [(tier,) * len(model.graph.layers) for tier in TIERS] + random_partitions(model.graph, 12, 1):
            await check_cut(model, tiers, Route.RELAYED, tmp_path)
            if Tier.EDGE not in tiers:
                await check_cut(model, tiers, Route.DIRECT, tmp_path)

    asyncio.run(check_all())


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1"])
def test_random_cuts_of_a_real_architecture_answer_as_the_whole(name: str, tmp_path: Path) -> None:
    model = open_model(str(LIGHT / f"light_{name}.onnx"))
    rng = random.Random(3)
    names = [layer.name for layer in model.graph.layers]

    async def check_all() -> None:
        for _ in range(3):
            device, edge = sorted(rng.sample(range(len(names)), 2))
            await check_cut(model, cut(model.graph, names[device], names[edge]), Route.RELAYED, tmp_path)

    asyncio.run(check_all())


def test_the_wanted_outputs_come_in_the_wanted_order_whichever_tier_makes_them(tmp_path: Path) -> None:
    model = open_model(str(saved(branches(), tmp_path)))
    inputs = inputs_of(model.graph)
    expected = answer_of(model, inputs, tmp_path)

    async def check_all() -> None:
        tiers = cut(model.graph, "early", "skip")
        async with serving_chain(model, tiers, tmp_path) as nodes:
            for wanted in [("late", "early"), ("early",), ("other", "best", "late"), ("best",)]:
                response = await ask(nodes[Tier.DEVICE].address, request_of(inputs, wanted))
                assert [tensor.name for tensor in response.tensors] == list(wanted)
                for tensor in response.tensors:
                    assert_equal(array_of(tensor), expected[tensor.name])

    asyncio.run(check_all())


def test_not_a_number_passes_through_as_through_the_whole_model(tmp_path: Path) -> None:
    model = open_model(str(saved(convolutions(), tmp_path)))
    image = np.full((1, 3, 8, 8), np.nan, np.float32)

    async def check() -> None:
        async with serving_chain(model, cut(model.graph, "relu1", "add"), tmp_path) as nodes:
            response = await ask(nodes[Tier.DEVICE].address, request_of({"image": image}))
        assert np.isnan(array_of(response.tensors[0])).all()

    asyncio.run(check())


def test_processes_of_three_tiers_answer_a_clients_request_as_the_whole_model(start: Start, tmp_path: Path) -> None:
    uri = str(LIGHT / "light_squeezenet.onnx")
    model = open_model(uri)
    inputs = inputs_of(model.graph)
    expected = answer_of(model, inputs, tmp_path)
    names = [layer.name for layer in model.graph.layers]
    workers = start_chain(start, model, uri, cut(model.graph, names[20], names[45]))
    with tritonclient.grpc.InferenceServerClient(workers[Tier.DEVICE].address) as client:
        assert client.is_server_ready()
        assert client.is_model_ready(PIPELINE)
        [(name, image)] = inputs.items()
        tensor = tritonclient.grpc.InferInput(name, image.shape, "FP32")
        tensor.set_data_from_numpy(image)
        answer = client.infer(PIPELINE, [tensor], request_id="r7")
        [output] = model.graph.outputs
        assert answer.get_response().id == "r7"
        assert_equal(answer.as_numpy(output), expected[output])
    assert [worker.stop() for worker in workers.values()] == [0, 0, 0]
