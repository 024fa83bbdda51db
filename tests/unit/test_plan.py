import random

import msgspec
import pytest

from factories.graphs import chain, graph_of, random_costs
from tierflow.errors import InvalidInputError
from tierflow.graph import Graph
from tierflow.network import NETWORKS
from tierflow.partition.latency import evaluate
from tierflow.partition.problem import Algorithm, Partition, Problem
from tierflow.plan import Plan, decode, difference, encode, plan_of
from tierflow.planning import make_plan
from tierflow.profile import Profile
from tierflow.segment import Route
from tierflow.tiers import Tier

DEVICE, EDGE, CLOUD = Tier.DEVICE, Tier.EDGE, Tier.CLOUD
SPEEDS = {DEVICE: 0.1, EDGE: 0.5, CLOUD: 1.0}


def plan_for(graph: Graph, *tiers: Tier, route: Route = Route.RELAYED, model: str = "m", epoch: int = 1) -> Plan:
    latency = evaluate(Problem(graph, random_costs(random.Random(1), graph)), tiers, route)
    partition = Partition(tiers, route, latency, 0.0, Algorithm.EXACT)
    return plan_of(graph, partition, model=model, network=NETWORKS["wifi"], speeds=SPEEDS, epoch=epoch)


def test_a_plan_survives_json() -> None:
    plan = plan_for(chain(4), DEVICE, EDGE, EDGE, CLOUD)
    assert decode(encode(plan)) == plan


def test_a_plan_of_another_version_is_refused() -> None:
    data = msgspec.json.decode(encode(plan_for(chain(2), DEVICE, CLOUD)))
    with pytest.raises(InvalidInputError, match="no plan of version 1"):
        decode(msgspec.json.encode({**data, "version": 2}))


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="plan again"):
        decode(b"plan")


def test_a_plan_says_what_each_tier_does() -> None:
    plan = plan_for(graph_of([("x", "a"), ("a", "b"), ("b", "c")], outputs="c", sizes={"a": 10}), DEVICE, EDGE, CLOUD)
    device, edge, cloud = plan.segments
    assert (device.layers, device.last_layer, device.boundary_bytes) == (1, "A", 40)
    assert device.sends_boundary == edge.accepts_boundary
    assert edge.sends_boundary == cloud.accepts_boundary
    assert cloud.sends_boundary == ""
    assert plan.backbone_bytes == 4
    assert plan.tiers(chain(3)) == (DEVICE, EDGE, CLOUD)
    assert [plan.next_tier(tier) for tier in Tier] == [EDGE, CLOUD, None]


def test_the_device_sends_straight_to_the_cloud_on_the_direct_route() -> None:
    plan = plan_for(chain(3), DEVICE, CLOUD, CLOUD, route=Route.DIRECT)
    assert [plan.next_tier(tier) for tier in Tier] == [CLOUD, None, None]
    assert plan.segment(EDGE).accepts_boundary == ""


def test_plans_that_ask_for_the_same_do_not_differ() -> None:
    assert difference(plan_for(chain(3), DEVICE, EDGE, CLOUD), plan_for(chain(3), DEVICE, EDGE, CLOUD, epoch=2)) == ()


def test_a_moved_upper_boundary_leaves_the_device_alone() -> None:
    changes = difference(plan_for(chain(4), DEVICE, EDGE, EDGE, CLOUD), plan_for(chain(4), DEVICE, EDGE, CLOUD, CLOUD))
    assert [(change.tier, change.reason) for change in changes] == [(EDGE, "Segment"), (CLOUD, "Segment")]
    assert changes[0].message == "2 -> 1 layers, last L1"


def test_another_route_changes_the_devices_neighbour_and_the_edges_segment() -> None:
    relayed = plan_for(chain(3), DEVICE, CLOUD, CLOUD)
    direct = plan_for(chain(3), DEVICE, CLOUD, CLOUD, route=Route.DIRECT)
    changes = difference(relayed, direct)
    assert [(change.tier, change.reason) for change in changes] == [(DEVICE, "Route"), (EDGE, "Segment")]
    assert changes[0].message == "sends to cloud instead of edge"


def test_plans_of_different_models_are_not_compared() -> None:
    with pytest.raises(InvalidInputError, match="different models: m and n"):
        difference(plan_for(chain(2), DEVICE, EDGE), plan_for(chain(2), DEVICE, EDGE, model="n"))


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_plan_is_made_in_one_call(algorithm: Algorithm) -> None:
    graph = chain(5)
    profile = Profile(model="m", source="measured", machine="here", layers={f"L{n}": 0.01 for n in range(5)})
    plan = make_plan(graph, profile, NETWORKS["ethernet"], SPEEDS, algorithm=algorithm, epoch=7)
    assert (plan.model, plan.epoch, plan.algorithm) == ("m", 7, algorithm)
    assert sum(part.layers for part in plan.segments) == 5
    assert plan.predicted_seconds <= 0.5


def test_a_speed_of_zero_is_refused() -> None:
    profile = Profile(model="m", source="measured", machine="here", layers={"L0": 0.01})
    with pytest.raises(InvalidInputError, match="positive"):
        make_plan(chain(1), profile, NETWORKS["wifi"], {**SPEEDS, EDGE: 0.0})
