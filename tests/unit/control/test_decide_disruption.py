"""Of plans that are nearly as fast, the one that touches fewer workers wins."""

from dataclasses import replace

import pytest

from factories.courses import GRAPH, PROFILE, WIDE, spec, without
from factories.graphs import chain
from factories.pipelines import ONE_NODE_EACH, network, observation, pipeline, profile
from factories.tiled_pipelines import convolutions
from tierflow.manifest import PipelineSpec
from tierflow.plan import Plan
from tierflow.profile import Profile
from tierflow.segment import cut
from tierflow.tiers import Tier
from tierflow_operator.decide import Hold, HoldReason, Move, Present, decide
from tierflow_operator.disruption import options, priced, touched
from tierflow_operator.observation import Observation
from tierflow_operator.situation import Situation

# Three layers of which the first is quicker on the device than its input is sent, and tensors that shrink.
SHRINKING = chain(8, sizes=[90_000, 80_000, 40_000, 38_000, 20_000, 6_000, 5_500, 3_000, 10])
TIMES = profile(SHRINKING, [0.001, 0.004, 0.002, 0.006, 0.006, 0.004, 0.008, 0.010])


def situation(seen: Observation, wanted: PipelineSpec | None = None) -> Situation:
    return Situation(wanted or spec(), SHRINKING, TIMES, seen)


def cut_at(device: str, edge: str) -> Plan:
    return situation(observation(network(20, 4))).plan_of(cut(SHRINKING, device, edge))


def by_tier(plan: Plan) -> list[int]:
    return [part.layers for part in plan.segments]


def test_a_plan_that_leaves_the_device_alone_wins_where_it_costs_less_than_the_price() -> None:
    old = cut_at("L1", "L3")
    spared = 0
    for rate in range(20, 400, 4):
        now = situation(observation(network(rate, 40)), spec(minImprovementPercent=30))
        best = now.best()
        chosen = options(now, old, best)[0]
        if len(touched(old, best)) == 3 and chosen.segments != best.segments:
            assert len(touched(old, chosen)) == 2
            assert best.predicted_seconds < chosen.predicted_seconds <= best.predicted_seconds * 1.06
            kept = [tier for tier in Tier if old.segment(tier).id == chosen.segment(tier).id]
            assert kept in ([Tier.DEVICE], [Tier.CLOUD])
            spared += 1
    assert spared > 0


def test_a_plan_that_spares_a_worker_says_how_far_it_is_from_the_optimum() -> None:
    old = cut_at("L1", "L3")
    now = situation(observation(network(60, 40)), spec(minImprovementPercent=30))
    best = now.best()
    for plan in options(now, old, best):
        gap = plan.predicted_seconds / best.predicted_seconds - 1
        assert plan.optimality_gap == pytest.approx(gap, abs=1e-9)


def test_options_come_cheapest_first_and_the_best_plan_is_always_among_them() -> None:
    old = cut_at("L1", "L3")
    for rate in (5, 20, 80, 300):
        now = situation(observation(network(rate, 40)))
        best = now.best()
        found = options(now, old, best)
        assert best in found
        prices = [priced(now, old, plan) for plan in found]
        assert prices == sorted(prices)


def test_without_a_minimum_improvement_disruption_costs_nothing() -> None:
    old = cut_at("L1", "L3")
    now = situation(observation(network(60, 40)), spec(minImprovementPercent=0))
    assert options(now, old, now.best()) == [now.best()]


def test_a_cut_by_hand_has_no_alternatives() -> None:
    manual = spec(mode="Manual", manual={"deviceLastLayer": "L0", "edgeLastLayer": "L5"})
    now = situation(observation(network(60, 40)), manual)
    assert options(now, cut_at("L1", "L3"), now.best()) == [now.best()]


def test_a_lost_tier_is_left_with_as_few_changes_as_the_price_allows() -> None:
    first = decide(spec(minImprovementPercent=50), GRAPH, PROFILE, WIDE, None, 0.0)
    assert isinstance(first, Move)
    lost = decide(spec(minImprovementPercent=50), GRAPH, PROFILE, without(Tier.CLOUD), first.present, 1.0)
    assert isinstance(lost, Move)
    assert lost.plan.segment(Tier.CLOUD).layers == 0
    assert len(touched(first.plan, lost.plan)) <= 3


def test_an_edit_that_the_present_plan_respects_changes_nothing_for_a_gain_below_the_price() -> None:
    wanted = spec(minImprovementPercent=30)
    first = decide(wanted, SHRINKING, TIMES, observation(network(60, 40)), None, 0.0)
    assert isinstance(first, Move)
    edited = spec(minImprovementPercent=30, backboneBytesPerRequest="10M")
    nearly = observation(network(64, 38))
    held = decide(edited, SHRINKING, TIMES, nearly, first.present, 1.0)
    assert isinstance(held, Hold)
    assert held.reason is HoldReason.UP_TO_DATE
    assert held.present is not None
    assert held.present.spec != first.present.spec


def tiled(nodes: int, speeds: tuple[float, ...] = ()) -> Observation:
    return replace(observation(network()), ready_nodes={**ONE_NODE_EACH, Tier.EDGE: nodes}, edge_speeds=speeds)


def tiled_first(nodes: int) -> tuple[PipelineSpec, Profile, Present]:
    pins = [{"name": "edge", "layersUpTo": "conv4", "tier": "edge"}]
    wanted = pipeline({"pins": pins, "stabilizationSeconds": 0, "minIntervalSeconds": 0}).spec
    times = profile(convolutions())
    decision = decide(wanted, convolutions(), times, tiled(nodes), None, 0.0)
    assert isinstance(decision, Move)
    assert decision.plan.tiling
    return wanted, times, decision.present


def test_another_number_of_edge_nodes_that_leaves_the_runs_is_no_move() -> None:
    wanted, times, present = tiled_first(4)
    for nodes in (2, 3, 4):
        held = decide(wanted, convolutions(), times, tiled(nodes), present, 1000.0)
        assert isinstance(held, Hold), nodes
        assert held.present is not None
        assert held.present.plan == present.plan


def test_another_grid_alone_is_no_change() -> None:
    _, _, two = tiled_first(2)
    _, _, four = tiled_first(4)
    assert [run.id for run in two.plan.tiling] == [run.id for run in four.plan.tiling]
    assert (two.plan.tiling[0].rows, two.plan.tiling[0].columns) != (
        four.plan.tiling[0].rows,
        four.plan.tiling[0].columns,
    )
    assert touched(two.plan, four.plan) == ()


def test_another_size_of_tiles_is_nothing_at_all() -> None:
    wanted, times, present = tiled_first(4)
    held = decide(wanted, convolutions(), times, tiled(4, (1.0, 0.8, 1.0, 1.2)), present, 1000.0)
    assert isinstance(held, Hold)
    assert held.present == present
