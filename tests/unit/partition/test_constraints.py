import random

import pytest

from factories.graphs import chain, graph_of, random_costs
from tierflow.errors import InfeasibleError, InvalidInputError
from tierflow.graph import Graph
from tierflow.partition.problem import Algorithm, Constraints, Partitioner, Pin, Problem
from tierflow.partition.select import partitioner
from tierflow.tiers import Tier
from tierflow.units import Bytes


@pytest.fixture(params=list(Algorithm))
def find(request: pytest.FixtureRequest) -> Partitioner:
    return partitioner(request.param)


def problem_of(graph: Graph, constraints: Constraints) -> Problem:
    return Problem(graph, random_costs(random.Random(1), graph), constraints)


def test_a_pin_keeps_its_layer_and_all_that_it_depends_on_on_the_tier(find: Partitioner) -> None:
    graph = graph_of([("x", "a"), ("x", "b"), ("a b", "c"), ("c", "d")], outputs="d")
    for tier in Tier:
        found = find(problem_of(graph, Constraints(pins=(Pin("p", "C", tier),))))
        assert found.tiers[:3] == (tier, tier, tier)


def test_a_pin_on_a_layer_that_is_not_there_is_refused_by_name(find: Partitioner) -> None:
    constraints = Constraints(pins=(Pin("privacy", "L33", Tier.DEVICE),))
    with pytest.raises(InvalidInputError, match=r"planning\.pins\[privacy\].*'L33'.*did you mean L3") as raised:
        find(problem_of(chain(4), constraints))
    assert raised.value.subject == "planning.pins[privacy]"


def test_pins_that_contradict_each_other_are_named_with_the_layer_that_they_share(find: Partitioner) -> None:
    pins = (Pin("far", "L1", Tier.CLOUD), Pin("free", "L0", Tier.CLOUD), Pin("near", "L3", Tier.DEVICE))
    with pytest.raises(InfeasibleError, match=r"layer L0 on cloud.*on device") as raised:
        find(problem_of(chain(5), Constraints(pins=pins)))
    assert raised.value.constraints == ("planning.pins[far]", "planning.pins[near]")


def test_pins_on_separate_branches_do_not_conflict(find: Partitioner) -> None:
    graph = graph_of([("x", "a"), ("y", "b"), ("a b", "c")], inputs="x y", outputs="c")
    pins = (Pin("one", "A", Tier.DEVICE), Pin("other", "B", Tier.CLOUD))
    assert find(problem_of(graph, Constraints(pins=pins))).tiers == (Tier.DEVICE, Tier.CLOUD, Tier.CLOUD)


def test_a_pin_on_a_tier_without_nodes_is_refused(find: Partitioner) -> None:
    constraints = Constraints(pins=(Pin("far", "L1", Tier.CLOUD),), unavailable=frozenset({Tier.CLOUD}))
    with pytest.raises(InfeasibleError, match="no node") as raised:
        find(problem_of(chain(3), constraints))
    assert raised.value.constraints == ("planning.pins[far]", "tiers[cloud]")


def test_with_neither_edge_nor_cloud_all_stays_on_the_device(find: Partitioner) -> None:
    constraints = Constraints(unavailable=frozenset({Tier.EDGE, Tier.CLOUD}))
    assert set(find(problem_of(chain(3), constraints)).tiers) == {Tier.DEVICE}


def test_the_device_cannot_be_unavailable(find: Partitioner) -> None:
    with pytest.raises(InvalidInputError, match="device can't be unavailable"):
        find(problem_of(chain(3), Constraints(unavailable=frozenset({Tier.DEVICE}))))


def test_a_device_too_small_for_what_privacy_keeps_on_it_names_both(find: Partitioner) -> None:
    graph = graph_of([("x", "a"), ("a", "b"), ("b", "c")], outputs="c", weights={"w": ("B", 1000), "v": ("C", 10)})
    constraints = Constraints(
        pins=(Pin("privacy", "B", Tier.DEVICE), Pin("start", "A", Tier.DEVICE)),
        memory={Tier.DEVICE: Bytes(2000), Tier.CLOUD: Bytes(10**9)},
        backbone_bytes=Bytes(10**9),
    )
    with pytest.raises(InfeasibleError, match="bytes, not 2000") as raised:
        find(problem_of(graph, constraints))
    assert raised.value.constraints == ("planning.pins[privacy]", "tiers[device].memoryBudget")


def test_a_weight_that_two_layers_of_a_tier_share_is_held_once(find: Partitioner) -> None:
    graph = graph_of([("x", "a"), ("a", "b")], outputs="b", weights={"w": ("A B", 100)})
    everywhere = Constraints(
        memory={Tier.DEVICE: Bytes(408)}, unavailable=frozenset({Tier.EDGE, Tier.CLOUD})
    )  # the weight's 400 bytes, and two tensors of 4
    assert set(find(problem_of(graph, everywhere)).tiers) == {Tier.DEVICE}


def test_no_byte_into_the_cloud_keeps_everything_below_it(find: Partitioner) -> None:
    found = find(problem_of(chain(6), Constraints(backbone_bytes=Bytes(0))))
    assert Tier.CLOUD not in found.tiers


def test_a_model_without_layers_has_an_empty_partition(find: Partitioner) -> None:
    found = find(problem_of(graph_of([], outputs="x"), Constraints()))
    assert found.tiers == ()
    assert found.latency.total == 0.0
