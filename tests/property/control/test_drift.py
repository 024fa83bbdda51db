"""Figures that have drifted only a little are not decided on again: that never misses what would have been decided."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories.graphs import chain
from factories.pipelines import network, observation, pipeline, profile
from tierflow.network import Link
from tierflow.tiers import Tier
from tierflow_operator.decide import Hold, HoldReason, decide
from tierflow_operator.drift import Slack, slack_of
from tierflow_operator.observation import Observation, ObservedLink, ObservedSpeed, Source
from tierflow_operator.present import Present
from tierflow_operator.situation import Situation

SIZES = [150_000, 200_000, 50_000, 40_000, 10_000, 8_000, 10]
GRAPH = chain(6, sizes=SIZES)
PROFILE = profile(GRAPH)
SPEC = pipeline({"minImprovementPercent": 10, "minIntervalSeconds": 0, "stabilizationSeconds": 0}).spec
FOUR_AT_THE_EDGE = {Tier.DEVICE: 1, Tier.EDGE: 4, Tier.CLOUD: 1}


def drifted(seen: Observation, generator: random.Random, most: float) -> Observation:
    """Figures that have each changed by a factor of `most` at the most, round trips by a few milliseconds."""

    def near(figure: float) -> float:
        return float(figure * most ** generator.uniform(-1, 1))

    links = {
        between: ObservedLink(
            Link(
                bytes_per_second=near(found.link.bytes_per_second),
                round_trip_seconds=abs(found.link.round_trip_seconds + generator.uniform(-0.003, 0.003)),
            ),
            Source.MEASURED,
        )
        for between, found in seen.links.items()
    }
    speeds = {tier: ObservedSpeed(near(found.speed), Source.MEASURED) for tier, found in seen.speeds.items()}
    return replace(seen, links=links, speeds=speeds)


def held(seen: Observation, present: Present) -> tuple[Hold, Slack | None] | None:
    decision = decide(SPEC, GRAPH, PROFILE, seen, present, 10.0)
    if not isinstance(decision, Hold):
        return None
    return decision, slack_of(Situation(SPEC, GRAPH, PROFILE, seen), decision)


@given(st.integers(0, 2**32), st.floats(1.0, 1.2))
def test_figures_that_are_not_decided_on_again_would_have_been_held(seed: int, most: float) -> None:
    generator = random.Random(seed)
    links = network(generator.uniform(1, 300), generator.uniform(1, 300), generator.uniform(0.001, 0.02))
    at_first = observation(links, nodes=FOUR_AT_THE_EDGE)
    present = decide(SPEC, GRAPH, PROFILE, at_first, None, 0.0).present
    assert present is not None
    seen = drifted(at_first, generator, most)
    if (found := held(seen, present)) is None or found[1] is None:
        return
    later = drifted(seen, generator, most)
    if found[1].covers(later):
        decision = decide(SPEC, GRAPH, PROFILE, later, found[0].present, 20.0)
        assert isinstance(decision, Hold)
        assert decision.reason in (HoldReason.UP_TO_DATE, HoldReason.MINIMUM_IMPROVEMENT)
        assert decision.present == found[0].present


def at_rest() -> tuple[Observation, Slack]:
    seen = observation(network(300, 300))
    present = decide(SPEC, GRAPH, PROFILE, seen, None, 0.0).present
    assert present is not None
    found = held(seen, present)
    assert found is not None
    assert found[1] is not None
    return seen, found[1]


def test_noise_is_covered_and_a_change_is_not() -> None:
    seen, slack = at_rest()
    assert slack.covers(seen)
    assert slack.covers(replace(seen, links=observation(network(306, 294)).links))
    assert not slack.covers(replace(seen, links=observation(network(300, 200)).links))
    assert not slack.covers(replace(seen, links=observation(network(300, 300, round_trip=0.2)).links))
    assert not slack.covers(replace(seen, speeds=observation(speeds=(0.1, 0.3, 1.0)).speeds))


def test_a_link_that_is_told_of_for_the_first_time_is_decided_on() -> None:
    seen, slack = at_rest()
    fewer = {between: found for between, found in seen.links.items() if between != (Tier.DEVICE, Tier.CLOUD)}
    assert not slack.covers(replace(seen, links=fewer))


@pytest.mark.parametrize("reason", [HoldReason.STABILIZING, HoldReason.REJECTED_PLAN, HoldReason.MINIMUM_INTERVAL])
def test_what_depends_on_time_or_the_past_is_decided_each_time(reason: HoldReason) -> None:
    seen = observation()
    present = decide(SPEC, GRAPH, PROFILE, seen, None, 0.0).present
    assert slack_of(Situation(SPEC, GRAPH, PROFILE, seen), Hold(reason, "", present)) is None


def test_a_cut_by_hand_holds_whatever_the_figures_are() -> None:
    by_hand = {"mode": "Manual", "manual": {"deviceLastLayer": "L1", "edgeLastLayer": "L3"}}
    spec = pipeline(by_hand).spec
    seen = observation()
    present = decide(spec, GRAPH, PROFILE, seen, None, 0.0).present
    hold = decide(spec, GRAPH, PROFILE, seen, present, 10.0)
    assert isinstance(hold, Hold)
    slack = slack_of(Situation(spec, GRAPH, PROFILE, seen), hold)
    assert slack is not None
    assert slack.covers(observation(network(1, 1)))
