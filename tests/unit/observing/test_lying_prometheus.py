"""From what Prometheus says to the decision: what can't be true never moves a plan, and the truth ends the hold."""

import math

from hypothesis import given
from hypothesis import strategies as st

from factories.graphs import chain
from factories.pipelines import network, observation, pipeline, profile
from factories.series import NOW, link, read, runs, series
from tierflow.errors import UnreachableError
from tierflow.tiers import Tier
from tierflow_operator.decide import Decision, Hold, HoldReason, Move, MoveReason, Present, decide
from tierflow_operator.measurements import observe
from tierflow_operator.observation import LINKS
from tierflow_operator.queries import CALIBRATION
from tierflow_operator.readings import Readings
from tierflow_operator.samples import Series

GRAPH = chain(6, sizes=[150_000, 200_000, 50_000, 40_000, 10_000, 8_000, 10])
PROFILE = profile(GRAPH)
ASSUMED = observation(network(300, 300))
SPEC = pipeline({"stabilizationSeconds": 0, "minIntervalSeconds": 0}).spec

lies = st.one_of(
    st.just(math.nan),
    st.just(math.inf),
    st.just(-math.inf),
    st.floats(max_value=-1e-9, allow_infinity=False),
    st.floats(min_value=2e15, allow_infinity=False),
)


def first() -> Present:
    decision = decide(SPEC, GRAPH, PROFILE, ASSUMED, None, NOW - 1000)
    assert isinstance(decision, Move)
    return decision.present


PRESENT = first()


def decided(readings: Readings | UnreachableError, present: Present = PRESENT, now: float = NOW) -> Decision:
    seen = observe(ASSUMED, readings, plan=present.plan, spec=SPEC, now=now)
    return decide(SPEC, GRAPH, PROFILE, seen, present, now)


def links(megabits: float = 300, into_cloud: float | None = None) -> list[Series]:
    """All links, those into the cloud with a figure of their own."""
    found: list[Series] = []
    for lower, upper in LINKS:
        rate = into_cloud if upper is Tier.CLOUD and into_cloud is not None else megabits
        found += link(lower, upper, [rate * 125_000] * 3, [0.001] * 3, pod=lower)
    return found


@given(st.lists(lies, min_size=3, max_size=5), st.sampled_from([0, 1, 2]))
def test_lies_alone_hold_the_plan_and_leave_no_trace(said: list[float], kind: int) -> None:
    false_links = [entry for between in LINKS for entry in link(*between, said, said, pod=between[0])]
    cloud = PRESENT.plan.segment(Tier.CLOUD).id
    found = [
        [*false_links],
        [*false_links, *runs(Tier.CLOUD, cloud, said, said)],
        [*false_links, series(CALIBRATION, said, tier="cloud")],
    ][kind]
    decision = decided(read(*found))
    assert isinstance(decision, Hold)
    assert decision.reason is HoldReason.METRICS_UNAVAILABLE
    assert decision.present is not None
    assert decision.present.plan == PRESENT.plan


@given(st.lists(lies, min_size=3, max_size=5))
def test_lies_about_speeds_beside_true_links_move_nothing(said: list[float]) -> None:
    segments = [
        entry for tier in Tier for entry in runs(tier, PRESENT.plan.segment(tier).id, said, said, pod=f"{tier}-2")
    ]
    calibrations = [series(CALIBRATION, said, pod=tier, tier=tier.value) for tier in Tier]
    decision = decided(read(*links(300), *segments, *calibrations))
    assert isinstance(decision, Hold)
    assert decision.reason is not HoldReason.METRICS_UNAVAILABLE


def test_a_prometheus_that_is_away_for_a_day_moves_nothing_and_its_return_ends_the_hold() -> None:
    away = UnreachableError("Prometheus at http://p:9090 can't be reached")
    present = PRESENT
    for minute in range(24 * 60):
        decision = decided(away, present, now=NOW + minute * 60)
        assert isinstance(decision, Hold)
        assert decision.reason is HoldReason.METRICS_UNAVAILABLE
        assert decision.present is not None
        present = decision.present
    assert present == PRESENT
    back = decided(read(*links(300)), present)
    assert isinstance(back, Hold)
    assert back.reason is not HoldReason.METRICS_UNAVAILABLE


def test_a_link_that_is_measured_to_be_slow_moves_the_plan_with_its_figures() -> None:
    slow = links(300, into_cloud=1)
    decision = decided(read(*slow))
    assert isinstance(decision, Move)
    assert decision.reason is MoveReason.BANDWIDTH_CHANGED
    assert "1.0 Mbit/s" in decision.message


def test_a_cloud_that_nobody_reaches_is_left_and_taken_up_again() -> None:
    lost = [
        *link(Tier.DEVICE, Tier.EDGE, [37.5e6] * 3, [0.001] * 3, pod="device"),
        *link(Tier.EDGE, Tier.CLOUD, [37.5e6] * 3, [0.001] * 3, pod="edge", up=[0, 0, 0]),
        *link(Tier.DEVICE, Tier.CLOUD, [37.5e6] * 3, [0.002] * 3, pod="device", up=[0, 0, 0]),
    ]
    decision = decided(read(*lost))
    assert isinstance(decision, Move)
    assert decision.reason is MoveReason.NODES_CHANGED
    assert decision.plan.segment(Tier.CLOUD).layers == 0
    again = decided(read(*links(300)), decision.present)
    assert isinstance(again, Move)
    assert again.plan.segment(Tier.CLOUD).layers > 0
