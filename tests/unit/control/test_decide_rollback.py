"""A plan that measures worse than the one before is taken back once, and not tried again under the same conditions."""

import math

import pytest

from factories.courses import GRAPH, NARROW, PROFILE, WIDE, spec, without
from factories.pipelines import network, observation
from tierflow.manifest import PipelineSpec
from tierflow.tiers import Tier
from tierflow_operator.decide import Decision, Hold, HoldReason, MeasuredLatency, Move, MoveReason, Present, decide
from tierflow_operator.observation import Observation

WANTED = spec(minIntervalSeconds=30)


def measured(seconds: float, since: float, requests: int = 100) -> MeasuredLatency:
    return MeasuredLatency(seconds=seconds, requests=requests, since=since)


def decided(
    seen: Observation,
    present: Present | None,
    now: float,
    latency: MeasuredLatency | None = None,
    wanted: PipelineSpec = WANTED,
) -> Decision:
    return decide(wanted, GRAPH, PROFILE, seen, present, now, latency)


def moved(before: MeasuredLatency | None = None, wanted: PipelineSpec = WANTED) -> tuple[Present, Present]:
    """What is remembered before and after a link got slower at 100 s, requests having taken `before` until then."""
    first = decided(WIDE, None, 0.0, wanted=wanted)
    assert isinstance(first, Move)
    second = decided(NARROW, first.present, 100.0, before, wanted)
    assert isinstance(second, Move)
    return first.present, second.present


def test_a_plan_that_measures_worse_than_the_one_before_is_taken_back_with_the_figures() -> None:
    first, second = moved(measured(6.0, since=40.0))
    back = decided(NARROW, second, 140.0, measured(9.0, since=110.0))
    assert isinstance(back, Move)
    assert back.reason is MoveReason.ROLLBACK
    assert back.plan.segments == first.plan.segments
    assert back.plan.epoch == 3
    assert "measured 9000 ms per request, and 6000 ms under epoch 1" in back.message


def test_a_plan_is_taken_back_once_and_holds_from_then_on() -> None:
    _, second = moved(measured(6.0, since=40.0))
    back = decided(NARROW, second, 140.0, measured(9.0, since=110.0))
    assert isinstance(back, Move)
    for now, latency in ((200.0, None), (900.0, measured(20.0, since=800.0)), (1e6, measured(0.01, since=1e6 - 50))):
        held = decided(NARROW, back.present, now, latency)
        assert isinstance(held, Hold)
        assert held.reason is HoldReason.REJECTED_PLAN
        assert "was tried under these conditions and given up" in held.message
        assert held.present == back.present


@pytest.mark.parametrize("seen", [observation(network(300, 0.7)), observation(network(300, 1), speeds=(0.1, 0.8, 1))])
def test_it_is_tried_again_where_a_link_or_a_speed_has_changed(seen: Observation) -> None:
    _, second = moved(measured(6.0, since=40.0))
    back = decided(NARROW, second, 140.0, measured(9.0, since=110.0))
    assert isinstance(back, Move)
    assert isinstance(decided(seen, back.present, 300.0), Move)


@pytest.mark.parametrize("megabits", [100, 900])
def test_it_is_not_tried_again_for_a_figure_that_changes_what_no_plan_costs(megabits: float) -> None:
    _, second = moved(measured(6.0, since=40.0))
    back = decided(NARROW, second, 140.0, measured(9.0, since=110.0))
    assert isinstance(back, Move)
    held = decided(observation(network(megabits, 1)), back.present, 300.0)
    assert isinstance(held, Hold)
    assert held.reason is HoldReason.REJECTED_PLAN


def test_it_is_tried_again_where_the_spec_was_edited() -> None:
    _, second = moved(measured(6.0, since=40.0))
    back = decided(NARROW, second, 140.0, measured(9.0, since=110.0))
    assert isinstance(back, Move)
    edited = spec(minIntervalSeconds=30, backboneBytesPerRequest="10M")
    again = decided(NARROW, back.present, 300.0, wanted=edited)
    assert isinstance(again, Move)
    assert again.plan.segments == second.plan.segments


@pytest.mark.parametrize(
    ("latency", "now"),
    [
        (None, 140.0),
        (measured(9.0, since=110.0, requests=19), 140.0),  # too few
        (measured(9.0, since=99.0), 140.0),  # some were the plan's before
        (measured(9.0, since=105.0), 125.0),  # the plan is too young
        (measured(math.nan, since=110.0), 140.0),
        (measured(-1.0, since=110.0), 140.0),
        (measured(6.3, since=110.0), 140.0),  # within the threshold
    ],
)
def test_nothing_is_taken_back_for_less(latency: MeasuredLatency | None, now: float) -> None:
    _, second = moved(measured(6.0, since=40.0))
    held = decided(NARROW, second, now, latency)
    assert isinstance(held, Hold)
    assert held.reason is HoldReason.UP_TO_DATE


def test_a_plan_that_was_judged_well_is_not_judged_again() -> None:
    _, second = moved(measured(6.0, since=40.0))
    held = decided(NARROW, second, 140.0, measured(0.2, since=110.0))
    assert isinstance(held, Hold)
    assert held.present is not None
    assert held.present.replaced is None
    assert isinstance(decided(NARROW, held.present, 900.0, measured(90.0, since=800.0)), Hold)


def test_a_link_that_got_slower_since_is_not_blamed_on_the_plan() -> None:
    _, second = moved(measured(6.0, since=40.0))
    slower = observation(network(0.5, 1))
    decision = decided(slower, second, 140.0, measured(9.0, since=110.0))
    assert not (isinstance(decision, Move) and decision.reason is MoveReason.ROLLBACK)


def test_a_plan_whose_predecessor_was_never_measured_is_not_taken_back() -> None:
    _, second = moved(None)
    assert second.replaced is None
    assert isinstance(decided(NARROW, second, 140.0, measured(99.0, since=110.0)), Hold)


def test_a_plan_that_an_edit_or_a_lost_tier_forced_is_not_taken_back() -> None:
    first = decided(WIDE, None, 0.0)
    assert isinstance(first, Move)
    forced = decided(without(Tier.CLOUD), first.present, 100.0, measured(0.1, since=40.0))
    assert isinstance(forced, Move)
    held = decided(without(Tier.CLOUD), forced.present, 200.0, measured(9.0, since=150.0))
    assert isinstance(held, Hold)


def test_nothing_returns_to_a_tier_that_is_lost() -> None:
    _, second = moved(measured(6.0, since=40.0))
    assert second.plan.segment(Tier.CLOUD).layers == 0
    decision = decided(without(Tier.CLOUD, seen=NARROW), second, 140.0, measured(9.0, since=110.0))
    assert isinstance(decision, Hold)


def test_a_cut_by_hand_is_the_user_s_own_to_take_back() -> None:
    first, second = moved(measured(6.0, since=40.0))
    manual = spec(mode="Manual", manual={"deviceLastLayer": "L0", "edgeLastLayer": ""}, minIntervalSeconds=30)
    by_hand = decided(NARROW, second, 140.0, wanted=manual)
    assert isinstance(by_hand, Move)
    again = decided(NARROW, by_hand.present, 240.0, measured(99.0, since=200.0), manual)
    assert isinstance(again, Hold)
    assert first.plan.epoch < by_hand.plan.epoch


def test_a_move_that_failed_is_not_tried_again_until_its_time_is_over() -> None:
    first, second = moved()
    for again_after, now, expected in ((None, 1e6, Hold), (600.0, 500.0, Hold), (600.0, 800.0, Move)):
        present = first.rejecting(second, 150.0, again_after=again_after)
        assert isinstance(decided(NARROW, present, now), expected)


def test_a_plan_that_failed_keeps_its_number() -> None:
    first, second = moved()
    again = decided(observation(network(300, 0.5)), first.rejecting(second, 150.0), 200.0)
    assert isinstance(again, Move)
    assert (first.plan.epoch, second.plan.epoch, again.plan.epoch) == (1, 2, 3)


def test_only_the_latest_rejections_are_remembered() -> None:
    present, second = moved()
    for number in range(20):
        other = Present(second.plan, 0.0, f"spec {number}")
        present = present.rejecting(other, float(number))
    assert len(present.rejected) == 1  # of one plan, the last
    assert present.rejected[0].spec == "spec 19"
