"""Whether a pipeline moves to another plan, and why."""

from dataclasses import replace

import msgspec
import pytest

from factories.graphs import chain
from factories.pipelines import ONE_NODE_EACH, network, observation, pipeline, profile
from tierflow.errors import InfeasibleError, InvalidInputError
from tierflow.segment import Route
from tierflow.tiers import Tier
from tierflow_operator.decide import Decision, Hold, HoldReason, Move, MoveReason, Present, decide
from tierflow_operator.observation import Observation, ObservedLink, Source

# Tensors get smaller towards the end, so that it is worth computing a while before sending.
GRAPH = chain(6, sizes=[150_000, 200_000, 50_000, 40_000, 10_000, 8_000, 10])
PROFILE = profile(GRAPH)
WIDE = observation(network(300, 300))
NARROW = observation(network(300, 1))


def decided(
    seen: Observation, present: Present | None = None, now: float = 0.0, planning: dict[str, object] | None = None
) -> Decision:
    return decide(pipeline({"stabilizationSeconds": 0, **(planning or {})}).spec, GRAPH, PROFILE, seen, present, now)


def first(seen: Observation = WIDE, planning: dict[str, object] | None = None) -> Present:
    decision = decided(seen, planning=planning)
    assert isinstance(decision, Move)
    return decision.present


def test_the_first_plan_is_initial_and_has_epoch_one() -> None:
    decision = decided(WIDE)
    assert isinstance(decision, Move)
    assert (decision.reason, decision.plan.epoch) == (MoveReason.INITIAL, 1)
    assert "predicted" in decision.message


@pytest.mark.parametrize("seen", [WIDE, NARROW, observation(network(1, 300)), observation(speeds=(1, 1, 1))])
def test_deciding_again_on_its_own_result_holds(seen: Observation) -> None:
    present = first(seen)
    again = decided(seen, present, now=1000.0)
    assert isinstance(again, Hold)
    assert again.reason is HoldReason.UP_TO_DATE
    assert again.present == present


def test_a_link_that_gets_worse_moves_the_plan_and_the_message_has_the_figures() -> None:
    decision = decided(NARROW, first(), now=100.0)
    assert isinstance(decision, Move)
    assert (decision.reason, decision.plan.epoch) == (MoveReason.BANDWIDTH_CHANGED, 2)
    # The way that the plan in force sends by, which is the direct one, of the two that got worse.
    assert decision.message.startswith("device-cloud link 300.0 -> 1.0 Mbit/s; predicted ")
    assert " ms -> " in decision.message
    assert isinstance(decided(NARROW, decision.present, now=1000.0), Hold)


def test_the_cause_is_what_costs_most_and_not_what_changed_by_the_largest_factor() -> None:
    nearer = msgspec.structs.replace(WIDE.links[Tier.DEVICE, Tier.EDGE].link, round_trip_seconds=1e-6)
    links = {**NARROW.links, (Tier.DEVICE, Tier.EDGE): ObservedLink(nearer, Source.MEASURED)}
    seen = replace(NARROW, links=links, speeds=observation(speeds=(0.12, 0.6, 1)).speeds)
    decision = decided(seen, first(), now=100.0)
    assert isinstance(decision, Move)
    assert decision.message.startswith("device-cloud link 300.0 -> 1.0 Mbit/s; predicted ")


def test_a_tier_that_gets_slower_moves_the_plan() -> None:
    decision = decided(observation(network(300, 300), speeds=(0.1, 0.5, 0.05)), first(), now=100.0)
    assert isinstance(decision, Move)
    assert decision.reason is MoveReason.SPEED_CHANGED
    assert "speed of cloud 1 -> 0.05" in decision.message


def test_a_gain_below_the_minimum_holds_and_says_how_much_it_would_be() -> None:
    decision = decided(NARROW, first(), now=100.0, planning={"minImprovementPercent": 100})
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.MINIMUM_IMPROVEMENT
    assert "is below the 100 %" in decision.message


def test_a_plan_that_is_too_young_holds_until_the_interval_is_over() -> None:
    decision = decided(NARROW, first(), now=10.0)
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.MINIMUM_INTERVAL
    assert decision.again_after == pytest.approx(20.0)
    assert decision.present is not None
    assert isinstance(decided(NARROW, decision.present, now=30.0), Move)


def test_a_changed_spec_moves_at_once() -> None:
    decision = decided(WIDE, first(), now=1.0, planning={"pins": [{"name": "p", "layersUpTo": "L4", "tier": "device"}]})
    assert isinstance(decision, Move)
    assert decision.reason is MoveReason.SPEC_CHANGED
    assert decision.plan.segment(Tier.DEVICE).layers >= 5


def test_a_changed_spec_that_leaves_the_plan_is_remembered_without_a_move() -> None:
    present = first()
    assert present.plan.segment(Tier.CLOUD).layers == 6
    decision = decided(WIDE, present, now=1.0, planning={"pins": [{"name": "p", "layersUpTo": "L0", "tier": "cloud"}]})
    assert isinstance(decision, Hold)
    assert decision.present is not None
    assert decision.present.spec != present.spec
    assert decision.present.plan == present.plan


def test_another_model_moves_at_once() -> None:
    other = profile(GRAPH, model="zoo:other:1")
    decision = decide(pipeline().spec, GRAPH, other, WIDE, first(), 1.0)
    assert isinstance(decision, Move)
    assert decision.reason is MoveReason.SPEC_CHANGED


def test_a_tier_that_lost_its_nodes_is_left_at_once_and_taken_again_when_they_are_back() -> None:
    present = first()
    assert present.plan.segment(Tier.CLOUD).layers > 0
    lost = decided(replace(WIDE, ready_nodes={**ONE_NODE_EACH, Tier.CLOUD: 0}), present, now=1.0)
    assert isinstance(lost, Move)
    assert lost.reason is MoveReason.NODES_CHANGED
    assert "no ready node is left for cloud" in lost.message
    assert lost.plan.segment(Tier.CLOUD).layers == 0
    back = decided(WIDE, lost.present, now=100.0)
    assert isinstance(back, Move)
    assert back.reason is MoveReason.NODES_CHANGED
    assert back.message.startswith("cloud can compute again; predicted")


def test_a_paused_pipeline_holds_whatever_happens() -> None:
    decision = decided(NARROW, first(), now=1000.0, planning={"mode": "Paused"})
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.PAUSED


def by_hand(device: str, edge: str, **more: object) -> dict[str, object]:
    return {"mode": "Manual", "manual": {"deviceLastLayer": device, "edgeLastLayer": edge}, **more}


def test_a_manual_cut_is_followed_and_its_distance_to_the_optimum_is_said() -> None:
    present = first(WIDE, by_hand("L0", "L3"))
    plan = present.plan
    assert [plan.segment(tier).last_layer for tier in Tier] == ["L0", "L3", "L5"]
    assert plan.optimality_gap == pytest.approx(plan.predicted_seconds / first().plan.predicted_seconds - 1)
    assert isinstance(decided(NARROW, present, now=1000.0, planning=by_hand("L0", "L3")), Hold)


def test_a_manual_cut_without_the_edge_goes_directly_to_the_cloud() -> None:
    assert first(WIDE, by_hand("L0", "")).plan.route is Route.DIRECT


def test_a_manual_cut_at_a_layer_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="has no layer 'L9'"):
        decided(WIDE, planning=by_hand("L9", ""))


def test_a_manual_cut_against_a_pin_names_both() -> None:
    pins = [{"name": "privacy", "layersUpTo": "L2", "tier": "device"}]
    with pytest.raises(
        InfeasibleError, match=r"puts layer L1 on edge; cut elsewhere, or drop planning\.pins\[privacy\]"
    ) as raised:
        decided(WIDE, planning=by_hand("L0", "L3", pins=pins))
    assert raised.value.constraints == ("planning.manual", "planning.pins[privacy]")


def test_a_manual_cut_on_a_tier_without_nodes_names_it() -> None:
    seen = replace(WIDE, ready_nodes={Tier.DEVICE: 1, Tier.EDGE: 0, Tier.CLOUD: 1})
    with pytest.raises(InfeasibleError, match="needs edge, which has no ready node"):
        decided(seen, planning=by_hand("L0", "L3"))


def test_a_manual_cut_over_the_backbone_budget_names_it() -> None:
    with pytest.raises(InfeasibleError, match="asks for 40000 bytes where .* allows 1000"):
        decided(WIDE, planning=by_hand("L0", "L3", backboneBytesPerRequest="1k"))


def test_a_manual_cut_over_a_tier_s_memory_names_it() -> None:
    manifest = pipeline(by_hand("L0", "L3"), memory={"edge": "100k"})
    with pytest.raises(InfeasibleError, match=r"where tiers\[edge\]\.memoryBudget allows 100000"):
        decide(manifest.spec, GRAPH, PROFILE, WIDE, None, 0.0)


def test_what_nobody_said_comes_from_the_defaults_and_what_was_said_is_marked() -> None:
    assert {link.source for link in WIDE.links.values()} == {Source.ASSUMED}
