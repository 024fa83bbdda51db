from dataclasses import replace

import msgspec
import pytest

from factories.graphs import graph_of
from tierflow.graph import Graph
from tierflow.network import Link, Network, network_of
from tierflow.partition.explain import Explanation, explain
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Constraints, Pin, Problem
from tierflow.partition.select import partitioner
from tierflow.plan import Plan, plan_of
from tierflow.planning import problem_of
from tierflow.profile import Profile
from tierflow.tiers import TIERS, Tier
from tierflow.units import Bytes

SPEEDS = {Tier.DEVICE: 0.1, Tier.EDGE: 0.5, Tier.CLOUD: 1.0}


def link(bytes_per_second: float, round_trip_seconds: float = 0.001) -> Link:
    return Link(bytes_per_second=bytes_per_second, round_trip_seconds=round_trip_seconds)


NETWORK = network_of(link(1e6), link(1e5))


@pytest.fixture
def graph() -> Graph:
    """Four layers in a row, whose tensors get smaller in the middle and stay of one size behind it."""
    return graph_of(
        [("x", "a"), ("a", "b"), ("b", "c"), ("c", "d")],
        outputs="d",
        sizes={"x": 40_000, "a": 20_000, "b": 500, "c": 500, "d": 10},
    )


def planned(graph: Graph, network: Network, constraints: Constraints | None = None) -> tuple[Problem, Plan]:
    profile = Profile(
        model="m", source="measured", machine="here", layers=dict.fromkeys([layer.name for layer in graph.layers], 0.01)
    )
    problem = problem_of(graph, profile, network, SPEEDS, constraints)
    partition = partitioner(Algorithm.EXACT)(problem)
    return problem, plan_of(graph, partition, model="m", network=network, speeds=SPEEDS)


def explained(graph: Graph, network: Network, constraints: Constraints | None = None) -> Explanation:
    return explain(*planned(graph, network, constraints))


def test_the_parts_add_up_to_the_latency(graph: Graph) -> None:
    explanation = explained(graph, NETWORK)
    assert sum(part.seconds for part in explanation.parts) == pytest.approx(explanation.predicted_seconds)
    assert sum(part.share for part in explanation.parts) == pytest.approx(1.0)
    assert list(explanation.parts) == sorted(explanation.parts, key=lambda part: -part.seconds)


def test_every_tier_alone_is_there_and_none_beats_the_optimum(graph: Graph) -> None:
    explanation = explained(graph, NETWORK)
    assert [each.name for each in explanation.single_tiers] == ["device-only", "edge-only", "cloud-only"]
    assert all(each.change >= 0 for each in explanation.single_tiers)
    assert explanation.single_tiers[0].predicted_seconds == pytest.approx(0.4)


def test_no_neighbour_beats_the_optimum_and_each_says_its_own_latency(graph: Graph) -> None:
    network = network_of(link(3e5), link(1e4))
    problem, plan = planned(graph, network)
    explanation = explain(problem, plan)
    names = [each.name for each in explanation.neighbours]
    assert len(names) == len(set(names)) > 0
    for each in explanation.neighbours:
        assert each.predicted_seconds >= plan.predicted_seconds
        ranks = [rank for rank, count in enumerate(each.layers) for _ in range(count)]
        again = evaluate(problem, tuple(TIERS[rank] for rank in ranks), each.route)
        assert each.predicted_seconds == pytest.approx(again.total)


def test_the_next_size_is_past_the_layers_that_keep_it(graph: Graph) -> None:
    constraints = Constraints(pins=(Pin("p", "C", Tier.DEVICE),), unavailable=frozenset({Tier.CLOUD}))
    problem, plan = planned(graph, network_of(link(1e7), link(1e5)), constraints)
    assert [part.layers for part in plan.segments] == [3, 1, 0]
    by_name = {each.name: each for each in explain(problem, plan).neighbours}
    assert by_name["device-edge boundary one layer down"].layers == (2, 2, 0)
    assert by_name["device-edge boundary to the next size down"].layers == (1, 3, 0)
    assert by_name["device-edge boundary one layer down"].broken == ("planning.pins[p]",)


def test_a_flip_is_where_another_plan_becomes_optimal(graph: Graph) -> None:
    _, plan = planned(graph, NETWORK)
    flips = [flip for flip in explained(graph, NETWORK).flips if flip.bytes_per_second is not None]
    assert flips
    for flip in flips:
        assert flip.bytes_per_second is not None
        is_slower = flip.direction == "slower"
        beyond = changed(NETWORK, flip.link, flip.bytes_per_second)
        before = changed(NETWORK, flip.link, flip.bytes_per_second * (1.02 if is_slower else 0.98))
        assert tuple(part.layers for part in planned(graph, beyond)[1].segments) == flip.layers
        assert planned(graph, before)[1].tiers(graph) == plan.tiers(graph)


def changed(network: Network, name: str, bytes_per_second: float) -> Network:
    if name == "device-edge":
        return network_of(link(bytes_per_second), network.edge_cloud)
    return network_of(network.device_edge, link(bytes_per_second))


def test_a_direct_link_of_its_own_is_looked_at_too(graph: Graph) -> None:
    own = replace_direct(NETWORK, link(5e6))
    assert {flip.link for flip in explained(graph, own).flips} == {"device-edge", "edge-cloud", "device-cloud"}
    assert {flip.link for flip in explained(graph, NETWORK).flips} == {"device-edge", "edge-cloud"}


def replace_direct(network: Network, direct: Link) -> Network:
    return network_of(network.device_edge, network.edge_cloud, direct)


def test_a_constraint_says_what_it_costs(graph: Graph) -> None:
    free, _ = planned(graph, NETWORK)
    constraints = Constraints(pins=(Pin("slow", "D", Tier.DEVICE),), memory={Tier.DEVICE: Bytes(10**9)})
    explanation = explained(graph, NETWORK, constraints)
    pin, memory = explanation.constraints
    best = partitioner(Algorithm.EXACT)(replace(free, constraints=Constraints())).latency.total
    assert pin.name == "planning.pins[slow]"
    assert pin.costs_seconds == pytest.approx(0.4 - best)
    assert (memory.limit, memory.used, memory.costs_seconds) == (10**9, 240_000, 0.0)


def test_an_explanation_is_json(graph: Graph) -> None:
    explanation = explained(graph, NETWORK)
    assert msgspec.json.decode(msgspec.json.encode(explanation), type=Explanation) == explanation
