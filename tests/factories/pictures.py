"""Graphs and plans to draw, without a planner having decided them."""

import random
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from tierflow.graph import Graph, Layer, Tensor
from tierflow.network import NETWORKS
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Latency, Partition
from tierflow.plan import Plan, RunPlan, plan_of
from tierflow.planning import problem_of
from tierflow.profile import Profile
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier

SPEEDS = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}


def plan_by_hand(graph: Graph, tiers: Sequence[Tier], route: Route = Route.RELAYED) -> tuple[Plan, Latency]:
    """The plan of a partition, a millisecond per layer, over wifi."""
    profile = Profile(model="m", source="estimated", machine="any", layers={layer.name: 1e-3 for layer in graph.layers})
    problem = problem_of(graph, profile, NETWORKS["wifi"], SPEEDS)
    latency = evaluate(problem, tuple(tiers), route)
    partition = Partition(tuple(tiers), route, latency, 0.0, Algorithm.EXACT)
    return plan_of(graph, partition, model="m", network=NETWORKS["wifi"], speeds=SPEEDS), latency


def tiled(graph: Graph, plan: Plan, runs: Sequence[Sequence[int]]) -> Plan:
    """The plan with layers of its edge, by their places one after the other, as runs of tiles."""
    tiling = tuple(
        RunPlan(
            id=f"run{number}",
            first_layer=graph.layers[places[0]].name,
            last_layer=graph.layers[places[-1]].name,
            input="",
            output="",
            rows=2,
            columns=2,
            halo_factor=1.25,
            scatter_bytes=400_000,
            gather_bytes=100_000,
            predicted_seconds=0.002,
            untiled_seconds=0.005,
        )
        for number, places in enumerate(runs)
    )
    return msgspec.structs.replace(plan, tiling=tiling)


def random_runs(generator: random.Random, tiers: Sequence[Tier]) -> tuple[tuple[int, ...], ...]:
    """Some of the edge's layers as runs that don't overlap, in the graph's order."""
    edge = [place for place, tier in enumerate(tiers) if tier is Tier.EDGE]
    bounds = sorted({generator.randrange(len(edge) + 1) for _ in range(generator.randrange(1, 9))})
    parts = [tuple(edge[start:stop]) for start, stop in pairwise(bounds)]
    return tuple(part for part in parts if generator.random() < 0.7)


def in_order(graph: Graph, device: float, edge: float) -> tuple[Tier, ...]:
    """The first share of the layers on the device, the layers up to the second on the edge, the others on the cloud."""
    count = len(graph.layers)
    return tuple(
        Tier.DEVICE if place < device * count else Tier.EDGE if place < edge * count else Tier.CLOUD
        for place in range(count)
    )


def random_tiers(generator: random.Random, graph: Graph) -> tuple[Tier, ...]:
    """Any monotone partition."""
    rises = generator.choice((0.02, 0.1, 0.5))
    ranks: list[int] = []
    for layer in graph.layers:
        lowest = max((ranks[graph.producer[name]] for name in layer.inputs if name in graph.producer), default=0)
        ranks.append(lowest + (lowest < 2 and generator.random() < rises))
    return tuple(TIERS[rank] for rank in ranks)


def residual_network(blocks: int) -> Graph:
    """A stem and residual blocks of two convolutions, each with a batch normalisation, named as such networks are."""
    layers = [_layer("stem/conv", "Conv", ("image",)), _layer("stem/relu", "Relu", ("stem/conv",))]
    for number in range(blocks):
        first = layers[-1].name
        name = f"block{number}"
        for part, kind in (("conv1", "Conv"), ("bn1", "BatchNormalization"), ("relu1", "Relu"), ("conv2", "Conv")):
            layers.append(_layer(f"{name}/{part}", kind, (layers[-1].name,)))
        layers.append(_layer(f"{name}/add", "Add", (layers[-1].name, first)))
        layers.append(_layer(f"{name}/relu2", "Relu", (layers[-1].name,)))
    return _graph("residual", layers)


def long_chain(length: int) -> Graph:
    """Relu after Relu."""
    layers = [_layer("layer0", "Relu", ("image",))]
    layers += [_layer(f"layer{place}", "Relu", (f"layer{place - 1}",)) for place in range(1, length)]
    return _graph("chain", layers)


def tangle(length: int, reach: int, seed: int = 1) -> Graph:
    """Layers that each read one or two of the `reach` before them."""
    generator = random.Random(seed)
    layers = [_layer("layer0", "Conv", ("image",))]
    for place in range(1, length):
        before = {f"layer{generator.randint(max(0, place - reach), place - 1)}" for _ in range(2)}
        layers.append(_layer(f"layer{place}", "Add", tuple(sorted(before))))
    return _graph("tangle", layers)


def fan(width: int) -> Graph:
    """Layers beside each other that all read the input, each an output."""
    return _graph("fan", [_layer(f"layer{place}", "Conv", ("image",)) for place in range(width)])


def renamed(graph: Graph, names: Sequence[str]) -> Graph:
    """The graph with other layer and tensor names, as many as there are layers."""
    new = dict(zip((layer.name for layer in graph.layers), names, strict=True))

    def of(old: Sequence[str]) -> tuple[str, ...]:
        return tuple(new.get(name, name) for name in old)

    return _graph(graph.name, [_layer(new[layer.name], layer.kind, of(layer.inputs)) for layer in graph.layers])


def _layer(name: str, kind: str, inputs: tuple[str, ...]) -> Layer:
    return Layer(name=name, kind=kind, inputs=inputs, outputs=(name,), multiply_accumulates=1000)


def _graph(name: str, layers: Sequence[Layer]) -> Graph:
    read = {tensor for layer in layers for tensor in layer.inputs}
    return Graph(
        name=name,
        inputs=("image",),
        outputs=tuple(layer.name for layer in layers if layer.name not in read),
        layers=tuple(layers),
        tensors={made: Tensor(name=made, dtype="float32", shape=(1, 8, 16, 16)) for made in ("image", *_names(layers))},
    )


def _names(layers: Sequence[Layer]) -> tuple[str, ...]:
    return tuple(layer.name for layer in layers)
