"""A better plan has to last, and plans have to be old enough, before one replaces another."""

from dataclasses import replace

import msgspec
import pytest

from factories.courses import GRAPH, NARROW, PROFILE, PROMETHEUS_DOWN, WIDE, course, spec, swinging, without
from factories.pipelines import network, observation
from tierflow.manifest import PipelineSpec
from tierflow.network import Link
from tierflow.tiers import Tier
from tierflow_operator.decide import Hold, HoldReason, Move, MoveReason, Present, decide
from tierflow_operator.observation import (
    DOWN_SECONDS,
    LINKS,
    NOT_CONFIGURED,
    Observation,
    ObservedLink,
    Source,
    TierLink,
    link_name,
)
from tierflow_operator.simulation import Moment, holds, moves
from tierflow_operator.situation import links_of

PATIENT = spec(minIntervalSeconds=30, stabilizationSeconds=30)
HOUR = 3600.0


def first(wanted: PipelineSpec = PATIENT, seen: Observation = WIDE, now: float = 0.0) -> Present:
    decision = decide(wanted, GRAPH, PROFILE, seen, None, now)
    assert isinstance(decision, Move)
    return decision.present


def hold(seen: Observation, present: Present, now: float, wanted: PipelineSpec = PATIENT) -> tuple[Hold, Present]:
    decision = decide(wanted, GRAPH, PROFILE, seen, present, now)
    assert isinstance(decision, Hold), decision
    assert decision.present is not None
    return decision, decision.present


def test_a_better_plan_is_moved_to_once_it_has_been_better_for_the_window() -> None:
    held, present = hold(NARROW, first(), 100.0)
    assert (held.reason, held.again_after) == (HoldReason.STABILIZING, 30.0)
    assert "has to stay better for 30 s more (stabilizationSeconds)" in held.message
    held, present = hold(NARROW, present, 120.0)
    assert held.again_after == pytest.approx(10.0)
    decision = decide(PATIENT, GRAPH, PROFILE, NARROW, present, 130.0)
    assert isinstance(decision, Move)
    assert decision.present.contenders == ()


def test_an_interruption_starts_the_window_anew() -> None:
    _, present = hold(NARROW, first(), 100.0)
    held, present = hold(WIDE, present, 120.0)
    assert held.reason is HoldReason.UP_TO_DATE
    held, _ = hold(NARROW, present, 125.0)
    assert (held.reason, held.again_after) == (HoldReason.STABILIZING, 30.0)


def test_the_longer_of_both_waits_is_the_reason() -> None:
    wanted = spec(minIntervalSeconds=60, stabilizationSeconds=5)
    held, present = hold(NARROW, first(wanted), 10.0, wanted)
    assert (held.reason, held.again_after) == (HoldReason.MINIMUM_INTERVAL, 50.0)
    assert isinstance(decide(wanted, GRAPH, PROFILE, NARROW, present, 60.0), Move)


def test_edits_and_lost_tiers_wait_for_nothing() -> None:
    _, present = hold(NARROW, first(), 1.0)
    pinned = spec(minIntervalSeconds=30, pins=[{"name": "p", "layersUpTo": "L4", "tier": "device"}])
    edited = decide(pinned, GRAPH, PROFILE, NARROW, present, 2.0)
    assert isinstance(edited, Move)
    assert edited.reason is MoveReason.SPEC_CHANGED
    lost = decide(PATIENT, GRAPH, PROFILE, without(Tier.CLOUD), present, 2.0)
    assert isinstance(lost, Move)
    assert lost.reason is MoveReason.NODES_CHANGED


def test_a_window_needs_no_second_one_where_a_figure_changes_step_by_step() -> None:
    steps = [Moment(0.0, WIDE), *(Moment(60.0 + 5 * n, observation(network(300, 1.5**-n * 100))) for n in range(12))]
    done = moves(course(PATIENT, iter(steps), until=600.0))
    assert len(done) == 1
    assert done[0][0] <= 60.0 + 55.0 + 60.0
    final = decide(PATIENT, GRAPH, PROFILE, steps[-1].observation, None, 0.0)
    assert isinstance(final, Move)
    assert done[0][1].plan.segments == final.plan.segments


def test_a_link_that_swings_faster_than_the_window_moves_nothing_in_an_hour() -> None:
    steps = course(PATIENT, swinging(WIDE, NARROW, every=20.0, until=HOUR), until=HOUR)
    assert len(moves(steps)) <= 1
    assert holds(steps)[HoldReason.STABILIZING] > HOUR / 3


def test_without_a_window_a_link_that_swings_causes_at_most_one_move_per_interval() -> None:
    interval = 30
    wanted = spec(minIntervalSeconds=interval)
    steps = course(wanted, swinging(WIDE, NARROW, every=20.0, until=HOUR), until=HOUR)
    times = [when for when, _ in moves(steps)]
    assert 2 <= len(times) <= HOUR / interval + 1
    assert all(later - earlier >= interval for earlier, later in zip([0.0, *times], times, strict=False))


def test_a_tier_that_comes_and_goes_is_left_at_once_and_taken_again_only_when_it_stays() -> None:
    steps = course(PATIENT, swinging(WIDE, without(Tier.CLOUD), every=20.0, until=HOUR), until=HOUR)
    assert [(when, move.reason) for when, move in moves(steps)] == [(20.0, MoveReason.NODES_CHANGED)]
    back = course(PATIENT, iter([Moment(0, WIDE), Moment(20, without(Tier.CLOUD)), Moment(40, WIDE)]), until=120.0)
    assert [(when, move.reason) for when, move in moves(back)] == [
        (20.0, MoveReason.NODES_CHANGED), (70.0, MoveReason.NODES_CHANGED),
    ]  # fmt: skip


def test_a_tier_that_cannot_be_reached_is_planned_around_and_named() -> None:
    present = first()
    decision = decide(PATIENT, GRAPH, PROFILE, replace(WIDE, unreachable=frozenset({Tier.CLOUD})), present, 1.0)
    assert isinstance(decision, Move)
    assert decision.message.startswith("cloud can't be reached; predicted ")
    assert decision.plan.segment(Tier.CLOUD).layers == 0


def down(*links: TierLink) -> Observation:
    """What is observed while tiers at the upper ends of these links answer to others alone."""
    broken = ObservedLink(Link(bytes_per_second=1e3, round_trip_seconds=DOWN_SECONDS), Source.MEASURED)
    return replace(WIDE, links={**WIDE.links, **dict.fromkeys(links, broken)}, down=frozenset(links))


def test_a_link_that_is_down_is_planned_around_at_once_and_taken_again_when_it_is_up() -> None:
    present = first()
    (used,) = links_of(present.plan)
    around = decide(PATIENT, GRAPH, PROFILE, down(used), present, 1.0)
    assert isinstance(around, Move)
    assert around.reason is MoveReason.BANDWIDTH_CHANGED
    assert around.message.startswith(f"{link_name(used)} link is down; predicted ")
    assert not links_of(around.plan) & {used}
    held, waiting = hold(WIDE, around.present, 100.0)
    assert held.reason is HoldReason.STABILIZING
    back = decide(PATIENT, GRAPH, PROFILE, WIDE, waiting, 130.0)
    assert isinstance(back, Move)
    assert back.message.startswith(f"{link_name(used)} link is up again; predicted ")


def test_where_there_is_no_way_around_a_link_that_is_down_nothing_is_forced() -> None:
    pinned = spec(minIntervalSeconds=30, pins=[{"name": "p", "layersUpTo": "L5", "tier": "cloud"}])
    seen = down(*LINKS)
    assert isinstance(decide(pinned, GRAPH, PROFILE, seen, first(pinned), 1.0), Hold)


def test_without_the_metrics_that_there_should_be_nothing_moves_whatever_is_read() -> None:
    present = first()
    for seen in (NARROW, observation(network(0.001, 1e6)), observation(speeds=(9, 9, 1e-9))):
        held, after = hold(replace(seen, metrics=PROMETHEUS_DOWN), present, 1000.0)
        assert (held.reason, held.message) == (HoldReason.METRICS_UNAVAILABLE, "Prometheus doesn't answer")
        assert after == present


def test_without_metrics_edits_and_lost_tiers_act_all_the_same() -> None:
    present = first()
    pinned = spec(pins=[{"name": "p", "layersUpTo": "L4", "tier": "device"}])
    for wanted, seen in ((pinned, WIDE), (PATIENT, without(Tier.CLOUD))):
        decision = decide(wanted, GRAPH, PROFILE, replace(seen, metrics=PROMETHEUS_DOWN), present, 1.0)
        assert isinstance(decision, Move)


def test_metrics_that_come_back_start_the_window_anew() -> None:
    _, present = hold(NARROW, first(), 100.0)
    _, present = hold(replace(NARROW, metrics=PROMETHEUS_DOWN), present, 125.0)
    held, _ = hold(NARROW, present, 135.0)
    assert (held.reason, held.again_after) == (HoldReason.STABILIZING, 30.0)


def test_that_no_metrics_are_configured_holds_nothing() -> None:
    assert WIDE.metrics is NOT_CONFIGURED
    assert hold(WIDE, first(), 10.0)[0].reason is HoldReason.UP_TO_DATE
    _, present = hold(NARROW, first(), 100.0)
    assert isinstance(decide(PATIENT, GRAPH, PROFILE, NARROW, present, 130.0), Move)


def test_a_clock_that_is_set_back_makes_no_longer_waits() -> None:
    _, present = hold(NARROW, first(now=1_000_000.0), 1_000_010.0)
    held, present = hold(NARROW, present, 10.0)
    assert held.again_after == pytest.approx(30.0)
    assert isinstance(decide(PATIENT, GRAPH, PROFILE, NARROW, present, 40.0), Move)


def test_holds_remember_nothing_new_while_nothing_happens() -> None:
    present = first()
    for number in range(50):
        seen = observation(network(300 * (1 + number % 5 / 100), 300 / (1 + number % 7 / 100)))
        _, after = hold(seen, present, 10.0 * number)
        assert after == present


def test_what_is_waited_for_is_remembered_once() -> None:
    _, present = hold(NARROW, first(), 100.0)
    for now in (105.0, 110.0, 115.0):
        _, after = hold(NARROW, present, now)
        assert after == present


def test_no_more_than_three_plans_prove_themselves_at_a_time() -> None:
    present = first(seen=observation(network(300, 300)))
    for number in range(12):
        seen = observation(network(300, 0.7 * 1.6 ** (number % 6)), speeds=(0.1, 0.5, 1.0 + number))
        decision = decide(spec(stabilizationSeconds=600), GRAPH, PROFILE, seen, present, 100.0 + number)
        assert isinstance(decision, Hold)
        assert decision.present is not None
        present = decision.present
        assert len(present.contenders) <= 3
        assert list(present.contenders) == sorted(present.contenders, key=lambda each: each.since)


def test_a_window_of_nothing_remembers_nothing() -> None:
    wanted = spec(minIntervalSeconds=30)
    _, present = hold(NARROW, first(wanted), 10.0, wanted)
    assert msgspec.structs.replace(present, contenders=()) == present
