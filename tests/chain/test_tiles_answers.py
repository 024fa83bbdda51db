"""An edge worker with tile workers answers as one without: bit by bit, whoever is there, whatever the plan."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace

from benchmarks.tiled_workers import edge_segment
from benchmarks.workers import WorkerProcess, segment_descriptor, worker_descriptor
from factories.models import model_of, node, saved, value, weight
from factories.served import by_layer_name
from factories.tiled import (
    FOUR,
    Cast,
    Example,
    cast_of,
    computed_by,
    counted,
    everything_at_the_edge,
    free_ports,
    infer,
    inputs_of,
    request_of,
    residual,
    tiled_segment,
    untiled_examples,
    vgg_like,
    wait_for_tile_workers,
    whole_answers,
)
from tierflow.descriptor import Downstream, SegmentDescriptor
from tierflow.protocol.messages import BOUNDARY_PARAMETER, InferRequest
from tierflow.segment import segments_of
from tierflow.tiers import Tier
from tierflow.tiling.runs import named_run

LARGEST_DIFFERENCE = 1e-6


@dataclass
class Tiled:
    """A relaying device, an edge worker and three tile workers."""

    cast: Cast
    segment: SegmentDescriptor
    edge: WorkerProcess
    device: WorkerProcess
    tiles: list[WorkerProcess]
    examples: list[Example]


def tiled(cast: Cast, *, every_block: bool = False) -> Tiled:
    segment = tiled_segment(cast.model, everything_at_the_edge(cast.model.graph), every_block=every_block)
    tiles = cast.tile_workers([segment], 3)
    edge = cast.edge_worker([segment], ",".join(worker.address for worker in tiles))
    device = cast.device_of(edge)
    wait_for_tile_workers(edge, 3)
    return Tiled(cast, segment, edge, device, tiles, untiled_examples(cast, segment))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tiled]:
    folder = tmp_path_factory.mktemp("tiled")
    with cast_of(str(saved(residual(), folder)), folder) as cast:
        yield tiled(cast, every_block=True)


def assert_right(running: Tiled) -> None:
    """All answers have the untiled edge's bits, and are the whole model's."""
    whole = whole_answers(running.cast.model, running.cast.folder, [inputs_of(running.cast.model, 0)])[0]
    for example in running.examples:
        assert infer(running.device.address, example.request) == example.answer
    answer = np.frombuffer(running.examples[0].answer, np.float32).reshape(whole.shape)
    assert np.abs(answer - whole).max() <= LARGEST_DIFFERENCE * np.abs(whole).max()


def test_tiles_of_a_residual_network_make_the_untiled_answer(chain: Tiled) -> None:
    assert len(chain.segment.runs) > 1
    assert_right(chain)


def test_every_worker_computes_a_tile_of_every_run(chain: Tiled) -> None:
    infer(chain.device.address, chain.examples[0].request)
    everybody = {"local", *(tile.address for tile in chain.tiles)}
    for run in chain.segment.runs:
        assert computed_by(chain.edge, run.id) == everybody
    assert counted(chain.edge, "tierflow_tiles_failed_total") == 0


def test_requests_in_parallel_get_their_own_answers(chain: Tiled) -> None:
    examples = chain.examples * 4
    with ThreadPoolExecutor(8) as clients:
        answers = clients.map(lambda example: infer(chain.device.address, example.request), examples)
    assert list(answers) == [example.answer for example in examples]


def test_an_edge_whose_tile_workers_are_not_there_answers_alone(chain: Tiled) -> None:
    where = ",".join(f"127.0.0.1:{port}" for port in free_ports(3))
    alone = chain.cast.edge_worker([chain.segment], where)
    parameters = {BOUNDARY_PARAMETER: chain.segment.accepts.id}
    for seed, example in enumerate(chain.examples[:3]):
        assert infer(alone.address, request_of(inputs_of(chain.cast.model, seed), **parameters)) == example.answer
    assert not computed_by(alone)


@pytest.mark.parametrize("tiles", [1, 2, 5])
def test_fewer_or_more_tile_workers_than_the_plan_counts_on_give_the_same_bits(chain: Tiled, tiles: int) -> None:
    further = [] if tiles <= 3 else chain.cast.tile_workers([chain.segment], tiles - 3)
    workers = [*chain.tiles, *further][:tiles]
    edge = chain.cast.edge_worker([chain.segment], ",".join(worker.address for worker in workers))
    wait_for_tile_workers(edge, tiles)
    parameters = {BOUNDARY_PARAMETER: chain.segment.accepts.id}
    for seed, example in enumerate(chain.examples[:3]):
        assert infer(edge.address, request_of(inputs_of(chain.cast.model, seed), **parameters)) == example.answer
    assert computed_by(edge) == {"local", *(worker.address for worker in workers)}


def test_current_and_previous_segments_are_both_computed_in_tiles(tmp_path: Path) -> None:
    with cast_of(str(saved(residual(), tmp_path)), tmp_path) as cast:
        graph = cast.model.graph
        place = graph.place["stem/relu"]
        later = tuple(Tier.DEVICE if at <= place else Tier.EDGE for at in range(len(graph.layers)))
        current = tiled_segment(cast.model, everything_at_the_edge(graph))
        previous = tiled_segment(cast.model, later, every_block=True)
        where = ",".join(worker.address for worker in cast.tile_workers([], 2))
        before = cast.edge_worker([previous], where)
        wait_for_tile_workers(before, 2)
        edge = cast.edge_worker([current, previous], where)
        wait_for_tile_workers(edge, 2)
        before.stop()
        plain = cast.edge_worker([untiled(current), untiled(previous)], "")
        for segment in (current, previous):
            for request in boundary_requests(segment):
                assert infer(edge.address, request) == infer(plain.address, request)
            for run in segment.runs:
                assert len(computed_by(edge, run.id)) == 3


def untiled(segment: SegmentDescriptor) -> SegmentDescriptor:
    return replace(segment, runs=())


def boundary_requests(segment: SegmentDescriptor, count: int = 2) -> list[InferRequest]:
    """Requests to a segment with random tensors."""
    random = np.random.default_rng(0)
    shapes = {tensor.name: tensor.shape for tensor in segment.accepts.tensors}
    return [
        request_of(
            {name: random.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()},
            **{BOUNDARY_PARAMETER: segment.accepts.id},
        )
        for _ in range(count)
    ]


def late_skip() -> onnx.ModelProto:
    """A map that the edge is given, computes with and relays, because the cloud adds it to what the edge made of it."""
    three = {"pads": [1, 1, 1, 1], "kernel_shape": [3, 3]}
    return model_of(
        [
            node("Conv", "image w1", "c1", name="device/conv", **three),
            node("Relu", "c1", "r1", name="device/relu"),
            node("Conv", "r1 w2", "c2", name="edge/conv1", **three),
            node("Relu", "c2", "r2", name="edge/relu1"),
            node("Conv", "r2 w3", "c3", name="edge/conv2", **three),
            node("Relu", "c3", "r3", name="edge/relu2"),
            node("Add", "r3 r1", "sum", name="cloud/add"),
            node("GlobalAveragePool", "sum", "pooled", name="cloud/pool"),
        ],
        [value("image", [1, 3, 40, 40])],
        [value("pooled", [1, 16, 1, 1])],
        [weight("w1", 16, 3, 3, 3), weight("w2", 16, 16, 3, 3), weight("w3", 16, 16, 3, 3)],
    )


def test_what_the_edge_relays_goes_past_its_tiles(tmp_path: Path) -> None:
    with cast_of(str(saved(late_skip(), tmp_path)), tmp_path) as cast:
        model = cast.model
        tiers = by_layer_name(model.graph)
        cloud_segment = segments_of(model.graph, tuple(tiers))[Tier.CLOUD.rank]
        cloud = cast.start_ready(
            worker_descriptor(model, cast.uri, Tier.CLOUD, [segment_descriptor(model, cloud_segment)])
        )
        run = named_run(model.graph, "edge/conv1", "edge/relu2", FOUR)
        segment = edge_segment(model, tiers, [(run, FOUR)], Downstream(tier=Tier.CLOUD, address=cloud.address))
        assert segment.sends is not None
        assert {"r1", "r3"} == {tensor.name for tensor in segment.sends.tensors}
        tiles = cast.tile_workers([segment], 2)
        edge = cast.edge_worker([segment], ",".join(worker.address for worker in tiles))
        wait_for_tile_workers(edge, 2)
        plain = cast.edge_worker([untiled(segment)], "")
        for request in boundary_requests(segment):
            assert infer(edge.address, request) == infer(plain.address, request)
        assert len(computed_by(edge)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vgg", "resnet18"])
def test_tiles_of_larger_networks_make_the_untiled_answer(model: str, tmp_path: Path) -> None:
    uri = "zoo://resnet18" if model == "resnet18" else str(saved(vgg_like(), tmp_path))
    with cast_of(uri, tmp_path) as cast:
        assert_right(tiled(cast, every_block=model == "vgg"))
