"""What a worker answers that is asked for its own part alone."""

import asyncio
import json
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from benchmarks.tiled_workers import edge_descriptor
from benchmarks.workers import PIPELINE
from factories.models import convolutions, model_of, node, saved, value, weight
from factories.planes import Node, array_of, ask, serving_chain, tensor_of
from factories.tiled import (
    FOUR,
    Cast,
    cast_of,
    computed_by,
    everything_at_the_edge,
    inputs_of,
    residual,
    tiled_segment,
)
from tierflow.model import open_model
from tierflow.model.model import Model
from tierflow.protocol.messages import (
    BOUNDARY_PARAMETER,
    ONLY_OWN_PARAMETER,
    RESULTS_PARAMETER,
    SEGMENT_PARAMETER,
    InferRequest,
    InferResponse,
    InferTensor,
)
from tierflow.segment import Route, cut
from tierflow.tiers import TIERS, Tier
from tierflow_worker.verification import whole_outputs


def early_results() -> Any:
    """A result that the device makes and the edge needs, one of the edge, and two of the cloud."""
    return model_of(
        [
            node("Relu", "x", "a", name="first"),
            node("Mul", "a w", "b", name="second"),
            node("Tanh", "b", "c", name="third"),
            node("Add", "c a", "d", name="fourth"),
            node("Sigmoid", "d", "e", name="fifth"),
        ],
        [value("x", [2, 8])],
        [value(name, [2, 8]) for name in "abde"],
        [weight("w", 8)],
    )


def own(tensors: tuple[InferTensor, ...], boundary: str = "", outputs: tuple[str, ...] = ()) -> InferRequest:
    parameters: dict[str, Any] = {ONLY_OWN_PARAMETER: True}
    if boundary:
        parameters[BOUNDARY_PARAMETER] = boundary
    return InferRequest(PIPELINE, tensors, "check", outputs, parameters)


def results_of(answer: InferResponse) -> list[str]:
    return list(json.loads(str(answer.parameters[RESULTS_PARAMETER])))


def opened(proto: Any, folder: Path) -> Model:
    return open_model(str(saved(proto, folder)))


async def gather(nodes: dict[Tier, Node], inputs: dict[str, Any], route: list[Tier]) -> dict[str, InferTensor]:
    """The results of all tiers, each asked for its own part, its boundary handed on by the test."""
    found: dict[str, InferTensor] = {}
    arriving, boundary = tuple(tensor_of(name, array) for name, array in inputs.items()), ""
    for tier in route:
        answer = await ask(nodes[tier].address, own(arriving, boundary))
        made = {tensor.name: tensor for tensor in answer.tensors}
        found |= {name: made[name] for name in results_of(answer)}
        boundary = str(answer.parameters.get(BOUNDARY_PARAMETER, ""))
        [segment] = nodes[tier].plane._descriptor.segments
        assert answer.id == "check"
        assert answer.parameters[SEGMENT_PARAMETER] == segment.id
        assert boundary == (segment.sends.id if segment.sends else "")
        arriving = tuple(made[tensor.name] for tensor in segment.sends.tensors) if segment.sends else ()
    assert boundary == ""
    return found


@pytest.mark.parametrize(
    ("last_device", "last_edge", "route", "part"),
    [
        ("first", "second", Route.RELAYED, list(TIERS)),
        ("second", "fourth", Route.RELAYED, list(TIERS)),
        ("", "third", Route.RELAYED, list(TIERS)),
        ("second", "second", Route.RELAYED, list(TIERS)),
        ("second", "second", Route.DIRECT, [Tier.DEVICE, Tier.CLOUD]),
        ("fifth", "fifth", Route.RELAYED, [Tier.DEVICE]),
    ],
)
def test_own_parts_handed_on_make_the_whole_answer(
    last_device: str, last_edge: str, route: Route, part: list[Tier], tmp_path: Path
) -> None:
    model = opened(early_results(), tmp_path)
    inputs = inputs_of(model, 1)
    expected = whole_outputs(model, inputs, folder=tmp_path)

    async def check() -> None:
        async with serving_chain(model, cut(model.graph, last_device, last_edge), tmp_path, route) as nodes:
            found = await gather(nodes, inputs, part)
        assert found.keys() == expected.keys()
        for name, array in expected.items():
            assert array_of(found[name]).tobytes() == array.tobytes()

    asyncio.run(check())


def test_a_tensor_that_is_result_and_sent_on_is_there_once(tmp_path: Path) -> None:
    model = opened(early_results(), tmp_path)
    inputs = tuple(tensor_of(name, array) for name, array in inputs_of(model, 1).items())

    async def check() -> None:
        async with serving_chain(model, cut(model.graph, "second", "third"), tmp_path) as nodes:
            answer = await ask(nodes[Tier.DEVICE].address, own(inputs))
            assert sorted(tensor.name for tensor in answer.tensors) == ["a", "b"]
            assert results_of(answer) == ["a", "b"]
            only_one = await ask(nodes[Tier.DEVICE].address, own(inputs, outputs=("b",)))
            assert results_of(only_one) == ["b"]

    asyncio.run(check())


def test_the_tier_above_is_not_called(tmp_path: Path) -> None:
    model = opened(convolutions(), tmp_path)
    image = tuple(tensor_of(name, array) for name, array in inputs_of(model, 1).items())

    async def check() -> None:
        async with serving_chain(model, cut(model.graph, "relu1", "conv2"), tmp_path) as nodes:
            await nodes[Tier.EDGE].face.stop(0)
            answer = await ask(nodes[Tier.DEVICE].address, own(image))
            assert [tensor.name for tensor in answer.tensors] == ["r1"]
            assert results_of(answer) == []

    asyncio.run(check())


def test_a_standby_refuses_and_so_does_a_worker_whose_parameter_is_no_truth_value(tmp_path: Path) -> None:
    model = opened(convolutions(), tmp_path)
    image = tuple(tensor_of(name, array) for name, array in inputs_of(model, 1).items())

    async def refusal(node: Node, request: InferRequest) -> tuple[Any, str]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(node.address, request)
        return caught.value.code(), caught.value.details()

    async def check() -> None:
        everything = (Tier.DEVICE,) * len(model.graph.layers)
        async with serving_chain(model, everything, tmp_path) as nodes:
            code, text = await refusal(nodes[Tier.EDGE], own(image, "0123456789abcdef"))
            assert (code, "being a standby" in text) == (grpc.StatusCode.FAILED_PRECONDITION, True)
            spelled = InferRequest(PIPELINE, image, parameters={ONLY_OWN_PARAMETER: "yes"})
            code, text = await refusal(nodes[Tier.DEVICE], spelled)
            assert (code, ONLY_OWN_PARAMETER in text) == (grpc.StatusCode.INVALID_ARGUMENT, True)

    asyncio.run(check())


def test_a_tiled_segments_own_part_waits_for_tile_workers_and_is_shared_with_them(
    tmp_path: Path,
) -> None:
    with cast_of(str(saved(residual(), tmp_path)), tmp_path) as cast:
        edge = tiled_edge(cast)
        inputs = inputs_of(cast.model, 3)
        segment = tiled_segment(cast.model, everything_at_the_edge(cast.model.graph), FOUR)
        tensors = tuple(tensor_of(name, array) for name, array in inputs.items())
        answer = asyncio.run(ask(edge.address, own(tensors, segment.accepts.id)))
        assert results_of(answer) == ["scores"]
        assert len(computed_by(edge)) > 1
        expected = whole_outputs(cast.model, inputs, folder=tmp_path)["scores"]
        assert array_of(answer.tensors[0]).shape == expected.shape
        assert abs(array_of(answer.tensors[0]) - expected).max() <= 1e-6 * abs(expected).max()


def tiled_edge(cast: Cast) -> Any:
    """An edge worker that computes all layers and waits for its approval, with a tile worker that holds nothing yet."""
    segment = tiled_segment(cast.model, everything_at_the_edge(cast.model.graph), FOUR)
    [tiles] = cast.tile_workers([], 1)
    descriptor = edge_descriptor(cast.model, cast.uri, [segment], tiles.address)
    edge = cast.start(descriptor, approval_file=cast.folder / "never")
    edge.wait_for("waiting for approval")
    return edge
