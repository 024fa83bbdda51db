"""How fast planning is, how good its two algorithms are, and what splitting gains over the five DNNs."""

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import networkx
import numpy as np

from benchmarks.figure import Figure, at_most, interleaved, median_ratio
from tierflow.estimate import estimate_profile
from tierflow.graph import Graph, Layer, Tensor
from tierflow.model import open_model
from tierflow.network import NETWORKS
from tierflow.partition.exact import exact, whole_network
from tierflow.partition.heuristic import heuristic, hpa
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Constraints, Costs, CrossingCost, Problem
from tierflow.plan import plan_of
from tierflow.planning import make_plan, problem_of
from tierflow.segment import Route
from tierflow.speeds import DEFAULT_SPEEDS, parse_speeds
from tierflow.tiers import TIERS, Tier

AREA = "partition"

_MODELS = ("alexnet", "vgg16", "resnet18", "darknet53", "inception-v4")
_DEEP = 5000
_RANDOM_GRAPHS = 400
_ROUNDS = 50
_SPEEDS = parse_speeds(DEFAULT_SPEEDS)


def figures() -> Iterator[Figure]:
    """Measures on one core; the figures about latencies are predictions, by estimated profiles."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield from _speed()
        yield from _quality()
        yield from _gains()
    finally:
        os.sched_setaffinity(0, cores)


def _speed() -> Iterator[Figure]:
    inception = open_model("zoo://inception-v4").graph
    profile = estimate_profile(inception, "m")
    costs = problem_of(inception, profile, NETWORKS["4g"], _SPEEDS).costs
    deep = deep_graph(_DEEP)
    for name, graph, own, limit in (
        (f"inception-v4, {len(inception.layers)} layers", inception, costs, 5.0),
        (f"{_DEEP} layers", deep, deep_costs(deep), 25.0),
    ):
        yield from _speed_of(name, graph, own, limit)
    [times] = interleaved(
        [lambda: make_plan(fresh(inception), profile, NETWORKS["4g"], _SPEEDS)], rounds=_ROUNDS, clock=time.process_time
    )
    yield Figure(AREA, "graph, profile and network to plan, inception-v4", statistics.median(times) * 1e3, "ms")


def _speed_of(name: str, graph: Graph, costs: Costs, limit: float) -> Iterator[Figure]:
    """Planning time from a graph of which nothing was derived yet, beside HPA and networkx in the same rounds.

    It is the processor's time: all of it is computation in one thread.
    """
    network = reference_network(Problem(graph, costs))

    def plan() -> None:
        problem = Problem(fresh(graph), costs)
        plan_of(problem.graph, exact(problem), model="m", network=NETWORKS["4g"], speeds=_SPEEDS)

    calls: list[Callable[[], object]] = [
        lambda: exact(Problem(fresh(graph), costs)),
        plan,
        lambda: hpa(Problem(fresh(graph), costs)),
    ]
    gc.collect()
    times = interleaved(calls, rounds=_ROUNDS, clock=time.process_time)
    rounds = 1 if len(graph.layers) >= _DEEP else 3
    solvers = [calls[0], lambda: networkx.minimum_cut(network, 0, 1)]
    cuts = interleaved(solvers, rounds=rounds, warm_up=0, clock=time.process_time)
    milliseconds = [statistics.median(own) * 1e3 for own in times]
    yield at_most(AREA, f"graph and costs to partition, {name}", milliseconds[0], "ms", limit)
    yield at_most(AREA, f"graph and costs to plan, {name}", milliseconds[1], "ms", limit)
    yield Figure(AREA, f"HPA alone, {name}", milliseconds[2], "ms")
    yield Figure(AREA, f"HPA / exact, {name}", median_ratio(times[2], times[0]), "x")
    yield Figure(AREA, f"networkx's minimum cuts / exact, {name}", median_ratio(cuts[1], cuts[0]), "x")


def _quality() -> Iterator[Figure]:
    """How far HPA is from the optimum over random DAGs with random costs."""
    gaps = []
    for seed in range(_RANDOM_GRAPHS):
        generator = random.Random(seed)
        graph = random_dag(generator, generator.randrange(10, 80))
        gaps.append(heuristic(Problem(graph, random_costs(seed, graph))).optimality_gap)
    optimal = sum(gap == 0.0 for gap in gaps) / len(gaps)
    over = f"over {_RANDOM_GRAPHS} random DAGs"
    yield Figure(AREA, f"HPA is optimal {over}", optimal * 100, "%")
    for name, share in (("median", 0.5), ("p90", 0.9), ("worst", 1.0)):
        yield Figure(AREA, f"HPA's gap, {name} {over}", float(np.quantile(gaps, share)) * 100, "%")


def _gains() -> Iterator[Figure]:
    """Predicted latencies beside those of the alternatives, as multiples of the exact partition's."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for name in _MODELS:
        graph = open_model(f"zoo://{name}").graph
        profile = estimate_profile(graph, name)
        for network in NETWORKS.values():
            problem = problem_of(graph, profile, network, _SPEEDS)
            best = exact(problem).latency.total
            yield Figure(AREA, f"predicted latency, {name} on {network.name}", best * 1e3, "ms")
            for other, seconds in alternatives(problem).items():
                ratios.setdefault((other, network.name), []).append(seconds / best)
    for (other, network_name), own in ratios.items():
        what = f"{other} / exact on {network_name}, median of the five DNNs' predicted latencies"
        yield Figure(AREA, what, statistics.median(own), "x")


def alternatives(problem: Problem) -> dict[str, float]:
    """Latencies of what a user would do instead.

    One tier alone; like Neurosurgeon, one cut of the chain between device and cloud; like DADS, a minimum cut between
    the same two.
    """
    layers = len(problem.graph.layers)
    single = {
        f"{tier}-only": min(
            evaluate(problem, (tier,) * layers, route).total
            for route in Route
            if not (tier is Tier.EDGE and route is Route.DIRECT)
        )
        for tier in TIERS
    }
    # Two tiers: the device and the cloud.
    two_tiers = Problem(problem.graph, problem.costs, Constraints(unavailable=frozenset({Tier.EDGE})))
    cuts = [
        evaluate(problem, (Tier.DEVICE,) * below + (Tier.CLOUD,) * (layers - below), Route.DIRECT).total
        for below in _chain_positions(problem.graph)
    ]
    return {
        **single,
        "Neurosurgeon-like": min(cuts),
        "DADS-like": exact(two_tiers).latency.total,
    }


def _chain_positions(graph: Graph) -> list[int]:
    """How many layers are below each cut that a single tensor crosses, which is all that a chain's planner sees."""
    arrays, layers = graph.incidence, len(graph.layers)
    read = np.flatnonzero(np.diff(arrays.offset))
    born, last = arrays.producer[read] + 1, arrays.reader[arrays.offset[1:][read] - 1] + 1
    crossing = np.cumsum(np.bincount(born, minlength=layers + 2) - np.bincount(last, minlength=layers + 2))
    return [0, *[below for below in range(1, layers) if crossing[below] == 1], layers]


def fresh(graph: Graph) -> Graph:
    """The graph without anything that was derived from it."""
    return Graph(**{field: getattr(graph, field) for field in graph.__struct_fields__})


def reference_network(problem: Problem) -> networkx.DiGraph:
    """The flow network of all routes, for networkx."""
    network = whole_network(problem)
    graph = networkx.DiGraph()
    for tail, head, capacity in zip(
        network.tail.tolist(), network.head.tolist(), network.capacity.tolist(), strict=True
    ):
        if capacity == float("inf"):
            graph.add_edge(tail, head)
        else:
            before = graph.get_edge_data(tail, head, {"capacity": 0.0}).get("capacity", float("inf"))
            graph.add_edge(tail, head, capacity=before + capacity)
    return graph


def deep_graph(layers: int) -> Graph:
    """Convolution, normalisation and activation in rows, in parallel branches that are joined, and past skips."""
    generator = random.Random(layers)
    made: list[Layer] = []
    tensors = {"x": Tensor(name="x", dtype="float32", shape=(1, 3, 224, 224))}
    size = 150_528.0

    def add(kind: str, *read: str) -> str:
        name = f"t{len(made)}"
        made.append(Layer(name=f"L{len(made)}", kind=kind, inputs=read, outputs=(name,)))
        tensors[name] = Tensor(name=name, dtype="float32", shape=(max(int(size), 1),))
        return name

    def row(start: str, length: int) -> str:
        for _ in range(length):
            start = add("Relu", add("BatchNormalization", add("Conv", start)))
        return start

    last = "x"
    while len(made) < layers - 40:
        size *= 0.995
        branches = [row(last, generator.randrange(1, 4)) for _ in range(generator.randrange(1, 5))]
        last = add("Concat", *branches) if len(branches) > 1 else add("Add", branches[0], last)
    while len(made) < layers:
        last = add("Relu", last)
    return Graph(name="deep", inputs=("x",), outputs=(last,), layers=tuple(made), tensors=tensors)


def deep_costs(graph: Graph) -> Costs:
    """Layer times that differ from tier to tier by more than a factor, and the links of 4g."""
    numbers = np.random.default_rng(0)
    times = numbers.lognormal(-9, 1.5, len(graph.layers))
    scatter = np.exp(0.3 * numbers.normal(size=(len(TIERS), len(graph.layers))))
    sizes = np.array([tensor.size for tensor in graph.tensors.values()], dtype=np.float64)
    back = np.array([graph.tensors[name].size for name in graph.outputs], dtype=np.float64)
    links = [
        CrossingCost(link.round_trip_seconds, sizes / link.bytes_per_second, back / link.bytes_per_second)
        for link in (NETWORKS["4g"].link(lower, upper) for lower, upper in (*pairwise(TIERS), (TIERS[0], TIERS[2])))
    ]
    speeds = np.array([[_SPEEDS[tier]] for tier in TIERS])
    return Costs(layer=times * scatter / speeds, device_edge=links[0], edge_cloud=links[1], device_cloud=links[2])


def random_dag(generator: random.Random, layers: int) -> Graph:
    """A DAG whose layers read one to three of the last tensors."""
    names, made = ["x"], []
    reach = generator.choice((2, 4, 8))
    for place in range(layers):
        near = names[-reach:]
        read = tuple(generator.sample(near, min(len(near), generator.choice((1, 1, 1, 2, 3)))))
        made.append(Layer(name=f"L{place}", kind="Op", inputs=read, outputs=(f"t{place}",)))
        names.append(f"t{place}")
    unread = set(names[1:]) - {name for layer in made for name in layer.inputs}
    return Graph(
        name="random",
        inputs=("x",),
        outputs=tuple(sorted(unread)),
        layers=tuple(made),
        tensors={name: Tensor(name=name, dtype="float32", shape=(1,)) for name in names},
    )


def random_costs(seed: int, graph: Graph) -> Costs:
    """Layers ten and two times slower on device and edge than in the cloud, give or take, and links that matter."""
    numbers = np.random.default_rng(seed)
    layers, tensors, outputs = len(graph.layers), len(graph.tensors), len(graph.outputs)
    times = numbers.lognormal(0, 1, layers) * np.exp(0.3 * numbers.normal(size=(len(TIERS), layers)))
    balance = 10 ** numbers.uniform(-0.5, 1.5)

    def crossing(factor: float) -> CrossingCost:
        sizes = numbers.lognormal(0, 1, tensors) * factor * balance
        return CrossingCost(float(numbers.uniform(0, 2) * balance), sizes, np.full(outputs, 0.01))

    return Costs(
        layer=times * np.array([[10.0], [2.0], [1.0]]),
        device_edge=crossing(0.5),
        edge_cloud=crossing(2.0),
        device_cloud=crossing(2.2),
    )
