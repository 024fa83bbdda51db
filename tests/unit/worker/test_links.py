"""The estimator of links, on simulated links of known bandwidth and round trip."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tierflow_worker.links import CALL_BYTES, LARGE_BYTES, SMALL_BYTES, LinkEstimate, LinkEstimator, Transfer

WIFI = (18.88e6 / 8, 0.020)
CAT1 = (0.13e6 / 8, 0.100)
ETHERNET = (1e9 / 8, 0.0005)
LINKS = pytest.mark.parametrize("link", [WIFI, CAT1, ETHERNET], ids=["wifi", "cat1", "ethernet"])


@dataclass
class SimulatedLink:
    """Sends one message after the other; noise only ever adds to a message's time, as on real links."""

    bytes_per_second: float
    round_trip_seconds: float
    noise: float = 0.0
    outliers: float = 0.0
    source: random.Random = field(default_factory=lambda: random.Random(7))
    now: float = 1000.0

    def send(self, sent: int, received: int = 100, *, server_seconds: float = 0.0) -> Transfer:
        wire = self.round_trip_seconds + (CALL_BYTES + sent + received) / self.bytes_per_second
        wire *= 1 + self.noise * self.source.expovariate(1)
        if self.source.random() < self.outliers:
            wire *= 20
        self.now += wire + server_seconds
        return Transfer(sent, received, wire + server_seconds, server_seconds)


def learn(estimator: LinkEstimator, link: SimulatedLink, sizes: Iterable[int], **more: float) -> LinkEstimate:
    for size in sizes:
        estimator.observe(link.send(size, **more), now=link.now)
        link.now += 0.01
    return estimator.estimate


def assert_near(estimate: LinkEstimate, link: tuple[float, float], tolerance: float) -> None:
    assert estimate.bytes_per_second == pytest.approx(link[0], rel=tolerance)
    assert estimate.round_trip_seconds == pytest.approx(link[1], rel=tolerance)


def mixed(link: tuple[float, float], count: int) -> list[int]:
    """Small and large messages in turn, the large ones long enough to be seen beside the round trip."""
    large = max(LARGE_BYTES, int(3 * link[0] * link[1]))
    return [100 if turn % 2 else large for turn in range(count)]


@LINKS
def test_a_link_without_noise_is_known_after_a_few_messages(link: tuple[float, float]) -> None:
    assert_near(learn(LinkEstimator(), SimulatedLink(*link), mixed(link, 6)), link, 0.02)


@LINKS
@pytest.mark.parametrize("seed", range(20))
def test_a_noisy_link_is_known_within_fifteen_percent(link: tuple[float, float], seed: int) -> None:
    simulated = SimulatedLink(*link, noise=0.05, outliers=0.08, source=random.Random(seed))
    assert_near(learn(LinkEstimator(), simulated, mixed(link, 40)), link, 0.15)


@LINKS
@pytest.mark.parametrize("factor", [0.1, 0.5, 3.0])
def test_a_change_of_bandwidth_is_followed_within_a_few_messages(link: tuple[float, float], factor: float) -> None:
    estimator, simulated = LinkEstimator(), SimulatedLink(*link, noise=0.02)
    learn(estimator, simulated, mixed(link, 40))
    simulated.bytes_per_second *= factor
    changed = (link[0] * factor, link[1])
    assert_near(learn(estimator, simulated, [mixed(link, 1)[0]] * 3 + [100] * 2), changed, 0.2)


@pytest.mark.parametrize("factor", [0.3, 4.0])
def test_a_change_of_round_trip_is_followed_within_a_few_messages(factor: float) -> None:
    estimator, simulated = LinkEstimator(), SimulatedLink(*WIFI, noise=0.02)
    learn(estimator, simulated, mixed(WIFI, 40))
    simulated.round_trip_seconds *= factor
    assert_near(learn(estimator, simulated, [100] * 6 + [400_000] * 3), (WIFI[0], WIFI[1] * factor), 0.15)


def test_what_a_message_waits_at_the_neighbour_is_not_the_links() -> None:
    slow_server = learn(LinkEstimator(), SimulatedLink(*WIFI, noise=0.02), mixed(WIFI, 30), server_seconds=5.0)
    assert_near(slow_server, WIFI, 0.1)


def test_messages_that_wait_for_each_other_do_not_make_the_link_look_slow() -> None:
    bandwidth, round_trip = WIFI
    estimator = LinkEstimator()
    learn(estimator, SimulatedLink(*WIFI), [100] * 3)
    size, started, free = 200_000, [2000.0] * 4, 2000.0
    for turn in range(60):  # four at a time, first come, first served
        client = turn % 4
        begin = started[client]
        free = max(free, begin) + size / bandwidth
        ended = free + round_trip
        estimator.observe(Transfer(size, 0, ended - begin), now=ended)
        started[client] = ended
    assert estimator.estimate.bytes_per_second == pytest.approx(bandwidth, rel=0.15)


def test_messages_that_share_the_link_evenly_do_not_make_it_look_slow() -> None:
    bandwidth, round_trip = WIFI
    estimator = LinkEstimator()
    learn(estimator, SimulatedLink(*WIFI), [100] * 3)
    now, size = 2000.0, 200_000
    for _ in range(10):  # four begin together and end together
        seconds = round_trip + 4 * size / bandwidth
        now += seconds
        for _ in range(4):
            estimator.observe(Transfer(size, 0, seconds), now=now)
    assert estimator.estimate.bytes_per_second == pytest.approx(bandwidth, rel=0.15)


def test_large_messages_of_unequal_sizes_alone_show_both() -> None:
    sizes = [50_000, 400_000, 100_000, 800_000] * 4
    assert_near(learn(LinkEstimator(), SimulatedLink(*WIFI, noise=0.01), sizes), WIFI, 0.15)


def test_messages_of_one_size_alone_do_not_pretend_to_know() -> None:
    estimate = learn(LinkEstimator(), SimulatedLink(*WIFI), [400_000] * 10)
    assert (estimate.bytes_per_second, estimate.round_trip_seconds) == (None, None)
    assert estimate.measured is not None


def test_the_last_known_round_trip_serves_where_small_messages_have_ceased() -> None:
    estimator, simulated = LinkEstimator(), SimulatedLink(*WIFI)
    learn(estimator, simulated, mixed(WIFI, 10))
    simulated.now += 3600
    simulated.bytes_per_second /= 4
    assert_near(learn(estimator, simulated, [400_000] * 3), (WIFI[0] / 4, WIFI[1]), 0.05)


def test_a_server_that_counts_more_than_there_was_is_ignored() -> None:
    estimator = LinkEstimator()
    assert estimator.observe(Transfer(100, 100, 0.01, 0.02), now=1.0).measured is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**9), st.integers(0, 10**9), st.floats(0, 1e4), st.floats(0, 1e4), st.floats(0, 1e3)
        ),
        max_size=40,
    )
)
def test_estimates_are_positive_whatever_was_seen(
    transfers: list[tuple[int, int, float, float, float]],
) -> None:
    estimator, now = LinkEstimator(), 0.0
    for sent, received, seconds, server_seconds, pause in transfers:
        now += pause
        estimate = estimator.observe(Transfer(sent, received, seconds, server_seconds), now=now)
        assert estimate.bytes_per_second is None or estimate.bytes_per_second > 0
        assert estimate.round_trip_seconds is None or estimate.round_trip_seconds >= 0


def test_sizes_between_small_and_large_teach_nothing() -> None:
    estimate = learn(LinkEstimator(), SimulatedLink(*WIFI), [SMALL_BYTES + 1, LARGE_BYTES - 101])
    assert estimate.measured is None
