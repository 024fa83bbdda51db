"""What samples say of links, speeds and requests, and what they are not believed."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from factories.series import INTERVAL, NOW, link, read, runs, series
from tierflow.tiers import Tier
from tierflow_operator.queries import BANDWIDTH, CALIBRATION, QUEUE_LENGTH, REQUEST_SECONDS, REQUESTS
from tierflow_operator.readings import SCRAPES

D, E, C = Tier.DEVICE, Tier.EDGE, Tier.CLOUD


def test_a_link_has_its_last_figures_and_when_it_was_measured() -> None:
    found = read(*link(D, E, [1e6] * 5, [0.02] * 5))
    reading = found.links[(D, E)]
    assert (reading.bytes_per_second, reading.round_trip_seconds) == (1e6, 0.02)
    assert reading.measured_at == NOW
    assert found.link_up == {(D, E): True}
    assert found.workers == 1
    assert found.notes == ()


@pytest.mark.parametrize("place", range(3))
def test_one_outlier_moves_no_figure_wherever_it_is(place: int) -> None:
    bandwidth, round_trip = [1e6, 1e6, 1e6], [0.01, 0.01, 0.01]
    bandwidth[place], round_trip[place] = 9e9, 5.0
    reading = read(*link(D, E, bandwidth, round_trip)).links[(D, E)]
    assert (reading.bytes_per_second, reading.round_trip_seconds) == (1e6, 0.01)


def test_a_change_shows_at_the_second_scrape() -> None:
    assert read(*link(D, E, [1e6, 1e6, 2e5])).links[(D, E)].bytes_per_second == 1e6
    assert read(*link(D, E, [1e6, 1e6, 1e6, 2e5, 2e5])).links[(D, E)].bytes_per_second == 2e5


@pytest.mark.parametrize("lie", [math.nan, math.inf, -math.inf, -1.0, 0.0, 1e14])
def test_a_sample_that_cannot_be_true_is_left_out_and_noted(lie: float) -> None:
    found = read(*link(D, E, [3e6, lie, 3e6, lie]))
    assert found.links[(D, E)].bytes_per_second == 3e6
    (note,) = found.notes
    assert BANDWIDTH in note
    assert "device-edge" in note


@pytest.mark.parametrize("lie", [math.nan, -0.001, 61.0])
def test_a_link_whose_samples_all_lie_is_not_known(lie: float) -> None:
    found = read(*link(E, C, round_trip=[lie] * 3), *link(D, E))
    assert set(found.links) == {(D, E)}
    assert "edge-cloud" in found.notes[0]


@given(
    st.lists(st.floats(), min_size=1, max_size=6),
    st.lists(st.floats(), min_size=1, max_size=6),
    st.lists(st.floats(), min_size=1, max_size=6),
)
def test_whatever_prometheus_says_no_figure_is_unbelievable(
    bandwidth: list[float], round_trip: list[float], times: list[float]
) -> None:
    found = read(*link(D, E, bandwidth, round_trip, up=times, measured_at=times), *runs(D, "s", times, bandwidth))
    for reading in found.links.values():
        assert 1 <= reading.bytes_per_second <= 1e13
        assert 0 <= reading.round_trip_seconds <= 60
        assert NOW - 60 <= reading.measured_at <= NOW
    for segment in found.segments.values():
        assert 0 <= segment.seconds < math.inf
        assert segment.runs >= 0


@given(st.lists(st.floats(1, 1e12), min_size=SCRAPES, max_size=12), st.floats(1, 1e13))
def test_changing_one_sample_keeps_a_figure_within_the_others(values: list[float], outlier: float) -> None:
    last = values[-SCRAPES:]
    for place in range(SCRAPES):
        others = last[:place] + last[place + 1 :]
        changed = [*values[:-SCRAPES], *last[:place], outlier, *last[place + 1 :]]
        figure = read(*link(D, E, changed, [0.01] * len(changed))).links[(D, E)].bytes_per_second
        assert min(others) <= figure <= max(others)


def test_a_figure_of_two_pods_is_between_theirs_and_one_of_three_is_the_middle_one() -> None:
    two = read(*link(D, E, [1e6] * 3, pod="a"), *link(D, E, [3e6] * 3, pod="b"))
    assert two.links[(D, E)].bytes_per_second == 2e6
    three = read(*link(D, E, [1e6] * 3, pod="a"), *link(D, E, [3e6] * 3, pod="b"), *link(D, E, [9e9] * 3, pod="c"))
    assert three.links[(D, E)].bytes_per_second == 3e6


def test_a_pod_that_has_ended_counts_only_until_another_has_a_figure() -> None:
    ended = link(D, E, [1e6] * 3, pod="old", ago=15.0)
    assert read(*ended, live=[]).links[(D, E)].bytes_per_second == 1e6
    assert read(*ended, *link(D, E, [4e6], pod="new"), live=["new"]).links[(D, E)].bytes_per_second == 4e6


def test_samples_that_are_too_old_are_no_figures() -> None:
    found = read(*link(D, E, ago=61.0), *runs(D, "s", [0, 1], [0, 10], ago=61.0))
    assert (found.links, found.link_up, found.segments) == ({}, {}, {})


def test_a_link_that_was_not_measured_for_too_long_is_no_figure_though_it_is_scraped() -> None:
    samples = [1e6] * 8
    stale = link(D, E, samples, [0.01] * 8, measured_at=[NOW - 90] * 8)
    assert read(*stale).links == {}
    assert read(*stale, max_staleness=120.0).links[(D, E)].measured_at == NOW - 90


def test_a_worker_whose_clock_is_wrong_is_known_to_measure_by_its_timestamp_changing() -> None:
    for skew in (-3600.0, 3600.0):
        times = [NOW + skew - 20, NOW + skew - 20, NOW + skew]
        assert read(*link(D, E, measured_at=times)).links[(D, E)].measured_at == NOW
        stuck = [NOW + skew] * 12
        assert read(*link(D, E, [1e6] * 12, [0.01] * 12, measured_at=stuck)).links == {}


def test_a_link_is_down_when_it_was_for_a_while_and_up_at_the_first_answer() -> None:
    def is_up(*samples: float) -> bool:
        count = len(samples)
        return read(*link(D, E, [1e6] * count, [0.01] * count, up=samples)).link_up[(D, E)]

    assert is_up(1, 1, 0)  # less than ten seconds: a worker that restarts
    assert not is_up(1, 0, 0)
    assert is_up(0, 0, 0, 1)
    assert is_up(0, 0, 1, 0)
    assert is_up(0)


def test_a_link_is_up_while_any_pod_of_the_tier_is_answered() -> None:
    assert read(*link(D, E, up=[0, 0, 0], pod="a"), *link(D, E, pod="b")).link_up == {(D, E): True}


def test_a_segments_time_is_that_of_its_latest_runs() -> None:
    found = read(*runs(E, "abc", [10, 11, 12, 13.5], [100, 110, 120, 130]))
    reading = found.segments[(E, "abc")]
    assert reading.seconds == pytest.approx(0.1)
    assert reading.runs == 30


def test_one_run_that_hung_does_not_change_a_segments_time() -> None:
    assert read(*runs(E, "abc", [0, 1, 31, 32], [0, 10, 20, 30])).segments[(E, "abc")].seconds == pytest.approx(0.1)


def test_a_worker_that_started_anew_counts_from_zero() -> None:
    found = read(*runs(E, "abc", [50, 51, 0.4, 1.4], [500, 510, 4, 14]))
    assert found.segments[(E, "abc")].seconds == pytest.approx(0.1)
    assert found.segments[(E, "abc")].runs == 24


def test_intervals_without_runs_say_nothing_about_a_segment() -> None:
    assert read(*runs(E, "abc", [2, 2, 2], [20, 20, 20])).segments == {}
    idle_since = read(*runs(E, "abc", [0, 1, 1, 1, 1], [0, 10, 10, 10, 10]))
    assert idle_since.segments[(E, "abc")].seconds == pytest.approx(0.1)


def test_a_segment_that_ran_too_long_ago_has_no_time() -> None:
    seconds, counts = [0.0] + [1.0] * 8, [0.0] + [10.0] * 8
    assert read(*runs(E, "abc", seconds, counts)).segments == {}


def test_a_counter_without_its_partner_says_nothing() -> None:
    alone = runs(E, "abc", [0, 1], [0, 10])[0]
    assert read(alone).segments == {}
    assert read(*[entry for entry in link(D, E) if entry.name != BANDWIDTH]).links == {}


def test_tile_workers_are_not_asked_how_fast_the_edges_own_worker_is() -> None:
    own, tiles = (series(CALIBRATION, [seconds], pod=pod, tier="edge") for seconds, pod in ((0.004, "a"), (0.09, "t")))
    assert read(own, tiles, *link(E, C, pod="a")).calibration_seconds == {E: 0.004}
    assert read(series(CALIBRATION, [0.002], tier="cloud")).calibration_seconds == {C: 0.002}


def test_the_fullest_queue_of_a_tier_counts() -> None:
    queues = [series(QUEUE_LENGTH, [9, length], pod=pod, tier="device") for pod, length in (("a", 0), ("b", 4))]
    assert read(*queues).queue_length == {D: 4}


def test_requests_are_those_of_all_device_workers_between_scrapes_after_a_moment() -> None:
    def told(pod: str, seconds: list[float], counts: list[float]) -> list[object]:
        return [
            series(REQUEST_SECONDS, seconds, pod=pod, tier="device"),
            series(REQUESTS, counts, pod=pod, tier="device"),
        ]

    found = read(*told("a", [0, 10, 12], [0, 10, 20]), *told("b", [0, 5, 9], [0, 10, 30]))  # type: ignore[arg-type]
    since = found.requests_since(NOW - INTERVAL)
    assert since is not None
    assert (since.begin, since.end, since.times, since.seconds) == (NOW - INTERVAL, NOW, 30, 6)
    assert found.requests_since(NOW - INTERVAL + 1) is None
    everything = found.requests_since(0.0)
    assert everything is not None
    assert everything.times == 50


def test_what_is_of_no_tier_or_link_of_ours_is_left_out() -> None:
    strange = [
        series(CALIBRATION, [0.1], tier="basement"),
        series(CALIBRATION, [0.1]),
        series("tierflow_invented", [1.0], tier="edge"),
        *link(C, D),
        *link(E, E),
    ]
    found = read(*strange)
    assert (found.links, found.calibration_seconds, found.notes) == ({}, {}, ())
