import random
from dataclasses import replace

import numpy as np
import pytest

from factories.graphs import chain, graph_of, random_costs
from tierflow.errors import InvalidInputError
from tierflow.partition.exact import exact
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Costs, CrossingCost, Problem
from tierflow.segment import Route
from tierflow.tiers import Tier

DEVICE, EDGE, CLOUD = Tier.DEVICE, Tier.EDGE, Tier.CLOUD


def crossing(fixed: float, tensor: list[float], result: list[float]) -> CrossingCost:
    return CrossingCost(fixed, np.array(tensor), np.array(result))


@pytest.fixture
def problem() -> Problem:
    """x -> A -> a -> B -> b, where A's output is read by B and by C."""
    graph = graph_of([("x", "a"), ("a", "b"), ("a", "c")], outputs="b c")
    costs = Costs(
        layer=np.array([[1.0, 2.0, 3.0], [0.1, 0.2, 0.3], [0.01, 0.02, 0.03]]),
        device_edge=crossing(10, [100, 200, 300, 400], [1000, 2000]),
        edge_cloud=crossing(20, [101, 201, 301, 401], [1001, 2001]),
        device_cloud=crossing(30, [102, 202, 302, 402], [1002, 2002]),
    )
    return Problem(graph, costs)


def test_nothing_crosses_where_all_is_on_the_device(problem: Problem) -> None:
    latency = evaluate(problem, (DEVICE, DEVICE, DEVICE), Route.RELAYED)
    assert latency.total == 6.0
    assert latency.transfer == {}
    assert latency.compute == {DEVICE: 6.0, EDGE: 0.0, CLOUD: 0.0}


def test_a_tensor_is_paid_once_however_many_layers_read_it(problem: Problem) -> None:
    latency = evaluate(problem, (DEVICE, EDGE, EDGE), Route.RELAYED)
    assert latency.transfer == {(DEVICE, EDGE): 10 + 200 + 1000 + 2000}


def test_a_relayed_tensor_pays_both_boundaries_and_a_result_both_ways_back(problem: Problem) -> None:
    latency = evaluate(problem, (DEVICE, DEVICE, CLOUD), Route.RELAYED)
    assert latency.transfer == {(DEVICE, EDGE): 10 + 200 + 2000, (EDGE, CLOUD): 20 + 201 + 2001}


def test_the_direct_route_pays_its_own_link_alone(problem: Problem) -> None:
    latency = evaluate(problem, (CLOUD, CLOUD, CLOUD), Route.DIRECT)
    assert latency.transfer == {(DEVICE, CLOUD): 30 + 102 + 1002 + 2002}
    assert latency.total == pytest.approx(0.06 + 3136)


def test_the_direct_route_refuses_layers_at_the_edge(problem: Problem) -> None:
    with pytest.raises(InvalidInputError, match="layer B is on it"):
        evaluate(problem, (DEVICE, EDGE, EDGE), Route.DIRECT)


def test_data_that_would_flow_back_is_refused(problem: Problem) -> None:
    with pytest.raises(InvalidInputError, match="layer B on device reads a from A on edge"):
        evaluate(problem, (EDGE, DEVICE, EDGE), Route.RELAYED)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_a_time_that_is_none_is_refused_by_the_layers_name(value: float) -> None:
    graph = chain(3)
    costs = random_costs(random.Random(0), graph)
    layer = costs.layer.copy()
    layer[1, 2] = value
    with pytest.raises(InvalidInputError, match="layer L2"):
        exact(Problem(graph, replace(costs, layer=layer)))


def test_costs_of_another_graph_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="another graph"):
        exact(Problem(chain(3), random_costs(random.Random(0), chain(4))))


def test_a_negative_round_trip_is_refused_by_its_link() -> None:
    graph = chain(2)
    costs = random_costs(random.Random(0), graph)
    wrong = replace(costs, edge_cloud=replace(costs.edge_cloud, fixed=-1.0))
    with pytest.raises(InvalidInputError, match="edge-cloud"):
        exact(Problem(graph, wrong))
