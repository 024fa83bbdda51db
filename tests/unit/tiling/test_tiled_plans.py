"""Plans with tiles: what they say, and how they differ."""

import msgspec
import pytest

from tierflow import plan as plans
from tierflow.estimate import estimate_profile
from tierflow.model import open_model
from tierflow.network import NETWORKS
from tierflow.partition.problem import Constraints
from tierflow.plan import Plan, difference
from tierflow.planning import make_plan
from tierflow.tiers import Tier
from tierflow.tiling.choice import EdgeNodes

SPEEDS = {Tier.DEVICE: 0.05, Tier.EDGE: 0.3, Tier.CLOUD: 1.0}


def vgg_plan(workers: int, network: str = "4g", unavailable: frozenset[Tier] = frozenset()) -> Plan:
    model = open_model("zoo://vgg16")
    profile = estimate_profile(model.graph, model.identity)
    return make_plan(
        model.graph,
        profile,
        NETWORKS[network],
        SPEEDS,
        constraints=Constraints(unavailable=unavailable),
        nodes=EdgeNodes(speeds=(1.0,) * workers),
    )


def test_four_edge_workers_shorten_the_plan_and_are_explained() -> None:
    alone, shared = vgg_plan(1), vgg_plan(4)
    assert not alone.tiling
    assert shared.tiling
    assert shared.predicted_seconds < alone.predicted_seconds
    for run in shared.tiling:
        assert run.rows * run.columns <= 4
        assert 0.9 < run.halo_factor < 2
        assert run.scatter_bytes > 0
        assert run.gather_bytes > 0
        assert run.predicted_seconds < run.untiled_seconds


@pytest.mark.parametrize("network", ["4g", "ethernet"])
@pytest.mark.parametrize("lost", [{Tier.CLOUD}, {Tier.EDGE}, {Tier.EDGE, Tier.CLOUD}])
def test_a_tier_without_nodes_gets_no_layers_however_well_tiles_would_go_with_it(lost: set[Tier], network: str) -> None:
    plan = vgg_plan(4, network, frozenset(lost))
    assert not any(plan.segment(tier).layers for tier in lost)


def test_a_plan_with_tiles_survives_its_way_through_json() -> None:
    plan = vgg_plan(4)
    assert plans.decode(plans.encode(plan)) == plan


def test_only_the_edge_changes_where_only_tiles_do() -> None:
    plan = vgg_plan(4)
    untiled = msgspec.structs.replace(plan, tiling=())
    (change,) = difference(plan, untiled)
    assert (change.tier, change.reason) == (Tier.EDGE, "Tiling")
    assert difference(plan, plan) == ()
