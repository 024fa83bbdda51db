"""Random graphs, costs and constraints, each from a seed, and small graphs drawn by hand."""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from tierflow.graph import Graph, Layer, Tensor
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Array, Constraints, Costs, CrossingCost, Pin, Problem
from tierflow.segment import Route
from tierflow.tiers import TIERS, Tier
from tierflow.units import Bytes


def tensor(name: str, elements: int = 1) -> Tensor:
    """A float32 tensor of one dimension."""
    return Tensor(name=name, dtype="float32", shape=(elements,))


def graph_of(
    layers: Sequence[tuple[str, str]],
    *,
    inputs: str = "x",
    outputs: str,
    sizes: dict[str, int] | None = None,
    weights: dict[str, tuple[str, int]] | None = None,
) -> Graph:
    """A graph drawn by hand.

    Args:
        layers: For each the tensors that it reads and those that it makes, separated by spaces; a layer is named
            like its first output in capitals.
        inputs: Names separated by spaces.
        outputs: Names separated by spaces.
        sizes: Elements of tensors (float32), 1 where left out.
        weights: Name of each weight: the names of the layers that read it, separated by spaces, and its elements.
    """
    sizes, weights = sizes or {}, weights or {}
    made = [name for _, outs in layers for name in outs.split()]
    return Graph(
        name="drawn",
        inputs=tuple(inputs.split()),
        outputs=tuple(outputs.split()),
        layers=tuple(
            Layer(
                name=(name := outs.split()[0].upper()),
                kind="Op",
                inputs=tuple(ins.split()),
                outputs=tuple(outs.split()),
                weights=tuple(weight for weight, (readers, _) in weights.items() if name in readers.split()),
            )
            for ins, outs in layers
        ),
        tensors={name: tensor(name, sizes.get(name, 1)) for name in [*inputs.split(), *made]},
        weights={name: tensor(name, elements) for name, (_, elements) in weights.items()},
    )


def chain(length: int, *, sizes: Sequence[int] | None = None) -> Graph:
    """A chain x -> A0 -> t0 -> A1 -> ... whose layers are named L0, L1, ... and tensors x, t0, t1, ..."""
    names = ["x", *(f"t{place}" for place in range(length))]
    elements = sizes or [1] * (length + 1)
    return Graph(
        name="chain",
        inputs=("x",),
        outputs=(names[-1],),
        layers=tuple(
            Layer(name=f"L{place}", kind="Op", inputs=(names[place],), outputs=(names[place + 1],))
            for place in range(length)
        ),
        tensors={name: tensor(name, count) for name, count in zip(names, elements, strict=True)},
    )


def random_graph(generator: random.Random, layers: int, *, weights: bool = False) -> Graph:
    """A DAG with branches, joins, layers of several outputs, several inputs and outputs, some of them odd.

    Odd: an input that none reads, an input or a weight that is a graph output, an output that is read as well.
    """
    inputs = [f"x{number}" for number in range(generator.choice((1, 1, 2, 3)))]
    tensors = list(inputs)
    reach = generator.choice((2, 4, layers + 3))
    made: list[Layer] = []
    for place in range(layers):
        near = tensors[-reach:]
        read = generator.sample(near, min(len(near), generator.choice((1, 1, 1, 2, 3))))
        outs = [f"t{place}.{number}" for number in range(generator.choice((1, 1, 1, 1, 2)))]
        own = (
            tuple(f"w{generator.randrange(layers + 2)}" for _ in range(generator.choice((0, 1, 2)))) if weights else ()
        )
        made.append(
            Layer(name=f"L{place}", kind="Op", inputs=tuple(read), outputs=tuple(outs), weights=tuple(sorted(set(own))))
        )
        tensors += outs
    read_names = {name for layer in made for name in layer.inputs}
    outputs = [name for name in tensors if name not in read_names and name not in inputs]
    outputs += [name for name in tensors if name in read_names and generator.random() < 0.1]
    return Graph(
        name=f"random{layers}",
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        layers=tuple(made),
        tensors={name: tensor(name, generator.randrange(1, 50)) for name in tensors},
        weights={f"w{number}": tensor(f"w{number}", generator.randrange(1, 80)) for number in range(layers + 2)}
        if weights
        else {},
    )


def random_network(generator: random.Random, layers: int) -> Graph:
    """A DNN of at least as many layers: rows of layers, blocks of parallel branches that are joined, skips."""
    made: list[Layer] = []
    tensors = {"x": tensor("x", generator.randrange(1, 60))}

    def add(*read: str) -> str:
        name = f"t{len(made)}"
        made.append(Layer(name=f"L{len(made)}", kind="Op", inputs=tuple(dict.fromkeys(read)), outputs=(name,)))
        size = tensors[read[0]].elements if generator.random() < 0.6 else generator.randrange(1, 60)
        tensors[name] = tensor(name, size)
        return name

    def row(start: str, length: int) -> str:
        for _ in range(length):
            start = add(start)
        return start

    last = "x"
    while len(made) < layers:
        branches = [row(last, generator.randrange(1, 4)) for _ in range(generator.choice((1, 1, 2, 3)))]
        skip = [last] if generator.random() < 0.3 else []
        last = add(*branches, *skip) if len(branches) + len(skip) > 1 else branches[0]
    return Graph(name="network", inputs=("x",), outputs=(last,), layers=tuple(made), tensors=tensors)


def random_costs(generator: random.Random, graph: Graph) -> Costs:
    """Costs in which any tier may be the best, some of them zero, on a scale from microseconds to hours."""
    scale = 10 ** generator.uniform(-6, 4)
    balance = 10 ** generator.uniform(-1.5, 1.5)
    zeros = generator.choice((0.0, 0.0, 0.2, 0.7))
    numbers = np.random.default_rng(generator.randrange(2**32))

    def draw(count: int, factor: float) -> Array:
        values = numbers.uniform(0, factor, count)
        values[numbers.random(count) < zeros] = 0.0
        return values

    def crossing() -> CrossingCost:
        factor = scale * balance * 10 ** generator.uniform(-0.5, 0.5)
        return CrossingCost(
            fixed=float(draw(1, factor)[0]),
            tensor=draw(len(graph.tensors), factor),
            result=draw(len(graph.outputs), factor),
        )

    speeds = sorted((10 ** generator.uniform(-1, 1) for _ in TIERS), reverse=generator.random() < 0.8)
    layer = np.stack([draw(len(graph.layers), scale * speed) for speed in speeds])
    return Costs(layer=layer, device_edge=crossing(), edge_cloud=crossing(), device_cloud=crossing())


def random_constraints(generator: random.Random, graph: Graph) -> Constraints:
    """Pins and unavailable tiers, often none; they may conflict."""
    pins = [
        Pin(f"pin{number}", generator.choice(graph.layers).name, generator.choice(TIERS))
        for number in range(generator.choice((0, 0, 1, 1, 2)))
    ]
    unavailable = generator.choice(((), (), (), (Tier.EDGE,), (Tier.CLOUD,), (Tier.EDGE, Tier.CLOUD)))
    return Constraints(pins=tuple(pins), unavailable=frozenset(unavailable))


def monotone_assignments(graph: Graph) -> Iterator[tuple[Tier, ...]]:
    """All partitions in which data never flows back."""
    before = [[graph.producer[name] for name in layer.inputs if name in graph.producer] for layer in graph.layers]
    ranks: list[int] = []

    def extend() -> Iterator[tuple[Tier, ...]]:
        if len(ranks) == len(before):
            yield tuple(TIERS[rank] for rank in ranks)
            return
        for rank in range(max((ranks[place] for place in before[len(ranks)]), default=0), 3):
            ranks.append(rank)
            yield from extend()
            ranks.pop()

    return extend()


def upstream(graph: Graph, layer: str) -> set[int]:
    """The place of `layer` and of all layers that it depends on."""
    wanted = {graph.place[layer]}
    for place in reversed(range(len(graph.layers))):
        if place in wanted:
            wanted |= {graph.producer[name] for name in graph.layers[place].inputs if name in graph.producer}
    return wanted


def respects(problem: Problem, tiers: Sequence[Tier], route: Route) -> bool:
    """Whether a partition meets pins, unavailable tiers and budgets; written from their definition alone."""
    graph, constraints = problem.graph, problem.constraints
    if any(tiers[place] is not pin.tier for pin in constraints.pins for place in upstream(graph, pin.layers_up_to)):
        return False
    if constraints.unavailable.intersection(tiers):
        return False
    if Tier.EDGE in constraints.unavailable and Tier.CLOUD in tiers and route is Route.RELAYED:
        return False
    return all(memory_use(graph, tiers, tier) <= budget for tier, budget in constraints.memory.items()) and (
        constraints.backbone_bytes is None or backbone_use(graph, tiers) <= constraints.backbone_bytes
    )


def memory_use(graph: Graph, tiers: Sequence[Tier], tier: Tier) -> int:
    """Bytes that the constraint `memory` counts."""
    own = [layer for layer, owner in zip(graph.layers, tiers, strict=True) if owner is tier]
    weights = {name for layer in own for name in layer.weights}
    working = [sum(graph.tensors[name].size for name in (*layer.inputs, *layer.outputs)) for layer in own]
    return sum(graph.weights[name].size for name in weights) + max(working, default=0)


def backbone_use(graph: Graph, tiers: Sequence[Tier]) -> int:
    """Bytes that the constraint `backbone_bytes` counts."""
    own = [tier is Tier.CLOUD for tier in tiers]
    read = {name for layer, cloud in zip(graph.layers, own, strict=True) if cloud for name in layer.inputs}
    return sum(graph.tensors[name].size for name in read if name not in graph.producer or not own[graph.producer[name]])


def brute_force(problem: Problem) -> float | None:
    """The smallest latency of all partitions that respect the constraints, None where there is none."""
    totals = [
        evaluate(problem, tiers, route).total
        for tiers, route in itertools.product(monotone_assignments(problem.graph), Route)
        if not (route is Route.DIRECT and Tier.EDGE in tiers) and respects(problem, tiers, route)
    ]
    return min(totals, default=None)


def random_budgets(generator: random.Random, graph: Graph, constraints: Constraints) -> Constraints:
    """The constraints with budgets that some partitions meet and others don't, or that none meets."""
    ranks = [0, 1, 2]
    sample = [TIERS[rank] for rank in sorted(generator.choice(ranks) for _ in graph.layers)]
    slack = generator.choice((1.0, 1.0, 1.1, 1.5, 0.8))
    memory = {tier: Bytes(int(memory_use(graph, sample, tier) * slack)) for tier in TIERS if generator.random() < 0.5}
    backbone = Bytes(int(backbone_use(graph, sample) * slack)) if generator.random() < 0.5 else None
    return replace(constraints, memory=memory, backbone_bytes=backbone)
