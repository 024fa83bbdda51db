"""Minimum cuts against networkx, on networks of all scales."""

import random

import networkx
import numpy as np
import pytest

from factories.graphs import random_costs, random_graph
from tierflow.partition.exact import exact, whole_network
from tierflow.partition.flow import FlowNetwork, minimum_cut
from tierflow.partition.problem import Constraints, Problem
from tierflow.tiers import Tier

Edges = list[tuple[int, int, float]]


def random_edges(generator: random.Random) -> tuple[int, Edges]:
    vertices = generator.randrange(2, 14)
    scale = 10 ** generator.uniform(-9, 9)
    spread = generator.choice((0.0, 3.0, 9.0))
    edges = [
        (generator.randrange(vertices), generator.randrange(vertices), scale * 10 ** generator.uniform(-spread, 0))
        for _ in range(generator.randrange(1, 40))
    ]
    return vertices, [edge for edge in edges if edge[0] != edge[1]]


def reference(vertices: int, edges: Edges) -> float:
    graph = networkx.DiGraph()
    graph.add_nodes_from(range(vertices))
    for tail, head, capacity in edges:
        before = graph.get_edge_data(tail, head, {"capacity": 0.0})["capacity"]
        graph.add_edge(tail, head, capacity=before + capacity)
    value: float = networkx.maximum_flow_value(graph, 0, 1, flow_func=networkx.algorithms.flow.edmonds_karp)
    return value


def network_of(vertices: int, edges: Edges) -> FlowNetwork:
    return FlowNetwork(
        vertices,
        np.array([tail for tail, _, _ in edges], dtype=np.intp),
        np.array([head for _, head, _ in edges], dtype=np.intp),
        np.array([capacity for _, _, capacity in edges]),
    )


def test_cuts_are_minimal_and_their_bound_proves_it() -> None:
    for seed in range(500):
        vertices, edges = random_edges(random.Random(seed))
        whole = sum(capacity for _, _, capacity in edges)
        cut = minimum_cut(network_of(vertices, edges), at_most=whole, tolerance=1e-12 * whole)
        expected = reference(vertices, edges)
        assert cut.capacity == pytest.approx(expected, rel=1e-9, abs=1e-11 * whole), seed
        assert cut.lower_bound <= cut.capacity, seed
        assert cut.lower_bound == pytest.approx(cut.capacity, rel=1e-9, abs=1e-11 * whole), seed
        assert bool(cut.source_side[0]) is True
        assert bool(cut.source_side[1]) is False


def test_infinite_edges_are_never_cut() -> None:
    edges = [(0, 2, np.inf), (2, 3, 1.0), (3, 1, 5.0), (2, 4, np.inf), (4, 1, 2.5), (3, 4, np.inf)]
    cut = minimum_cut(network_of(5, edges), at_most=100.0, tolerance=1e-9)
    assert cut.capacity == pytest.approx(3.5)
    assert cut.source_side.tolist() == [True, False, True, False, True]


def test_a_network_that_joins_nothing_has_an_empty_cut() -> None:
    cut = minimum_cut(network_of(3, [(0, 2, 4.0)]), at_most=0.0, tolerance=0.0)
    assert cut.capacity == cut.lower_bound == 0.0
    assert cut.source_side.tolist() == [True, False, True]


@pytest.mark.parametrize("missing", [Tier.EDGE, Tier.CLOUD])
def test_the_whole_network_has_the_optimum_as_its_minimum_cut(missing: Tier) -> None:
    for seed in range(60):
        generator = random.Random(seed)
        graph = random_graph(generator, generator.randrange(2, 25))
        problem = Problem(graph, random_costs(generator, graph), Constraints(unavailable=frozenset({missing})))
        network = whole_network(problem)
        edges = list(zip(network.tail.tolist(), network.head.tolist(), network.capacity.tolist(), strict=True))
        best = exact(problem).latency.total
        finite = [(tail, head, min(capacity, 1e9 * (best + 1))) for tail, head, capacity in edges]
        # The cut's capacity is the latency less what every partition pays: nothing where all layers gain nothing.
        upper = 1 if missing is Tier.CLOUD else 2
        gained = problem.costs.layer[upper] - problem.costs.layer[0] + results(problem, upper)
        paid = problem.costs.layer[0].sum() + np.minimum(gained, 0).sum()
        assert reference(network.vertices, finite) + paid == pytest.approx(best, rel=1e-7, abs=1e-12), seed


def results(problem: Problem, upper: int) -> np.ndarray:
    cost = problem.costs.device_edge if upper == 1 else problem.costs.device_cloud
    seconds = np.zeros(len(problem.graph.layers))
    for number, name in enumerate(problem.graph.outputs):
        if name in problem.graph.producer:
            seconds[problem.graph.producer[name]] += cost.result[number]
    return seconds
