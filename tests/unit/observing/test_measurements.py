"""What measurements make of an observation, and what is said where there are none."""

from dataclasses import replace

import pytest

from factories.graphs import chain
from factories.pipelines import ONE_NODE_EACH, network, observation, pipeline, profile
from factories.series import NOW, link, read, runs, series
from tierflow.errors import UnreachableError
from tierflow.manifest import InferencePipeline
from tierflow.manifest_reading import from_object
from tierflow.plan import Plan
from tierflow.planning import make_plan
from tierflow.tiers import TIERS, Tier
from tierflow_operator.measurements import CALIBRATION_SECONDS, latency, observe
from tierflow_operator.observation import (
    DOWN_SECONDS,
    LINKS,
    NOT_CONFIGURED,
    MetricsReason,
    Observation,
    Source,
    TierLink,
)
from tierflow_operator.queries import CALIBRATION, REQUEST_SECONDS, REQUESTS
from tierflow_operator.readings import Readings
from tierflow_operator.samples import Series

D, E, C = TIERS
GRAPH = chain(6, sizes=[150_000, 200_000, 50_000, 40_000, 10_000, 8_000, 10])
ASSUMED = observation(network(50, 20), speeds=(0.2, 0.6, 1.0))
PLAN = make_plan(GRAPH, profile(GRAPH), network(300, 300), dict(zip(TIERS, (0.1, 0.5, 1.0), strict=True)))
UNREACHABLE = UnreachableError("Prometheus at http://p:9090 can't be reached")


def with_metrics(**fields: object) -> InferencePipeline:
    tiers = [{"name": str(tier)} for tier in TIERS]
    return from_object(
        {
            "apiVersion": "tierflow.dev/v1alpha1",
            "kind": "InferencePipeline",
            "metadata": {"name": "small"},
            "spec": {"model": {"uri": "zoo://resnet18"}, "tiers": tiers, "metrics": fields},
        }
    )


def seen(
    readings: Readings | UnreachableError | None,
    *,
    assumed: Observation = ASSUMED,
    plan: Plan | None = PLAN,
    of: InferencePipeline | None = None,
    now: float = NOW,
) -> Observation:
    return observe(assumed, readings, plan=plan, spec=(of or pipeline()).spec, now=now)


def all_links(*, but: TierLink | None = None, **down: bool) -> list[Series]:
    """All links at 8 Mbit/s and 10 ms, each told by a pod of its lower tier."""
    found: list[Series] = []
    for lower, upper in LINKS:
        up = (0, 0, 0) if down.get(f"{lower}_{upper}") else (1, 1, 1)
        if (lower, upper) != but:
            found += link(lower, upper, pod=lower, up=up)
    return found


def test_measured_links_take_the_place_of_assumed_ones() -> None:
    found = seen(read(*all_links()))
    assert {(entry.link.bytes_per_second, entry.source) for entry in found.links.values()} == {(1e6, Source.MEASURED)}
    assert found.metrics.available
    assert found.metrics.reason is MetricsReason.MEASURED
    assert found.metrics.age_seconds == 0.0
    assert not found.metrics.holds
    assert found.ready_nodes == ONE_NODE_EACH


def test_figures_are_rounded_so_that_equal_conditions_give_equal_observations() -> None:
    first, second = (seen(read(*link(D, E, [bandwidth] * 3))) for bandwidth in (1_000_123.0, 1_000_456.0))
    assert first == second


def test_without_a_prometheus_what_is_assumed_holds_and_nothing_else_waits() -> None:
    found = seen(None)
    assert found == ASSUMED
    assert found.metrics is NOT_CONFIGURED
    assert not found.metrics.holds


@pytest.mark.parametrize("readings", [UNREACHABLE, read(), read(link(D, E)[0])])
def test_without_measurements_figures_stay_those_of_the_plan_and_the_plan_holds(
    readings: Readings | UnreachableError,
) -> None:
    found = seen(readings)
    assert not found.metrics.available
    assert found.metrics.holds
    assert found.network == PLAN.network
    assert found.tier_speeds == PLAN.speeds
    assert {entry.source for entry in found.links.values()} == {Source.LAST_PLAN}
    assert found.unavailable == frozenset()


@pytest.mark.parametrize("readings", [UNREACHABLE, read()])
def test_with_use_defaults_what_is_assumed_takes_over_and_nothing_is_held(
    readings: Readings | UnreachableError,
) -> None:
    found = seen(readings, of=with_metrics(onUnavailable="UseDefaults"))
    assert not found.metrics.available
    assert not found.metrics.holds
    assert found.network == ASSUMED.network
    assert found.tier_speeds == ASSUMED.tier_speeds


def test_the_first_plan_is_made_from_what_is_assumed() -> None:
    assert seen(UNREACHABLE, plan=None).network == ASSUMED.network
    assert seen(read(), plan=None).tier_speeds == ASSUMED.tier_speeds


def test_the_reason_says_what_is_missing() -> None:
    assert seen(UNREACHABLE).metrics.reason is MetricsReason.UNREACHABLE
    assert seen(UNREACHABLE).metrics.message == UNREACHABLE.message
    nothing = seen(read()).metrics
    assert nothing.reason is MetricsReason.NO_DATA
    assert "scrape" in nothing.message
    stale = seen(read(*all_links(but=(E, C)))).metrics
    assert stale.reason is MetricsReason.STALE
    assert stale.message == "not measured within spec.metrics.maxStalenessSeconds (60 s): edge-cloud"


def test_what_was_left_out_is_said() -> None:
    lying = [*all_links(but=(E, C)), *link(E, C, [-5.0] * 3, pod="edge")]
    assert seen(read(*lying)).metrics.message.endswith(
        "edge-cloud; left out: tierflow_link_bandwidth_bytes_per_second of edge-cloud is negative"
    )


def test_a_missing_link_is_as_the_plan_had_it_and_the_others_as_measured() -> None:
    found = seen(read(*all_links(but=(E, C))))
    assert found.links[(E, C)].source is Source.LAST_PLAN
    assert found.links[(E, C)].link == PLAN.network.edge_cloud
    assert found.links[(D, E)].source is Source.MEASURED


def test_readings_that_are_old_themselves_count_no_more() -> None:
    readings = read(*all_links())
    assert seen(readings, now=NOW + 59).metrics.available
    assert seen(readings, now=NOW + 59).metrics.age_seconds == 59
    old = seen(readings, now=NOW + 61)
    assert old.metrics.reason is MetricsReason.STALE
    assert old.network == PLAN.network


def test_links_of_tiers_that_are_gone_are_not_missed() -> None:
    without_edge = replace(ASSUMED, ready_nodes={**ONE_NODE_EACH, E: 0})
    found = seen(read(*link(D, C, pod="device")), assumed=without_edge)
    assert found.metrics.available
    assert found.unavailable == {E}


def test_a_tier_that_answers_none_of_those_below_is_unreachable() -> None:
    found = seen(read(*all_links(edge_cloud=True, device_cloud=True)))
    assert found.unreachable == found.unavailable == {C}
    assert found.down == frozenset()
    assert found.metrics.available
    assert found.links[(E, C)].link.round_trip_seconds < DOWN_SECONDS


def test_when_the_edge_is_unreachable_the_cloud_is_so_only_if_the_direct_way_is_closed() -> None:
    assert seen(read(*link(D, E, pod="device", up=[0, 0, 0]), *link(D, C, pod="device"))).unreachable == {E}
    both = [*link(D, E, pod="device", up=[0, 0, 0]), *link(D, C, pod="device", up=[0, 0, 0])]
    assert seen(read(*both)).unreachable == {E, C}


def test_a_way_that_nobody_tells_of_may_be_open() -> None:
    found = seen(read(*all_links(but=(E, C), device_cloud=True)))
    assert found.unreachable == frozenset()
    without_edge = replace(ASSUMED, ready_nodes={**ONE_NODE_EACH, E: 0})
    assert seen(read(*link(D, C, pod="device", up=[0, 0, 0])), assumed=without_edge).unreachable == {C}


def test_a_single_link_that_is_down_is_given_a_round_trip_that_no_plan_would_take() -> None:
    found = seen(read(*all_links(device_cloud=True)))
    assert found.unreachable == frozenset()
    assert found.down == {(D, C)}
    assert found.links[(D, C)].link.round_trip_seconds == DOWN_SECONDS
    assert found.metrics.available


def test_a_round_trip_of_a_link_that_was_down_is_not_kept_when_nobody_measures_it_any_more() -> None:
    down = seen(read(*all_links(device_cloud=True))).network
    plan = make_plan(GRAPH, profile(GRAPH), down, PLAN.speeds)
    assert seen(UNREACHABLE, plan=plan).links[(D, C)].link == ASSUMED.links[(D, C)].link


def timed(tier: Tier, factor: float, *, runs_each: int = 10) -> list[Series]:
    """The plan's segment of a tier, taking `factor` times what the plan predicts."""
    part = PLAN.segment(tier)
    total = [part.compute_seconds * factor * runs_each * scrape for scrape in range(4)]
    return runs(tier, part.id, total, [runs_each * scrape for scrape in range(4)], pod=tier)


def test_a_tier_that_takes_twice_the_predicted_time_has_half_the_speed() -> None:
    (tier, *_) = [tier for tier in TIERS if PLAN.segment(tier).compute_seconds > 0]
    found = seen(read(*all_links(), *timed(tier, 2.0)))
    assert found.speeds[tier].speed == pytest.approx(PLAN.speeds[tier] / 2, rel=0.01)
    assert found.speeds[tier].source is Source.MEASURED


def test_a_speed_near_the_plans_is_the_plans() -> None:
    (tier, *_) = [tier for tier in TIERS if PLAN.segment(tier).compute_seconds > 0]
    for factor in (0.95, 1.05):
        found = seen(read(*all_links(), *timed(tier, factor))).speeds[tier]
        assert (found.speed, found.source) == (PLAN.speeds[tier], Source.MEASURED)


def test_times_of_a_segment_of_another_plan_or_of_too_few_runs_say_nothing() -> None:
    (tier, *_) = [tier for tier in TIERS if PLAN.segment(tier).compute_seconds > 0]
    other = runs(tier, "other", [0, 1, 2], [0, 1, 2], pod=tier)
    once = runs(tier, PLAN.segment(tier).id, [0, 99], [0, 1], pod=tier)
    for series_of_runs in (other, once):
        assert seen(read(*all_links(), *series_of_runs)).speeds[tier].source is Source.LAST_PLAN


def calibrated(tier: Tier, seconds: float) -> Series:
    return series(CALIBRATION, [seconds] * 3, pod=tier, tier=tier.value)


def test_without_runs_the_fixed_computation_tells_a_clear_change_of_speed() -> None:
    (tier, *_) = [tier for tier in TIERS if PLAN.segment(tier).layers]
    as_planned = CALIBRATION_SECONDS / PLAN.speeds[tier]
    slightly = seen(read(*all_links(), calibrated(tier, as_planned * 1.5)))
    assert slightly.speeds[tier].source is Source.LAST_PLAN
    clearly = seen(read(*all_links(), calibrated(tier, as_planned * 4)))
    assert clearly.speeds[tier].speed == pytest.approx(PLAN.speeds[tier] / 4, rel=0.01)


def test_runs_of_the_own_segment_precede_the_fixed_computation() -> None:
    (tier, *_) = [tier for tier in TIERS if PLAN.segment(tier).compute_seconds > 0]
    found = seen(read(*all_links(), *timed(tier, 2.0), calibrated(tier, 1e-5)))
    assert found.speeds[tier].speed == pytest.approx(PLAN.speeds[tier] / 2, rel=0.01)


def test_a_standbys_speed_is_that_of_the_fixed_computation() -> None:
    (tier, *_) = [tier for tier in TIERS if not PLAN.segment(tier).layers]
    found = seen(read(*all_links(), calibrated(tier, CALIBRATION_SECONDS / 0.25)))
    assert found.speeds[tier].speed == pytest.approx(0.25)


def test_before_the_first_plan_the_fixed_computation_counts() -> None:
    found = seen(read(*all_links(), calibrated(C, CALIBRATION_SECONDS / 2)), plan=None)
    assert found.speeds[C].speed == 2.0
    assert found.speeds[D].speed == ASSUMED.speeds[D].speed


def test_a_speed_that_nothing_has_is_not_believed() -> None:
    found = seen(read(*all_links(), calibrated(C, 2e-6)), plan=None)
    assert found.speeds[C].source is ASSUMED.speeds[C].source


def test_latency_is_that_of_requests_since_the_plan_took_over() -> None:
    counters = [
        series(REQUEST_SECONDS, [0, 40, 41, 42], tier="device"),
        series(REQUESTS, [0, 10, 20, 30], tier="device"),
    ]
    found = latency(read(*counters), since=NOW - 20)
    assert found is not None
    assert (found.seconds, found.requests, found.since) == (0.1, 20, NOW - 20)
    assert latency(read(*counters), since=NOW) is None
    assert latency(UNREACHABLE, since=0.0) is None
    assert latency(None, since=0.0) is None
